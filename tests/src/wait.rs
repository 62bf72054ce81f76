//! Waiting for what is to happen, by looking, with a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take that takes well under a second on an idle machine. Generous: it
/// only bounds how long a broken test runs.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often one looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is something to see; panics after [`LIMIT`] with `what` was waited for.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = Patience::new();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        patience.pause(what).await;
    }
}

/// How much longer one is willing to look.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    deadline: Instant,
}

impl Patience {
    /// Full patience: [`LIMIT`].
    pub fn new() -> Self {
        Self { deadline: Instant::now() + LIMIT }
    }

    /// The pause before the next look; panics when there was enough of them.
    pub async fn pause(&self, what: &str) {
        assert!(Instant::now() < self.deadline, "waited {LIMIT:?} in vain: {what}");
        sleep(LOOK_INTERVAL).await;
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}
