//! Answers on their way out, each in the format of its question.

use std::sync::Arc;

use bytes::Bytes;
use shop_domain::{
    entity::Reply,
    message::{Format, ReplyTo},
    problem::Problem,
};
use shop_nats::{
    connection::Connection,
    rpc::{discovery::Stats, service::Response},
};
use tokio::sync::mpsc;

use crate::counts::SharedCounts;

/// Most answers that are sent at a time.
const ANSWERS_MAX: usize = 1_024;

/// Sends answers of one kind.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Over which connection.
    pub connection: Connection,
    /// Where errors are counted.
    pub stats: Arc<Stats>,
    /// Where answers are counted.
    pub counts: SharedCounts,
}

impl Answers {
    /// Sends what entities answered, all that waits at a time, until no partition is left that could answer.
    pub async fn run(self, mut replies: mpsc::Receiver<Reply>) {
        let mut taken = Vec::new();
        while replies.recv_many(&mut taken, ANSWERS_MAX).await > 0 {
            let answers = taken.drain(..).map(|Reply { to, answer, replayed, ticketed, trace }| {
                let (error, version) = (answer.code(), answer.version);
                let (body, traceparent) = (answer.body.into(), trace.map(Into::into));
                self.counted(
                    to,
                    Response { body, error, replayed, ticketed, version, traceparent, ..Response::default() },
                )
            });
            self.connection.respond_all(answers.collect()).await;
        }
    }

    /// Sends an error answer that no entity gave.
    pub async fn problem(&self, to: ReplyTo, problem: &Problem, traceparent: Option<String>) {
        let (body, error) = (problem.to_json().into(), Some(problem.code));
        self.send(to, Response { body, error, traceparent, ..Response::default() }).await;
    }

    /// Sends an answer whose body is JSON, or nothing.
    pub async fn send(&self, to: ReplyTo, response: Response) {
        let (inbox, response) = self.counted(to, response);
        self.connection.respond(inbox, response).await;
    }

    /// Counts an answer, and puts it into the format of the question.
    fn counted(&self, to: ReplyTo, response: Response) -> (String, Response) {
        if response.error.is_some() {
            self.stats.error();
        }
        self.counts.replies.add(1);
        let body = if response.not_modified { Bytes::new() } else { in_format(response.body, to.format) };
        (to.inbox.into(), Response { body, ..response })
    }
}

fn in_format(json: Bytes, format: Format) -> Bytes {
    match format {
        Format::Json => json,
        Format::Msgpack => in_msgpack(&json).unwrap_or_else(|error| {
            // An answer that was kept comes from a checkpoint or a snapshot.
            tracing::error!("an answer is no JSON, and is sent as it was kept: {error}");
            json
        }),
    }
}

fn in_msgpack(json: &[u8]) -> Result<Bytes, Box<dyn std::error::Error>> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    Ok(rmp_serde::to_vec_named(&value)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_kept_and_is_no_json_panics_no_host() {
        for format in [Format::Json, Format::Msgpack] {
            assert_eq!(in_format(Bytes::from_static(b"no JSON"), format), "no JSON");
        }
        assert_eq!(in_format(Bytes::from_static(b"[1]"), Format::Msgpack), &b"\x91\x01"[..]);
    }
}
