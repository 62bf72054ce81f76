//! Cutting a log by itself: what it took long enough ago, as far as snapshots stand for it.
//!
//! Of the hosts of a kind the one that owns its first partition does it, whenever it has written that one's
//! snapshot: only then can there be more to cut. Two that take themselves for the owner do no harm,
//! because both plan the same, and cutting twice at one place is cutting once.

use shop_domain::kind::Kind;
use shop_nats::log::{SharedLog, TrimError};

use super::{
    SnapshotError, Snapshots,
    trim::{Plan, Reserve, days_ago, first_since},
};

/// The partition whose owner cuts the log of all.
pub(crate) const DECIDES: u16 = 0;

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// All that it took in the last so many days.
    pub days: u64,
    /// So many records before the oldest snapshot.
    pub margin: u64,
}

/// Why a log was not cut.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// It is not known what stands for it.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It could not be cut.
    #[error(transparent)]
    Trim(#[from] TrimError),
}

impl Retention {
    /// Cuts off what may go of a kind's log; returns how many records those were.
    pub async fn enforce(self, log: &SharedLog, snapshots: &Snapshots, kind: Kind) -> Result<u64, RetentionError> {
        let since = days_ago(self.days);
        let identity = log.identity(kind).await.map_err(SnapshotError::from)?;
        // Before all snapshots are read.
        if first_since(log, &identity, kind, since).await? == identity.oldest_sequence {
            return Ok(0);
        }
        let plan = Plan::make(log, snapshots, kind, Reserve { margin: self.margin, since: Some(since) }).await?;
        if plan.lacking().is_some() || plan.records() == 0 {
            return Ok(0);
        }
        let (from, to) = (plan.identity.oldest_sequence, plan.first - 1);
        let records = log.trim(kind, plan.identity.epoch, plan.first).await?;
        tracing::info!("the log of {kind} was cut: {from}..{to}, for which snapshots stand");
        Ok(records)
    }
}
