//! Cutting off the beginning of a log.

use async_nats::jetstream;
use shop_domain::kind::Kind;

use crate::{subject, topology::identity_of};

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

/// Removes all records of a kind's log before the one at `from`; returns how many those were.
pub(crate) async fn cut(context: jetstream::Context, kind: Kind, epoch: u64, from: u64) -> Result<u64, TrimError> {
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
