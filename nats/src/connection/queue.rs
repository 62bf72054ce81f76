//! A queue subscription: of all who have one of a subject, each message goes to one. It can be given up without losing
//! a message.

use std::{collections::VecDeque, sync::atomic::Ordering, time::Duration};

use async_nats::{HeaderMap, Message, RequestError, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::{task::unconstrained, time::timeout};

use crate::{
    connection::Connection,
    header::{self, Headers},
};

/// The hosts of a kind share all that they are asked.
pub(crate) const QUEUE_GROUP: &str = "shop";

/// How many messages are counted out for who leaves: more than come while the server is told of it.
const LAST_MESSAGES: u64 = 64;
/// How long it may take to come to the last one.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A share of all that is sent to a subject.
#[derive(Debug)]
pub(crate) struct QueueSubscription {
    connection: Connection,
    subscriber: Subscriber,
    /// A subject of the subscription that nobody else uses or minds.
    fill_subject: String,
    /// How often the connection had been made when it began.
    connects: u64,
    /// How many messages have come since then.
    received: u64,
    /// Whether none comes any more.
    has_ended: bool,
    /// Come in, and not returned yet.
    waiting: VecDeque<Message>,
}

impl Connection {
    pub(crate) async fn queue_subscribe(
        &self,
        subject: String,
        fill_subject: String,
    ) -> Result<QueueSubscription, SubscribeError> {
        let connects = connects(self);
        let subscriber = self.client().queue_subscribe(subject, QUEUE_GROUP.into()).await?;
        Ok(QueueSubscription {
            connection: self.clone(),
            subscriber,
            fill_subject,
            connects,
            received: 0,
            has_ended: false,
            waiting: VecDeque::new(),
        })
    }
}

/// As the client counts, which does so before it subscribes anew.
fn connects(connection: &Connection) -> u64 {
    connection.client().statistics().connects.load(Ordering::Relaxed)
}

impl QueueSubscription {
    /// The next message; none after [`Self::close`], once all that had come in was returned.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            let message = self.subscriber.next().await?;
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        self.received += 1;
        let fills = message.headers.as_ref().is_some_and(|headers| headers.get(header::LEAVING).is_some());
        if !fills {
            self.waiting.push_back(message);
        }
    }

    /// Takes no further messages, but all those that the server has sent already.
    ///
    /// The client's `drain` does not promise that: it lets a subscription go with the first bytes that come after it,
    /// and drops what comes for it later (async-nats 0.51). So the server is asked to end it after a number of
    /// messages, which both sides count, and those that are missing to that number are sent here.
    pub(crate) async fn close(&mut self) {
        // Over another connection the server has counted anew.
        if connects(&self.connection) == self.connects {
            match timeout(CLOSE_LIMIT, self.take_the_last()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::debug!("the last message could not be waited for: {error}"),
                Err(_) => tracing::debug!("the last message did not come within {CLOSE_LIMIT:?}"),
            }
        }
        if let Err(error) = self.subscriber.drain().await {
            tracing::debug!("the connection was closed already: {error}");
        }
    }

    async fn take_the_last(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.take_all_sent().await?;
        let last = self.received + LAST_MESSAGES;
        self.subscriber.unsubscribe_after(last).await?;
        let mut headers = Headers::default();
        headers.set(header::LEAVING, "true")?;
        let headers = HeaderMap::from(headers);
        while !self.has_ended {
            // Twice as many, because others who stay get some of them.
            for _ in 0..2 * last.saturating_sub(self.received) {
                let (subject, headers) = (self.fill_subject.clone(), headers.clone());
                self.connection.client().publish_with_headers(subject, headers, Bytes::new()).await?;
            }
            self.take_all_sent().await?;
        }
        Ok(())
    }

    /// Takes all that the server sends until it answers.
    async fn take_all_sent(&mut self) -> Result<(), RequestError> {
        self.connection.round_trip(CLOSE_LIMIT).await?;
        // Unconstrained: not only as many as a task may take before others have their turn.
        while let Some(message) = unconstrained(self.subscriber.next()).now_or_never() {
            match message {
                Some(message) => self.take(message),
                None => {
                    self.has_ended = true;
                    break;
                }
            }
        }
        Ok(())
    }
}
