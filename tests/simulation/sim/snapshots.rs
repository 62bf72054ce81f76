//! The snapshots of a shop in simulation, and how its logs are cut behind them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::FutureExt;
use shop_actors::snapshot::trim::{Plan, Reserve};
use shop_domain::kind::Kind;
use shop_nats::log::{Log, SharedLog};
use tokio::{sync::oneshot, task::yield_now, time::Instant};

use super::{Event, Sim};
use crate::{
    life::Life,
    trace::Fault,
    vault::{Spoil, Vault},
};

/// The least time between two who are let in where the snapshots are: time goes on only when what the one before has
/// begun is done.
const PAUSE: Duration = Duration::from_millis(1);
/// How often all others are given a turn until nobody has anything left to do: more often than one thing leads
/// to another at one moment.
const TURNS: usize = 64;
/// Most records that stay before the oldest snapshot.
const MARGIN_MAX: u64 = 8;

/// Who wants to be let in where the snapshots are.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<oneshot::Sender<()>>,
    next: Option<Instant>,
}

impl Queue {
    /// When the next one is let in.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.next.filter(|_| !self.waiting.is_empty())
    }
}

impl Sim {
    pub(super) fn queue(&mut self, let_in: oneshot::Sender<()>) {
        if self.queue.waiting.is_empty() {
            self.queue.next = Some(Instant::now() + PAUSE);
        }
        self.queue.waiting.push_back(let_in);
    }

    /// Lets the next one in, once nobody has anything left to do at this moment.
    pub(super) async fn let_one_in(&mut self) {
        if self.queue.next_at().is_none_or(|next| next > Instant::now()) {
            return;
        }
        loop {
            for _ in 0..TURNS {
                yield_now().await;
            }
            match self.events.try_recv() {
                Ok(event) => self.happen(event),
                Err(_) => break,
            }
        }
        if let Some(let_in) = self.queue.waiting.pop_front() {
            // Whoever asked may be gone.
            let _ = let_in.send(());
        }
        self.queue.next = Some(Instant::now() + PAUSE);
    }

    /// Somebody cuts the log of a kind as far as snapshots stand for what goes.
    pub(crate) fn trim(&mut self, kind: Kind) {
        self.lives += 1;
        let life = Life::of_operator(self.lives, kind, &self.world);
        let (log, snapshots): (SharedLog, _) = (Arc::new(self.log.clone()), Vault::snapshots(&life));
        let reserve = Reserve { margin: self.chance.u64(1..=MARGIN_MAX), since: None };
        tokio::spawn(async move {
            match Plan::make(&log, &snapshots, kind, reserve).await {
                Ok(plan) if plan.lacking().is_none() && plan.records() > 0 => {
                    let _the_run_is_over = life.world().events.send(Event::Cut(kind, plan.first));
                }
                Ok(_) => {}
                Err(error) => life.observer().report(format!("the log of {kind} cannot be cut: {error}")),
            }
        });
    }

    pub(super) fn cut(&self, kind: Kind, first: u64) {
        self.count(Fault::LogCut);
        self.world.observer.follow();
        self.log.trim(kind, first);
    }

    /// The newest snapshot of a partition is damaged or lost, if it is not the only one.
    pub(crate) fn spoil(&mut self, kind: Kind, partition: u16, how: Spoil) {
        let identity = self.log.identity(kind).now_or_never().and_then(Result::ok);
        let identity = identity.expect("the log in memory answers at once");
        let chance = &mut self.chance;
        if self.world.vault.spoil((kind, partition), identity, how, |bytes| chance.usize(0..bytes)) {
            self.count(match how {
                Spoil::Flip | Spoil::Truncate => Fault::SnapshotDamaged,
                Spoil::Lose => Fault::SnapshotLost,
            });
        }
    }
}
