//! File access beneath a directory handle, for trees that other users and containers change while we work in them.
//!
//! A path is resolved again at each call, so whoever may write to a directory on the way can swap it for a link between
//! two calls. A handle stays what it was when it was opened. Everything here starts at a [`Dir`] and never leaves it:
//!
//! ```text
//!  Dir::open(path of ours) ─▶ Dir ─┬─▶ open_dir, open_file, meta, entries     no link followed, kind judged by fstat
//!                                  ├─▶ Walk        every entry, iterative: few handles, bounded memory at any depth
//!                                  ├─▶ Trash       moved aside by one rename ─▶ Removal::step(n), resumed after a crash
//!                                  └─▶ Fresh       written beside, fsync, rename, fsync of the directory
//! ```
//!
//! - Names are bytes: nothing here needs UTF-8, and no path is ever handed to the kernel whole, so `PATH_MAX` is no limit.
//! - No function recurses: how deep a tree is, is decided by whoever made it.
//! - Opening never waits: FIFOs and devices are recognised and refused.
//! - [`Rights`] lets a thread of root open files with the rights of another user.
//!
//! On Linux a path is resolved by `openat2` with `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS`; where
//! that call does not exist, component by component with `O_NOFOLLOW`, which gives the same answers.
//!
//! It never decides what may be read or removed, never logs, and never blocks on anything but the disk.

#![warn(missing_docs)]

mod attributes;
mod beneath;
mod copy;
mod dir;
mod fresh;
mod meta;
mod removal;
mod rights;
mod walk;

pub use attributes::{MAX_XATTR_BYTES, restore_owner, set_modified, set_xattr, xattrs};
pub use copy::{copy_sparse, data_ranges, read_bounded};
pub use dir::{Dir, Entries, Name};
pub use fresh::{Fresh, UNFINISHED, write_file};
pub use meta::{Kind, Meta};
pub use removal::{Progress, Removal, Trash, empty_now, remove_now};
pub use rights::{Identity, Rights, is_root};
pub use walk::{Entry, Problem, Step, Walk};
