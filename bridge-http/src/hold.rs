//! Whether the doors are being held, so that nothing that changes something comes in anywhere.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use shop_nats::{
    hold::{SILENCE_MAX, Word, Words},
    multiplexer::Multiplexer,
};
use tokio::time::{Instant, sleep};

/// Pause before it is tried again to hear it.
const RETRY: Duration = Duration::from_secs(1);

/// What was heard last.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    heard: Mutex<Option<Instant>>,
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

    async fn hear(&self, mut words: Words) {
        while let Some(word) = words.next().await {
            match word {
                Word::Hold => *self.heard() = Some(Instant::now()),
                Word::Look => {}
                Word::Open => *self.heard() = None,
            }
        }
    }

    /// Whether they are held.
    pub(crate) fn is_on(&self) -> bool {
        self.heard().is_some_and(|heard| heard.elapsed() < SILENCE_MAX)
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        self.heard.lock().expect("nobody panics while hearing")
    }
}
