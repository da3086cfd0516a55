//! The settings file of a tree, changed with the daemons' own rules.
//!
//! ```text
//!  ask ──▶ catalogue (every setting, by the daemons' --schema)     tell (SIGHUP to who applies it live)
//!   │                                                                ▲
//!   └────▶ try out: --check-config over a candidate ──▶ write: one rename
//! ```
//!
//! It knows no setting by heart and judges none: what a key means and whether a value will do is asked of the programs
//! that use it. A file that is wrong is never written over one that is right.

pub mod ask;
pub mod catalogue;
pub mod edit;
pub mod tell;
pub mod trial;
pub mod write;
