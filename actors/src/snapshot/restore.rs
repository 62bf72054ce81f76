//! A checkpoint from a snapshot, for a partition that has none, or one that ends before its log begins.

use std::sync::Arc;

use shop_nats::log::{Identity, SharedLog};

use super::{Kept, SnapshotError, Snapshots};
use crate::{partition::misfit, replay::Place, store::SharedShelf};

/// Restores a partition's checkpoint from the newest snapshot that is whole and of this log, if that is
/// needed or saves a replay. Where there is none, whoever attaches says whether that matters.
pub async fn where_needed(
    snapshots: &Snapshots,
    log: &SharedLog,
    place: Place,
    shelf: &SharedShelf,
    identity: &Identity,
) -> Result<(), SnapshotError> {
    let meta = shelf.meta()?;
    // A checkpoint of another log stays: somebody has to look into that.
    if meta.is_some_and(|meta| meta.epoch != identity.epoch || identity.first_sequence <= meta.needs_from()) {
        return Ok(());
    }
    let kept = match snapshots.list(place, identity.epoch).await {
        Err(error) if identity.first_sequence == 1 => {
            tracing::warn!("{}/{} begins at the beginning of its log: {error}", place.0, place.1);
            return Ok(());
        }
        kept => kept?,
    };
    for Kept { name, bytes, .. } in kept {
        match restore(snapshots, log, place, name, shelf, identity).await {
            Ok(None) => {
                let of_bytes = format_args!("of {bytes} bytes from {}", snapshots.url());
                tracing::info!("{}/{} is restored from {name}, {of_bytes}", place.0, place.1);
                return Ok(());
            }
            Ok(Some(misfit)) => tracing::warn!("{name} of {}/{} is of no use: {misfit}", place.0, place.1),
            Err(error @ (SnapshotError::Checkpoint(_) | SnapshotError::Log(_))) => return Err(error),
            Err(error) => tracing::error!("{name} of {}/{} is of no use: {error}", place.0, place.1),
        }
    }
    Ok(())
}

/// Restores one snapshot, or says why it is not of this log as it is now.
async fn restore(
    snapshots: &Snapshots,
    log: &SharedLog,
    place: Place,
    name: super::Name,
    shelf: &SharedShelf,
    identity: &Identity,
) -> Result<Option<String>, SnapshotError> {
    if name.complete_to + 1 < identity.first_sequence {
        return Ok(Some(format!("the log begins at sequence {} only", identity.first_sequence)));
    }
    let meta = snapshots.meta(place, name).await?;
    if let Some(misfit) = misfit(log, place.0, &meta, identity).await? {
        return Ok(Some(misfit));
    }
    let shelf = Arc::clone(shelf);
    snapshots.read(place, name, move |header, items| shelf.restore(&header.meta, header.items_max, items)).await?;
    Ok(None)
}
