//! Leaves a server of a cluster that is cut off from the others: it still answers pings, but nothing
//! that is sent there arrives anywhere, and it does not say so.

use std::time::Duration;

use async_nats::Client;
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{interval, timeout},
};

/// The servers' own leader answers this, from wherever it is asked.
const QUESTION: &str = "$JS.API.INFO";
/// How often it is asked, and how long an answer may take.
const INTERVAL: Duration = Duration::from_secs(2);
/// So many questions in a row without an answer, and another server is tried. Together longer than
/// an election among the servers takes, during which nobody answers.
const UNANSWERED_MAX: u32 = 5;

/// Asks over the connection of `client` until the sender of `end` is dropped. A server that has never
/// answered is not left: it may not let this client ask.
pub(crate) async fn watch(client: Client, name: String, mut end: oneshot::Receiver<()>) {
    let mut ticks = interval(INTERVAL);
    let mut unanswered = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut end => return,
        }
        let is_answered = tokio::select! {
            is_answered = is_answered(&client) => is_answered,
            _ = &mut end => return,
        };
        unanswered = match unanswered {
            _ if is_answered => Some(0),
            Some(count) => Some(count + 1),
            None => None,
        };
        if unanswered == Some(UNANSWERED_MAX) {
            tracing::warn!("{name}: the nats-server seems to be cut off from the others, trying another one");
            unanswered = Some(0);
            if client.force_reconnect().await.is_err() {
                return;
            }
        }
    }
}

async fn is_answered(client: &Client) -> bool {
    let Ok(Ok(answer)) = timeout(INTERVAL, client.request(QUESTION, "".into())).await else { return false };
    serde_json::from_slice::<Value>(&answer.payload).is_ok_and(|answer| answer["error"].is_null())
}
