//! How a partition goes on from its checkpoint: only if that is of the log that there is.

use std::hash::Hasher;

use fnv::FnvHasher;
use shop_domain::{
    kind::Kind,
    logic::{Logic, UnknownLogic},
    timestamp::Timestamp,
};
use shop_nats::log::{Identity, LogError, SharedLog};

use crate::store::{Meta, SharedPartitionStore, StoreError};

/// Why a partition does not start.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The log is not the one that the checkpoint was made from.
    #[error(
        "the checkpoint of {kind}/{partition} does not belong to this log: {reason}; if the log was replaced on \
         purpose, delete the host's data folder, and it is built again from the log"
    )]
    OtherLog {
        /// Whose checkpoint.
        kind: Kind,
        /// Which partition.
        partition: u16,
        /// How it differs.
        reason: String,
    },
    /// The log was cut, and what is known here ends before.
    #[error(
        "the log of {kind} begins at sequence {first}, but {kind}/{partition} has to go on from {needed}, and there is \
         no snapshot from which it could; start the host with --snapshots and the place where those of this log are"
    )]
    Trimmed {
        /// Whose log.
        kind: Kind,
        /// Which partition.
        partition: u16,
        /// Where it begins.
        first: u64,
        /// Where it should begin at the latest.
        needed: u64,
    },
    /// Its entities behave in a way that this program does not know.
    #[error("{0}/{1}: {2}")]
    Logic(Kind, u16, UnknownLogic),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Reads a partition's checkpoint and checks that it belongs to the log: a stream that was made
/// anew or rolled back reuses sequences, and would be waited for in vain, or taken for another.
pub async fn attach(
    log: &SharedLog,
    kind: Kind,
    partition: u16,
    partition_store: &SharedPartitionStore,
    identity: &Identity,
) -> Result<(Meta, Logic), AttachError> {
    let meta = partition_store.meta()?.unwrap_or_else(|| Meta::new(identity));
    let (first, needed) = (identity.first_sequence, meta.needs_from());
    if meta.epoch == identity.epoch && first > needed {
        return Err(AttachError::Trimmed { kind, partition, first, needed });
    }
    let logic = Logic::try_from(meta.logic).map_err(|unknown| AttachError::Logic(kind, partition, unknown))?;
    match misfit(log, kind, &meta, identity).await? {
        Some(reason) => Err(AttachError::OtherLog { kind, partition, reason }),
        None => Ok((meta, logic)),
    }
}

/// Why a checkpoint is not of this log, if it is not.
///
/// Its record at the cursor tells, which a log that was cut behind a snapshot still holds: it keeps a
/// margin before it. Only where others had the last word is it gone, and a snapshot vouches for all
/// that came since; and where the log begins right behind it, because the shop was repartitioned there.
/// There, epoch and creation must do.
pub async fn misfit(log: &SharedLog, kind: Kind, meta: &Meta, identity: &Identity) -> Result<Option<String>, LogError> {
    if meta.epoch != identity.epoch {
        return Ok(Some(format!("the log has the epoch {:016x} instead of {:016x}", identity.epoch, meta.epoch)));
    }
    if meta.created_unix_ns != identity.created_unix_ns {
        let at = |unix_ns: i128| Timestamp::from_unix_ms(u64::try_from(unix_ns / 1_000_000).unwrap_or(0));
        let (now, then) = (at(identity.created_unix_ns), at(meta.created_unix_ns));
        return Ok(Some(format!("the stream was made at {now}, that of the checkpoint at {then}")));
    }
    if identity.last_sequence < meta.cursor {
        // Since the log was looked at it may have grown, and another host have written a snapshot of that.
        let last = log.last_sequence(kind).await?;
        if last < meta.cursor {
            return Ok(Some(format!("the log ends at {last}, the checkpoint at {}", meta.cursor)));
        }
    }
    let is_cut_off = meta.cursor < identity.first_sequence && meta.cursor < meta.complete_to;
    let begins_behind = meta.cursor + 1 == identity.first_sequence;
    if meta.cursor == 0 || is_cut_off || begins_behind {
        return Ok(None);
    }
    Ok(match log.record(kind, meta.cursor).await? {
        Some(record) if hash(&record.payload) == meta.cursor_hash => None,
        Some(_) => Some(format!("the log holds another message at sequence {}", meta.cursor)),
        None => Some(format!("the log does not hold sequence {} any more", meta.cursor)),
    })
}

/// What tells a record from another one at the same sequence: FNV-1a (64 bit) of its bytes.
pub(super) fn hash(record: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(record);
    hasher.finish()
}
