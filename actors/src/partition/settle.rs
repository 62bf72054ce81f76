//! What a round must still wait for: first its messages are acknowledged, then its callers are
//! answered, then it may become part of a checkpoint. Overlaps with the next rounds.
//!
//! Two things are told of a partition. *Settled* is what may be shown: a standby takes its owner's word for it. *Proven*
//! is what may be forgotten: that all that follows is in the logs is known from their acknowledgements, or from the log.

use std::{sync::Arc, time::Instant};

use shop_domain::entity::Reply;
use shop_nats::log::publisher::Acknowledged;
use tokio::sync::{mpsc, watch};

use crate::{
    counts::SharedCounts,
    joined::joined,
    partition::overlay::Overlay,
    store::{Checkpoint, SharedPartitionStore, StoreError},
};

/// Rounds that wait for their acknowledgements. Enough to keep the log busy; more would only
/// make a crash repeat more.
pub const ROUNDS_MAX: usize = 8;

/// A round that was applied.
#[derive(Debug)]
pub struct Round {
    /// The sequence up to which it applied.
    pub cursor: u64,
    /// Its messages on their way, and with them those of all rounds before; none if another host sends them.
    pub sent: Option<Vec<Acknowledged>>,
    /// Its answers.
    pub replies: Vec<Reply>,
    /// The checkpoint that may be written behind it.
    pub checkpoint: Option<Checkpoint>,
}

/// What a settler has done when there is nothing more for it to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// All rounds that there were.
    All,
    /// Those before one whose messages are not sent any more: a publisher ends with its partition, or by a panic.
    Unsent,
}

/// Settles the rounds of one partition in their order.
#[derive(Debug)]
pub struct Settler {
    /// What the partition knows.
    pub overlay: Arc<Overlay>,
    /// Where checkpoints go.
    pub partition_store: SharedPartitionStore,
    /// Where answers go.
    pub replies: mpsc::Sender<Reply>,
    /// The sequence up to which everything is settled.
    pub settled: watch::Sender<u64>,
    /// The sequence up to which all that follows is known to be in the logs.
    pub proven: watch::Sender<u64>,
    /// The sequence up to which a checkpoint is written.
    pub saved: watch::Sender<u64>,
    /// Where checkpoints are counted.
    pub counts: SharedCounts,
}

impl Settler {
    /// Settles rounds until there are no more, until their messages are not sent any more, or a checkpoint cannot be written.
    pub async fn run(self, mut rounds: mpsc::Receiver<Round>) -> Result<Settled, StoreError> {
        let (mut saving, mut settled) = (None, Settled::All);
        'rounds: loop {
            let round = tokio::select! {
                biased;
                // At once, because no further checkpoint comes before this one is written.
                outcome = finish(saving.as_mut()), if saving.is_some() => {
                    saving = None;
                    outcome?;
                    continue;
                }
                round = rounds.recv() => round,
            };
            let Some(Round { cursor, sent, replies, checkpoint }) = round else { break };
            if let Some(sent) = sent {
                for acknowledged in sent {
                    if acknowledged.await.is_err() {
                        // Nothing from here on counts.
                        settled = Settled::Unsent;
                        break 'rounds;
                    }
                }
                raise(&self.proven, cursor);
            }
            for reply in replies {
                // Nobody sends answers any more when the host is being stopped.
                let _ = self.replies.send(reply).await;
            }
            self.settled.send_replace(cursor);
            if let Some(checkpoint) = checkpoint {
                finish(saving.as_mut()).await?;
                saving = None;
                let save = self.save(checkpoint);
                if self.partition_store.blocks() {
                    saving = Some(tokio::task::spawn_blocking(save));
                } else {
                    save()?;
                }
            }
        }
        // Whoever reads the checkpoint next must not find it half written.
        finish(saving.as_mut()).await?;
        Ok(settled)
    }

    fn save(&self, checkpoint: Checkpoint) -> impl FnOnce() -> Result<(), StoreError> + 'static {
        let (partition_store, overlay, saved) =
            (Arc::clone(&self.partition_store), Arc::clone(&self.overlay), self.saved.clone());
        let counts = Arc::clone(&self.counts);
        move || {
            let begin = Instant::now();
            partition_store.write(&checkpoint)?;
            counts.checkpoint(begin.elapsed());
            overlay.saved(checkpoint.meta.cursor);
            // Before it counts as saved, because the next one waits for that.
            partition_store.tidy()?;
            saved.send_replace(checkpoint.meta.cursor);
            Ok(())
        }
    }
}

/// Notes that something is so up to a sequence at least.
pub fn raise(known: &watch::Sender<u64>, to: u64) {
    known.send_if_modified(|known| {
        let is_further = to > *known;
        *known = to.max(*known);
        is_further
    });
}

async fn finish(saving: Option<&mut tokio::task::JoinHandle<Result<(), StoreError>>>) -> Result<(), StoreError> {
    match saving {
        Some(saving) => joined(saving).await,
        None => Ok(()),
    }
}
