//! Layers that want out, or want too much.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use nexus_walk::Dir;

use super::{Bounds, Error, Unpack};

/// A layer in the making. Paths are written as they are given, whatever they say.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, path: &str, link: &str, bytes: &[u8]) -> Layer {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o6755);
        header.set_mtime(1_000_000);
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }

    fn file(self, path: &str, bytes: &str) -> Layer {
        self.add(EntryType::Regular, path, "", bytes.as_bytes())
    }

    fn dir(self, path: &str) -> Layer {
        self.add(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, to: &str) -> Layer {
        self.add(EntryType::Symlink, path, to, b"")
    }

    fn hard_link(self, path: &str, to: &str) -> Layer {
        self.add(EntryType::Link, path, to, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A directory with a root to unpack to, and a secret beside it.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Fixture { dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, bounds: Bounds) -> Unpack {
        let beneath = Dir::open(self.dir.path()).unwrap();
        Unpack::beneath(&beneath, "root", bounds).unwrap()
    }

    fn apply(&self, layers: Vec<Layer>) -> Result<(), Error> {
        self.within(layers, Bounds::default())
    }

    fn within(&self, layers: Vec<Layer>, bounds: Bounds) -> Result<(), Error> {
        let mut unpack = self.unpack(bounds);
        for layer in layers {
            let bytes = layer.bytes();
            unpack.whiteouts(&bytes[..])?;
            unpack.apply(&bytes[..])?;
        }
        Ok(())
    }

    /// Nothing beside the root has changed.
    #[track_caller]
    fn untouched(&self) {
        let names = |path: &str| {
            let entries = fs::read_dir(self.dir.path().join(path)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["hidden", "outside", "root"]);
        assert!(names("hidden").is_empty());
        assert_eq!(names("outside"), ["secret"]);
        assert_eq!(
            fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(),
            "secret"
        );
        assert_eq!(fs::metadata(self.dir.path().join("outside/secret")).unwrap().nlink(), 1);
    }
}

#[test]
fn paths_that_climb_are_refused() {
    for path in ["../outside/x", "a/../../outside/x", "a/b/../../../outside/x", ".."] {
        let place = Fixture::new();
        let applied = place.apply(vec![Layer::new().dir("a").file(path, "x")]);
        assert!(matches!(applied, Err(Error::Outside(_))), "{path}: {applied:?}");
        place.untouched();
    }
}

#[test]
fn absolute_paths_are_inside() {
    let place = Fixture::new();
    place
        .apply(vec![Layer::new().file("/etc/x", "x").file("//y", "y")])
        .unwrap();
    assert_eq!(fs::read_to_string(place.root().join("etc/x")).unwrap(), "x");
    assert_eq!(fs::read_to_string(place.root().join("y")).unwrap(), "y");
}

#[test]
fn links_lead_inside_whatever_they_say() {
    for to in ["../outside", "/../outside", "../../../../../../../tmp", "/"] {
        let place = Fixture::new();
        let outside = place.dir.path().join("outside").display().to_string();
        for to in [to, &outside] {
            let layers = vec![
                Layer::new()
                    .symlink("link", to)
                    .file("link/x", "x")
                    .dir("link/d")
                    .file("link/d/y", "y"),
                Layer::new()
                    .file("link/z", "z")
                    .file("link/.wh.secret", "")
                    .file("link/.wh..wh..opq", ""),
            ];
            // Some lead to nothing inside, which is no harm either.
            let _ = place.apply(layers);
            place.untouched();
            fs::remove_dir_all(place.root()).unwrap();
            fs::create_dir(place.root()).unwrap();
        }
    }
}

#[test]
fn a_link_to_a_directory_inside_is_followed() {
    let place = Fixture::new();
    place
        .apply(vec![
            Layer::new().dir("usr/lib").symlink("lib", "usr/lib"),
            Layer::new().file("lib/x", "x"),
        ])
        .unwrap();
    assert_eq!(fs::read_to_string(place.root().join("usr/lib/x")).unwrap(), "x");
}

#[test]
fn a_file_replaces_a_link_and_never_what_it_leads_to() {
    let place = Fixture::new();
    let secret = place.dir.path().join("outside/secret").display().to_string();
    let layer = Layer::new()
        .symlink("a", &secret)
        .file("a", "mine")
        .symlink("b", "../outside/secret")
        .dir("b");
    place.apply(vec![layer]).unwrap();
    assert_eq!(fs::read_to_string(place.root().join("a")).unwrap(), "mine");
    assert!(place.root().join("b").is_dir());
    place.untouched();
}

#[test]
fn hard_links_only_to_what_is_inside() {
    for to in [
        "../outside/secret",
        "/../outside/secret",
        "up/outside/secret",
        "secret",
        "nothing",
    ] {
        let place = Fixture::new();
        let secret = place.dir.path().join("outside/secret").display().to_string();
        let layer = Layer::new()
            .symlink("up", "..")
            .symlink("secret", &secret)
            .hard_link("x", to);
        let _ = place.apply(vec![layer]);
        // One to the link is the link again, not the file.
        assert!(
            !fs::symlink_metadata(place.root().join("x")).is_ok_and(|found| found.is_file()),
            "{to}"
        );
        place.untouched();
    }
    let place = Fixture::new();
    place
        .apply(vec![
            Layer::new().file("a", "same").hard_link("b/c", "a").hard_link("a", "a"),
        ])
        .unwrap();
    assert_eq!(fs::metadata(place.root().join("b/c")).unwrap().nlink(), 2);
}

#[test]
fn a_hard_link_is_cut_before_it_is_written_over() {
    let place = Fixture::new();
    place
        .apply(vec![
            Layer::new().file("a", "old").hard_link("b", "a"),
            Layer::new().file("b", "new"),
        ])
        .unwrap();
    assert_eq!(fs::read_to_string(place.root().join("a")).unwrap(), "old");
}

#[test]
fn devices_are_left_out_and_special_bits_taken_off() {
    let place = Fixture::new();
    let layer = Layer::new()
        .add(EntryType::Block, "disk", "", b"")
        .add(EntryType::Char, "dev/mem", "", b"")
        .add(EntryType::Fifo, "pipe", "", b"")
        .file("su", "x")
        .dir("sticky");
    place.apply(vec![layer]).unwrap();
    for gone in ["disk", "dev/mem", "pipe"] {
        assert!(fs::symlink_metadata(place.root().join(gone)).is_err(), "{gone}");
    }
    for kept in ["su", "sticky"] {
        let found = fs::metadata(place.root().join(kept)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o755, "{kept}");
    }
    assert_eq!(fs::metadata(place.root().join("su")).unwrap().mtime(), 1_000_000);
}

#[test]
fn whiteouts_take_away_what_is_below_and_nothing_else() {
    let place = Fixture::new();
    let below = Layer::new()
        .file("a/one", "1")
        .file("a/two", "2")
        .file("b/old/deep", "3")
        .file("c", "4");
    let above = Layer::new()
        .file("a/.wh.one", "")
        .file("a/one", "again")
        .file("b/new", "5")
        .file("b/.wh..wh..opq", "")
        .file(".wh.c", "")
        .file(".wh..", "")
        .file(".wh...", "")
        .file("nowhere/.wh.x", "");
    place.apply(vec![below, above]).unwrap();
    let has = |path: &str| fs::exists(place.root().join(path)).unwrap();
    assert_eq!(fs::read_to_string(place.root().join("a/one")).unwrap(), "again");
    assert!(has("a/two") && has("b/new") && !has("b/old") && !has("c"));
    place.untouched();
}

#[test]
fn a_link_that_was_there_before_is_no_way_out_either() {
    let place = Fixture::new();
    symlink("../outside", place.root().join("planted")).unwrap();
    let _ = place.apply(vec![Layer::new().file("planted/x", "x").file("planted/.wh.secret", "")]);
    place.untouched();
}

#[test]
fn too_large_too_many_and_too_deep_are_refused() {
    let place = Fixture::new();
    let bounds = Bounds {
        bytes: 1000,
        entries: 10,
        ..Bounds::default()
    };
    let large = Layer::new().file("a", &"x".repeat(600)).file("b", &"x".repeat(600));
    assert!(matches!(place.within(vec![large], bounds), Err(Error::TooLarge(1000))));
    let many = (0..20).fold(Layer::new(), |layer, index| layer.file(&format!("f{index}"), ""));
    assert!(matches!(place.within(vec![many], bounds), Err(Error::TooMany(10))));

    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(0);
    let deep = "d/".repeat(300);
    builder
        .append_data(&mut header, Path::new(&deep).join("x"), &b""[..])
        .unwrap();
    let bytes = builder.into_inner().unwrap();
    let mut unpack = place.unpack(Bounds::default());
    assert!(matches!(unpack.apply(&bytes[..]), Err(Error::Outside(_))));
}

#[test]
fn a_layer_without_end_is_refused() {
    // What a small compressed file can become: a header that promises much, and zeros for ever.
    let place = Fixture::new();
    let mut header = Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(1 << 50);
    header.set_cksum();
    let endless = header.as_bytes().chain(std::io::repeat(0));
    let bounds = Bounds {
        bytes: 1 << 20,
        entries: 10,
        ..Bounds::default()
    };
    let mut unpack = place.unpack(bounds);
    assert!(matches!(unpack.apply(endless), Err(Error::TooLarge(_))));

    // Nothing but padding: no file that could be too large.
    let header = header.as_bytes().chain(std::io::repeat(0));
    let mut unpack = place.unpack(bounds);
    assert!(unpack.whiteouts(header).is_err());
}

#[test]
fn garbage_is_an_error() {
    let place = Fixture::new();
    let mut unpack = place.unpack(Bounds::default());
    let noise: Vec<u8> = (0..100_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    assert!(matches!(unpack.apply(&noise[..]), Err(Error::Archive(_))));
}

/// A layer nests directories by links, so that their depth has no end, and a later one takes them away: nothing recurses.
#[test]
fn directories_nested_by_links_are_taken_away() {
    let place = Fixture::new();
    let mut below = Layer::new();
    // Each link leads 40 directories further down than the one before.
    for step in 0..30 {
        let start = if step == 0 {
            "top".to_owned()
        } else {
            format!("link{}", step - 1)
        };
        let deep = format!("{start}/{}", "d/".repeat(40));
        below = below.dir(&deep[..deep.len().min(99)]);
        let target = if step == 0 {
            "top/".to_owned()
        } else {
            format!("link{}/", step - 1)
        };
        below = below.symlink(&format!("link{step}"), &format!("{target}{}", "d/".repeat(39)));
    }
    let above = Layer::new().file(".wh.top", "");
    place.apply(vec![below, above]).unwrap();
    assert!(!place.root().join("top").exists());
    place.untouched();
}

/// A layer names more directories on the way to its files than an image may have.
#[test]
fn directories_on_the_way_are_counted() {
    let place = Fixture::new();
    let layer = (0..10).fold(Layer::new(), |layer, index| {
        layer.file(&format!("{index}/b/c/d/e/f/g"), "")
    });
    let bounds = Bounds {
        entries: 20,
        ..Bounds::default()
    };
    assert!(matches!(place.within(vec![layer], bounds), Err(Error::TooMany(20))));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A small layer unpacks to a disk full of zeros.
#[test]
fn a_layer_that_unpacks_to_far_more_is_refused() {
    let place = Fixture::new();
    let zeros = "0".repeat(64 << 20);
    let bomb = gzip(&Layer::new().file("zeros", &zeros).bytes());
    assert!(bomb.len() < 100 << 10, "{} bytes", bomb.len());
    let dir = Dir::open(place.dir.path()).unwrap();
    let refused = super::unpack_layer(&bomb, &dir, Bounds::default());
    assert!(matches!(refused, Err(Error::Ratio(200))), "{refused:?}");
    // Where an administrator allows it, it is taken.
    let bounds = Bounds {
        ratio: 5_000,
        ..Bounds::default()
    };
    assert_eq!(super::unpack_layer(&bomb, &dir, bounds).unwrap(), 64 << 20);
    assert_eq!(fs::metadata(place.root().join("zeros")).unwrap().len(), 64 << 20);
    // Nothing but empty blocks, which no file is blamed for.
    let empty = gzip(
        &(0..60_000)
            .fold(Layer::new(), |layer, _| layer.file("same", ""))
            .bytes(),
    );
    let small = Bounds {
        ratio: 1,
        ..Bounds::default()
    };
    let refused = super::unpack_layer(&empty, &dir, small);
    assert!(matches!(refused, Err(Error::Ratio(1))), "{refused:?}");
}

/// A layer gives a file a name of a gigabyte, which the reader of archives would keep in memory.
#[test]
fn a_name_without_end_is_refused() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let place = Fixture::new();
        let mut header = Header::new_gnu();
        header.set_path("long").unwrap();
        header.set_entry_type(kind);
        header.set_size(1 << 30);
        header.set_cksum();
        let endless = header.as_bytes().chain(std::io::repeat(b'x').take(1 << 30));
        let mut unpack = place.unpack(Bounds::default());
        let refused = unpack.apply(endless).unwrap_err().to_string();
        assert!(refused.contains("longer than 1 MiB"), "{kind:?}: {refused}");
    }
    // A large file before it makes no room for one.
    let place = Fixture::new();
    let mut layer = Layer::new().file("large", &"x".repeat(4 << 20));
    layer = layer.add(EntryType::GNULongName, "long", "", "n".repeat(2 << 20).as_bytes());
    let refused = place.apply(vec![layer.file("short", "")]).unwrap_err().to_string();
    assert!(refused.contains("longer than 1 MiB"), "{refused}");
}

/// An image with very many files in its root, one of them hidden again.
#[test]
fn a_root_with_60_000_entries_is_unpacked() {
    let place = Fixture::new();
    let many = (0..60_000).fold(Layer::new(), |layer, index| layer.file(&format!("file{index}"), ""));
    let above = Layer::new().file(".wh.file7", "");
    place.apply(vec![many, above]).unwrap();
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 59_999);
    let opaque = Layer::new().file(".wh..wh..opq", "").file("only", "");
    place.apply(vec![opaque]).unwrap();
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 1);
    place.untouched();
}

/// An image writes control characters into the name of a file that is refused.
#[test]
fn a_name_in_an_error_is_plain_and_short() {
    let place = Fixture::new();
    let name = "../\u{1b}[2J\u{202e}";
    let refused = place.apply(vec![Layer::new().file(name, "")]).unwrap_err().to_string();
    assert!(refused.contains("\\u{1b}[2J\\u{202e}"), "{refused:?}");
}

#[test]
fn an_unpacking_that_nobody_waits_for_ends() {
    let place = Fixture::new();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mut unpack = place.unpack(Bounds::default()).stopped_by(stop);
    let refused = unpack.apply(&Layer::new().file("a", "a").bytes()[..]);
    assert!(matches!(refused, Err(Error::Archive(_))), "{refused:?}");
}
