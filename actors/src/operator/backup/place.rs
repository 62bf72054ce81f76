//! Where a backup is: its files, and the manifest that names them all, which is written last.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use shop_domain::{kind::Kind, timestamp::Timestamp};

use super::BackupError;
use crate::blob::{
    address,
    object::{self, ObjectError, Received, Take},
};
use shop_nats::log::PartitionId;

const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
/// The file of the dead letters.
pub(crate) const LETTERS: &str = "letters";

/// The file of a kind's log.
pub(crate) fn log(kind: Kind) -> String {
    format!("log/{kind}")
}

/// The file of a partition's snapshot.
pub(crate) fn snapshot((kind, partition): PartitionId) -> String {
    format!("snapshot/{kind}/{partition}")
}

/// What a backup consists of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Its format.
    format: u32,
    /// When it was made, by the clock of whoever made it.
    pub(crate) made: String,
    /// Its files, by name.
    pub(crate) files: BTreeMap<String, File>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// How long it is.
    pub(crate) bytes: u64,
    /// The digest at its end, hexadecimal.
    pub(crate) digest: String,
}

/// The place of one backup.
#[derive(Clone)]
pub(crate) struct Backup {
    store: Arc<dyn ObjectStore>,
    url: String,
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Backup {
    /// A place for a new backup, where there is nothing yet.
    pub(crate) async fn begin(url: &str) -> Result<Self, BackupError> {
        address::make(url)?;
        let backup = Self::find(url)?;
        match backup.store.list(None).next().await {
            None => Ok(backup),
            Some(Ok(_)) => Err(BackupError::Taken(url.to_owned())),
            Some(Err(error)) => Err(ObjectError::from(error).into()),
        }
    }

    /// The place of a backup that there is.
    pub(crate) fn find(url: &str) -> Result<Self, BackupError> {
        Ok(Self { store: address::open(url)?, url: url.to_owned() })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Writes a file, as a whole or not at all; `make` returns its digest.
    pub(crate) async fn write(
        &self,
        name: &str,
        make: impl FnOnce(Take<'_>) -> Result<u64, ObjectError> + Send + 'static,
    ) -> Result<File, ObjectError> {
        let path = Path::from(name);
        let digest = object::write(&*self.store, &path, make).await?;
        Ok(File { bytes: self.store.head(&path).await?.size, digest: format!("{digest:016x}") })
    }

    /// Begins to read a file.
    pub(crate) async fn open(&self, name: &str) -> Result<Received, ObjectError> {
        object::open(&*self.store, &Path::from(name)).await
    }

    /// Makes a backup of what was written.
    pub(crate) async fn finish(&self, files: BTreeMap<String, File>) -> Result<Manifest, BackupError> {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let made = Timestamp::from_unix_ms(u64::try_from(made.as_millis()).unwrap_or(0)).to_string();
        let manifest = Manifest { format: FORMAT, made, files };
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest always encodes");
        self.store.put(&Path::from(MANIFEST), text.into()).await.map_err(ObjectError::from)?;
        Ok(manifest)
    }

    /// What there is.
    pub(crate) async fn manifest(&self) -> Result<Manifest, BackupError> {
        let url = || self.url.clone();
        let bytes = match self.store.get(&Path::from(MANIFEST)).await {
            Ok(found) => found.bytes().await.map_err(ObjectError::from)?,
            Err(object_store::Error::NotFound { .. }) => return Err(BackupError::None(url())),
            Err(error) => return Err(ObjectError::from(error).into()),
        };
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| BackupError::Manifest { url: url(), reason: error.to_string() })?;
        match manifest.format {
            FORMAT => Ok(manifest),
            found => {
                let reason = format!("it has the format {found}, this program reads {FORMAT}");
                Err(BackupError::Manifest { url: url(), reason })
            }
        }
    }
}
