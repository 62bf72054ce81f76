//! Whether a snapshot is of use: there, whole, and of this log as it is now.

use shop_nats::log::{Identity, PartitionId, SharedLog};

use super::{Name, SnapshotError, Snapshots};
use crate::partition::misfit;

/// What became of a snapshot that was to be used.
#[derive(Debug)]
pub enum Usable<T> {
    /// What was made of it.
    Is(T),
    /// It is of no use, and why.
    IsNot(String),
    /// It was removed since it was listed: there are newer ones.
    Gone,
}

/// Uses a snapshot of a partition, if it is of use: by `take`, which reads it to its end.
pub async fn usable<T>(
    log: &SharedLog,
    snapshots: &Snapshots,
    place: PartitionId,
    name: Name,
    identity: &Identity,
    take: impl Future<Output = Result<T, SnapshotError>>,
) -> Result<Usable<T>, SnapshotError> {
    if name.complete_to + 1 < identity.first_sequence {
        return Ok(Usable::IsNot(format!("the log begins at sequence {} only", identity.first_sequence)));
    }
    let used = async {
        let meta = snapshots.meta(place, name).await?;
        match misfit(log, place.0, &meta, identity).await? {
            Some(why) => Ok(Usable::IsNot(why)),
            None => take.await.map(Usable::Is),
        }
    };
    match used.await {
        Err(SnapshotError::Gone(_)) => Ok(Usable::Gone),
        Err(error @ SnapshotError::Damaged(_)) => Ok(Usable::IsNot(error.to_string())),
        used => used,
    }
}
