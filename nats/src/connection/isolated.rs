//! Leaves a server of a cluster that is cut off from the others: it still answers pings, but nothing
//! that is sent there arrives anywhere, and it does not say so.
//!
//! Hosts and tools ask the servers' common leader whether it is there. A bridge asks hosts to do so: who may ask
//! JetStream anything can have its answer written into a log.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{interval, timeout},
};

use crate::{
    connection::{Connection, inbox, queue::QUEUE_GROUP},
    subject,
};

/// The servers' own leader answers this, from wherever it is asked.
const QUESTION: &str = "$JS.API.INFO";
/// What a host says when it has answered.
const YES: &[u8] = b"{}";
/// How often it is asked, and how long an answer may take.
const INTERVAL: Duration = Duration::from_secs(2);
/// So many questions in a row without an answer, and another server is tried. Together longer than
/// an election among the servers takes, during which nobody answers.
const UNANSWERED_MAX: u32 = 5;

/// Who is asked whether the servers are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Witness {
    /// The servers' common leader.
    Leader,
    /// A host, which asks that one.
    Host,
}

/// Asks over the connection of `client` until the sender of `end` is dropped. A server that has never
/// answered is not left: it may not let this client ask.
pub(crate) async fn watch(client: Client, name: String, witness: Witness, mut end: oneshot::Receiver<()>) {
    let mut ticks = interval(INTERVAL);
    let mut unanswered = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut end => return,
        }
        let is_answered = tokio::select! {
            is_answered = is_answered(&client, witness) => is_answered,
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

pub(crate) async fn is_answered(client: &Client, witness: Witness) -> bool {
    let question = match witness {
        Witness::Leader => QUESTION,
        Witness::Host => subject::SERVERS,
    };
    let Ok(Ok(answer)) = timeout(INTERVAL, client.request(question, "".into())).await else { return false };
    serde_json::from_slice::<Value>(&answer.payload).is_ok_and(|answer| answer["error"].is_null())
}

impl Connection {
    /// Answers bridges that ask whether the servers are together, for as long as the connection lives, when they are.
    pub(crate) async fn witness(&self) -> Result<(), String> {
        let client = self.client().clone();
        let asked = client.queue_subscribe(subject::SERVERS, QUEUE_GROUP.into()).await;
        let mut asked = asked.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            while let Some(first) = asked.next().await {
                // One question to the leader answers all that wait, so that many of them cost it nothing.
                let mut waiting = vec![first];
                waiting.extend(std::iter::from_fn(|| asked.next().now_or_never().flatten()));
                if !is_answered(&client, Witness::Leader).await {
                    continue;
                }
                for inbox in waiting.into_iter().filter_map(|question| question.reply) {
                    if !inbox::is_a_callers(&inbox) {
                        continue;
                    }
                    if let Err(error) = client.publish(inbox, Bytes::from_static(YES)).await {
                        tracing::debug!("a bridge cannot be told that the servers are together: {error}");
                    }
                }
            }
        });
        Ok(())
    }
}
