//! What a kind has done on this host since it started, in numbers. They are for people only:
//! nothing is decided by them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use shop_nats::log::publisher::Resent;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So many more.
    pub fn add(&self, more: u64) {
        // A round in which nothing of the sort happened touches no memory that others use.
        if more > 0 {
            self.0.fetch_add(more, Relaxed);
        }
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The numbers of one kind. They outlive restarts of its partitions.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records of the log that were applied.
    pub records: Count,
    /// Messages that were accepted and handled.
    pub accepted: Count,
    /// Messages that had come before.
    pub duplicates: Count,
    /// Messages that came beyond a hole.
    pub beyond_holes: Count,
    /// Messages that this host's door appended and the log did not let in.
    pub swallowed: Count,
    /// Records that could not be read.
    pub dead_letters: Count,
    /// Entities that panicked.
    pub panics: Count,
    /// Frames that were sent again because no acknowledgement came.
    pub resent: Resent,
    /// Checkpoints that were written.
    pub checkpoints: Count,
    checkpoint_ns: Count,
    /// Answers that were sent to callers.
    pub replies: Count,
    /// Partitions that were taken over from other hosts.
    pub hand_overs: Count,
    hand_over_ns: Count,
}

/// The numbers of one kind, shared.
pub type SharedCounts = Arc<Counts>;

impl Counts {
    /// A checkpoint was written, which took so long.
    pub fn checkpoint(&self, took: Duration) {
        self.checkpoints.add(1);
        self.checkpoint_ns.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A partition was taken over, of whose owner nothing was heard for so long.
    pub fn hand_over(&self, took: Duration) {
        self.hand_overs.add(1);
        self.hand_over_ns.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How long there was nothing heard of the owners of partitions that were taken over, all together.
    pub fn hand_over_time(&self) -> Duration {
        Duration::from_nanos(self.hand_over_ns.get())
    }

    /// How long writing checkpoints took, all together.
    pub fn checkpoint_time(&self) -> Duration {
        Duration::from_nanos(self.checkpoint_ns.get())
    }
}
