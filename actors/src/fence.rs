//! The fence of linearizable reads: how far the log goes, asked of its leader once for all who wait.

use shop_domain::kind::Kind;
use shop_nats::log::{LogError, SharedLog};
use tokio::sync::{mpsc, oneshot};

/// Readers that wait for one answer of the log.
const WAITING_MAX: usize = 4_096;

/// Asks how far a kind's log goes.
#[derive(Clone, Debug)]
pub struct Fence {
    waiting: mpsc::Sender<oneshot::Sender<Option<u64>>>,
}

impl Fence {
    /// The fence of a kind; ends when it is dropped.
    pub fn new(log: SharedLog, kind: Kind) -> Self {
        let (waiting, readers) = mpsc::channel(WAITING_MAX);
        tokio::spawn(ask(log, kind, readers));
        Self { waiting }
    }

    /// The sequence of the last record that the log had at some moment after this call began;
    /// none if the log does not answer.
    pub async fn last_sequence(&self) -> Option<u64> {
        let (reader, answer) = oneshot::channel();
        self.waiting.send(reader).await.ok()?;
        answer.await.ok()?
    }
}

async fn ask(log: SharedLog, kind: Kind, mut readers: mpsc::Receiver<oneshot::Sender<Option<u64>>>) {
    let mut waiting = Vec::new();
    while readers.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        let answer = log.last_sequence(kind).await.inspect_err(|error: &LogError| tracing::warn!("{error}")).ok();
        for reader in waiting.drain(..) {
            // A reader may have given up.
            let _ = reader.send(answer);
        }
    }
}
