//! Go-back-N towards one partition's log: whatever is not acknowledged is sent again, in order,
//! from the first frame that is missing on.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use shop_domain::kind::Kind;
use tokio::sync::{mpsc, oneshot};

use crate::log::{AppendError, Appending, SharedLog};

/// Pause before frames are sent again; doubles up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Sends frames to one partition's log, in order, until each is acknowledged. Dropping it lets
/// what was handed in be finished.
#[derive(Debug)]
pub struct Publisher {
    frames: mpsc::Sender<Unsent>,
}

/// Resolves when the log has the frame. Its error means that the process is ending.
pub type Acknowledged = oneshot::Receiver<()>;

/// Counts the frames that publishers have sent again.
pub type Resent = Arc<AtomicU64>;

#[derive(Debug)]
struct Unsent {
    frame: Bytes,
    done: oneshot::Sender<()>,
}

impl Publisher {
    /// A publisher with at most `window` frames on their way.
    pub fn new(log: SharedLog, kind: Kind, partition: u16, window: usize) -> Self {
        Self::counting(log, kind, partition, window, Resent::default())
    }

    /// The same, which counts what it sends again.
    pub fn counting(log: SharedLog, kind: Kind, partition: u16, window: usize, resent: Resent) -> Self {
        let (frames, unsent) = mpsc::channel(1);
        tokio::spawn(Window { log, kind, partition, limit: window, sent: VecDeque::new(), resent }.run(unsent));
        Self { frames }
    }

    /// Hands in a frame; waits while the window is full.
    pub async fn send(&self, frame: Bytes) -> Acknowledged {
        let (done, acknowledged) = oneshot::channel();
        if self.frames.send(Unsent { frame, done }).await.is_err() {
            tracing::error!("a publisher ended before its sender");
        }
        acknowledged
    }
}

struct Window {
    log: SharedLog,
    kind: Kind,
    partition: u16,
    limit: usize,
    /// What is not acknowledged, oldest first.
    sent: VecDeque<Sent>,
    resent: Resent,
}

struct Sent {
    frame: Bytes,
    done: oneshot::Sender<()>,
    ack: Result<Appending, AppendError>,
}

impl Window {
    async fn run(mut self, mut unsent: mpsc::Receiver<Unsent>) {
        let mut disruptions = self.log.disruptions(self.kind);
        disruptions.mark_unchanged();
        let (mut delay, mut last) = (RETRY.0, 0);
        loop {
            let has_room = self.sent.len() < self.limit;
            tokio::select! {
                biased;
                outcome = oldest(&mut self.sent), if !self.sent.is_empty() => match outcome {
                    // Frames that were stored out of their order count as lost from here on.
                    Ok(sequence) if sequence <= last => self.send_all_again().await,
                    Ok(sequence) => {
                        last = sequence;
                        delay = RETRY.0;
                        let acknowledged = self.sent.pop_front();
                        // Nobody waits any more when the sender is being stopped.
                        let _ = acknowledged.map(|sent| sent.done.send(()));
                    }
                    Err(error) => {
                        // Said once for all that fail in a row.
                        match delay == RETRY.0 {
                            true => tracing::warn!("{error}; sending again from there"),
                            false => tracing::debug!("{error}; sending again from there"),
                        }
                        tokio::select! {
                            biased;
                            // The log has a leader again, who may need a moment.
                            Ok(()) = disruptions.changed() => delay = RETRY.0,
                            () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY.1),
                        }
                        self.send_all_again().await;
                    }
                },
                Ok(()) = disruptions.changed(), if !self.sent.is_empty() => self.send_all_again().await,
                next = unsent.recv(), if has_room => match next {
                    Some(Unsent { frame, done }) => {
                        let ack = self.log.append(self.kind, self.partition, frame.clone()).await;
                        self.sent.push_back(Sent { frame, done, ack });
                    }
                    None if self.sent.is_empty() => return,
                    None => return self.finish().await,
                },
            }
        }
    }

    async fn send_all_again(&mut self) {
        self.resent.fetch_add(self.sent.len() as u64, Relaxed);
        for sent in &mut self.sent {
            sent.ack = self.log.append(self.kind, self.partition, sent.frame.clone()).await;
        }
    }

    /// The sender is gone: waits for what is on its way, and sends nothing again.
    async fn finish(mut self) {
        while let Some(sent) = self.sent.pop_front() {
            if let Ok(ack) = sent.ack
                && ack.await.is_ok()
            {
                let _ = sent.done.send(());
            }
        }
    }
}

/// The outcome of the oldest frame. Cancelling it loses nothing: a failure to hand it in stays.
async fn oldest(sent: &mut VecDeque<Sent>) -> Result<u64, AppendError> {
    match sent.front_mut().map(|sent| &mut sent.ack) {
        Some(Ok(ack)) => ack.await,
        Some(Err(error)) => Err(AppendError { subject: error.subject.clone(), reason: error.reason.clone() }),
        None => std::future::pending().boxed().await,
    }
}
