//! Streams that are filled from a backup. No host takes one of them for a log until all of them are whole.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use async_nats::jetstream::{
    self,
    context::{PublishAckFuture, PublishError},
    message::StreamMessage,
    stream::Config,
};
use bytes::Bytes;
use shop_domain::{kind::Kind, timestamp::Timestamp};
use tokio::time::{Instant, sleep};

use crate::{
    connection::Connection,
    header::{self, Headers},
    jetstream::taken_at,
    log::{Record, frame::Cause},
    stream::{
        stored::message_at,
        topology::{self, Topology, TopologyError},
    },
    subject,
};

/// Messages on their way at a time, and bytes of them: enough to keep any disk busy.
const WINDOW_MESSAGES: usize = 1_000;
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// How long an acknowledgement, or any other answer, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may be acknowledged until the restore is given up: longer than some elections in a row.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long it is tried to make a stream: longer than an election takes, or removing another one's files.
const MAKE_LIMIT: Duration = Duration::from_secs(10);
/// Pause before what was not acknowledged is sent again, or what was not made is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A message as it is stored in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// When the stream took it first.
    pub time: Timestamp,
    /// What of its headers counts.
    pub headers: Vec<(String, String)>,
    /// What it says.
    pub payload: Bytes,
}

impl Stored {
    /// A record of a kind's log that is cut into so many partitions. One that is none of the log's keeps its place.
    pub fn of(kind: Kind, partitions: u16, record: Record) -> Self {
        let Record { sequence, partition, time, payload, foreign, is_skipped: _ } = record;
        let has_no_place = partition >= partitions;
        let foreign = foreign.or_else(|| has_no_place.then(|| subject::log(kind, 0, partition).into()));
        let headers: Vec<_> = foreign.iter().map(|of| (header::FOREIGN_SUBJECT.to_owned(), of.to_string())).collect();
        let partition = if foreign.is_some() { 0 } else { partition };
        Self { sequence, subject: subject::log(kind, 0, partition), time, headers, payload }
    }

    /// A message of the stream of dead letters. One that is none of that stream's keeps its place.
    pub(crate) fn of_dead(message: StreamMessage) -> Self {
        let StreamMessage { sequence, subject, headers, payload, time, .. } = message;
        let time = taken_at(Some(&headers), time.unix_timestamp_nanos());
        let kept = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| {
            let name = header::kept(name.as_ref())?;
            Some((name.to_owned(), values.first()?.as_str().to_owned()))
        };
        let headers: Vec<_> = headers.iter().filter_map(kept).collect();
        if subject::is_of_dead(&subject) {
            return Self { sequence, subject: subject.to_string(), time, headers, payload };
        }
        let headers = vec![(header::FOREIGN_SUBJECT.to_owned(), subject.to_string())];
        Self { sequence, subject: subject::foreign_dead(sequence), time, headers, payload }
    }

    /// What its messages follow from, if it is a record that holds some of a partition.
    pub fn cause(&self) -> Option<Cause> {
        let is_foreign = self.headers.iter().any(|(name, _)| name == header::FOREIGN_SUBJECT);
        if is_foreign { None } else { Cause::of(&self.payload) }
    }

    /// Whether a message is this one, put back.
    fn is(&self, found: &StreamMessage) -> bool {
        let time = taken_at(Some(&found.headers), found.time.unix_timestamp_nanos());
        (&*self.subject, &self.payload, self.time) == (&*found.subject, &found.payload, time)
    }
}

/// What a log was that is to be there again.
#[derive(Clone, Copy, Debug)]
pub struct Original {
    /// Whose log.
    pub kind: Kind,
    /// The epoch by which links know it.
    pub link_epoch: u64,
    /// In how many partitions the kind is cut.
    pub partitions: u16,
    /// The number of the logic version that it begins with.
    pub logic: u32,
    /// Its first record's sequence.
    pub first_sequence: u64,
}

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already.
    #[error(
        "there is a shop on this nats-server already: it has the stream {0}, and a backup is restored into an empty \
         JetStream only. If it is to go, stop its hosts, and remove its streams with `nats stream rm`"
    )]
    NotEmpty(String),
    /// There is something in a stream that was just made.
    #[error(
        "the stream {0} was just made and is not empty: nats-server still had the files of one that was removed. \
         Start that again, and then the restore"
    )]
    Revived(String),
    /// Something is in a stream that is not from the backup.
    #[error(
        "somebody else appends to the stream {0}: stop all hosts, also those that were forgotten elsewhere, and begin \
         the restore again"
    )]
    SomebodyElse(String),
    /// The server did not do what it was asked.
    #[error("cannot restore into the stream {stream}: {reason}")]
    Server {
        /// Which stream.
        stream: String,
        /// Why.
        reason: String,
    },
    /// The streams cannot be made.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// A restore that was begun where there is room for it.
#[derive(Debug)]
pub struct Restore {
    context: jetstream::Context,
    /// What all of its streams say, and no others.
    number: u64,
    replicas: usize,
}

impl Connection {
    /// Begins a restore where there is no shop. What another one has left that was interrupted goes.
    pub async fn begin_restore(&self, topology: Topology) -> Result<Restore, RestoreError> {
        let (context, replicas) = (context(self), self.replicas(topology)?);
        make_room(&context).await?;
        Ok(Restore { context, number: topology::random(), replicas })
    }
}

/// Removes the streams of a restore that was interrupted, and nothing else.
async fn make_room(context: &jetstream::Context) -> Result<(), RestoreError> {
    let names = Kind::ALL.map(subject::stream).into_iter();
    let mut found = vec![];
    for name in names.chain([subject::DEAD_STREAM, subject::LAYOUT_STREAM].map(str::to_owned)) {
        found.extend(topology::find(context, &name).await?.map(|info| info.config));
    }
    // One that is open already may go with those that are not: no host has begun with it, because that takes all logs.
    let unfinished: BTreeSet<_> =
        found.iter().filter(|config| topology::is_closed(config)).filter_map(topology::restored_by).collect();
    let is_unfinished = |config: &Config| {
        topology::is_closed(config) || topology::restored_by(config).is_some_and(|by| unfinished.contains(by))
    };
    if let Some(config) = found.iter().find(|config| !is_unfinished(config)) {
        return Err(RestoreError::NotEmpty(config.name.clone()));
    }
    // Those that are closed last, so that no host begins with what is left if this is interrupted.
    found.sort_by_key(topology::is_closed);
    for Config { name, .. } in found {
        context.delete_stream(&name).await.map_err(|error| failed(&name, &error))?;
    }
    Ok(())
}

impl Restore {
    /// Makes a log that is as this one was, but empty and closed.
    pub async fn log(&self, original: Original) -> Result<Restoring, RestoreError> {
        let Original { kind, link_epoch, partitions, logic, first_sequence } = original;
        let epoch = topology::random();
        let config = topology::log(kind, epoch, partitions, logic, self.replicas);
        self.make(topology::linked(config, link_epoch), epoch, first_sequence).await
    }

    /// Makes a stream of dead letters that is empty and closed.
    pub async fn dead_letters(&self, first: u64) -> Result<Restoring, RestoreError> {
        self.make(topology::dead_letters(self.replicas), 0, first).await
    }

    async fn make(&self, config: Config, epoch: u64, first_sequence: u64) -> Result<Restoring, RestoreError> {
        let config = Config { first_sequence: Some(first_sequence).filter(|first| *first > 1), ..config };
        let (context, stream) = (self.context.clone(), config.name.clone());
        let made = make(&context, &topology::closed(config, self.number)).await?;
        // A nats-server that could not remove the files of a stream of that name would find them again.
        if made.state.messages > 0 || made.state.last_sequence >= first_sequence {
            return Err(RestoreError::Revived(stream));
        }
        let created_unix_ns = made.created.unix_timestamp_nanos();
        Ok(Restoring {
            context,
            stream,
            epoch,
            created_unix_ns,
            next: first_sequence,
            window: VecDeque::new(),
            window_bytes: 0,
            heard: Instant::now(),
        })
    }
}

/// A stream that is being filled.
#[derive(Debug)]
pub struct Restoring {
    context: jetstream::Context,
    stream: String,
    /// The epoch of the new log.
    pub epoch: u64,
    /// When the new stream was created, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i128,
    next: u64,
    /// What is not acknowledged, oldest first.
    window: VecDeque<Sent>,
    window_bytes: usize,
    /// When something was acknowledged last.
    heard: Instant,
}

#[derive(Debug)]
struct Sent {
    message: Stored,
    ack: Result<PublishAckFuture, PublishError>,
}

impl Restoring {
    /// Puts the next message back; it may be on its way for a while.
    pub async fn put(&mut self, message: Stored) -> Result<(), RestoreError> {
        if message.sequence != self.next {
            let reason = format!("sequence {} where {} should be put back", message.sequence, self.next);
            return Err(RestoreError::Server { stream: self.stream.clone(), reason });
        }
        self.next += 1;
        if self.window.is_empty() {
            self.heard = Instant::now();
        }
        self.window_bytes += message.payload.len();
        let ack = self.send(&message).await;
        self.window.push_back(Sent { message, ack });
        while self.window.len() > WINDOW_MESSAGES || self.window_bytes > WINDOW_BYTES {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    /// Waits until all that was put back is stored, and nothing else is.
    pub async fn settle(&mut self) -> Result<(), RestoreError> {
        while !self.window.is_empty() {
            self.settle_oldest().await?;
        }
        persistently(|| self.settled()).await.map(drop)
    }

    /// Lets hosts use the stream.
    pub async fn open(self) -> Result<(), RestoreError> {
        let Self { context, stream, .. } = &self;
        persistently(async || {
            let config = topology::opened(self.settled().await?);
            context.update_stream(config).await.map(drop).map_err(|error| failed(stream, &error))
        })
        .await
    }

    /// How the stream is configured, if it ends with what was put back last.
    async fn settled(&self) -> Result<Config, RestoreError> {
        let stream = self.context.get_stream(&self.stream).await.map_err(|error| failed(&self.stream, &error))?;
        let (last, expected) = (stream.cached_info().state.last_sequence, self.next - 1);
        match last.cmp(&expected) {
            Ordering::Equal => Ok(stream.cached_info().config.clone()),
            Ordering::Greater => Err(RestoreError::SomebodyElse(self.stream.clone())),
            // Who was just elected to lead it may not know the end of it yet.
            Ordering::Less => {
                let reason = format!("it ends at sequence {last} instead of {expected}");
                Err(RestoreError::Server { stream: self.stream.clone(), reason })
            }
        }
    }

    /// Only behind the one before it: so each comes to its own sequence, however often it is sent.
    async fn send(&self, message: &Stored) -> Result<PublishAckFuture, PublishError> {
        let mut headers = Headers::default();
        let before = message.sequence.saturating_sub(1);
        headers.set_readable(header::EXPECTED_LAST_SEQUENCE, &before.to_string());
        headers.set_readable(header::TAKEN_AT, &message.time.unix_ms().to_string());
        // They come from a file.
        for (name, value) in &message.headers {
            if let Some(name) = header::kept(name) {
                headers.set_readable(name, value);
            }
        }
        self.context.publish_with_headers(message.subject.clone(), headers.into(), message.payload.clone()).await
    }

    async fn settle_oldest(&mut self) -> Result<(), RestoreError> {
        let Some(Sent { message, ack }) = self.window.pop_front() else { return Ok(()) };
        let acknowledged = match ack {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(_) => self.stored(&message),
            Err(error) if self.heard.elapsed() > SILENCE_MAX => return Err(failed(&self.stream, &error)),
            Err(error) => {
                tracing::debug!("{} at {}: {error}; sending again", self.stream, message.sequence);
                self.window.push_front(Sent { message, ack: Err(error) });
                sleep(RETRY).await;
                self.send_again().await?;
            }
        }
        Ok(())
    }

    /// Sends again what the stream does not have.
    async fn send_again(&mut self) -> Result<(), RestoreError> {
        // Who cannot say how far it goes, or what is there, is asked again after the next failure.
        let Ok(stream) = self.context.get_stream(&self.stream).await else { return Ok(()) };
        let last = stream.cached_info().state.last_sequence;
        while let Some(Sent { message, .. }) = self.window.front().filter(|sent| sent.message.sequence <= last) {
            match message_at(&self.context, &self.stream, message.sequence).await {
                Ok(Some(found)) if message.is(&found) => {}
                Ok(Some(_)) => return Err(RestoreError::SomebodyElse(self.stream.clone())),
                Ok(None) | Err(_) => return Ok(()),
            }
            self.window_bytes -= message.payload.len();
            self.heard = Instant::now();
            self.window.pop_front();
        }
        for index in 0..self.window.len() {
            let ack = self.send(&self.window[index].message).await;
            self.window[index].ack = ack;
        }
        Ok(())
    }

    fn stored(&mut self, message: &Stored) {
        self.window_bytes -= message.payload.len();
        self.heard = Instant::now();
    }
}

/// Tries again what a nats-server could not say or do: it may have to find a leader first.
async fn persistently<T>(step: impl AsyncFn() -> Result<T, RestoreError>) -> Result<T, RestoreError> {
    let begin = Instant::now();
    loop {
        match step().await {
            Err(error @ RestoreError::Server { .. }) if begin.elapsed() < SILENCE_MAX => {
                tracing::debug!("{error}; trying again");
            }
            outcome => return outcome,
        }
        sleep(RETRY).await;
    }
}

/// Makes a stream, and tries again what a nats-server says no to that is still removing the one before it.
async fn make(context: &jetstream::Context, config: &Config) -> Result<jetstream::stream::Info, RestoreError> {
    let begin = Instant::now();
    loop {
        match context.create_stream(config.clone()).await {
            Ok(made) => return Ok(made.cached_info().clone()),
            Err(error) if topology::is_name_taken(&error.kind()) => {
                return Err(RestoreError::NotEmpty(config.name.clone()));
            }
            Err(error) if begin.elapsed() > MAKE_LIMIT => return Err(failed(&config.name, &error)),
            Err(error) => tracing::debug!("{}: {error}; trying again", config.name),
        }
        sleep(RETRY).await;
    }
}

fn context(connection: &Connection) -> jetstream::Context {
    jetstream::context::ContextBuilder::new()
        .timeout(ANSWER_TIMEOUT)
        .max_ack_inflight(WINDOW_MESSAGES * 2)
        .build(connection.client().clone())
}

fn failed(stream: &str, error: &dyn std::error::Error) -> RestoreError {
    RestoreError::Server { stream: stream.to_owned(), reason: error.to_string() }
}
