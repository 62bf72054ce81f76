//! A connection to NATS that never gives up: it reconnects for ever, and says what it sees.

pub mod access;
pub(crate) mod inbox;
pub(crate) mod isolated;
pub(crate) mod lasting;
pub(crate) mod queue;
pub(crate) mod start;

use std::{
    error::Error,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectErrorKind, Event, Request, RequestError, RequestErrorKind, connection::State};
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use self::{
    access::{Access, FileError},
    isolated::Witness,
    start::Wait,
};
use crate::subject;

/// Oldest server that the shop runs on: before 2.12, `sync_interval: always` could still
/// lose acknowledged messages and stream metadata was rewritten on update.
pub const SERVER_VERSION_MIN: (u64, u64) = (2, 12);

/// How often an idle connection is checked; a dead peer is noticed after two missed answers. Of three
/// servers the others elect a new leader in 4 to 9 seconds: whoever is connected should be back by then.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause between two attempts to reconnect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// Commands that may wait in the client while the socket is busy. Past it `send` waits.
const CLIENT_CAPACITY: usize = 65_536;
/// Messages that may wait in one subscription. The host bounds what it takes in long before;
/// past this the client drops messages and reports a slow consumer, which we log.
const SUBSCRIPTION_CAPACITY: usize = 65_536;
/// Most bytes of what is put together in one message, unless a single part is larger. Half of the server's default
/// `max_payload` (1 MiB).
const BUNDLE_BYTES_MAX: usize = 512 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there, or the handshake failed.
    #[error("cannot reach a nats-server at {url}: {source} (is it running? `cargo run` starts one by itself)")]
    Unreachable {
        /// Where.
        url: String,
        /// What the client said.
        source: async_nats::ConnectError,
    },
    /// It wants to know better who we are, or we who it is.
    #[error(
        "the nats-server at {url} and we do not trust each other: {source} (--nats-nkey or user:password@ in --nats-url \
         lets us in; --nats-ca names who vouches for the server)"
    )]
    NotTrusted {
        /// Where.
        url: String,
        /// What the client said.
        source: async_nats::ConnectError,
    },
    /// What was to let us in is not there.
    #[error(transparent)]
    File(#[from] FileError),
    /// The server is older than [`SERVER_VERSION_MIN`].
    #[error("the nats-server at {url} is version {version}; the shop needs 2.12 or newer (2.15 is what is tested)")]
    TooOld {
        /// Where.
        url: String,
        /// What the server calls itself.
        version: String,
    },
}

/// One TCP connection to NATS. Clones share it.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    connects: watch::Receiver<u64>,
    slow_consumers: Arc<AtomicU64>,
    /// What its inboxes begin with.
    inboxes: Arc<str>,
    /// Whether it was closed on purpose.
    is_closed: Arc<AtomicBool>,
    /// Where to, under which name, and who tells whether its server is cut off.
    made: Arc<(Access, String, Witness)>,
    /// Ends what watches over it, with the last copy.
    _watched: Arc<oneshot::Sender<()>>,
}

impl Connection {
    /// Connects under a `name` that `nats server report connections` shows.
    pub fn connect(access: &Access, name: &str) -> BoxFuture<'static, Result<Self, ConnectError>> {
        // Boxed, because the compiler cannot see through the client's future that it is `Send`.
        Box::pin(Self::connect_to(access.clone(), name.to_owned(), Witness::Leader))
    }

    /// The same, of a program that may be started before its nats-server, or while that is busy: waits for it, for a
    /// minute at most, and says so.
    pub async fn connect_patiently(access: &Access, name: &str) -> Result<Self, ConnectError> {
        patiently(|| Self::connect(access, name)).await
    }

    /// The same, of a bridge: its key lets it ask hosts, and nothing else.
    pub async fn connect_bridge(access: &Access) -> Result<Self, ConnectError> {
        patiently(|| Box::pin(Self::connect_to(access.clone(), "shop bridge".to_owned(), Witness::Host))).await
    }

    /// Whether it was closed on purpose.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// The same once more, in the place of this one, which has [ended](Self::ended).
    pub(crate) async fn again(&self) -> Result<Self, ConnectError> {
        let (access, name, witness) = (*self.made).clone();
        Box::pin(Self::connect_to(access, name, witness)).await
    }

    async fn connect_to(access: Access, name: String, witness: Witness) -> Result<Self, ConnectError> {
        let made = Arc::new((access.clone(), name.clone(), witness));
        let (connected, connects) = watch::channel(0);
        let connected = Arc::new(connected);
        let slow_consumers = Arc::new(AtomicU64::new(0));
        let slow = Arc::clone(&slow_consumers);
        let label: Arc<str> = name.as_str().into();
        let failed = |source: async_nats::ConnectError| {
            let url = access.url.to_string();
            if is_about_trust(&source) {
                ConnectError::NotTrusted { url, source }
            } else {
                ConnectError::Unreachable { url, source }
            }
        };
        let (options, inboxes) = access.options()?;
        let client = options
            .name(name.clone())
            .custom_inbox_prefix(&inboxes)
            .ping_interval(PING_INTERVAL)
            .client_capacity(CLIENT_CAPACITY)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                let (connected, label) = (Arc::clone(&connected), Arc::clone(&label));
                if let Event::SlowConsumer(_) = event {
                    slow.fetch_add(1, Ordering::Relaxed);
                }
                async move { observe(&event, &label, &connected) }
            })
            .connect(access.servers())
            .await
            .map_err(failed)?;
        let version = client.server_info().version;
        if !is_new_enough(&version) {
            return Err(ConnectError::TooOld { url: access.url.to_string(), version });
        }
        let (watched, end) = oneshot::channel();
        if client.server_info().cluster.is_some() {
            tokio::spawn(isolated::watch(client.clone(), name, witness, end));
        }
        Ok(Self {
            client,
            connects,
            slow_consumers,
            inboxes: inboxes.into(),
            is_closed: Arc::default(),
            made,
            _watched: Arc::new(watched),
        })
    }

    /// The client underneath, for this crate only.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What the inboxes of this client begin with.
    pub(crate) fn inboxes(&self) -> &str {
        &self.inboxes
    }

    /// Whether the socket is up right now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Counts the times that the connection was (re-)established; a change means that
    /// whatever was on its way may be lost.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// Returns when the client has ended for good: it was closed, or it has panicked over something that came in
    /// (async-nats 0.51 does over a header with a carriage return in it), and says nothing of that. What it calls with
    /// its events goes with it.
    pub async fn ended(&self) {
        let mut connects = self.connects();
        while connects.changed().await.is_ok() {}
    }

    /// Counts the times that a subscription was full and messages were dropped.
    pub fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Relaxed)
    }

    /// Whether the server is part of a cluster.
    pub fn is_clustered(&self) -> bool {
        self.client.server_info().cluster.is_some()
    }

    /// What the server calls its version.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// Whether the server keeps logs, and answers.
    pub async fn has_jetstream(&self) -> bool {
        isolated::is_answered(&self.client, Witness::Leader).await
    }

    /// Largest payload that the server takes, in bytes.
    pub fn payload_bytes_max(&self) -> usize {
        self.client.max_payload()
    }

    /// Most bytes of what is put together in one message.
    pub(crate) fn bundle_bytes_max(&self) -> usize {
        BUNDLE_BYTES_MAX.min(self.payload_bytes_max() / 2)
    }

    /// Waits until the server has done all that it was sent before: it answers in turn that nobody listens there.
    /// Of a connection that is lost meanwhile there is no answer.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), RequestError> {
        let request = Request::new().timeout(Some(limit));
        match self.client.send_request(subject::NOBODY, request).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Lets all that was published arrive, in at most `limit`, and closes the connection. That it has left is not
    /// enough: a socket that is closed before all that came in was read takes back what the server has not read yet.
    pub async fn close(&self, limit: Duration) {
        self.is_closed.store(true, Ordering::Relaxed);
        if self.is_connected()
            && let Err(error) = self.round_trip(limit).await
        {
            tracing::warn!(
                "the nats-server does not say at the end, within {limit:?}, that all has arrived which was published: {error}"
            );
        }
        if let Err(error) = self.client.drain().await {
            tracing::debug!("the connection was closed already: {error}");
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.client.connection_state()).finish_non_exhaustive()
    }
}

/// Connects, again and again while there is no server, for a minute at most.
async fn patiently(
    mut connect: impl FnMut() -> BoxFuture<'static, Result<Connection, ConnectError>>,
) -> Result<Connection, ConnectError> {
    let mut wait = Wait::begin();
    loop {
        match connect().await {
            Err(error @ ConnectError::Unreachable { .. }) if wait.goes_on(&error).await => {}
            outcome => return outcome,
        }
    }
}

/// Whether a server was there, and it or we did not want to go on.
fn is_about_trust(error: &async_nats::ConnectError) -> bool {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Tls => true,
        // A certificate that nobody vouches for comes as bytes that make no sense.
        ConnectErrorKind::Io => {
            let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            source.is_some_and(|source| source.kind() == io::ErrorKind::InvalidData)
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::MaxReconnects => false,
    }
}

fn observe(event: &Event, name: &str, connected: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            connected.send_modify(|times| *times += 1);
            tracing::info!("{name}: connected to NATS");
        }
        Event::Disconnected => tracing::warn!("{name}: lost the connection to NATS, trying again"),
        Event::SlowConsumer(subscription) => {
            tracing::error!("{name}: subscription {subscription} is full, messages were dropped");
        }
        Event::ServerError(error) => tracing::error!("{name}: the nats-server says: {error}"),
        // Each failed attempt to reconnect is one of these; that the connection is lost was said before.
        Event::ClientError(error) => tracing::debug!("{name}: NATS client error: {error}"),
        Event::LameDuckMode => tracing::warn!("{name}: the nats-server is shutting down"),
        Event::Draining | Event::Closed => tracing::debug!("{name}: {event}"),
    }
}

/// Doubles from 10 ms to [`RECONNECT_DELAY_MAX`], with up to a quarter of jitter so that a
/// whole fleet does not knock at the same moment.
fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = Duration::from_millis(10) * 2u32.saturating_pow(attempts.min(16) as u32);
    let delay = doubled.min(RECONNECT_DELAY_MAX);
    let jitter = uuid::Uuid::new_v4().as_bytes()[0];
    delay - delay / 4 * u32::from(jitter) / 255
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u64>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= SERVER_VERSION_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_from_2_12_on_are_new_enough() {
        for version in ["2.12.0", "2.15.1", "2.15.0-RC.1", "3.0.0"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["2.11.11", "2.9.0", "1.99.0", "", "dev"] {
            assert!(!is_new_enough(version), "{version:?}");
        }
    }

    #[test]
    fn the_pause_between_two_attempts_is_bounded() {
        for attempts in [0, 1, 5, 16, 1_000_000] {
            assert!(reconnect_delay(attempts) <= RECONNECT_DELAY_MAX);
        }
    }
}
