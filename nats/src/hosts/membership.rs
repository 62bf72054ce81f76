//! How the hosts of a kind know of each other: each says now and then, and whenever something
//! changes, that it is there.
//!
//! Nothing of it is stored. It decides who does the work, and how soon a standby shows what it has applied; never
//! what comes into the logs, because nothing is dropped for its sake.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use shop_domain::kind::Kind;

use crate::{
    connection::{Connection, inbox},
    rpc::service::ListenError,
    subject,
};

/// How long a host that is there may take to answer.
const ANSWER_WAIT: Duration = Duration::from_millis(250);

/// Longest name of a host, in bytes: 32 hexadecimal digits, and room for more.
const NAME_BYTES_MAX: usize = 64;

/// What a host says of itself, as JSON on `shop.hosts.<kind>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// A name that it has from its start to its end.
    pub host: String,
    /// The epoch of the log that it reads.
    pub epoch: u64,
    /// What it can do.
    pub state: HostState,
    /// Of each partition that it owns, the sequence up to which all that follows is in the logs.
    pub settled: BTreeMap<u16, u64>,
    /// Of each partition that it owns, where in its log the newest receipt is that it has read.
    #[serde(default)]
    pub receipts: BTreeMap<u16, u64>,
}

/// What a host can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It is catching up with the log.
    Joining,
    /// It can own partitions.
    Ready,
    /// It finishes what it has begun.
    Leaving,
}

/// One host among the others of its kind.
#[derive(Debug)]
pub struct Membership {
    connection: Connection,
    kind: Kind,
    /// What was announced last, for those who ask.
    said: Bytes,
    all: Subscriber,
    /// Others who see whether this one is still there.
    probes: Subscriber,
}

impl Connection {
    /// Joins the other hosts of a kind. Also returns what one of them said, if there are any.
    pub async fn join(
        &self,
        kind: Kind,
        announcement: &Announcement,
    ) -> Result<(Membership, Option<Announcement>), ListenError> {
        // Before anybody listens here: who is alone learns it at once.
        let first = self.ask_host(subject::hosts(kind)).await.ok();
        let first = first.and_then(|answer| read(&answer.payload));
        let (all, probes) = (subject::hosts(kind), subject::host(kind, &announcement.host));
        let subscribe = async |subject: String| {
            let subscribed = self.client().subscribe(subject).await;
            subscribed.map_err(|error| ListenError { kind, reason: error.to_string() })
        };
        let (all, probes) = (subscribe(all).await?, subscribe(probes).await?);
        let mut membership = Membership { connection: self.clone(), kind, said: Bytes::new(), all, probes };
        membership.announce(announcement).await;
        Ok((membership, first))
    }

    /// Whether nobody listens any more where this host did: its connection is closed.
    pub async fn is_host_gone(&self, kind: Kind, host: &str) -> bool {
        let answer = self.ask_host(subject::host(kind, host)).await;
        answer.is_err_and(|error| error == RequestErrorKind::NoResponders)
    }

    async fn ask_host(&self, subject: String) -> Result<Message, RequestErrorKind> {
        let request = async_nats::Request::new().timeout(Some(ANSWER_WAIT));
        self.client().send_request(subject, request).await.map_err(|error| error.kind())
    }
}

/// Reads an announcement. A host's name becomes part of a subject.
fn read(bytes: &[u8]) -> Option<Announcement> {
    let announcement: Announcement = serde_json::from_slice(bytes).ok()?;
    let name = announcement.host.as_bytes();
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_alphanumeric);
    is_name.then_some(announcement)
}

impl Membership {
    /// Tells all others.
    pub async fn announce(&mut self, announcement: &Announcement) {
        self.said = serde_json::to_vec(announcement).expect("an announcement always encodes").into();
        self.say(subject::hosts(self.kind)).await;
    }

    /// What another host announced; nothing when the connection is closed.
    pub async fn next(&mut self) -> Option<Announcement> {
        loop {
            let message = tokio::select! {
                message = self.all.next() => message?,
                message = self.probes.next() => message?,
            };
            if let Some(reply) = message.reply {
                if inbox::is_a_callers(&reply) {
                    self.say(reply.into_string()).await;
                }
            } else if let Some(announcement) = read(&message.payload) {
                return Some(announcement);
            } else {
                tracing::debug!("what came on {} is no announcement", message.subject);
            }
        }
    }

    async fn say(&self, subject: String) {
        if let Err(error) = self.connection.client().publish(subject, self.said.clone()).await {
            // Whoever waits for it takes this host for one that is gone, until the next time.
            tracing::debug!("cannot tell the other hosts of {}: {error}", self.kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_names_a_host_that_can_be_asked() {
        let said = |host: &str| {
            let text =
                format!(r#"{{"host":{host:?},"epoch":1,"state":"ready","settled":{{"0":9223372036854775808}}}}"#);
            read(text.as_bytes()).is_some()
        };
        assert!(said("ghost") && said(&"0".repeat(NAME_BYTES_MAX)));
        for host in ["", "*", ">", "a.b", "a b", "a\nb", "ü", &"0".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!said(host), "{host:?}");
        }
        assert!(read(b"{}").is_none() && read("[".repeat(100_000).as_bytes()).is_none());
    }
}
