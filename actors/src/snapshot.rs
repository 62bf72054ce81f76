//! Snapshots: whole checkpoints of partitions in an object store that outlives hosts, so that the log may
//! be cut behind them, and a host without a checkpoint need not replay all of it.
//!
//! A snapshot is a checkpoint: it is exactly at that checkpoint's cursor, and belongs to the log of that
//! epoch. It is streamed in both directions, and whatever is read is believed only once its digest
//! was right; one that is damaged counts as not there.

pub mod format;
pub mod keeper;
mod name;
mod pace;
pub mod restore;
pub mod retention;
pub mod trim;

use std::{
    fmt,
    io::{self, Read},
    sync::Arc,
    time::SystemTime,
};

use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use shop_nats::log::LogError;
use tokio::sync::mpsc;

pub use self::{format::Header, name::Name, pace::Pace};
use crate::{
    address::{self, AddressError},
    replay::Place,
    store::{Frozen, Items, Meta, StoreError},
};

/// So many bytes are handed to the object store at a time: above the 5 MiB that S3 asks for at least.
const UPLOAD_BYTES: usize = 8 * 1024 * 1024;
/// How many of those may be on their way at a time.
const UPLOADS: usize = 2;
/// Parts that wait between the thread that makes or reads them and the object store.
const PARTS_WAITING: usize = 4;

/// Where snapshots are.
#[derive(Clone)]
pub struct Snapshots {
    store: Arc<dyn ObjectStore>,
    url: String,
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

impl From<object_store::Error> for SnapshotError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error.to_string())
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
        Ok(Self::over(address::open(url)?, url))
    }

    /// The snapshots in an object store.
    pub fn over(store: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { store, url: url.to_owned() }
    }

    /// Where they are.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The snapshots of a partition of the log of that epoch, newest first. Those of another log are never
    /// of use: sequences begin again with it.
    pub async fn list(&self, place: Place, epoch: u64) -> Result<Vec<Kept>, SnapshotError> {
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

    /// Writes a checkpoint as a snapshot, and reads it again to be sure of it. It is there as a whole or not at all.
    pub async fn write(
        &self,
        (kind, partition): Place,
        frozen: Box<dyn Frozen>,
        mut pace: Pace,
    ) -> Result<Kept, SnapshotError> {
        let meta = frozen.meta().clone();
        let name = Name::of(&meta);
        let path = name.path((kind, partition));
        let header = Header { kind, partition, meta, items_max: frozen.items_max() };
        let (parts, mut made) = mpsc::channel(PARTS_WAITING);
        let making = tokio::task::spawn_blocking(move || {
            format::write(&header, &*frozen, &mut |part| {
                pace.keep(part.len());
                let gone = |_| SnapshotError::Store("nobody takes it".to_owned());
                parts.blocking_send(part).map_err(gone)
            })
        });
        let upload = self.store.put_multipart(&path).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_BYTES);
        while let Some(part) = made.recv().await {
            upload.wait_for_capacity(UPLOADS).await?;
            upload.put(part);
        }
        match making.await.expect("writing a snapshot does not panic") {
            Ok(()) => upload.finish().await?,
            Err(error) => {
                upload.abort().await?;
                return Err(error);
            }
        };
        self.verify((kind, partition), name).await?;
        let object = self.store.head(&path).await?;
        Ok(Kept { name, bytes: object.size, written: object.last_modified.into() })
    }

    /// Reads a snapshot from its first to its last byte, and says up to where it goes.
    pub async fn verify(&self, place: Place, name: Name) -> Result<Meta, SnapshotError> {
        let read_all = |header: &Header, items: &mut Items<'_>| {
            for item in items {
                item?;
            }
            Ok(header.meta.clone())
        };
        self.read(place, name, read_all).await
    }

    /// Up to where a snapshot says that it goes; whether that is to be believed only all of it tells.
    pub async fn meta(&self, place: Place, name: Name) -> Result<Meta, SnapshotError> {
        self.read(place, name, |header, _| Ok(header.meta.clone())).await
    }

    /// Reads a snapshot, on a thread for blocking work. Its items end with an error if they are not to be believed.
    pub async fn read<T: Send + 'static>(
        &self,
        place: Place,
        name: Name,
        take: impl FnOnce(&Header, &mut Items<'_>) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let mut stored = self.store.get(&name.path(place)).await?.into_stream();
        let (parts, received) = mpsc::channel(PARTS_WAITING);
        let reading = tokio::task::spawn_blocking(move || {
            let mut reader = format::Reader::begin(Received { parts: received, part: Bytes::new() })?;
            let header = reader.header().clone();
            if (header.kind, header.partition) != place || Name::of(&header.meta) != name {
                return Err(SnapshotError::Damaged("it is not what its name says".to_owned()));
            }
            take(&header, &mut reader)
        });
        while let Some(part) = stored.next().await {
            // Whoever has read enough takes no more.
            if parts.send(part.map_err(io::Error::other)).await.is_err() {
                break;
            }
        }
        drop(parts);
        reading.await.expect("reading a snapshot does not panic")
    }

    /// Removes all snapshots of a partition but the newest few.
    pub async fn prune(&self, place: Place, epoch: u64, keep: usize) -> Result<(), SnapshotError> {
        for old in self.list(place, epoch).await?.into_iter().skip(keep) {
            match self.store.delete(&old.name.path(place)).await {
                // Another host was faster.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What an object store hands over, as something to read from.
struct Received {
    parts: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Received {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part?,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.part.len());
        self.part.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
