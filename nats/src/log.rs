//! What the shop needs of a log: append, read on from a position, look up, and know which log it is.

pub mod frame;
pub mod publisher;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use shop_domain::{kind::Kind, timestamp::Timestamp};
use tokio::sync::{mpsc, watch};

use self::frame::{Cause, FrameError, Payload};

/// Records that wait between the reader and the host. Enough to keep both busy; with frames of
/// the largest size it is 32 MiB.
pub(crate) const READ_AHEAD: usize = 64;

/// A partition of a kind.
pub type PartitionId = (Kind, u16);

/// Which log each kind has.
pub type Logs = BTreeMap<Kind, Identity>;

/// The logs of all kinds.
pub trait Log: Debug + Send + Sync + 'static {
    /// Hands a frame to the log. Frames handed in one after the other (the first future awaited
    /// before the next call) keep their order, those that arrive. The second future tells whether
    /// this one did: its sequence, once it is durable.
    fn append(&self, kind: Kind, partition: u16, frame: Bytes) -> BoxFuture<'static, Result<Appending, AppendError>>;

    /// Reads all partitions of a kind's log, from the record after `after` on, for ever. An error
    /// is the last item: the log is not the one of that `epoch` any more.
    fn read(&self, kind: Kind, epoch: u64, after: u64) -> mpsc::Receiver<Result<Record, LogError>>;

    /// The sequence of the last record in a kind's log, from its leader.
    fn last_sequence(&self, kind: Kind) -> BoxFuture<'static, Result<u64, LogError>>;

    /// The record at a sequence, from the leader; none if the log does not hold it.
    fn record(&self, kind: Kind, sequence: u64) -> BoxFuture<'static, Result<Option<Record>, LogError>>;

    /// Which log this is and how far it goes.
    fn identity(&self, kind: Kind) -> BoxFuture<'static, Result<Identity, LogError>>;

    /// Keeps a record of the log of that `epoch` that could not be read, with the reason. Doing so again changes
    /// nothing, also where the log has another epoch by now.
    fn bury(&self, kind: Kind, epoch: u64, record: Record, reason: String) -> BoxFuture<'static, Result<(), LogError>>;

    /// Removes all records of a kind's log before the one at `from`; returns how many those were.
    fn trim(&self, kind: Kind, epoch: u64, from: u64) -> BoxFuture<'static, Result<u64, TrimError>>;

    /// Changes whenever what was on its way to a kind's log may have been lost.
    fn disruptions(&self, kind: Kind) -> watch::Receiver<u64>;
}

/// The logs, shared.
pub type SharedLog = Arc<dyn Log>;

/// The acknowledgement of a frame on its way: the sequence at which it is durable.
pub type Appending = BoxFuture<'static, Result<u64, AppendError>>;

/// Why a log was not cut.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// The server did not do what it was asked.
    #[error("cannot cut the log of {kind}: {reason}")]
    Server {
        /// Whose log.
        kind: Kind,
        /// Why.
        reason: String,
    },
    /// It is not the log that was looked at.
    #[error("the log of {0} was made anew meanwhile; nothing was cut")]
    OtherLog(Kind),
    /// An older shop made it so that nothing is ever cut, and no server takes that back.
    #[error(
        "the stream {0} was made by an older version, which forbade for good that anything is taken out of it \
         (deny_purge); only a log that is made anew can be cut"
    )]
    Denied(String),
}

/// One message of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log of the kind.
    pub sequence: u64,
    /// The partition that it is for.
    pub partition: u16,
    /// When the log took it.
    pub time: Timestamp,
    /// A frame, unless somebody published by hand.
    pub payload: Bytes,
    /// The subject that it has, where that is none of this log's: a consumer of another stream, whose target is a
    /// subject of this one, makes nats-server store such records (2.15). It is a dead letter, whatever it says, and
    /// counts as one of the first partition.
    pub foreign: Option<Box<str>>,
    /// Whether an operator has let it be skipped (see [`DeadLetters::skip`](crate::jetstream::dead::DeadLetters::skip)): then it is
    /// a dead letter as well.
    pub is_skipped: bool,
}

impl Record {
    /// What it holds, in the log of `kind`.
    pub fn read(&self, kind: Kind) -> Result<Payload, FrameError> {
        match &self.foreign {
            Some(subject) => Err(FrameError::Subject(subject.clone())),
            None if self.is_skipped => Err(FrameError::Skipped),
            None => Payload::decode(kind, &self.payload),
        }
    }

    /// What its messages follow from, if it holds some of a partition.
    pub fn cause(&self) -> Option<Cause> {
        if self.foreign.is_none() { Cause::of(&self.payload) } else { None }
    }

    /// What is stored at a sequence, as everybody takes it who reads it under the layout of the generation that
    /// `counts` there. Something of a former one was let in by mistake, from a host that missed that there is another
    /// one now: nothing is to follow from it. It keeps its place, so that nobody waits for it.
    pub(crate) fn of(
        (generation, partition): (u32, u16),
        counts: u32,
        sequence: u64,
        time: Timestamp,
        payload: Bytes,
    ) -> Self {
        if generation < counts {
            return Self { sequence, partition: 0, time, payload: frame::nothing(), foreign: None, is_skipped: false };
        }
        Self { sequence, partition, time, payload, foreign: None, is_skipped: false }
    }
}

/// What tells one log from another, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// When the stream was created, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i128,
    /// A random number from when the stream was created.
    pub epoch: u64,
    /// The epoch by which links know it: its own or, if a backup was restored into it, that of the log that the
    /// backup was made of, so that the numbers on its links go on.
    pub link_epoch: u64,
    /// In how many partitions the kind is cut.
    pub partitions: u16,
    /// The number of the logic version that it begins with.
    pub logic: u32,
    /// The first record's sequence; beyond the last when there is none.
    pub first_sequence: u64,
    /// The first that takes up room: less than that where the shop was repartitioned, whose records from before stay
    /// until they are cut off, though nobody reads them any more.
    pub oldest_sequence: u64,
    /// The last record's sequence; 0 when there is none.
    pub last_sequence: u64,
}

impl Identity {
    /// A log of this epoch with one partition and nothing in it, as whoever is not on a nats-server has it.
    pub const fn new(epoch: u64) -> Self {
        Self {
            created_unix_ns: 0,
            epoch,
            link_epoch: epoch,
            partitions: 1,
            logic: 1,
            first_sequence: 1,
            oldest_sequence: 1,
            last_sequence: 0,
        }
    }
}

/// Why a frame may not be in the log.
#[derive(Debug, thiserror::Error)]
#[error("failed to append to {subject}: {reason}")]
pub struct AppendError {
    /// Where.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// Whether it is not there for sure, because there is no room for it.
    pub is_full: bool,
}

/// Why the log could not be asked, or is not what was expected.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log did not answer, or not with what was asked for.
    #[error("cannot ask the log of {kind}: {reason}")]
    Failed {
        /// Whose log.
        kind: Kind,
        /// Why.
        reason: String,
    },
    /// The stream was made anew, or rolled back, under a host that was reading it.
    #[error("the log of {kind} is not the one that was being read: {reason}")]
    OtherLog {
        /// Whose log.
        kind: Kind,
        /// How it differs.
        reason: String,
    },
}
