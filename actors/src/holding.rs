//! Whether this host's doors are to hold what changes something, and whether the layout under which it began is
//! still in force.

use std::time::Duration;

use shop_nats::{
    connection::Connection,
    hold::{SILENCE_MAX, Word, Words},
    layout::LayoutError,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

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
}

impl Watching {
    /// Watches until another layout is in force.
    pub async fn until_repartitioned(self, mut words: Words) {
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        loop {
            let is_over = tokio::select! {
                word = words.next() => match word {
                    Some(Word::Hold) => {
                        next_look = Instant::now() + SILENCE_MAX;
                        self.hold(true);
                        continue;
                    }
                    Some(Word::Look) => false,
                    Some(Word::Open) => true,
                    // The host ends.
                    None => return std::future::pending().await,
                },
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
            let what = if hold { "hold what changes something: the shop is repartitioned" } else { "are open again" };
            tracing::info!("the doors {what}");
        }
    }
}
