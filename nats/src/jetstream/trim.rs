//! Trims a log: removes its records before a position.

use async_nats::jetstream;
use shop_domain::kind::Kind;

use crate::{log::TrimError, stream::topology::identity_of, subject};

/// Removes all records of a kind's log before the one at `from`; returns how many those were.
pub(crate) async fn trim(context: jetstream::Context, kind: Kind, epoch: u64, from: u64) -> Result<u64, TrimError> {
    let failed = |reason: String| TrimError::Server { kind, reason };
    let stream = context.get_stream(subject::stream(kind)).await.map_err(|error| failed(error.to_string()))?;
    let info = stream.cached_info();
    if identity_of(info).map_err(|error| failed(error.to_string()))?.epoch != epoch {
        return Err(TrimError::OtherLog(kind));
    }
    if info.config.deny_purge {
        return Err(TrimError::Denied(info.config.name.clone()));
    }
    let purged = stream.purge().sequence(from).await.map_err(|error| failed(error.to_string()))?;
    Ok(purged.purged)
}
