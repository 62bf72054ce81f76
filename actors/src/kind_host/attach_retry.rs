//! What a partition that starts asks of its log, until there is an answer: the servers of a cluster
//! may be electing who leads it, and who was just elected may not know the end of it yet. Who is told
//! to stop meanwhile gets the last answer that there was.

use std::{fmt::Display, time::Duration};

use shop_domain::{kind::Kind, logic::Logic};
use shop_nats::log::{Identity, LogError, PartitionId, SharedLog};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    partition::{AttachError, attach},
    snapshot::{SnapshotError, Snapshots, restore},
    store::{Meta, SharedPartitionStore},
};

/// How long a log may give no answer: longer than some elections in a row.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long a log may end before a checkpoint that was made from it: longer than a new leader
/// takes to apply what it has received. After that it was rolled back.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How often is said why it is asked again.
const WORD_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// From where to where a log goes; at least to `expected`, unless it does not come to that.
pub async fn identity(
    log: &SharedLog,
    kind: Kind,
    expected: u64,
    stop: &CancellationToken,
) -> Result<Identity, LogError> {
    let (start, mut words) = (Instant::now(), Words::default());
    loop {
        match log.identity(kind).await {
            outcome if stop.is_cancelled() => return outcome,
            Ok(Identity { last_sequence: last, .. }) if last < expected && start.elapsed() < END_LIMIT => {
                words.say(format_args!("the log of {kind} ends at {last}, a checkpoint at {expected}"));
            }
            Err(error @ LogError::Failed { .. }) if start.elapsed() < ANSWER_LIMIT => {
                words.say(error);
            }
            outcome => return outcome,
        }
        pause(stop).await;
    }
}

/// Restores a partition, see [`restore::where_needed`].
pub async fn restored(
    snapshots: &Snapshots,
    log: &SharedLog,
    place: PartitionId,
    partition_store: &SharedPartitionStore,
    identity: &Identity,
    stop: &CancellationToken,
) -> Result<(), SnapshotError> {
    let is_unanswered = |error: &_| matches!(error, SnapshotError::Log(LogError::Failed { .. }));
    answered(|| restore::where_needed(snapshots, log, place, partition_store, identity), is_unanswered, stop).await
}

/// Attaches a partition, see [`attach`].
pub async fn attached(
    log: &SharedLog,
    (kind, partition): PartitionId,
    partition_store: &SharedPartitionStore,
    identity: &Identity,
    stop: &CancellationToken,
) -> Result<(Meta, Logic), AttachError> {
    let is_unanswered = |error: &_| matches!(error, AttachError::Log(LogError::Failed { .. }));
    answered(|| attach(log, kind, partition, partition_store, identity), is_unanswered, stop).await
}

/// Tries again while the log gives no answer.
async fn answered<T, E: Display, F: Future<Output = Result<T, E>>>(
    attempt: impl Fn() -> F,
    is_unanswered: impl Fn(&E) -> bool,
    stop: &CancellationToken,
) -> Result<T, E> {
    let (start, mut words) = (Instant::now(), Words::default());
    loop {
        match attempt().await {
            Err(error) if is_unanswered(&error) && start.elapsed() < ANSWER_LIMIT && !stop.is_cancelled() => {
                words.say(error);
            }
            outcome => return outcome,
        }
        pause(stop).await;
    }
}

/// What is said while there is no answer, now and then.
#[derive(Default)]
struct Words(Option<Instant>);

impl Words {
    fn say(&mut self, what: impl Display) {
        if self.0.is_none_or(|last| last.elapsed() >= WORD_INTERVAL) {
            self.0 = Some(Instant::now());
            tracing::warn!("{what}; asking again");
        }
    }
}

async fn pause(stop: &CancellationToken) {
    // It makes no difference which of them ended it.
    let _ = timeout(PAUSE, stop.cancelled()).await;
}
