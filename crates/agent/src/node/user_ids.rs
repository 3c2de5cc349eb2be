//! The users of pods with users of their own, kept in `pods/UID/userns`: a pod has the same as long
//! as it runs, whatever becomes of the agent.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use brain::podsync::user_ids::{self, FIRST, LENGTH, Mappings, Ranges};
use containers::UserNamespace;

use super::Settings;

const FILE: &str = "userns";

const NONE_LEFT: &str =
    "this node has no users for pods of their own (--first-user-id 0): those of the machine are other nodes'; run the pod on another node";

/// Why a pod gets no users of its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Which ranges are in use is not known, or the node has none to give.
    #[error("user namespace: {0}")]
    Unavailable(String),
    #[error("create user namespace: {0}")]
    Allocate(#[from] user_ids::Error),
    #[error("create user namespace: {0}")]
    Write(std::io::Error),
}

pub struct UserIds {
    pods: PathBuf,
    ranges: Mutex<Ranges>,
    /// Why ranges cannot be given: which ones are in use is not known, or there are none.
    unavailable: Option<String>,
}

impl UserIds {
    /// With what earlier agents gave.
    pub fn open(settings: &Settings) -> UserIds {
        // As many as there can be pods, and some for those that end.
        let ranges = Ranges::new(settings.first_user_id.unwrap_or(FIRST), settings.max_pods.saturating_mul(2));
        let mut ids = Self::read(settings.root_dir.join("pods"), ranges);
        if settings.first_user_id == Some(0) {
            ids.unavailable = Some(NONE_LEFT.to_owned());
        }
        ids
    }

    fn read(pods: PathBuf, mut ranges: Ranges) -> UserIds {
        let mut unreadable = None;
        for entry in std::fs::read_dir(&pods).into_iter().flatten().flatten() {
            let path = entry.path().join(FILE);
            let uid = entry.file_name().to_string_lossy().into_owned();
            let text = match std::fs::read_to_string(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                text => text.map_err(|error| error.to_string()),
            };
            let mappings = text.and_then(|text| serde_json::from_str::<Mappings>(&text).map_err(|error| error.to_string()));
            let recorded = mappings
                .and_then(|mappings| mappings.first().and_then(|first| ranges.record(&uid, first)).map_err(|error| error.to_string()));
            if let Err(why) = recorded {
                tracing::error!(why, path = %path.display(), "pods get no users of their own until this file is repaired or removed");
                unreadable = Some(format!("{}: {why}", path.display()));
            }
        }
        UserIds { pods, ranges: Mutex::new(ranges), unavailable: unreadable }
    }

    fn ranges(&self) -> std::sync::MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod's range, written down before it is used.
    pub fn get(&self, uid: &str) -> Result<UserNamespace, Error> {
        if let Some(why) = &self.unavailable {
            return Err(Error::Unavailable(why.clone()));
        }
        let mut ranges = self.ranges();
        let known = ranges.of(uid);
        let first = ranges.allocate(uid)?;
        if known.is_none()
            && let Err(cause) = self.write(uid, first)
        {
            ranges.release(uid);
            return Err(Error::Write(cause));
        }
        Ok(UserNamespace { first, length: LENGTH })
    }

    fn write(&self, uid: &str, first: u32) -> std::io::Result<()> {
        use std::io::Write as _;
        let dir = self.pods.join(uid);
        std::fs::create_dir_all(&dir)?;
        let temporary = dir.join("userns.new");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&Mappings::of(first))?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, dir.join(FILE))?;
        std::fs::File::open(dir)?.sync_all()
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &str) {
        let mut ranges = self.ranges();
        if ranges.of(uid).is_some() {
            let _ = std::fs::remove_file(self.pods.join(uid).join(FILE));
            ranges.release(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> UserIds {
        UserIds::read(dir.path().join("pods"), Ranges::new(FIRST, 10))
    }

    #[test]
    fn ranges_outlive_the_agent_and_end_with_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(&dir);
        assert_eq!(first.get("a").unwrap(), UserNamespace { first: LENGTH, length: LENGTH });
        assert_eq!(first.get("b").unwrap().first, 2 * LENGTH);
        first.release("a");
        let second = open(&dir);
        assert_eq!(second.get("c").unwrap().first, LENGTH, "a's is free again");
        assert_eq!(second.get("b").unwrap().first, 2 * LENGTH, "b keeps its own");
        assert_eq!(second.get("d").unwrap().first, 3 * LENGTH);
    }

    #[test]
    fn nobody_gets_ids_while_those_in_use_are_not_known() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).get("a").unwrap();
        let file = dir.path().join("pods/a/userns");
        let whole = std::fs::read_to_string(&file).unwrap();
        for damage in ["", "{", &whole[..whole.len() / 2], &whole.replace("65536", "0")] {
            std::fs::write(&file, damage).unwrap();
            let error = open(&dir).get("b").unwrap_err();
            assert!(error.to_string().contains("pods/a/userns"), "{error}");
        }
        std::fs::create_dir(dir.path().join("pods/b")).unwrap();
        for pod in ["a", "b"] {
            std::fs::write(dir.path().join("pods").join(pod).join("userns"), &whole).unwrap();
        }
        assert!(open(&dir).get("c").is_err(), "two pods have the same");
    }
}
