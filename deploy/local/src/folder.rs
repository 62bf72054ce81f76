//! Folders that belong to one process at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use shop_nats::private;
use tokio::time::{Instant, sleep};

/// How often a folder is tried again while its last owner is finishing.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The right to use a folder. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Somebody else holds it.
    #[error("the data folder {} is used by another process (pid {pid})", .folder.display())]
    InUse {
        /// Which.
        folder: PathBuf,
        /// By whom.
        pid: String,
    },
    /// It cannot be made, written or locked.
    #[error("cannot use the data folder {}: {source}", .folder.display())]
    Unusable {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FolderLock {
    /// Makes the folder where there is none, and takes it.
    pub fn take(folder: &Path) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable { folder: folder.to_owned(), source };
        private::make_data_folder(folder).map_err(unusable)?;
        let path = folder.join("LOCK");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(unusable)?;
                return Err(FolderError::InUse { folder: folder.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        // For the message that the next one gets.
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
        Ok(Self { file })
    }

    /// As [`FolderLock::take`], but gives the last owner up to `limit` to finish.
    pub async fn take_within(folder: &Path, limit: Duration) -> Result<Self, FolderError> {
        let deadline = Instant::now() + limit;
        loop {
            match Self::take(folder) {
                Err(FolderError::InUse { .. }) if Instant::now() < deadline => sleep(RETRY_INTERVAL).await,
                outcome => return outcome,
            }
        }
    }

    /// The same lock once more, for a child process: it is held until both are gone.
    pub fn share(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child process of another test holds all locks until it is what it will be.
    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_folder_in_use_says_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let refusal = FolderLock::take(folder.path()).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(refusal.ends_with(&format!("is used by another process (pid {pid})")), "{refusal}");
        drop(lock);
        FolderLock::take_within(folder.path(), LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn a_shared_lock_is_held_until_both_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let shared = lock.share().unwrap();
        drop(lock);
        assert!(FolderLock::take(folder.path()).is_err());
        drop(shared);
        FolderLock::take_within(folder.path(), LIMIT).await.unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = FolderLock::take(&file.path().join("shop")).unwrap_err().to_string();
        assert!(error.contains("shop"), "{error}");
    }
}
