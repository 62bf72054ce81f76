//! The files of one partition's runs, each named by the run's number.
//!
//! Runs are not put into sled, which writes a page again with nearly every entry that comes into it:
//! after 900,000 orders it had 880 MB on the disk and 360 MB in memory, with files it is 330 MB and
//! 140 MB (`wrk` on one `shop`, sled 0.34.7).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use shop_nats::private;

use crate::store::StoreError;

/// The folder of one partition's runs.
#[derive(Clone, Debug)]
pub(super) struct RunFolder(PathBuf);

impl RunFolder {
    /// Opens, or makes, the folder.
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        private::make_folder(&path).map_err(|source| failed(&path, source))?;
        Ok(Self(path))
    }

    /// Where the run with that number is.
    pub(super) fn path(&self, run: u64) -> PathBuf {
        self.0.join(format!("{run}.run"))
    }

    /// Removes the run with that number.
    pub(super) fn remove(&self, run: u64) -> Result<(), StoreError> {
        let path = self.path(run);
        fs::remove_file(&path).map_err(|source| failed(&path, source))
    }

    /// Removes all but these runs.
    pub(super) fn keep(&self, runs: &[u64]) -> Result<(), StoreError> {
        let kept: Vec<PathBuf> = runs.iter().map(|run| self.path(*run)).collect();
        let here = |source| failed(&self.0, source);
        for entry in fs::read_dir(&self.0).map_err(here)? {
            let path = entry.map_err(here)?.path();
            if !kept.contains(&path) {
                fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            }
        }
        Ok(())
    }

    /// Makes sure that no crash of the machine takes the names of files away again.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.0).and_then(|folder| folder.sync_all()).map_err(|source| failed(&self.0, source))
    }
}

/// What went wrong with a file or folder.
pub(super) fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { folder: path.to_owned(), source }
}
