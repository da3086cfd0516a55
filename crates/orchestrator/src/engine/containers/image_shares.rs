//! Which user had which images fetched: their bytes count against that user's limit.
//!
//! Kept in a file beside the images, as images outlive this process. Without it nobody has a share to answer for, which is
//! what a new host begins with.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexus_runtime::Image;
use nexus_walk::Dir;
use parking_lot::Mutex;

const FILE: &str = "image-owners.json";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// For each engine the images that users had fetched, by id, each with its user.
type Owners = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug)]
pub(super) struct ImageShares {
    directory: PathBuf,
    file: Mutex<()>,
    turns: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
}

/// A user's turn: nothing else is fetched for that user meanwhile, so that the share is counted once.
pub(super) type Turn = tokio::sync::OwnedMutexGuard<()>;

impl ImageShares {
    pub fn new(directory: PathBuf) -> ImageShares {
        ImageShares {
            directory,
            file: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    pub async fn turn(&self, user: &Arc<str>) -> Turn {
        let turn = {
            let mut turns = self.turns.lock();
            // Those that nobody waits for are only held here.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(Arc::clone(user)).or_default())
        };
        turn.lock_owned().await
    }

    /// Bytes of the images of this engine that the user had fetched and that are still there.
    pub fn used(&self, engine: &str, user: &str, there: &[Image]) -> io::Result<u64> {
        let _one_at_a_time = self.file.lock();
        let owners = read(&self.directory)?;
        let Some(owners) = owners.get(engine) else { return Ok(0) };
        let own = there
            .iter()
            .filter(|image| owners.get(&image.id).is_some_and(|owner| owner == user));
        Ok(own.map(|image| image.bytes).fold(0, u64::saturating_add))
    }

    /// This image was fetched for the user. One that was there before keeps its owner, and those that are gone are
    /// forgotten.
    pub fn note(&self, engine: &str, user: &str, image: &str, before: &[Image]) -> io::Result<()> {
        if before.iter().any(|one| one.id == image) {
            return Ok(());
        }
        let _one_at_a_time = self.file.lock();
        let mut owners = read(&self.directory)?;
        let own = owners.entry(engine.to_owned()).or_default();
        own.retain(|id, _| before.iter().any(|one| one.id == *id));
        own.insert(image.to_owned(), user.to_owned());
        std::fs::create_dir_all(&self.directory)?;
        Dir::open(&self.directory)?.write(FILE, &serde_json::to_vec_pretty(&owners)?, 0o600)
    }
}

fn read(directory: &Path) -> io::Result<Owners> {
    let opened = Dir::open(directory).and_then(|directory| directory.open_file(FILE));
    match opened {
        Ok((file, _)) => Ok(serde_json::from_slice(&nexus_walk::read_bounded(&file, MAX_FILE)?)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Owners::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, bytes: u64) -> Image {
        Image {
            id: id.into(),
            references: Vec::new(),
            bytes,
            created: None,
        }
    }

    #[test]
    fn what_a_user_had_fetched_counts_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other): (Arc<str>, Arc<str>) = ("uid:1".into(), "uid:2".into());
        let here = [image("a", 10), image("b", 5), image("old", 100)];
        let shares = ImageShares::new(directory.path().join("containers"));
        assert_eq!(shares.used("sandbox", &one, &here).unwrap(), 0);
        shares.note("sandbox", &one, "a", &[image("old", 100)]).unwrap();
        shares
            .note("sandbox", &one, "old", &[image("old", 100), image("a", 10)])
            .unwrap();
        shares
            .note("sandbox", &other, "b", &[image("old", 100), image("a", 10)])
            .unwrap();
        // Another process reads the same.
        let again = ImageShares::new(directory.path().join("containers"));
        assert_eq!(
            again.used("sandbox", &one, &here).unwrap(),
            10,
            "what was there before is nobody's"
        );
        assert_eq!(again.used("sandbox", &other, &here).unwrap(), 5);
        assert_eq!(again.used("docker", &one, &here).unwrap(), 0);
        assert_eq!(again.used("sandbox", &one, &here[1..]).unwrap(), 0, "it is gone");
        let text = std::fs::read_to_string(directory.path().join("containers").join(FILE)).unwrap();
        std::fs::write(directory.path().join("containers").join(FILE), &text[1..]).unwrap();
        assert!(
            again.used("sandbox", &one, &here).is_err(),
            "a damaged file is no empty one"
        );
    }

    #[tokio::test]
    async fn a_user_has_one_turn_at_a_time() {
        let shares = ImageShares::new(PathBuf::from("/nonexistent"));
        let user: Arc<str> = "uid:1".into();
        let turn = shares.turn(&user).await;
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), shares.turn(&user));
        assert!(waits.await.is_err());
        shares.turn(&"uid:2".into()).await;
        drop(turn);
        shares.turn(&user).await;
        assert_eq!(shares.turns.lock().len(), 1);
    }
}
