//! The file format of backups: a gzipped tar whose first entry is a manifest.
//!
//! ```text
//!  manifest.json        every file and directory: place, length, ranges of data, SHA-256, mode, owner, time, attributes
//!  state/…              the data of one file, without its holes, in the order of the manifest
//! ```
//!
//! [`read`] believes nothing: not a name, a length or a kind that the manifest does not announce, and no manifest that is too
//! long or leads outside. What it unpacks is made beneath a directory handle and follows no link. Memory is bounded by
//! [`manifest::LONGEST`], whatever the archive says of itself.

#![warn(missing_docs)]

pub mod manifest;
mod read;
mod restore;
mod write;

pub use manifest::{Database, Entry, Kind, LeftOut, Manifest, Range};
pub use read::{Error, manifest_of, read};
pub use write::{append, digest};
