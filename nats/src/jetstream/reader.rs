//! Reading a kind's log.

mod requests;

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use futures::StreamExt;
use shop_domain::kind::Kind;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{JetStreamLog, Reading, Stored, Way, unix_ns};
use crate::{
    log::{Log, LogError, Record},
    stream::layout::{self, Standing},
    subject,
};

/// Records that one pull asks for.
const PULL_RECORDS: usize = 256;
/// Bytes that one pull asks for: above the largest frame, so that a pull always brings something.
const PULL_BYTES: usize = 4 * 1024 * 1024;
/// How often the server says that it is still there while there is nothing to read.
/// Two of them missing, and the consumer is made anew elsewhere: its server may be gone.
const READ_HEARTBEAT: Duration = Duration::from_secs(1);
/// How long nothing comes, until the log's leader is asked whether there is something, and again until the consumer
/// is given up that does not bring it.
const SILENCE: Duration = Duration::from_secs(2);
/// How long one pull stands.
const READ_EXPIRES: Duration = Duration::from_secs(30);
/// Pause before a lost reader is made anew; doubles up to the second value.
const READ_RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Answers in a row that say that the log ends before our position, until we believe it: a leader
/// that was just elected may still be applying what its predecessor acknowledged.
const ROLLED_BACK_ANSWERS: u32 = 8;
/// How long it must be said that a layout is not in force, until we believe that it never was: longer than a server
/// takes itself for the leader that is none any more.
const UNEXPLAINED: Duration = Duration::from_secs(4);

/// Why a reader begins again though nobody said no: whatever it was waiting for will not come.
const RECONNECTED: &str = "the connection was lost and is back";

/// Reads a kind's log with ephemeral consumers that acknowledge nothing, or by requests. The position is ours:
/// whenever the consumer is lost or skips, a new one starts behind the last record handed on.
pub(super) struct Reader {
    pub(super) log: JetStreamLog,
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) after: u64,
    /// Answers in a row that say that the log ends before `after`.
    pub(super) rolled_back: u32,
    /// Whether the last record was appended under a later layout, which may have come into force since.
    pub(super) is_behind_later: bool,
    /// Since when it is said that the layout is not in force under which the next record was appended.
    pub(super) unexplained: Option<Instant>,
    /// The generation of a layout that is none, as was said until some decision.
    pub(super) no_layout: Option<(u32, u64)>,
    /// Whether the last attempt to read has brought nothing.
    pub(super) is_stuck: bool,
    pub(super) records: mpsc::Sender<Result<Record, LogError>>,
}

/// Why a consumer is no longer of use.
enum Lost {
    /// Nobody reads any more.
    Closed,
    /// It is to be replaced.
    Broken(String),
    /// There is nothing to read from.
    OtherLog(LogError),
}

impl Reader {
    pub(super) async fn run(mut self) {
        let mut delay = READ_RETRY.0;
        loop {
            let position = self.after;
            let lost = match self.log.way {
                Way::Consumer => self.read_with_one_consumer().await,
                Way::Requests => self.read_by_requests().await,
            };
            match lost {
                Lost::Closed => return,
                Lost::OtherLog(error) => {
                    let _nobody_reads = self.records.send(Err(error)).await;
                    return;
                }
                // Whoever read it has ended, and the connection with it.
                Lost::Broken(_) if self.records.is_closed() => return,
                Lost::Broken(reason) => {
                    tracing::warn!("reader of {} stopped after sequence {}: {reason}", self.kind, self.after);
                }
            }
            self.is_stuck = self.after == position;
            delay = if self.after > position { READ_RETRY.0 } else { (delay * 2).min(READ_RETRY.1) };
            tokio::select! {
                () = sleep(delay) => {}
                () = self.records.closed() => return,
            }
        }
    }

    async fn read_with_one_consumer(&mut self) -> Lost {
        let Reading { context, mut reconnects } = self.log.reading.now();
        reconnects.mark_unchanged();
        let consumer = tokio::select! {
            consumer = self.consumer(&context) => consumer,
            Ok(()) = reconnects.changed() => Err(Lost::Broken(RECONNECTED.into())),
        };
        let mut messages = match consumer {
            Ok(messages) => messages,
            Err(lost) => return lost,
        };
        let mut expected = 1;
        loop {
            let message = tokio::select! {
                biased;
                message = messages.next() => message,
                // The server has forgotten the consumer, or never heard our last pull.
                Ok(()) = reconnects.changed() => return Lost::Broken(RECONNECTED.into()),
                () = self.records.closed() => return Lost::Closed,
                withheld = self.withheld() => return Lost::Broken(withheld),
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Lost::Broken(error.to_string()),
                None => return Lost::Broken("the consumer ended".into()),
            };
            let Ok(info) = message.info() else {
                return Lost::Broken(format!("a message without position on {}", message.subject));
            };
            if info.consumer_sequence != expected {
                return Lost::Broken(format!("message {expected} is missing, {} came", info.consumer_sequence));
            }
            expected += 1;
            let stored = Stored {
                subject: &message.subject,
                headers: message.headers.as_ref(),
                payload: message.payload.clone(),
            };
            if let Err(lost) = self.take(info.stream_sequence, info.published.unix_timestamp_nanos(), stored).await {
                return lost;
            }
        }
    }

    /// Hands the next record on.
    async fn take(&mut self, sequence: u64, stored_unix_ns: i128, stored: Stored<'_>) -> Result<(), Lost> {
        if sequence != self.after + 1 {
            return Err(self.skipped_to(sequence).await);
        }
        let kind = self.kind;
        let generation = subject::place(kind, stored.subject).map(|(generation, _)| generation);
        let is_later = generation.is_some_and(|generation| generation > self.log.generation);
        if let Some(generation) = generation
            && (is_later || self.is_behind_later)
        {
            self.still_counts(generation, sequence, &stored.payload).await?;
        }
        // What is of no log says nothing of layouts.
        self.is_behind_later = is_later || self.is_behind_later && generation.is_none();
        if generation.is_some_and(|generation| generation < self.log.generation_at(kind, sequence)) {
            tracing::warn!("sequence {sequence} of {kind} was appended under a former layout; it is skipped");
        }
        let record = self.log.record_of(kind, sequence, stored_unix_ns, stored);
        let record = self.log.unless_skipped(kind, record).await.map_err(|error| Lost::Broken(error.to_string()))?;
        self.records.send(Ok(record)).await.map_err(|_nobody_reads| Lost::Closed)?;
        (self.after, self.unexplained) = (sequence, None);
        Ok(())
    }

    /// Waits until something is in the log for long that does not come. A consumer lives on some server, and that one's
    /// copy may stay behind the leader's for minutes: then it says that it is there, and brings nothing.
    async fn withheld(&self) -> String {
        loop {
            sleep(SILENCE).await;
            // Without a leader nothing can come.
            let Ok(last) = self.log.last_sequence(self.kind).await else { continue };
            if last > self.after {
                sleep(SILENCE).await;
                return format!("the log goes on to sequence {last}, but nothing comes");
            }
        }
    }

    /// Something was appended under a later layout; it, or what follows it, counts unless that is in force. Where a
    /// server says that ours is in force, it may not know better yet; or a consumer of another stream has brought here
    /// what is of no layout, which is not believed at once.
    async fn still_counts(&mut self, generation: u32, sequence: u64, payload: &[u8]) -> Result<(), Lost> {
        let kind = self.kind;
        let decided =
            layout::decided(&self.log.reading.now().context).await.map_err(|error| Lost::Broken(error.to_string()))?;
        match Standing::of(self.log.generation, decided.generation(), generation, payload) {
            Standing::Counts => Ok(()),
            Standing::CutAnew => {
                let reason = format!("from sequence {sequence} on it is cut into other partitions");
                Err(Lost::OtherLog(LogError::OtherLog { kind, reason }))
            }
            Standing::Unknown if self.no_layout == Some((generation, decided.at)) => Ok(()),
            Standing::Unknown if self.unexplained.get_or_insert_with(Instant::now).elapsed() > UNEXPLAINED => {
                tracing::warn!("sequence {sequence} of {kind} is of a layout that was never in force");
                self.no_layout = Some((generation, decided.at));
                Ok(())
            }
            Standing::Unknown => Err(Lost::Broken(format!(
                "sequence {sequence} is of another layout than the one that is said to be in force"
            ))),
        }
    }

    /// A consumer on a server that does not have all of the log yet may begin elsewhere than it was
    /// told to; the leader knows. Nobody may delete or purge: a log without that record has lost something.
    async fn skipped_to(&self, sequence: u64) -> Lost {
        let (kind, wanted) = (self.kind, self.after + 1);
        let reason = format!("sequence {wanted} is missing, {sequence} came");
        match self.log.record(kind, wanted).await {
            Ok(Some(_)) => Lost::Broken(reason),
            Ok(None) if sequence > wanted => Lost::OtherLog(LogError::OtherLog { kind, reason }),
            Ok(None) => Lost::Broken(reason),
            Err(error) => Lost::Broken(format!("{reason}; {error}")),
        }
    }

    async fn consumer(&mut self, context: &jetstream::Context) -> Result<pull::Stream, Lost> {
        self.begin().await?;
        let broken = |reason: String| Lost::Broken(reason);
        let stream = context.get_stream_no_info(subject::stream(self.kind)).await;
        let stream = stream.map_err(|error| broken(error.to_string()))?;
        let config = pull::Config {
            name: Some(format!("shop-{}-{}", self.kind, uuid::Uuid::new_v4().simple())),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.after + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: READ_EXPIRES,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| broken(error.to_string()))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_RECORDS)
            .max_bytes_per_batch(PULL_BYTES)
            .heartbeat(READ_HEARTBEAT)
            .expires(READ_EXPIRES)
            .messages();
        messages.await.map_err(|error| broken(error.to_string()))
    }

    /// What comes before each attempt to read.
    async fn begin(&mut self) -> Result<(), Lost> {
        self.verify().await?;
        if self.is_stuck { self.pass_one().await } else { Ok(()) }
    }

    /// Hands on the next record, if there is one, though it does not come with the others: the client gives up its
    /// connection over headers that it cannot read, and would do so again.
    async fn pass_one(&mut self) -> Result<(), Lost> {
        let found = self.log.stored_at(self.kind, self.after + 1).await;
        match found.map_err(|error| Lost::Broken(error.to_string()))? {
            Some(message) => self.take(message.sequence, unix_ns(&message), Stored::of(&message)).await,
            None => Ok(()),
        }
    }

    /// A stream that was made anew or rolled back would let us wait for ever.
    async fn verify(&mut self) -> Result<(), Lost> {
        let kind = self.kind;
        let identity = self.log.identity(kind).await.map_err(|error| Lost::Broken(error.to_string()))?;
        let other = |reason: String| Err(Lost::OtherLog(LogError::OtherLog { kind, reason }));
        if identity.epoch != self.epoch {
            return other(format!("its epoch is {:016x} instead of {:016x}", identity.epoch, self.epoch));
        }
        if identity.last_sequence >= self.after {
            self.rolled_back = 0;
            return Ok(());
        }
        self.rolled_back += 1;
        let reason = format!("it ends at {} though {} was read", identity.last_sequence, self.after);
        if self.rolled_back < ROLLED_BACK_ANSWERS { Err(Lost::Broken(reason)) } else { other(reason) }
    }
}
