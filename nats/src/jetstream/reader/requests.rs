//! Reading a kind's log by requests: the server is asked for the next records, again and again, and keeps nothing
//! about who asks.
//!
//! Any server that has a copy of the log may answer, also one whose copy is behind the leader's: then the rest comes
//! with a later request. What is missing in between is noticed by its sequence, as with a consumer.

use std::time::Duration;

use async_nats::{Message, StatusCode, jetstream::message::StreamMessage};
use futures::StreamExt;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Lost, PULL_BYTES, PULL_RECORDS, Reader, SILENCE, Stored, unix_ns};
use crate::subject;

/// How long to wait at the end of the log before the server is asked whether there is more.
const PAUSE: Duration = Duration::from_millis(20);
/// The same when nothing has come for [`RESTS_AFTER`] in a row, as while a tool follows a log in which little happens.
const PAUSE_AT_REST: Duration = Duration::from_millis(200);
const RESTS_AFTER: u32 = 50;

/// What comes in answer to a request for records.
enum Answer {
    Record(StreamMessage),
    /// No more come of this request.
    End,
    Failed(String),
}

impl Reader {
    pub(super) async fn read_by_requests(&mut self) -> Lost {
        if let Err(lost) = self.begin().await {
            return lost;
        }
        let mut empty = 0;
        loop {
            let before = self.after;
            if let Err(lost) = self.read_what_is_there().await {
                return lost;
            }
            empty = if self.after > before { 0 } else { empty + 1 };
            if empty == 0 {
                continue;
            }
            tokio::select! {
                () = sleep(if empty < RESTS_AFTER { PAUSE } else { PAUSE_AT_REST }) => {}
                () = self.records.closed() => return Lost::Closed,
            }
            // A log that was made anew looks like one to which nothing comes.
            if empty % RESTS_AFTER == 0
                && let Err(lost) = self.verify().await
            {
                return lost;
            }
        }
    }

    /// Asks once, and hands on all that comes.
    async fn read_what_is_there(&mut self) -> Result<(), Lost> {
        let context = self.log.reading.now().context;
        let client = context.client();
        let broken = |error: &dyn std::fmt::Display| Lost::Broken(error.to_string());
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| broken(&error))?;
        let request = json!({ "seq": self.after + 1, "batch": PULL_RECORDS, "max_bytes": PULL_BYTES });
        let asked = subject::next_records(self.kind);
        let sent = client.publish_with_reply(asked, inbox, request.to_string().into()).await;
        sent.map_err(|error| broken(&error))?;
        loop {
            let answer = tokio::select! {
                answer = timeout(SILENCE, answers.next()) => answer,
                () = self.records.closed() => return Err(Lost::Closed),
            };
            let message = match answer {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Lost::Broken("the connection is closed".into())),
                Err(_) => return Err(Lost::Broken(format!("no record and no end of them came within {SILENCE:?}"))),
            };
            match read(message) {
                Answer::Record(message) => {
                    self.take(message.sequence, unix_ns(&message), Stored::of(&message)).await?;
                }
                Answer::End => return Ok(()),
                Answer::Failed(reason) => return Err(Lost::Broken(reason)),
            }
        }
    }
}

fn read(message: Message) -> Answer {
    /// All records were sent that were asked for, or there are.
    const END_OF_BATCH: u16 = 204;
    match message.status {
        Some(status) if status.as_u16() == END_OF_BATCH || status == StatusCode::NOT_FOUND => Answer::End,
        Some(status) if status != StatusCode::OK => {
            Answer::Failed(format!("the nats-server says {status} {}", message.description.unwrap_or_default()))
        }
        _ => StreamMessage::try_from(message)
            .map_or_else(|error| Answer::Failed(format!("a record without position came: {error}")), Answer::Record),
    }
}
