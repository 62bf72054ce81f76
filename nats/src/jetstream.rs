//! The log on NATS JetStream.

pub mod dead;
pub(crate) mod disruption;
mod reader;
pub mod restore;
pub mod trim;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        self, ErrorCode,
        context::PublishErrorKind,
        message::StreamMessage,
        stream::{Info, State},
    },
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_domain::{kind::Kind, timestamp::Timestamp};
use tokio::sync::{mpsc, watch};

use self::{disruption::Disruptions, reader::Reader};
use crate::{
    connection::{Connection, lasting::Lasting},
    header::{self, Headers},
    log::{AppendError, Appending, Identity, Log, LogError, READ_AHEAD, Record, TrimError, frame},
    stream::{
        layout::{Decided, LayoutError},
        stored::{last_of, message_at},
        topology::identity_of,
    },
    subject,
};

/// How long an acknowledgement may take before the frame counts as lost and is sent again. A
/// disk that takes longer for one fsync is not helped by more of them.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long any other answer may take until it is asked again. It needs no disk; but who asks while
/// a leader is being elected gets none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the leader of a replicated log may not have heard of most of the others while what it
/// says counts. They say something every second, and wait four until they elect another one: by
/// then it does not count any more. (`hbInterval`, `minElectionTimeout` in nats-server's raft.go.)
const LEADER_ALONE_MAX: Duration = Duration::from_secs(3);
/// Frames on their way at a time, over all partitions of a process. Each partition bounds its own
/// window far below; this is the client's own semaphore, which must not be what binds.
const ACKS_PENDING_MAX: usize = 16_384;
/// Most bytes of the reason of a dead letter, which may quote what it is about. All headers together
/// may have 64 KiB.
const DEAD_REASON_BYTES_MAX: usize = 1_024;
/// What the headers of a dead letter may take of the server's largest payload.
const DEAD_HEADERS_BYTES_MAX: usize = 4 * 1_024;

/// How the log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By consumers, which bring what comes at once.
    Consumer,
    /// By requests. A tool reads like this, because its key makes no consumers: who may make one may let JetStream
    /// deliver messages to wherever it likes, also into a log.
    Requests,
}

/// The connection that is read over.
#[derive(Clone, Debug)]
struct Reading {
    context: jetstream::Context,
    /// How often it was made.
    reconnects: watch::Receiver<u64>,
}

/// What is stored at a sequence, as the server gives it.
struct Stored<'a> {
    subject: &'a str,
    headers: Option<&'a HeaderMap>,
    payload: Bytes,
}

impl<'a> Stored<'a> {
    fn of(StreamMessage { subject, headers, payload, .. }: &'a StreamMessage) -> Self {
        Self { subject, headers: Some(headers), payload: payload.clone() }
    }
}

/// The log on NATS JetStream. It reads and publishes over separate connections, because the client
/// runs each connection in one task.
#[derive(Clone)]
pub struct JetStreamLog {
    reading: Lasting<Reading>,
    publishing: jetstream::Context,
    way: Way,
    /// Of the layout under which it is appended to and read.
    generation: u32,
    /// Of each kind whose log is read from before that, where each generation begins.
    begins: Arc<BTreeMap<Kind, Vec<u64>>>,
    /// Of what is asked.
    read_disruptions: Disruptions,
    /// Of what is published.
    disruptions: Disruptions,
}

impl JetStreamLog {
    /// The log as it is cut now, read over one connection and published to over the other; for a tool.
    pub async fn open(reading: &Connection, publishing: &Connection) -> Result<Self, LayoutError> {
        let decided = publishing.decided().await?;
        Ok(Self::for_a_tool(decided.generation(), reading, publishing))
    }

    /// The same, to be read from its beginning on, under whichever layout each record was written; and what that is.
    pub async fn open_whole(reading: &Connection, publishing: &Connection) -> Result<(Self, Decided), LayoutError> {
        let decided = publishing.decided().await?;
        let begins = |kind| {
            let now = decided.of(kind).map_or(1, |cut| cut.begins_at);
            let before = decided.before(kind)?.iter().map(|stretch| stretch.begins_at);
            Some((kind, before.chain([now]).collect()))
        };
        let begins = Arc::new(Kind::ALL.into_iter().filter_map(begins).collect());
        Ok((Self { begins, ..Self::for_a_tool(decided.generation(), reading, publishing) }, decided))
    }

    /// The same as [`Self::of_generation`], read without a consumer, for which a tool's key is not enough.
    pub fn for_a_tool(generation: u32, reading: &Connection, publishing: &Connection) -> Self {
        Self { way: Way::Requests, ..Self::of_generation(generation, reading, publishing) }
    }

    /// The log under the layout of that generation, and no other: once there is another one, nothing can be
    /// appended, and what comes under it is not read.
    pub fn of_generation(generation: u32, reading: &Connection, publishing: &Connection) -> Self {
        fn context(connection: &Connection, timeout: Duration) -> jetstream::Context {
            jetstream::context::ContextBuilder::new()
                .timeout(timeout)
                .max_ack_inflight(ACKS_PENDING_MAX)
                .build(connection.client().clone())
        }
        Self {
            reading: Lasting::over(reading.clone(), move |reading| Reading {
                context: context(reading, ANSWER_TIMEOUT),
                reconnects: reading.connects(),
            }),
            publishing: context(publishing, ACK_TIMEOUT),
            way: Way::Consumer,
            generation,
            begins: Arc::default(),
            read_disruptions: Disruptions::over(reading),
            disruptions: Disruptions::over(publishing),
        }
    }

    /// The generation of the layout under which a sequence counts.
    fn generation_at(&self, kind: Kind, sequence: u64) -> u32 {
        let later = |begins: &Vec<u64>| begins.iter().filter(|begins_at| **begins_at > sequence).count() as u32;
        self.generation.saturating_sub(self.begins.get(&kind).map_or(0, later))
    }

    /// What is stored at a sequence, as everybody takes it who reads it under the layout that counts there; see
    /// [`Record::of`].
    ///
    /// What has a subject of no log of this kind is no record of the log, and keeps its place as well. Nor is what has
    /// one of a later layout, if there is none: one that came to nothing has left no more than an upgrade.
    fn record_of(&self, kind: Kind, sequence: u64, stored_unix_ns: i128, stored: Stored<'_>) -> Record {
        let Stored { subject, headers, payload } = stored;
        let time = taken_at(headers, stored_unix_ns);
        let restored_as = headers.and_then(|headers| headers.get(header::FOREIGN_SUBJECT));
        match (subject::place(kind, subject), restored_as) {
            (Some(_), Some(subject)) => Record {
                sequence,
                partition: 0,
                time,
                payload,
                foreign: Some(subject.as_str().into()),
                is_skipped: false,
            },
            (Some((generation, _)), None) if generation > self.generation && !frame::is_known_upgrade(&payload) => {
                self.foreign(sequence, stored_unix_ns, subject, payload)
            }
            (Some(place), None) => Record::of(place, self.generation_at(kind, sequence), sequence, time, payload),
            (None, _) => self.foreign(sequence, stored_unix_ns, subject, payload),
        }
    }

    /// Appends to a partition's log, unless something has come to it behind that sequence, which is not known to who
    /// appends: then nothing is appended, and none is returned.
    pub async fn append_behind(
        &self,
        kind: Kind,
        partition: u16,
        payload: Bytes,
        known: u64,
    ) -> Result<Option<u64>, AppendError> {
        let subject = subject::log(kind, self.generation, partition);
        let failed = |reason: String| AppendError { subject: subject.clone(), reason, is_full: false };
        let last = last_of(&self.publishing, &subject::stream(kind), &subject).await.map_err(failed)?;
        let last = last.map_or(0, |message| message.sequence);
        if last > known {
            return Ok(None);
        }
        let mut headers = Headers::default();
        headers.set_readable(header::EXPECTED_LAST_SUBJECT_SEQUENCE, &last.to_string());
        let ack = self.publishing.publish_with_headers(subject.clone(), headers.into(), payload).await;
        match ack.map_err(|error| failed(error.to_string()))?.await {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// What is stored at a sequence; none if the log does not hold it.
    async fn stored_at(&self, kind: Kind, sequence: u64) -> Result<Option<StreamMessage>, LogError> {
        let failed = |reason: String| LogError::Failed { kind, reason };
        let found = message_at(&self.reading.now().context, &subject::stream(kind), sequence).await.map_err(failed)?;
        // Whoever leads no more, and does not know it yet, says so of all that came since.
        if found.is_none() && holds(&self.led(kind).await?.state, sequence) {
            return Err(failed(format!("a server answers that does not have sequence {sequence} yet")));
        }
        Ok(found)
    }

    /// A record, marked if an operator has let it be skipped. Only of what may be an upgrade anybody is asked.
    async fn unless_skipped(&self, kind: Kind, record: Record) -> Result<Record, LogError> {
        if record.foreign.is_some() || !frame::may_be_an_upgrade(&record.payload) {
            return Ok(record);
        }
        let (context, subject) = (self.reading.now().context, subject::skipped(kind, record.sequence));
        let note = last_of(&context, subject::DEAD_STREAM, &subject).await;
        let note = note.map_err(|reason| LogError::Failed { kind, reason })?;
        // Of a log that was lost, and made anew, other records were skipped.
        let is_skipped = note.is_some_and(|note| note.payload == record.payload);
        Ok(Record { is_skipped, ..record })
    }

    /// A record that is none of the log's. Its headers are as foreign as the rest.
    fn foreign(&self, sequence: u64, stored_unix_ns: i128, subject: &str, payload: Bytes) -> Record {
        let (time, foreign) = (taken_at(None, stored_unix_ns), Some(subject.into()));
        Record { sequence, partition: 0, time, payload, foreign, is_skipped: false }
    }

    /// How the server describes the stream of a kind that leads it.
    fn led(&self, kind: Kind) -> impl Future<Output = Result<Info, LogError>> + Send + 'static {
        let (context, mut disruptions) = (self.reading.now().context, self.read_disruptions.of(kind));
        disruptions.mark_unchanged();
        async move {
            let failed = |reason: String| LogError::Failed { kind, reason };
            let stream = loop {
                tokio::select! {
                    stream = context.get_stream(subject::stream(kind)) => break stream,
                    // What was on its way is lost: all reads wait for this, so it is asked again at once.
                    Ok(()) = disruptions.changed() => {}
                }
            };
            let info = stream.map_err(|error| failed(error.to_string()))?.cached_info().clone();
            is_led(&info).map_err(failed)?;
            Ok(info)
        }
    }
}

impl fmt::Debug for JetStreamLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamLog").finish_non_exhaustive()
    }
}

impl Log for JetStreamLog {
    fn append(&self, kind: Kind, partition: u16, frame: Bytes) -> BoxFuture<'static, Result<Appending, AppendError>> {
        let (context, generation) = (self.publishing.clone(), self.generation);
        async move {
            let subject = subject::log(kind, generation, partition);
            let failed = move |error: async_nats::error::Error<PublishErrorKind>| AppendError {
                subject: subject::log(kind, generation, partition),
                is_full: is_full(&error),
                reason: error.to_string(),
            };
            let ack = context.publish(subject, frame).await.map_err(failed)?;
            let ack: Appending = async move { ack.await.map(|ack| ack.sequence).map_err(failed) }.boxed();
            Ok(ack)
        }
        .boxed()
    }

    fn read(&self, kind: Kind, epoch: u64, after: u64) -> mpsc::Receiver<Result<Record, LogError>> {
        let (records, receiver) = mpsc::channel(READ_AHEAD);
        let reader = Reader {
            log: self.clone(),
            kind,
            epoch,
            after,
            rolled_back: 0,
            is_behind_later: false,
            unexplained: None,
            no_layout: None,
            is_stuck: false,
            records,
        };
        tokio::spawn(reader.run());
        receiver
    }

    fn last_sequence(&self, kind: Kind) -> BoxFuture<'static, Result<u64, LogError>> {
        let identity = self.identity(kind);
        async move { Ok(identity.await?.last_sequence) }.boxed()
    }

    fn record(&self, kind: Kind, sequence: u64) -> BoxFuture<'static, Result<Option<Record>, LogError>> {
        let log = self.clone();
        async move {
            let message = log.stored_at(kind, sequence).await?;
            let Some(message) = message else { return Ok(None) };
            let record = log.record_of(kind, sequence, unix_ns(&message), Stored::of(&message));
            log.unless_skipped(kind, record).await.map(Some)
        }
        .boxed()
    }

    fn identity(&self, kind: Kind) -> BoxFuture<'static, Result<Identity, LogError>> {
        let info = self.led(kind);
        async move { identity_of(&info.await?).map_err(|error| LogError::Failed { kind, reason: error.to_string() }) }
            .boxed()
    }

    fn bury(&self, kind: Kind, epoch: u64, record: Record, reason: String) -> BoxFuture<'static, Result<(), LogError>> {
        let context = self.publishing.clone();
        async move {
            // What was skipped is kept where that was noted.
            if record.is_skipped {
                return Ok(());
            }
            let origin = format!("{kind}/{}", record.sequence);
            let mut headers = Headers::default();
            let reason = &reason[..reason.floor_char_boundary(DEAD_REASON_BYTES_MAX)];
            headers.set_readable(header::DEAD_REASON, reason);
            headers.set_readable(header::DEAD_ORIGIN, &origin);
            // Only if there is nothing from that place: whoever applies the log again buries again.
            headers.set_readable(header::EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
            let failed = |error: async_nats::error::Error<PublishErrorKind>| LogError::Failed {
                kind,
                reason: format!("cannot keep a dead letter: {error}"),
            };
            let subject = subject::dead(kind, epoch, record.sequence);
            let room = context.client().server_info().max_payload.saturating_sub(DEAD_HEADERS_BYTES_MAX);
            // The log itself keeps all of it.
            let payload = record.payload.slice(..record.payload.len().min(room));
            let ack = context.publish_with_headers(subject, headers.into(), payload).await.map_err(failed)?;
            match ack.await {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
                Err(error) => Err(failed(error)),
            }
        }
        .boxed()
    }

    fn trim(&self, kind: Kind, epoch: u64, from: u64) -> BoxFuture<'static, Result<u64, TrimError>> {
        trim::trim(self.publishing.clone(), kind, epoch, from).boxed()
    }

    fn disruptions(&self, kind: Kind) -> watch::Receiver<u64> {
        self.disruptions.of(kind)
    }
}

/// Whether a server says that it has not stored something for want of room: that of the stream, of the
/// account or of the server itself.
fn is_full(error: &async_nats::error::Error<PublishErrorKind>) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    let Some(error) = source else { return false };
    let no_room = [
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
    ];
    // Other failures of a store have the same code, of which nobody knows how far they came.
    let is_beyond_limit =
        error.error_code() == ErrorCode::STREAM_STORE_FAILED && error.to_string().contains("maximum ");
    is_beyond_limit || no_room.contains(&error.error_code())
}

/// Whether whoever says this leads the log. A server that was cut off from the others, or frozen, goes on for
/// seconds to believe that it leads, and would say how far the log went before. And one that knows of no leader
/// answers as well, with what it has (nats-server 2.15, seen when it could reach the others again).
fn is_led(info: &Info) -> Result<(), String> {
    let Some(cluster) = &info.cluster else { return Ok(()) };
    let Some(leader) = cluster.leader.as_deref().filter(|leader| !leader.is_empty()) else {
        return Err("a server answers that knows of no leader".to_owned());
    };
    // Whoever answers names all but itself.
    if cluster.replicas.iter().any(|peer| peer.name == leader) {
        return Err(format!("another server than {leader} answers, which leads"));
    }
    // One of whom nothing was ever heard has 0 as well.
    let is_heard = |peer: &&jetstream::stream::PeerInfo| {
        !peer.offline && !peer.active.is_zero() && peer.active <= LEADER_ALONE_MAX
    };
    let agree = 1 + cluster.replicas.iter().filter(is_heard).count();
    if agree > info.config.num_replicas / 2 {
        return Ok(());
    }
    Err(format!("{leader} says that it leads, but has not heard of the others for {LEADER_ALONE_MAX:?}"))
}

/// Whether a stream in this state is sure to hold a message at that sequence: it is within, and there are no holes.
fn holds(state: &State, sequence: u64) -> bool {
    let span = (state.first_sequence..=state.last_sequence).contains(&sequence);
    span && state.messages == state.last_sequence - state.first_sequence + 1
}

/// When a message was stored, in nanoseconds since 1970.
fn unix_ns(message: &StreamMessage) -> i128 {
    message.time.unix_timestamp_nanos()
}

/// When a log took a message first, which a backup has kept, or else when it was stored.
pub(crate) fn taken_at(headers: Option<&HeaderMap>, stored_unix_ns: i128) -> Timestamp {
    let kept = headers.and_then(|headers| headers.get(header::TAKEN_AT)).and_then(|kept| kept.as_str().parse().ok());
    Timestamp::from_unix_ms(kept.unwrap_or_else(|| u64::try_from(stored_unix_ns / 1_000_000).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a stream's leader says of itself and its followers, who were heard of so many seconds ago.
    fn info(copies: usize, heard: &[u64], offline: &[bool]) -> Info {
        let follower = |(number, (seconds, offline)): (usize, (&u64, &bool))| {
            let active = Duration::from_secs(*seconds).as_nanos() as u64;
            json!({ "name": format!("nats-{}", number + 2), "current": true, "active": active, "offline": offline })
        };
        let replicas: Vec<_> = heard.iter().zip(offline).enumerate().map(follower).collect();
        let info = json!({
            "config": { "name": "SHOP_ORDER", "subjects": ["shop.log.order.0"], "retention": "limits",
                "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "discard": "new", "max_age": 0,
                "storage": "file", "num_replicas": copies },
            "created": "2026-11-22T15:15:12.150Z",
            "state": { "messages": 0, "bytes": 0, "first_seq": 1, "first_ts": "2026-11-22T15:15:12.150Z",
                "last_seq": 0, "last_ts": "2026-11-22T15:15:12.150Z", "consumer_count": 0 },
            "cluster": { "name": "shop", "leader": "nats-1", "replicas": replicas },
        });
        serde_json::from_value(info).expect("this is how a server describes a stream")
    }

    #[test]
    fn a_log_without_holes_holds_every_message_from_its_first_to_its_last() {
        let mut state = info(1, &[], &[]).state;
        assert!(![0, 1, 2].into_iter().any(|sequence| holds(&state, sequence)), "of an empty one");
        (state.first_sequence, state.last_sequence, state.messages) = (3, 5, 3);
        assert_eq!([2, 3, 5, 6].map(|sequence| holds(&state, sequence)), [false, true, true, false]);
        state.messages = 2;
        assert!(![3, 4, 5].into_iter().any(|sequence| holds(&state, sequence)), "of one with a hole somewhere");
    }

    #[test]
    fn a_leader_that_has_not_heard_of_most_of_the_others_is_not_believed() {
        assert_eq!(is_led(&info(1, &[], &[])), Ok(()));
        assert_eq!(is_led(&info(3, &[0, 1], &[false, false])), Ok(()));
        assert_eq!(is_led(&info(3, &[1, 60], &[false, true])), Ok(()));
        assert_eq!(is_led(&info(5, &[1, 1, 60, 60], &[false, false, false, false])), Ok(()));
        for alone in [
            info(3, &[4, 5], &[false, false]),
            info(3, &[60, 1], &[false, true]),
            info(3, &[0, 0], &[false, false]),
            info(3, &[], &[]),
        ] {
            assert!(is_led(&alone).unwrap_err().contains("nats-1 says that it leads"));
        }
        assert!(is_led(&info(5, &[1, 4, 4, 4], &[false, false, false, false])).is_err());
    }

    #[test]
    fn a_server_that_does_not_lead_is_not_believed_whatever_it_answers() {
        let said_of = |leader: Option<&str>| {
            let mut info = info(3, &[1, 1], &[false, false]);
            info.cluster.as_mut().unwrap().leader = leader.map(str::to_owned);
            is_led(&info)
        };
        assert_eq!(said_of(Some("nats-1")), Ok(()));
        assert!(said_of(Some("nats-2")).unwrap_err().contains("another server than nats-2 answers"));
        for nobody in [None, Some("")] {
            assert!(said_of(nobody).unwrap_err().contains("knows of no leader"));
        }
    }
}
