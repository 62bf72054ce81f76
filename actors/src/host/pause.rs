//! Whether this host's doors are to hold what changes something, and whether the layout under which it began is
//! still in force.

use std::{sync::Arc, time::Duration};

use shop_nats::{
    connection::Connection,
    hosts::pause::{Signal, Signals, claim::Pauses},
    stream::layout::LayoutError,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::observe::Observed;

/// How often a host that has heard nothing looks whether it should have.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before it looks once more when it could not.
const RETRY: Duration = Duration::from_secs(1);

/// What a host needs to know of the layout.
#[derive(Debug)]
pub struct Watching {
    /// Over which it asks.
    pub connection: Connection,
    /// The generation of the layout under which it began.
    pub generation: u32,
    /// Where its doors see whether to hold.
    pub held: watch::Sender<bool>,
    /// Where others see it.
    pub observed: Arc<Observed>,
}

impl Watching {
    /// Watches until another layout is in force.
    pub async fn until_repartitioned(self, mut words: Signals) {
        let (mut next_look, mut pauses) = (Instant::now() + LOOK_INTERVAL, Pauses::default());
        loop {
            let is_over = tokio::select! {
                word = words.next() => {
                    // The host ends.
                    let Some(word) = word else { return std::future::pending().await };
                    let now = Instant::now();
                    if pauses.hear(&word, now) {
                        self.observed.pause_ran_out();
                        tracing::warn!("a pause of the doors has run out: its owner says it on, and gets no further");
                    }
                    if let Some(until) = pauses.until(now) {
                        next_look = until;
                        self.hold(true);
                    }
                    match word {
                        Signal::Pause(_) => continue,
                        Signal::Recheck => false,
                        Signal::Resume => true,
                    }
                }
                () = sleep_until(next_look) => true,
            };
            match self.look().await {
                Ok(generation) if generation != self.generation => return,
                Ok(_) if is_over => {
                    self.hold(false);
                    next_look = Instant::now() + LOOK_INTERVAL;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("{error}; looking again");
                    next_look = Instant::now() + RETRY;
                }
            }
        }
    }

    /// The generation of the layout in force. Whoever wanted another one may be gone, and have left the logs
    /// so that nobody can append to them.
    async fn look(&self) -> Result<u32, LayoutError> {
        Ok(self.connection.conform().await?.generation())
    }

    fn hold(&self, hold: bool) {
        let has_changed = self.held.send_if_modified(|held| std::mem::replace(held, hold) != hold);
        if has_changed {
            self.observed.holds(hold);
            let what = if hold { "hold what changes something: the shop is repartitioned" } else { "are open again" };
            tracing::info!("the doors {what}");
        }
    }
}
