//! The word that doors are to hold what changes something, so that all that is under way can settle.
//!
//! It is said again and again, and never stored: if whoever says it is gone, the doors open by themselves. Nothing
//! depends on everybody having heard it but how long a repartitioning takes.

use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use tokio::time::{interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{connection::Connection, subject};

/// How often it is said.
const BEAT: Duration = Duration::from_millis(250);
/// Doors that have not heard it for so long open again: some beats, so that a busy machine does not open them.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

const HOLD: &[u8] = b"hold";
const LOOK: &[u8] = b"look";
const OPEN: &[u8] = b"open";

/// What doors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Let nothing in that changes something.
    Hold,
    /// See how the logs are cut now.
    Look,
    /// The same, and let everything in again.
    Open,
}

/// Says [`Word::Hold`] until it is dropped.
#[derive(Debug)]
pub struct Holding {
    _beat: AbortOnDropHandle<()>,
}

/// Where the word is heard.
#[derive(Debug)]
pub struct Words {
    said: Subscriber,
}

/// Why nobody here hears what doors are to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot hear whether the doors are to hold: {0}")]
pub struct DeafError(String);

impl Connection {
    /// From now on all doors are to hold.
    pub fn hold_doors(&self) -> Holding {
        let client = self.client().clone();
        let beat = async move {
            let mut beat = interval(BEAT);
            loop {
                beat.tick().await;
                if let Err(error) = client.publish(subject::HOLD, HOLD.into()).await {
                    tracing::warn!("the doors cannot be told to hold: {error}");
                }
            }
        };
        Holding { _beat: AbortOnDropHandle::new(tokio::spawn(beat)) }
    }

    /// Whoever serves is to see how the logs are cut now.
    pub async fn look(&self) {
        if let Err(error) = self.client().publish(subject::HOLD, LOOK.into()).await {
            tracing::warn!("the hosts cannot be told to look how the logs are cut: {error}");
        }
    }

    /// From now on all doors are to open.
    pub async fn open_doors(&self, holding: Holding) {
        drop(holding);
        let failed = match self.client().publish(subject::HOLD, OPEN.into()).await {
            // The tool that says so may end right behind it, and what it has not sent with it.
            Ok(()) => match timeout(SILENCE_MAX, self.client().flush()).await {
                Ok(flushed) => flushed.err().map(|error| error.to_string()),
                Err(late) => Some(late.to_string()),
            },
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            tracing::warn!("the doors cannot be told to open, and do so in {SILENCE_MAX:?}: {error}");
        }
    }

    /// Hears what doors are to do.
    pub async fn words(&self) -> Result<Words, DeafError> {
        let said = self.client().subscribe(subject::HOLD).await;
        Ok(Words { said: said.map_err(|error| DeafError(error.to_string()))? })
    }
}

impl Words {
    /// The next one; none when the connection is closed.
    pub async fn next(&mut self) -> Option<Word> {
        loop {
            match &*self.said.next().await?.payload {
                HOLD => return Some(Word::Hold),
                LOOK => return Some(Word::Look),
                OPEN => return Some(Word::Open),
                _ => tracing::debug!("what came on {} is no word for doors", subject::HOLD),
            }
        }
    }
}
