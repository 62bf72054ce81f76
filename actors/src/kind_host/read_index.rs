//! The fence of linearizable reads: how far the log goes, asked of its leader once for all who wait.

use shop_domain::kind::Kind;
use shop_nats::log::{Identity, LogError, SharedLog};
use tokio::sync::{mpsc, oneshot};

/// Readers that wait for one answer of the log.
const WAITING_MAX: usize = 4_096;

/// Asks how far a kind's log goes.
#[derive(Clone, Debug)]
pub struct ReadIndex {
    waiting: mpsc::Sender<oneshot::Sender<End>>,
}

/// Where a log ends, as its leader says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At this sequence; 0 when it is empty.
    At(u64),
    /// The stream is not the log that is read here any more: the shop was repartitioned, or restored.
    OtherLog,
    /// The log does not answer.
    Unknown,
}

impl ReadIndex {
    /// The fence of a kind whose log has that epoch; ends when it is dropped.
    pub fn new(log: SharedLog, kind: Kind, epoch: u64) -> Self {
        let (waiting, readers) = mpsc::channel(WAITING_MAX);
        tokio::spawn(ask(log, kind, epoch, readers));
        Self { waiting }
    }

    /// Returns when nothing asks any more, because that has panicked.
    pub async fn ended(&self) {
        self.waiting.closed().await;
    }

    /// Where the log ended at some moment after this call began. Every repartition gives each log another epoch
    /// before anything is appended under it: a host that was away meanwhile learns it from the first answer.
    pub async fn end(&self) -> End {
        let (reader, answer) = oneshot::channel();
        if self.waiting.send(reader).await.is_err() {
            return End::Unknown;
        }
        answer.await.unwrap_or(End::Unknown)
    }
}

async fn ask(log: SharedLog, kind: Kind, epoch: u64, mut readers: mpsc::Receiver<oneshot::Sender<End>>) {
    let mut waiting = Vec::new();
    while readers.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        let end = end_of(log.identity(kind).await, epoch);
        for reader in waiting.drain(..) {
            // A reader may have given up.
            let _ = reader.send(end);
        }
    }
}

fn end_of(found: Result<Identity, LogError>, epoch: u64) -> End {
    match found {
        Ok(identity) if identity.epoch == epoch => End::At(identity.last_sequence),
        Ok(_) => End::OtherLog,
        Err(error) => {
            tracing::warn!("{error}");
            End::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_another_log_is_not_taken_for_the_end_of_the_own_one() {
        let log = |epoch, last_sequence| Ok(Identity { last_sequence, ..Identity::new(epoch) });
        assert_eq!(end_of(log(7, 40), 7), End::At(40));
        assert_eq!(end_of(log(8, 40), 7), End::OtherLog);
        let reason = "nobody leads it".to_owned();
        assert_eq!(end_of(Err(LogError::Failed { kind: Kind::Order, reason }), 7), End::Unknown);
    }
}
