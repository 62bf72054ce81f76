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

/// Resolves when the log has the frame, or has no room for it. Its error means that the process is ending.
pub type Offered = oneshot::Receiver<Room>;

/// Whether there was room for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The log has it.
    Taken,
    /// The log does not have it, and it is not sent again.
    Full,
}

/// Counts the frames that publishers have sent again.
pub type Resent = Arc<AtomicU64>;

#[derive(Debug)]
struct Unsent {
    frame: Bytes,
    done: Done,
}

/// Who waits for a frame.
#[derive(Debug)]
enum Done {
    /// Somebody for whom it is sent until the log has it.
    Sent(oneshot::Sender<()>),
    /// Somebody who can do without.
    Offered(oneshot::Sender<Room>),
}

impl Done {
    /// Nobody waits any more when the sender is being stopped.
    fn taken(self) {
        match self {
            Self::Sent(done) => drop(done.send(())),
            Self::Offered(done) => drop(done.send(Room::Taken)),
        }
    }
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
        self.hand_in(frame, Done::Sent(done)).await;
        acknowledged
    }

    /// The same for a frame without which everything goes on: unless it may be in the log already, it is
    /// given up when there is no room for it. Only for a window of one: a frame behind it would be
    /// beyond a hole.
    pub async fn offer(&self, frame: Bytes) -> Offered {
        let (done, offered) = oneshot::channel();
        self.hand_in(frame, Done::Offered(done)).await;
        offered
    }

    async fn hand_in(&self, frame: Bytes, done: Done) {
        if self.frames.send(Unsent { frame, done }).await.is_err() {
            tracing::error!("a publisher ended before its sender");
        }
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
    done: Done,
    ack: Result<Appending, AppendError>,
    /// Whether an attempt before may have been stored.
    may_be_there: bool,
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
                        self.sent.pop_front().into_iter().for_each(|sent| sent.done.taken());
                    }
                    Err(error) if error.is_full && self.give_up() => {
                        tracing::debug!("{error}; given up");
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
                        self.sent.push_back(Sent { frame, done, ack, may_be_there: false });
                    }
                    None if self.sent.is_empty() => return,
                    None => return self.finish().await,
                },
            }
        }
    }

    /// Gives the oldest frame up, which was refused for want of room, if its sender can do without it. One that
    /// may be there nonetheless must be sent until it is there, or else its number would be used twice.
    fn give_up(&mut self) -> bool {
        let is_offered = |sent: &mut Sent| matches!(sent.done, Done::Offered(_)) && !sent.may_be_there;
        match self.sent.pop_front_if(is_offered) {
            Some(Sent { done: Done::Offered(done), .. }) => {
                // Nobody waits any more when the sender is being stopped.
                let _ = done.send(Room::Full);
                true
            }
            Some(_) | None => false,
        }
    }

    async fn send_all_again(&mut self) {
        self.resent.fetch_add(self.sent.len() as u64, Relaxed);
        for sent in &mut self.sent {
            sent.may_be_there = true;
            sent.ack = self.log.append(self.kind, self.partition, sent.frame.clone()).await;
        }
    }

    /// The sender is gone: waits for what is on its way, and sends nothing again.
    async fn finish(mut self) {
        while let Some(sent) = self.sent.pop_front() {
            if let Ok(ack) = sent.ack
                && ack.await.is_ok()
            {
                sent.done.taken();
            }
        }
    }
}

/// The outcome of the oldest frame. Cancelling it loses nothing: a failure to hand it in stays.
async fn oldest(sent: &mut VecDeque<Sent>) -> Result<u64, AppendError> {
    match sent.front_mut().map(|sent| &mut sent.ack) {
        Some(Ok(ack)) => ack.await,
        Some(Err(error)) => {
            let AppendError { subject, reason, is_full } = error;
            Err(AppendError { subject: subject.clone(), reason: reason.clone(), is_full: *is_full })
        }
        None => std::future::pending().boxed().await,
    }
}
