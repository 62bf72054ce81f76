//! Snapshots: whole checkpoints of partitions in an object store that outlives hosts, so that the log may
//! be cut behind them, and a host without a checkpoint need not replay all of it.
//!
//! A snapshot is a checkpoint: it is exactly at that checkpoint's cursor, and belongs to the log of that
//! epoch. It is streamed in both directions, and whatever is read is believed only once its digest
//! was right; one that is damaged counts as not there.

pub mod candidates;
pub mod format;
mod name;
mod newest;
mod partial;
pub mod restore;
pub mod retention;
mod throttle;
pub mod trim;
mod usable;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use shop_domain::kind::Kind;
use shop_nats::log::{LogError, PartitionId};

pub use self::{
    format::Header,
    name::Name,
    newest::NewestSnapshot,
    throttle::Throttle,
    usable::{Usable, usable},
};
use crate::{
    blob::{
        address::{self, AddressError},
        object::{self, ObjectError, Received, Take},
    },
    joined::joined,
    store::{CheckpointView, Items, ItemsError, Meta, StoreError},
};

/// Where snapshots are.
#[derive(Clone)]
pub struct Snapshots {
    store: Arc<dyn ObjectStore>,
    url: String,
    /// The folder, if it is one.
    folder: Option<PathBuf>,
}

/// A snapshot that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: Name,
    /// How large it is.
    pub bytes: u64,
    /// When it was written, by the object store's clock.
    pub written: SystemTime,
}

/// Why there is no snapshot to be had, or none could be written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The address says nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The object store did not do it.
    #[error("cannot read or write snapshots: {0}")]
    Store(String),
    /// There is none: somebody may have removed it since it was listed.
    #[error("it is not there: {0}")]
    Gone(String),
    /// It is not as it was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The log could not be asked whether it is of this log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The checkpoint on this machine could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] StoreError),
}

impl From<ObjectError> for SnapshotError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Store(error) => Self::Store(error),
            ObjectError::Gone(error) => Self::Gone(error),
            ObjectError::Damaged(how) => Self::Damaged(how),
        }
    }
}

impl From<ItemsError> for SnapshotError {
    fn from(error: ItemsError) -> Self {
        match error {
            ItemsError::Store(error) => Self::Checkpoint(error),
            // The only side that is no checkpoint is an object.
            ItemsError::Other(error) => match error.downcast::<ObjectError>() {
                Ok(error) => (*error).into(),
                Err(error) => Self::Damaged(error.to_string()),
            },
        }
    }
}

impl From<object_store::Error> for SnapshotError {
    fn from(error: object_store::Error) -> Self {
        ObjectError::from(error).into()
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// The snapshots at an address: a folder, which is made where there is none, or a URL.
    pub fn open(url: &str) -> Result<Self, SnapshotError> {
        address::make(url)?;
        Self::find(url)
    }

    /// The snapshots at an address, where there must be some.
    pub fn find(url: &str) -> Result<Self, SnapshotError> {
        let folder = address::folder_in(url).map(Path::to_owned);
        Ok(Self { folder, ..Self::over(address::open(url)?, url) })
    }

    /// The snapshots in an object store.
    pub fn over(store: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { store, url: url.to_owned(), folder: None }
    }

    /// Where they are.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same place as everybody on this machine would name it.
    pub fn place(&self) -> String {
        address::absolute(&self.url)
    }

    /// The snapshots of a partition of the log of that epoch, newest first. Those of another log are never
    /// of use: sequences begin again with it.
    pub async fn list(&self, place: PartitionId, epoch: u64) -> Result<Vec<Kept>, SnapshotError> {
        let folder = Name::folder(place, epoch);
        let objects: Vec<_> = self.store.list(Some(&folder)).try_collect().await?;
        let kept = objects.into_iter().filter_map(|object| {
            let name = Name::at(&object.location, epoch)?;
            Some(Kept { name, bytes: object.size, written: object.last_modified.into() })
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.name));
        Ok(kept)
    }

    /// Whether there is a snapshot of some log of a kind.
    pub async fn has_some_of(&self, kind: Kind) -> Result<bool, SnapshotError> {
        let mut objects = self.store.list(Some(&kind.as_str().into()));
        while let Some(object) = objects.try_next().await? {
            if object.location.extension() == Some("snapshot") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a checkpoint as a snapshot, and reads it again to be sure of it. It is there as a whole or not at all.
    pub async fn write(
        &self,
        (kind, partition): PartitionId,
        frozen: Box<dyn CheckpointView>,
        mut throttle: Throttle,
    ) -> Result<Kept, SnapshotError> {
        let meta = frozen.meta().clone();
        let name = Name::of(&meta);
        let path = name.path((kind, partition));
        let header = Header { kind, partition, meta, items_max: frozen.items_max() };
        let make = move |take: Take<'_>| {
            format::write(&header, &*frozen, &mut |piece| {
                throttle.keep(piece.len());
                take(piece)
            })
        };
        object::write(&*self.store, &path, make).await?;
        self.verify((kind, partition), name).await?;
        let object = self.store.head(&path).await?;
        Ok(Kept { name, bytes: object.size, written: object.last_modified.into() })
    }

    /// Reads a snapshot from its first to its last byte, and says up to where it goes.
    pub async fn verify(&self, place: PartitionId, name: Name) -> Result<Meta, SnapshotError> {
        let read_all = |header: &Header, items: &mut Items<'_>| {
            for item in items {
                item?;
            }
            Ok(header.meta.clone())
        };
        self.read(place, name, read_all).await
    }

    /// Up to where a snapshot says that it goes; whether that is to be believed only all of it tells.
    pub async fn meta(&self, place: PartitionId, name: Name) -> Result<Meta, SnapshotError> {
        self.read(place, name, |header, _| Ok(header.meta.clone())).await
    }

    /// Reads a snapshot, on a thread for blocking work. Its items end with an error if they are not to be believed.
    pub async fn read<T: Send + 'static>(
        &self,
        place: PartitionId,
        name: Name,
        take: impl FnOnce(&Header, &mut Items<'_>) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let stored = object::open(&*self.store, &name.path(place)).await?;
        let reading = tokio::task::spawn_blocking(move || {
            let mut reader = format::Reader::begin(stored)?;
            let header = reader.header().clone();
            if (header.kind, header.partition) != place || Name::of(&header.meta) != name {
                return Err(SnapshotError::Damaged("it is not what its name says".to_owned()));
            }
            take(&header, &mut reader)
        });
        joined(reading).await
    }

    /// A snapshot as it is stored, to be read on a thread for blocking work.
    pub async fn open_stored(&self, place: PartitionId, name: Name) -> Result<Received, SnapshotError> {
        Ok(object::open(&*self.store, &name.path(place)).await?)
    }

    /// Keeps a copy of a snapshot under another header, and reads it again to be sure of it.
    pub async fn adopt(&self, stored: Received, header: Header) -> Result<(), SnapshotError> {
        let (place, name) = ((header.kind, header.partition), Name::of(&header.meta));
        let copy = move |take: Take<'_>| format::copy(stored, |_| Ok(header), take);
        object::write(&*self.store, &name.path(place), copy).await?;
        self.verify(place, name).await.map(drop)
    }

    /// Removes all snapshots of a partition but the newest few, and what hosts that were killed have left half written.
    pub async fn prune(&self, place: PartitionId, epoch: u64, keep: usize) -> Result<(), SnapshotError> {
        for old in self.list(place, epoch).await?.into_iter().skip(keep) {
            self.remove(&old.name.path(place)).await?;
        }
        let Some(folder) = &self.folder else { return Ok(()) };
        let folder = folder.join(Name::folder(place, epoch).as_ref());
        let swept = tokio::task::spawn_blocking(move || partial::sweep(&folder));
        Ok(joined(swept).await.map_err(ObjectError::from)?)
    }

    /// Removes all snapshots of a kind's logs of those epochs.
    pub async fn forget(&self, kind: Kind, epochs: &[u64]) -> Result<(), SnapshotError> {
        let objects: Vec<_> = self.store.list(Some(&kind.as_str().into())).try_collect().await?;
        for object in objects {
            if epochs.iter().any(|epoch| Name::is_of(&object.location, kind, *epoch)) {
                self.remove(&object.location).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, path: &object_store::path::Path) -> Result<(), SnapshotError> {
        match self.store.delete(path).await {
            // Another host was faster.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
