//! Requests to the doors: what the bridge sends, and what comes back.

use std::time::Duration;

use async_nats::{HeaderMap, Request as NatsRequest, RequestErrorKind};
use bytes::Bytes;
use shop_domain::{
    caller::Caller,
    problem::{Code, HELD, WAITING},
    ticket::Ticket,
    version::Version,
};
use tokio::time::timeout;

use crate::{
    connection::Connection,
    header::{self, Headers, InvalidValue, trace_context},
    subject,
};

/// A request to a door.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where to, see [`crate::subject::door`]: without the caller.
    pub subject: String,
    /// For whom it is made; the client's own when there is none.
    pub caller: Option<Caller>,
    /// JSON, or MessagePack; nothing for a verb without arguments.
    pub body: Bytes,
    /// The caller's idempotency key, unchecked: the door checks it.
    pub idempotency_key: Option<String>,
    /// The caller's W3C trace context.
    pub traceparent: Option<String>,
    /// Whether to answer as soon as the log has taken the request.
    pub respond_async: bool,
    /// What lets a write without a key in once at most, or what is to be voided.
    pub ticket: Option<Ticket>,
    /// What is demanded of the entity.
    pub conditions: Conditions,
}

impl Request {
    /// One that brings nothing beside its body.
    pub fn new(subject: String, body: impl Into<Bytes>) -> Self {
        Self {
            subject,
            caller: None,
            body: body.into(),
            idempotency_key: None,
            traceparent: None,
            respond_async: false,
            ticket: None,
            conditions: Conditions::default(),
        }
    }
}

/// What a request demands of the entity that it is about: the lines of two headers, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Of `If-Match`.
    pub if_match: Vec<String>,
    /// Of `If-None-Match`.
    pub if_none_match: Vec<String>,
}

impl Conditions {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_empty() && self.if_none_match.is_empty()
    }

    /// How long all lines are.
    pub(crate) fn bytes(&self) -> usize {
        self.if_match.iter().chain(&self.if_none_match).map(String::len).sum()
    }
}

/// What a door, or the entity behind it, answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The body, in the format of the request.
    pub body: Bytes,
    /// The code of an error answer; then the body is a problem.
    pub error: Option<Code>,
    /// Whether this is the first answer once more.
    pub replayed: bool,
    /// Whether the request was taken but is not settled.
    pub accepted: bool,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<String>,
    /// Whether it is kept under the request's ticket, and so will never be another one.
    pub ticketed: bool,
    /// The version of the entity that it shows.
    pub version: Option<Version>,
    /// Whether the caller has already what was asked for; then there is no body.
    pub not_modified: bool,
}

impl Reply {
    /// Whether a door said that it lets nothing in for a while, and did nothing; to a question in JSON.
    pub fn is_held(&self) -> bool {
        let is_held = |problem: serde_json::Value| problem[HELD] == true;
        self.error == Some(Code::UNAVAILABLE) && serde_json::from_slice(&self.body).is_ok_and(is_held)
    }

    /// Whether an order said that too many wait for its outcome, which it will have; to a question in JSON.
    pub fn is_crowded(&self) -> bool {
        let is_crowded = |problem: serde_json::Value| problem[WAITING].is_number();
        self.error == Some(Code::OVERLOADED) && serde_json::from_slice(&self.body).is_ok_and(is_crowded)
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No process serves this kind.
    #[error("nobody serves {subject}")]
    NoResponders {
        /// What was asked.
        subject: String,
    },
    /// Nothing came within the wait. The request may or may not have been taken.
    #[error("no answer on {subject} within {wait:?}")]
    TimedOut {
        /// What was asked.
        subject: String,
        /// How long.
        wait: Duration,
    },
    /// The connection does not work, or the request cannot be sent over it.
    #[error("cannot ask {subject}: {source}")]
    Failed {
        /// What was asked.
        subject: String,
        /// What the client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Connection {
    /// Sends a request and waits for the answer, at most `wait`.
    pub async fn request(&self, request: Request, wait: Duration) -> Result<Reply, RequestError> {
        let headers = headers_of(&request);
        let Request { subject, caller, body, .. } = request;
        let subject = subject::door_for(caller.as_ref(), &subject);
        let headers = match headers {
            Ok(headers) => headers,
            Err(error) => return Err(RequestError::Failed { subject, source: error.into() }),
        };
        let mut outgoing = NatsRequest::new().payload(body).timeout(Some(wait));
        if !headers.is_empty() {
            outgoing = outgoing.headers(headers.into());
        }
        // The client's own timeout begins when it has taken the request in, which it does not while it cannot send.
        let Ok(answered) = timeout(wait, self.client().send_request(subject.clone(), outgoing)).await else {
            return Err(RequestError::TimedOut { subject, wait });
        };
        match answered {
            Ok(message) => Ok(read_reply(message.headers.as_ref(), message.payload)),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => RequestError::NoResponders { subject },
                RequestErrorKind::TimedOut => RequestError::TimedOut { subject, wait },
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                    RequestError::Failed { subject, source: error.into() }
                }
            }),
        }
    }
}

/// Nothing is left out but a trace context that is none: a write without its key would be another one.
fn headers_of(request: &Request) -> Result<Headers, InvalidValue> {
    let mut headers = Headers::default();
    if let Some(key) = &request.idempotency_key {
        headers.set(header::IDEMPOTENCY_KEY, key)?;
    }
    if let Some(traceparent) = request.traceparent.as_deref().and_then(trace_context) {
        headers.set(header::TRACEPARENT, traceparent)?;
    }
    if let Some(ticket) = &request.ticket {
        headers.set(header::TICKET, ticket)?;
    }
    for line in &request.conditions.if_match {
        headers.add(header::IF_MATCH, line)?;
    }
    for line in &request.conditions.if_none_match {
        headers.add(header::IF_NONE_MATCH, line)?;
    }
    if request.respond_async {
        headers.set(header::PREFER, header::RESPOND_ASYNC)?;
    }
    Ok(headers)
}

pub(crate) fn read_reply(headers: Option<&HeaderMap>, body: Bytes) -> Reply {
    let get = |name| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let error = get(header::SERVICE_ERROR);
    let not_modified = error == Some(header::NOT_MODIFIED);
    Reply {
        body,
        error: error.filter(|_| !not_modified).map(code_of),
        replayed: get(header::IDEMPOTENCY_REPLAYED).is_some(),
        accepted: get(header::PREFERENCE_APPLIED).is_some(),
        retry_after: get(header::RETRY_AFTER).map(str::to_owned),
        ticketed: get(header::TICKET).is_some(),
        version: get(header::ETAG).and_then(Version::of_tag),
        not_modified,
    }
}

/// The code of that name. An error is an error, also under a name that this program does not know yet.
pub(crate) fn code_of(name: &str) -> Code {
    Code::named(name).unwrap_or(Code::UNAVAILABLE)
}
