//! Reading the dead letters: what was in the logs and could not be read, with the reason.

use async_nats::jetstream::{self, stream::Stream};
use bytes::Bytes;
use shop_domain::timestamp::Timestamp;

use crate::{
    connection::Connection,
    header,
    jetstream::{message_at, timestamp},
    subject,
};

/// The stream of dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    stream: Stream,
    /// The sequence of the first one that is kept.
    pub first: u64,
    /// The sequence of the last one; below `first` when there is none.
    pub last: u64,
}

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its place among the dead letters.
    pub sequence: u64,
    /// When it was put there.
    pub time: Timestamp,
    /// The log and the sequence that it comes from, `wallet/17`.
    pub origin: String,
    /// Why it could not be read.
    pub reason: String,
    /// As it was in the log.
    pub payload: Bytes,
}

/// Why the dead letters cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the dead letters: {0}")]
pub struct DeadError(String);

impl Connection {
    /// The dead letters that there are now.
    pub async fn dead_letters(&self) -> Result<DeadLetters, DeadError> {
        let context = jetstream::new(self.client().clone());
        let stream = context.get_stream(subject::DEAD_STREAM).await.map_err(|error| DeadError(error.to_string()))?;
        let state = &stream.cached_info().state;
        let (first, last) = (state.first_sequence.max(1), state.last_sequence);
        Ok(DeadLetters { stream, first, last })
    }
}

impl DeadLetters {
    /// One of them; none if it is not kept.
    pub async fn get(&self, sequence: u64) -> Result<Option<DeadLetter>, DeadError> {
        let Some(message) = message_at(&self.stream, sequence).await.map_err(DeadError)? else { return Ok(None) };
        let text = |name| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        let (origin, reason) = (text(header::DEAD_ORIGIN), text(header::DEAD_REASON));
        let time = timestamp(message.time.unix_timestamp_nanos());
        Ok(Some(DeadLetter { sequence, time, origin, reason, payload: message.payload }))
    }
}
