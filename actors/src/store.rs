//! Checkpoints: what a partition keeps so that it need not replay its whole log.
//!
//! A checkpoint is never the truth: it may be lost at any time, and the log builds it again.

pub mod delta;
pub mod memory;
pub mod sled;

use std::{error::Error, fmt::Debug, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shop_domain::{id::Id, kind::Kind, rows::RowKey, timestamp::Timestamp};
use shop_nats::log::Identity;

use self::delta::Delta;
use crate::link::{Links, NUMBER_MAX};

/// The checkpoints of one kind.
pub trait Store: Debug + Send + Sync {
    /// Opens the checkpoint of a partition. Whoever has opened it before may read on, and changes nothing any more.
    fn partition(&self, partition: u16) -> Result<SharedPartitionStore, StoreError>;

    /// Writes all that is still held back.
    fn flush(&self) -> Result<(), StoreError>;
}

/// The checkpoint of one partition.
pub trait PartitionStore: Debug + Send + Sync {
    /// Up to where the checkpoint goes, if there is one.
    fn meta(&self) -> Result<Option<Meta>, StoreError>;

    /// An entity's state.
    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError>;

    /// One row of an entity.
    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` states with ids after `after`, in order.
    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError>;

    /// At most `limit` rows of an entity whose keys begin with `prefix` and sort before `before`, last first.
    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError>;

    /// Writes a checkpoint, all of it or nothing.
    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError>;

    /// Puts some of what checkpoints have written in order; changes nothing of what is read.
    fn tidy(&self) -> Result<(), StoreError>;

    /// Whether writing takes long enough to be done on a thread for blocking work.
    fn blocks(&self) -> bool;

    /// The checkpoint as it is now, which stays so while others are written; none when there is none.
    fn freeze(&self) -> Result<Option<Box<dyn CheckpointView>>, StoreError>;

    /// Puts another checkpoint in the place of this one: all of it or, after an error, nothing. Its
    /// items come in the order in which [`CheckpointView::each`] gives them; there are at most so many.
    fn restore(&self, meta: &Meta, items_max: u64, items: &mut Items<'_>) -> Result<(), ItemsError>;
}

/// A checkpoint that does not change any more.
pub trait CheckpointView: Debug + Send {
    /// Up to where it goes.
    fn meta(&self) -> &Meta;

    /// How many items it may have.
    fn items_max(&self) -> u64;

    /// Hands over every item once: the rows by id and key, then the states by id.
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), ItemsError>) -> Result<(), ItemsError>;
}

/// A state or a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Of which entity.
    pub id: Id,
    /// The row's key; none for a state.
    pub row: Option<RowKey>,
    /// As it is stored.
    pub value: Bytes,
}

/// Why items did not get from one place to another.
#[derive(Debug, thiserror::Error)]
pub enum ItemsError {
    /// The checkpoint that they come from or go to.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The other side, which knows its own error again.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

impl ItemsError {
    /// Of the side that is no checkpoint.
    pub fn other(error: impl Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

/// Items on their way into a checkpoint.
pub type Items<'a> = dyn Iterator<Item = Result<Item, ItemsError>> + 'a;

/// A partition's checkpoint, shared.
pub type SharedPartitionStore = Arc<dyn PartitionStore>;

/// Up to where a partition's checkpoint goes, and in which log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The number of the logic version that holds behind the cursor.
    pub logic: u32,
    /// The log's epoch.
    pub epoch: u64,
    /// When the log was created, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i128,
    /// The sequence up to which the partition has applied.
    pub cursor: u64,
    /// The hash of the record at the cursor.
    pub cursor_hash: u64,
    /// The numbers of all links at the cursor.
    pub links: Links,
    /// The sequence up to which the log is known to hold nothing for the partition that is not in here.
    /// Beyond the cursor only where others had the last word.
    #[serde(default)]
    pub complete_to: u64,
    /// The partition's clock at the cursor, see [`Logic::now`](shop_domain::logic::Logic::now).
    #[serde(default)]
    pub clock: Timestamp,
}

impl Meta {
    /// Where a partition without checkpoint begins.
    pub fn new(log: &Identity) -> Self {
        Self {
            logic: log.logic,
            epoch: log.epoch,
            created_unix_ns: log.created_unix_ns,
            cursor: 0,
            cursor_hash: 0,
            links: Links::default(),
            complete_to: 0,
            clock: Timestamp::default(),
        }
    }

    /// Whether a log can have come that far. A snapshot comes from a bucket, and may say anything.
    pub fn is_possible(&self) -> bool {
        self.cursor.max(self.complete_to) <= NUMBER_MAX && self.links.are_possible()
    }

    /// The sequence from which on the log must hold all that is for the partition, so that it goes on from here.
    pub fn needs_from(&self) -> u64 {
        self.cursor.max(self.complete_to) + 1
    }
}

/// What a checkpoint writes.
#[derive(Debug)]
pub struct Checkpoint {
    /// Up to where it goes.
    pub meta: Meta,
    /// What changed since the one before.
    pub changes: Arc<Delta>,
}

/// Why checkpoints cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder.
    #[error("the data folder {0} is used by another process; stop that one, or give this one a --data-dir of its own")]
    InUse(PathBuf),
    /// The folder was written by another version.
    #[error(
        "the data folder {folder} has the format {found:?}, this program writes {expected:?}; \
         delete the folder, and it is built again from the log"
    )]
    Format {
        /// Which folder.
        folder: PathBuf,
        /// What it says it is.
        found: String,
        /// What this program writes.
        expected: &'static str,
    },
    /// The folder is on another machine.
    #[error(
        "the data folder {folder} is on {file_system}, where locks and order of writing are not those of a disk: \
         checkpoints cannot be there, snapshots and backups can; give a --data-dir on a disk of this machine"
    )]
    Remote {
        /// Which folder.
        folder: PathBuf,
        /// What kind of file system.
        file_system: &'static str,
    },
    /// A file could not be read or written.
    #[error("cannot use the data folder {folder}: {source}")]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// sled could not do it.
    #[error("cannot read or write checkpoints: {0}")]
    Sled(#[from] ::sled::Error),
    /// A checkpoint that this program did not write.
    #[error("the checkpoint of {0} cannot be read: {1}; delete the data folder, and it is built again from the log")]
    Meta(String, rmp_serde::decode::Error),
    /// A state or a row that no program has written, as one of a snapshot can be.
    #[error("what is kept of {kind} {id} cannot be read: {error}")]
    Unreadable {
        /// Of which kind.
        kind: Kind,
        /// Of which entity.
        id: Id,
        /// Why.
        error: rmp_serde::decode::Error,
    },
    /// A part of one is not there, or not as it was written. Nothing is written to it any more, and whoever opens it
    /// next finds no checkpoint.
    #[error("run {0} of a checkpoint is damaged; it is built again from the log")]
    Damaged(u64),
    /// Somebody else has opened it since.
    #[error("the checkpoint was opened anew, and is not changed any more by whoever had opened it before")]
    Superseded,
}
