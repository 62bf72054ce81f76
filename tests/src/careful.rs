//! Customers without an idempotency key who do exactly as they are told: they wait, look and repeat. Each of them
//! alone changes what he looks at, so that he knows afterwards whether it was changed.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Ask, Client};

/// How long a write may take until it is done: the longest that anything is frozen, and the way back from it.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a careful customer went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trials {
    /// He was told that it was not done, and never will be.
    pub undone: usize,
    /// He was told when to look, and it was done.
    pub seen_done: usize,
    /// He was told when to look, and it was not done.
    pub seen_undone: usize,
}

impl Trials {
    /// How often he was not told at once that it was done.
    pub fn all(self) -> usize {
        self.undone + self.seen_done + self.seen_undone
    }
}

/// Has a write done once, by the answers alone. `is_done` looks whether it is done.
///
/// # Panics
/// When an answer does not say what to do, or it is not done in the end.
pub async fn have_done(client: &Client, ask: &Ask, is_done: impl AsyncFn() -> bool) -> Trials {
    let (start, mut trials) = (Instant::now(), Trials::default());
    loop {
        assert!(start.elapsed() < PATIENCE, "{ask} is not done after {PATIENCE:?}: {trials:?}");
        let answer = client.exchange(ask).await.unwrap_or_else(|error| panic!("{ask}: {error}"));
        if answer.status != 503 {
            assert!((200..300).contains(&answer.status), "{ask}: {}", String::from_utf8_lossy(&answer.bytes));
            return trials;
        }
        match look_after(&answer) {
            // It may be sent anew at once, but a bridge asks for a pause.
            None => {
                trials.undone += usize::from(answer.json(503)["done"] == false);
                sleep(Duration::from_millis(50)).await;
            }
            Some(seconds) => {
                sleep(Duration::from_secs(seconds)).await;
                if is_done().await {
                    trials.seen_done += 1;
                    return trials;
                }
                trials.seen_undone += 1;
            }
        }
    }
}

/// After how many seconds a look shows what became of the write; none when it is said that it was not done.
///
/// # Panics
/// When the answer says neither, or asks to come back too soon.
pub fn look_after(answer: &Answer) -> Option<u64> {
    let problem: Value = answer.json(503);
    let retry_after: u64 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("a 503 says when");
    match (problem["retryable"].as_bool(), problem["look_after"].as_u64()) {
        (Some(true), None) => None,
        (Some(false), Some(seconds)) if retry_after >= seconds => Some(seconds),
        (_, _) => panic!("what is to be done after this? (Retry-After: {retry_after}) {problem}"),
    }
}
