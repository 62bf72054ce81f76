//! How far a log may be cut: as far as snapshots stand for what goes, and a margin less.
//!
//! A kind's log is one stream that all its partitions share, and it is cut at one sequence for all of
//! them, from its beginning on. So it stays without gaps, and a reader that misses a record still
//! knows that something was lost. The price is that the partition whose snapshots are the oldest
//! decides for all.
//!
//! What a partition needs of the log begins behind the last record that its snapshot has. That one may
//! be far back, if little comes to the partition: so a snapshot says up to where it is *complete*,
//! by whoever had read the whole log up to there when it was written. Of those snapshots that are
//! kept the oldest one decides, because one that is newer may turn out to be damaged: all of them
//! are read to their ends before anything is cut.
//!
//! What lies before the place at which the log begins since the shop was repartitioned is read by nobody any more.
//! It may go as soon as there is a snapshot of each partition, whatever is to be kept of the rest.
//!
//! What a partition resends because it begins further back than before falls away at the receivers: it
//! has the same numbers. What a receiver needs of that is in its own log behind its own snapshot. And
//! whoever has a checkpoint of its own that ends before the log begins takes a snapshot instead.

use std::time::{Duration, SystemTime};

use shop_domain::{kind::Kind, timestamp::Timestamp};
use shop_nats::log::{Identity, PartitionId, SharedLog};

use super::{
    Kept, SnapshotError, Snapshots, Usable,
    candidates::{Candidates, Order},
    usable,
};

/// Records that stay before the oldest snapshot. The record at its cursor is among them, which tells that it
/// is of this log; and hosts whose checkpoints are a little older than their snapshots, or that read a little
/// behind, find what they need. A host writes a checkpoint twice a second, which is 500 records at
/// a thousand orders per second.
pub const MARGIN: u64 = 1_000;

/// How far a log may be cut.
#[derive(Debug)]
pub struct Plan {
    /// Which log.
    pub kind: Kind,
    /// As it was.
    pub identity: Identity,
    /// What stands for each partition.
    pub partitions: Vec<Standing>,
    /// The first record that stays.
    pub first: u64,
}

/// What stands for a partition.
#[derive(Debug)]
pub struct Standing {
    /// Which one.
    pub place: PartitionId,
    /// The oldest snapshot that is whole and of this log.
    pub oldest: Option<Kept>,
    /// Those that are of no use, and why.
    pub useless: Vec<(Kept, String)>,
}

/// How much of what could go stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// So many records before the oldest snapshot.
    pub margin: u64,
    /// And all that the log took since, as far as anybody still reads it.
    pub since: Option<Timestamp>,
}

impl Plan {
    /// Finds out how far a kind's log may be cut; changes nothing.
    pub async fn make(
        log: &SharedLog,
        snapshots: &Snapshots,
        kind: Kind,
        reserve: Reserve,
    ) -> Result<Self, SnapshotError> {
        let identity = log.identity(kind).await?;
        let mut partitions = Vec::with_capacity(identity.partitions.into());
        for partition in 0..identity.partitions {
            partitions.push(Standing::of((kind, partition), log, snapshots, &identity).await?);
        }
        let complete_to = partitions.iter().map(|standing| standing.oldest.map_or(0, |oldest| oldest.name.complete_to));
        let complete_to = complete_to.min().unwrap_or(0);
        let mut first = (complete_to + 1).saturating_sub(reserve.margin).max(identity.first_sequence);
        if let Some(since) = reserve.since {
            first = first.min(first_since(log, &identity, kind, since).await?);
        }
        Ok(Self { kind, identity, partitions, first })
    }

    /// The partition for which nothing stands, so that nothing may go.
    pub fn lacking(&self) -> Option<PartitionId> {
        self.partitions.iter().find(|standing| standing.oldest.is_none()).map(|standing| standing.place)
    }

    /// How many records go. Among them are those from before the shop was repartitioned, which no reserve keeps.
    pub fn records(&self) -> u64 {
        self.first - self.identity.oldest_sequence
    }
}

impl Standing {
    async fn of(
        place: PartitionId,
        log: &SharedLog,
        snapshots: &Snapshots,
        identity: &Identity,
    ) -> Result<Self, SnapshotError> {
        let mut standing = Self { place, oldest: None, useless: vec![] };
        let mut candidates = Candidates::list(snapshots, place, identity.epoch, Order::NewestFirst).await?;
        while let Some(kept) = candidates.next().await? {
            let verified = snapshots.verify(place, kept.name);
            match usable(log, snapshots, place, kept.name, identity, verified).await? {
                Usable::Is(_) if standing.oldest.is_some_and(|oldest| oldest.name < kept.name) => {}
                Usable::Is(_) => standing.oldest = Some(kept),
                Usable::IsNot(why) => standing.useless.push((kept, why)),
                Usable::Gone => candidates.is_gone(),
            }
        }
        Ok(standing)
    }
}

/// The first record that the log took at that time or later: looked for by halves, because times only grow.
pub(super) async fn first_since(
    log: &SharedLog,
    identity: &Identity,
    kind: Kind,
    since: Timestamp,
) -> Result<u64, SnapshotError> {
    let (mut low, mut high) = (identity.first_sequence, identity.last_sequence + 1);
    while low < high {
        let middle = low.midpoint(high);
        match log.record(kind, middle).await? {
            Some(record) if record.time >= since => high = middle,
            // What is not there any more was before.
            Some(_) | None => low = middle + 1,
        }
    }
    Ok(low)
}

/// The moment so many days ago, by this machine's clock: nothing but a cut depends on it.
pub fn days_ago(days: u64) -> Timestamp {
    let age = Duration::from_secs(days.saturating_mul(24 * 60 * 60));
    let then = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let then = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(then.as_millis()).unwrap_or(0))
}
