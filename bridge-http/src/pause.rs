//! Whether the doors are being held, so that nothing that changes something comes in anywhere.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use shop_nats::{
    hosts::pause::{Signals, claim::Pauses},
    rpc::multiplexer::Multiplexer,
};
use tokio::time::{Instant, sleep};

/// Pause before it is tried again to hear it.
const RETRY: Duration = Duration::from_secs(1);

/// What was heard last.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    heard: Mutex<Pauses>,
    run_out: AtomicU64,
}

impl Hold {
    /// Hears what doors are to do for as long as it is polled.
    pub(crate) async fn listen(&self, doors: &Multiplexer) {
        loop {
            match doors.connection().words().await {
                Ok(words) => self.hear(words).await,
                Err(error) => tracing::warn!("{error}; trying again"),
            }
            sleep(RETRY).await;
        }
    }

    async fn hear(&self, mut words: Signals) {
        while let Some(word) = words.next().await {
            if self.heard().hear(&word, Instant::now()) {
                self.run_out.fetch_add(1, Relaxed);
            }
        }
    }

    /// Whether they are held.
    pub(crate) fn is_on(&self) -> bool {
        self.since().is_some()
    }

    /// For how long they are held already, if they are.
    pub(crate) fn since(&self) -> Option<Duration> {
        let now = Instant::now();
        self.heard().since(now).map(|since| now.duration_since(since))
    }

    /// How many pauses were not renewed, and ended by themselves.
    pub(crate) fn run_out(&self) -> u64 {
        self.run_out.load(Relaxed)
    }

    fn heard(&self) -> MutexGuard<'_, Pauses> {
        self.heard.lock().expect("nobody panics while hearing")
    }
}
