//! How long a program that starts waits for a nats-server that is not there yet, or is busy, and what it says meanwhile.

use std::{fmt::Display, time::Duration};

use tokio::time::{Instant, sleep};

/// How long it waits: longer than a server needs to read a long log, and than some elections in a row.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often it says that it waits.
const WORD: Duration = Duration::from_secs(5);
/// Pause before it tries again.
const PAUSE: Duration = Duration::from_millis(250);

/// A wait for an answer.
#[derive(Debug)]
pub(crate) struct Wait {
    begin: Instant,
    word: Instant,
}

impl Wait {
    /// Begins with the first attempt.
    pub(crate) fn begin() -> Self {
        let begin = Instant::now();
        Self { begin, word: begin }
    }

    /// Waits a moment because of this, and says so now and then; not when it has waited for long enough.
    pub(crate) async fn goes_on(&mut self, because: &(dyn Display + Sync)) -> bool {
        let waited = self.begin.elapsed();
        if waited >= PATIENCE {
            return false;
        }
        if self.word.elapsed() >= WORD || self.word == self.begin {
            self.word = Instant::now();
            let left = (PATIENCE - waited).as_secs();
            tracing::warn!("{because}; trying again for {left} s");
        }
        sleep(PAUSE).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_tries_again_for_a_minute_and_no_longer() {
        let (begin, mut wait, mut attempts) = (Instant::now(), Wait::begin(), 0);
        while wait.goes_on(&"nobody is there").await {
            attempts += 1;
        }
        assert_eq!(begin.elapsed(), PATIENCE);
        assert_eq!(attempts, 240);
    }
}
