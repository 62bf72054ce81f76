//! How hosts ask each other about partitions that they do not hold themselves.

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_domain::kind::Kind;

use crate::{
    connection::{Connection, inbox, queue::QueueSubscription},
    rpc::{
        request::{Request, RequestError},
        service::ListenError,
    },
    subject,
};

/// Where those are asked who hold a partition.
pub trait Asking: Debug + Send + Sync {
    /// Asks one of those who hold a partition of the layout of that generation.
    fn ask_holder(
        &self,
        kind: Kind,
        generation: u32,
        partition: u16,
        question: Bytes,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestError>>;
}

impl Asking for Connection {
    fn ask_holder(
        &self,
        kind: Kind,
        generation: u32,
        partition: u16,
        question: Bytes,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestError>> {
        let subject = subject::holders(kind, generation, partition);
        let request = Request::new(subject, question);
        async move { self.request(request, wait).await.map(|reply| reply.body) }.boxed()
    }
}

/// What other hosts ask about one partition.
#[derive(Debug)]
pub struct Questions {
    asked: QueueSubscription,
}

impl Questions {
    /// The next question, and where the answer goes; none after [`Self::close`], once all that had come in was
    /// returned.
    pub async fn next(&mut self) -> Option<(Bytes, String)> {
        loop {
            let message = self.asked.next().await?;
            if let Some(inbox) = message.reply.filter(|reply| inbox::is_a_callers(reply)) {
                return Some((message.payload, inbox.into_string()));
            }
        }
    }

    /// Takes no further questions.
    pub async fn close(&mut self) {
        self.asked.close().await;
    }
}

impl Connection {
    /// Takes part in answering questions about a partition of the layout of that generation: each goes to one of
    /// those who hold it.
    pub async fn hold(&self, kind: Kind, generation: u32, partition: u16) -> Result<Questions, ListenError> {
        let subject = subject::holders(kind, generation, partition);
        let subscribed = self.queue_subscribe(subject.clone(), subject).await;
        let asked = subscribed.map_err(|error| ListenError { kind, reason: error.to_string() })?;
        Ok(Questions { asked })
    }

    /// Sends an answer to a question.
    pub async fn answer(&self, inbox: String, answer: Bytes) {
        if let Err(error) = self.client().publish(inbox, answer).await {
            tracing::warn!("an answer to another host could not be sent: {error}");
        }
    }
}
