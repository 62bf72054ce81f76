//! The word that doors are to hold what changes something, so that all that is under way can settle.
//!
//! It is said again and again, and never stored: if the process that says it is gone, the doors open by themselves. So
//! they do after a minute if it is there but gets no further: a pause has an owner, who signs each renewal with a key that
//! only it has (see [`claim`]). Nothing depends on everybody having heard it but how long a repartitioning takes.

pub mod claim;

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, Subscriber};
use futures::StreamExt;
use tokio::time::{interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::claim::{Claim, Owner, PAUSE_MAX};
use crate::{
    connection::Connection,
    header::{self, Headers},
    subject,
};

/// How often it is said.
const BEAT: Duration = Duration::from_millis(250);
/// Doors that have not heard it for so long open again: some beats, so that a busy machine does not open them.
pub const SILENCE_MAX: Duration = Duration::from_secs(2);

const HOLD: &[u8] = b"hold";
const LOOK: &[u8] = b"look";
const OPEN: &[u8] = b"open";

/// What doors are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Let nothing in that changes something.
    Pause(Claim),
    /// See how the logs are cut now.
    Recheck,
    /// The same, and let everything in again.
    Resume,
}

/// Says [`Signal::Pause`] until it is dropped.
#[derive(Debug)]
pub struct PauseGuard {
    owner: Arc<Owner>,
    _beat: AbortOnDropHandle<()>,
}

/// Where the word is heard.
#[derive(Debug)]
pub struct Signals {
    said: Subscriber,
}

/// Why nobody here hears what doors are to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot hear whether the doors are to hold: {0}")]
pub struct DeafError(String);

impl Connection {
    /// From now on all doors are to hold, for as long as it is renewed.
    pub fn hold_doors(&self) -> PauseGuard {
        self.hold_doors_for(PAUSE_MAX)
    }

    /// The same, with pauses that are shorter than they may be.
    pub fn hold_doors_for(&self, length: Duration) -> PauseGuard {
        let (client, owner) = (self.client().clone(), Arc::new(Owner::new(length)));
        let claiming = Arc::clone(&owner);
        let beat = async move {
            let mut beat = interval(BEAT);
            loop {
                beat.tick().await;
                let claim = headers_of(&claiming.claim());
                if let Err(error) = client.publish_with_headers(subject::HOLD, claim, HOLD.into()).await {
                    tracing::warn!("the doors cannot be told to hold: {error}");
                }
            }
        };
        PauseGuard { owner, _beat: AbortOnDropHandle::new(tokio::spawn(beat)) }
    }

    /// Whoever serves is to see how the logs are cut now.
    pub async fn look(&self) {
        if let Err(error) = self.client().publish(subject::HOLD, LOOK.into()).await {
            tracing::warn!("the hosts cannot be told to look how the logs are cut: {error}");
        }
    }

    /// From now on all doors are to open.
    pub async fn open_doors(&self, holding: PauseGuard) {
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
    pub async fn words(&self) -> Result<Signals, DeafError> {
        let said = self.client().subscribe(subject::HOLD).await;
        Ok(Signals { said: said.map_err(|error| DeafError(error.to_string()))? })
    }
}

impl PauseGuard {
    /// With which the pause is renewed, where the work is done for which the doors hold.
    pub fn owner(&self) -> Arc<Owner> {
        Arc::clone(&self.owner)
    }
}

impl Signals {
    /// The next one; none when the connection is closed.
    pub async fn next(&mut self) -> Option<Signal> {
        loop {
            let message = self.said.next().await?;
            match &*message.payload {
                HOLD => return Some(Signal::Pause(claim_of(&message))),
                LOOK => return Some(Signal::Recheck),
                OPEN => return Some(Signal::Resume),
                _ => tracing::debug!("what came on {} is no word for doors", subject::HOLD),
            }
        }
    }
}

/// Beside the word, so that a host of a program before this one understands it as well.
fn headers_of(claim: &Claim) -> HeaderMap {
    let Claim { owner, renewal, length, signature } = claim;
    let mut headers = Headers::default();
    headers.set_readable(header::PAUSE_OWNER, owner);
    headers.set_readable(header::PAUSE_RENEWAL, &renewal.to_string());
    headers.set_readable(header::PAUSE_MS, &length.as_millis().to_string());
    headers.set_readable(header::PAUSE_SIGNATURE, signature);
    headers.into()
}

/// What is not there, or cannot be read, is as good as that of a program from before there were owners.
fn claim_of(message: &Message) -> Claim {
    let text = |name| message.headers.as_ref().and_then(|headers| headers.get(name)).map_or("", |value| value.as_str());
    let length = text(header::PAUSE_MS).parse().map_or(PAUSE_MAX, Duration::from_millis);
    Claim {
        owner: text(header::PAUSE_OWNER).to_owned(),
        renewal: text(header::PAUSE_RENEWAL).parse().unwrap_or_default(),
        length,
        signature: text(header::PAUSE_SIGNATURE).to_owned(),
    }
}
