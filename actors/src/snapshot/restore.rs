//! A checkpoint from a snapshot, for a partition that has none, or one that ends before its log begins.

use std::sync::Arc;

use shop_nats::log::{Identity, PartitionId, SharedLog};

use super::{
    Header, Kept, SnapshotError, Snapshots, Usable,
    candidates::{Candidates, Order},
    usable,
};
use crate::store::{Items, SharedPartitionStore};

/// Restores a partition's checkpoint from the newest snapshot that is whole and of this log, if that is
/// needed or saves a replay. Where there is none, whoever attaches says whether that matters.
pub async fn where_needed(
    snapshots: &Snapshots,
    log: &SharedLog,
    place: PartitionId,
    partition_store: &SharedPartitionStore,
    identity: &Identity,
) -> Result<(), SnapshotError> {
    let meta = partition_store.meta()?;
    // A checkpoint of another log stays: somebody has to look into that.
    if meta.is_some_and(|meta| meta.epoch != identity.epoch || identity.first_sequence <= meta.needs_from()) {
        return Ok(());
    }
    let mut candidates = match Candidates::list(snapshots, place, identity.epoch, Order::NewestFirst).await {
        Err(error) if identity.first_sequence == 1 => {
            tracing::warn!("{}/{} begins at the beginning of its log: {error}", place.0, place.1);
            return Ok(());
        }
        listed => listed?,
    };
    while let Some(Kept { name, bytes, .. }) = candidates.next().await? {
        let partition_store = Arc::clone(partition_store);
        let restore = move |header: &Header, items: &mut Items<'_>| {
            Ok(partition_store.restore(&header.meta, header.items_max, items)?)
        };
        let restored = snapshots.read(place, name, restore);
        match usable(log, snapshots, place, name, identity, restored).await {
            Ok(Usable::Is(())) => {
                let of_bytes = format_args!("of {bytes} bytes from {}", snapshots.url());
                tracing::info!("{}/{} is restored from {name}, {of_bytes}", place.0, place.1);
                return Ok(());
            }
            Ok(Usable::IsNot(why)) => tracing::error!("{name} of {}/{} is of no use: {why}", place.0, place.1),
            Ok(Usable::Gone) => candidates.is_gone(),
            Err(error @ (SnapshotError::Checkpoint(_) | SnapshotError::Log(_))) => return Err(error),
            Err(error) => tracing::error!("{name} of {}/{} is of no use: {error}", place.0, place.1),
        }
    }
    Ok(())
}
