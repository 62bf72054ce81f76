//! The way in and out for callers: requests of a kind come in, answers go straight to who asked.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{Message, RequestErrorKind};
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use shop_domain::{
    caller::Reach,
    kind::Kind,
    problem::{Code, Problem},
    version::Version,
};
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{Connection, inbox, queue::QueueSubscription},
    header::{self, Headers, InvalidValue, trace_context},
    rpc::{bundle, discovery::Stats, request::Conditions},
    subject,
};

/// How long a server may take to let requests come in, before it is asked whether it has.
const LISTEN_WAIT: Duration = Duration::from_secs(2);

/// Seconds after which a refused caller may try again.
const RETRY_AFTER_SECONDS: &str = "1";

/// Room for the headers of an answer, in bytes: they are few and short.
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// All requests of one kind.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// One of each kind of subjects, see [`subject::doors`].
    requests: [QueueSubscription; 4],
    /// Cancelled when clients are not told any more that this kind is served here, which ends with the connection.
    undiscovered: CancellationToken,
    is_closed: bool,
    /// Out of a bundle, and not returned yet.
    unpacked: VecDeque<Incoming>,
}

/// A request as it came in. Nothing in it is checked yet.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// What follows `shop.<kind>.`: `<id>.<verb>`, or a verb for the whole kind.
    pub target: String,
    /// For whom it is made, if the subject, or the bridge, says so.
    pub caller: Option<(String, Reach)>,
    /// JSON, MessagePack or nothing.
    pub body: Bytes,
    /// Where the caller waits; nowhere when the request was only published.
    pub inbox: Option<String>,
    /// The idempotency keys; there should be at most one.
    pub idempotency_keys: Vec<String>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// Whether the caller wants an answer as soon as the log has the request.
    pub respond_async: bool,
    /// The tickets; there should be at most one.
    pub tickets: Vec<String>,
    /// What is demanded of the entity.
    pub conditions: Conditions,
}

/// An answer, ready to be sent; by default one without any mark.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The body, in the caller's format.
    pub body: Bytes,
    /// The code of an error answer.
    pub error: Option<Code>,
    /// Whether it is the first answer once more.
    pub replayed: bool,
    /// Whether the request was taken but is not settled.
    pub accepted: bool,
    /// Whether it is kept under the request's ticket.
    pub ticketed: bool,
    /// The version of the entity that it shows.
    pub version: Option<Version>,
    /// Whether the caller has already what was asked for; then there is no body.
    pub not_modified: bool,
    /// The W3C trace context.
    pub traceparent: Option<String>,
}

/// An answer on its way into a bundle: the inbox of the bundle, and the number of the request in it.
type Bundled = (String, (u64, Response));

/// Why requests cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen to requests of {kind}: {reason}")]
pub struct ListenError {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

impl Connection {
    /// Takes part in serving the requests of a kind, and shows up as a NATS service. Returns when a server knows it,
    /// however long there is none.
    pub async fn listen(&self, kind: Kind, stats: &Arc<Stats>) -> Result<Listener, ListenError> {
        let failed = |reason: String| ListenError { kind, reason };
        let subscribe = subject::doors(kind).map(|(subject, leaving)| self.queue_subscribe(subject, leaving));
        let requests = try_join_all(subscribe).await.map_err(|error| failed(error.to_string()))?;
        let Ok(requests) = <[_; 4]>::try_from(requests) else { unreachable!("as many as there are subjects") };
        let undiscovered = self.announce(kind, Arc::clone(stats)).await.map_err(failed)?;
        if self.is_clustered() {
            self.witness().await.map_err(failed)?;
        }
        loop {
            match self.round_trip(LISTEN_WAIT).await {
                // From here on, a request cannot find nobody.
                Ok(()) => {
                    return Ok(Listener { kind, requests, undiscovered, is_closed: false, unpacked: VecDeque::new() });
                }
                // The client subscribes again wherever it comes to be connected, and says nothing of it.
                Err(error) if error.kind() == RequestErrorKind::TimedOut => {
                    tracing::warn!("no server has taken in yet that {kind} is served here; asking again");
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }

    /// Sends answers that entities gave to where the callers wait, those to one bridge together.
    pub async fn respond_all(&self, answers: Vec<(String, Response)>) {
        let mut bundled = Vec::with_capacity(answers.len());
        // Where to comes from the log, which is no better than who appends to it.
        for (mut reply_to, response) in answers.into_iter().filter(|(reply_to, _)| inbox::is_a_callers(reply_to)) {
            match bundle::parts(&reply_to).map(|(inbox, number)| (inbox.len(), number)) {
                Some((inbox_bytes, number)) => {
                    reply_to.truncate(inbox_bytes);
                    bundled.push((reply_to, (number, response)));
                }
                None => self.respond(reply_to, response).await,
            }
        }
        let bytes_of = |(_, (_, response)): &Bundled| bundle::response_bytes(response);
        for (inbox, answers) in bundle::by_place(bundled, |(inbox, _)| inbox, bytes_of, self.bundle_bytes_max()) {
            self.respond_in_a_bundle(&inbox, answers.into_iter().map(|(_, answer)| answer).collect()).await;
        }
    }

    async fn respond_in_a_bundle(&self, inbox: &str, mut answers: Vec<(u64, Response)>) {
        match answers.pop() {
            Some((number, response)) if answers.is_empty() => {
                self.respond(format!("{inbox}.{number}"), response).await;
            }
            last => {
                answers.extend(last);
                let (subject, payload) = (format!("{inbox}.{}", bundle::ANSWERS), bundle::encode_answers(&answers));
                if let Err(error) = self.client().publish(subject, payload).await {
                    tracing::warn!("{} answers could not be sent: {error}", answers.len());
                }
            }
        }
    }

    /// Sends an answer to where the caller waits.
    pub async fn respond(&self, inbox: String, mut response: Response) {
        if response.body.len() > self.payload_bytes_max().saturating_sub(HEADER_BYTES_MAX) {
            let problem = Problem::new(Code::PAYLOAD_TOO_LARGE, "the answer is larger than NATS carries here");
            (response.body, response.error, response.version) = (problem.to_json().into(), Some(problem.code), None);
        }
        let headers = match headers_of(&response) {
            Ok(headers) => headers,
            Err(error) => return tracing::error!("an answer could not be sent: {error}"),
        };
        let sent = if headers.is_empty() {
            self.client().publish(inbox, response.body).await
        } else {
            self.client().publish_with_headers(inbox, headers.into(), response.body).await
        };
        if let Err(error) = sent {
            tracing::warn!("an answer could not be sent: {error}");
        }
    }
}

impl Listener {
    /// The next request; none after [`Self::close`], once all that had come in was returned, and none when the
    /// connection has ended.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            if let Some(incoming) = self.unpacked.pop_front() {
                return Some(incoming);
            }
            let message = self.next_message().await?;
            if let Some(reply) = message.reply.as_ref().filter(|reply| !inbox::is_a_callers(reply)) {
                // It could not be told what came of it, and whoever listens there must not be told.
                tracing::debug!("a request on {} that wants its answer at {reply} is ignored", message.subject);
                continue;
            }
            let incoming = self.read(message);
            // What is no bundle is a request like any other, for a verb that there is not.
            match incoming.bundle() {
                Some(bundle) => self.unpacked.extend(bundle),
                None => return Some(incoming),
            }
        }
    }

    async fn next_message(&mut self) -> Option<Message> {
        let [plain, own, any, bundled] = &mut self.requests;
        if self.is_closed {
            for requests in [plain, own, any, bundled] {
                if let Some(message) = requests.next().await {
                    return Some(message);
                }
            }
            return None;
        }
        tokio::select! {
            message = plain.next() => message,
            message = own.next() => message,
            message = any.next() => message,
            message = bundled.next() => message,
            () = self.undiscovered.cancelled() => None,
        }
    }

    fn read(&self, message: Message) -> Incoming {
        let (caller, target) = subject::target(self.kind, &message.subject);
        let headers = message.headers.unwrap_or_default();
        // Names without regard to case, as in HTTP: a key that is overlooked would move money twice.
        let all = |wanted: &str| -> Vec<String> {
            let named = headers.iter().filter(|(name, _)| name.to_string().eq_ignore_ascii_case(wanted));
            named.flat_map(|(_, values)| values.iter().map(|value| value.as_str().to_owned())).collect()
        };
        Incoming {
            target: target.to_owned(),
            caller: caller.map(|(name, reach)| (name.to_owned(), reach)),
            inbox: message.reply.as_ref().map(ToString::to_string),
            idempotency_keys: all(header::IDEMPOTENCY_KEY),
            traceparent: all(header::TRACEPARENT).pop().filter(|trace| trace_context(trace).is_some()),
            respond_async: all(header::PREFER).iter().any(|prefer| prefer.contains(header::RESPOND_ASYNC)),
            tickets: all(header::TICKET),
            conditions: Conditions { if_match: all(header::IF_MATCH), if_none_match: all(header::IF_NONE_MATCH) },
            body: message.payload,
        }
    }

    /// Takes no further requests.
    pub async fn close(&mut self) {
        self.is_closed = true;
        join_all(self.requests.each_mut().map(QueueSubscription::close)).await;
    }
}

impl Incoming {
    /// The requests in it, if it is a bundle.
    fn bundle(&self) -> Option<Vec<Self>> {
        let decode = || bundle::decode_requests(&self.body, self.inbox.as_deref(), self.caller.as_ref());
        let bundle = (self.target == subject::BUNDLE_VERB).then(decode);
        bundle?
    }
}

fn headers_of(response: &Response) -> Result<Headers, InvalidValue> {
    let mut headers = Headers::default();
    if let Some(code) = response.error {
        headers.set(header::SERVICE_ERROR, code.name)?;
        headers.set(header::SERVICE_ERROR_CODE, code.status)?;
        if code.status == Code::UNAVAILABLE.status {
            headers.set(header::RETRY_AFTER, RETRY_AFTER_SECONDS)?;
        }
    }
    if response.not_modified {
        headers.set(header::SERVICE_ERROR, header::NOT_MODIFIED)?;
        headers.set(header::SERVICE_ERROR_CODE, header::NOT_MODIFIED_CODE)?;
    }
    if let Some(version) = response.version {
        headers.set(header::ETAG, version)?;
    }
    if response.replayed {
        headers.set(header::IDEMPOTENCY_REPLAYED, "true")?;
    }
    if response.ticketed {
        headers.set(header::TICKET, header::KEPT)?;
    }
    if response.accepted {
        headers.set(header::PREFERENCE_APPLIED, header::RESPOND_ASYNC)?;
    }
    // It may be from the log, where older programs and others have put what they liked.
    if let Some(traceparent) = response.traceparent.as_deref().and_then(trace_context) {
        headers.set(header::TRACEPARENT, traceparent)?;
    }
    Ok(headers)
}
