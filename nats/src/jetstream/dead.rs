//! The dead letters: what was in the logs and could not be read, with the reason.
//!
//! Each has a subject of its own, which names the log and the sequence. What was put back into its
//! log stays here; a note behind it, on the same subject, says where it is now.

use async_nats::jetstream::{self, Context, message::StreamMessage};
use bytes::Bytes;
use shop_domain::{kind::Kind, timestamp::Timestamp};

use crate::{
    connection::Connection,
    header::{self, Headers},
    jetstream::{restore::Stored, taken_at},
    log::{Record, frame::FrameError},
    stream::stored::{last_of, message_at},
    subject,
};

/// The stream of dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    context: Context,
    /// The sequence of the first message that is kept.
    pub first: u64,
    /// The sequence of the last one; below `first` when there is none.
    pub last: u64,
    /// How many dead letters there are.
    pub count: u64,
}

/// What is kept among the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What could not be read.
    Letter(DeadLetter),
    /// A note: the letter on that subject was put back into its log.
    Requeued {
        /// The letter's subject.
        subject: String,
        /// When.
        time: Timestamp,
        /// The log and the sequence at which it is now, `wallet/23`.
        place: String,
    },
}

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its place among the dead letters.
    pub sequence: u64,
    /// The subject that it has for itself.
    pub subject: String,
    /// When it was put there.
    pub time: Timestamp,
    /// The log and the sequence that it comes from, `wallet/17`.
    pub origin: String,
    /// Why it could not be read.
    pub reason: String,
    /// As it was in the log; if it was very large, only how it began.
    pub payload: Bytes,
}

/// Why the dead letters cannot be looked at, or added to.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask for the dead letters: {0}")]
pub struct DeadError(String);

impl Connection {
    /// The dead letters that there are now.
    pub async fn dead_letters(&self) -> Result<DeadLetters, DeadError> {
        let context = jetstream::new(self.client().clone());
        let stream = context.get_stream(subject::DEAD_STREAM).await.map_err(|error| DeadError(error.to_string()))?;
        let state = &stream.cached_info().state;
        let (first, last, count) = (state.first_sequence.max(1), state.last_sequence, state.subjects_count);
        Ok(DeadLetters { context, first, last, count })
    }
}

impl DeadLetters {
    /// What is kept at a sequence, if anything is.
    pub async fn get(&self, sequence: u64) -> Result<Option<Kept>, DeadError> {
        Ok(message_at(&self.context, subject::DEAD_STREAM, sequence).await.map_err(DeadError)?.map(kept))
    }

    /// What is kept at a sequence as it is stored, for a backup.
    pub async fn stored(&self, sequence: u64) -> Result<Option<Stored>, DeadError> {
        let message = message_at(&self.context, subject::DEAD_STREAM, sequence).await.map_err(DeadError)?;
        Ok(message.map(Stored::of_dead))
    }

    /// Where a letter was last put back, if it was.
    pub async fn requeued(&self, letter: &DeadLetter) -> Result<Option<String>, DeadError> {
        let last = last_of(&self.context, subject::DEAD_STREAM, &letter.subject).await.map_err(DeadError)?;
        match last.map(kept) {
            Some(Kept::Requeued { place, .. }) => Ok(Some(place)),
            Some(Kept::Letter(_)) | None => Ok(None),
        }
    }

    /// Notes that a record of a log is skipped: from now on it is a dead letter for whoever reads it, also for a program
    /// that could read it. That is so for good: what is here is neither changed nor removed.
    pub async fn skip(&self, kind: Kind, record: &Record) -> Result<(), DeadError> {
        let mut headers = Headers::default();
        headers.set_readable(header::DEAD_ORIGIN, &format!("{kind}/{}", record.sequence));
        headers.set_readable(header::DEAD_REASON, &FrameError::Skipped.to_string());
        headers.set_readable(header::EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        let failed = |error: jetstream::context::PublishError| DeadError(error.to_string());
        let (subject, payload) = (subject::skipped(kind, record.sequence), record.payload.clone());
        let ack = self.context.publish_with_headers(subject, headers.into(), payload).await.map_err(failed)?;
        ack.await.map(drop).map_err(failed)
    }

    /// Notes that a letter was put back into its log.
    pub async fn note(&self, letter: &DeadLetter, (kind, sequence): (Kind, u64)) -> Result<(), DeadError> {
        let mut headers = Headers::default();
        headers.set_readable(header::DEAD_ORIGIN, &letter.origin);
        headers.set_readable(header::DEAD_REQUEUED, &format!("{kind}/{sequence}"));
        let failed = |error: jetstream::context::PublishError| DeadError(error.to_string());
        let ack = self.context.publish_with_headers(letter.subject.clone(), headers.into(), Bytes::new()).await;
        ack.map_err(failed)?.await.map(drop).map_err(failed)
    }
}

fn kept(message: StreamMessage) -> Kept {
    let text = |name| message.headers.get(name).map(|value| value.as_str().to_owned());
    let time = taken_at(Some(&message.headers), message.time.unix_timestamp_nanos());
    let subject = message.subject.to_string();
    if let Some(place) = text(header::DEAD_REQUEUED) {
        return Kept::Requeued { subject, time, place };
    }
    let (origin, reason) =
        (text(header::DEAD_ORIGIN).unwrap_or_default(), text(header::DEAD_REASON).unwrap_or_default());
    Kept::Letter(DeadLetter { sequence: message.sequence, subject, time, origin, reason, payload: message.payload })
}
