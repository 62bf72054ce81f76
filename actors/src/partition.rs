//! The loop of one partition: take what is there, apply it, send what follows, settle behind.

use std::{
    hash::Hasher,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use fnv::FnvHasher;
use shop_domain::{
    entity::{Effect, Reply},
    kind::Kind,
    logic::{Logic, UnknownLogic},
    message::Envelope,
    timestamp::Timestamp,
};
use shop_nats::{
    frame::{Frame, Origin, Payload, Repair, Source, Upgrade},
    log::{Identity, LogError, Record, SharedLog},
    publisher::{Acknowledged, Resent},
    subject::{origin_of_dead, partition_of},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    counts::SharedCounts,
    entities::{Applied, ApplyError, Entities},
    entity_actor::Input,
    memory::Memory,
    outbox::{Logs, Outbox},
    settle::{ROUNDS_MAX, Round, Settled, Settler},
    store::{Checkpoint, Meta, SharedShelf, StoreError},
    turn::{Sender, Turn},
};

/// Most records in one round: bounds what one round holds in memory and how long it takes.
const ROUND_RECORDS_MAX: usize = 64;
/// How often a checkpoint is written while something changes. It bounds what is replayed after a
/// crash; each touched entity is written once however often it changed meanwhile.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);
/// Why a frame is a dead letter that can be read, but was put into the wrong part of the log.
pub(crate) const OTHER_PARTITION: &str = "a message to an entity of another partition";
/// Why a record is a dead letter that has the subject of a partition that there is not.
pub(crate) const NO_PARTITION: &str = "it has the subject of a partition that there is not";
/// Pause before a dead letter is kept once more when that failed.
const BURY_RETRY: Duration = Duration::from_millis(500);
/// How long what was begun may wait for the logs once the partition is stopped. With the time that an
/// acknowledgement may take it is less than all partitions have to end.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// One slice of a kind's log and the entities in it.
#[derive(Debug)]
pub struct Partition {
    kind: Kind,
    number: u16,
    /// In how many partitions the kind is cut.
    partitions: u16,
    log: SharedLog,
    /// Where it is; the hash of the record at the cursor is taken when a checkpoint needs it.
    meta: Meta,
    /// The bytes of the record that was applied last.
    last: Bytes,
    /// How its entities behave behind the cursor.
    logic: Logic,
    memory: Arc<Memory>,
    entities: Entities,
    outbox: Outbox,
    /// Whether this host sends and answers, or another one.
    turn: Turn,
    rounds: mpsc::Sender<Round>,
    saved: watch::Receiver<u64>,
    active: Arc<AtomicUsize>,
    /// The number of that version, for others.
    logic_shown: Arc<AtomicU32>,
    counts: SharedCounts,
    /// The cursor of the last checkpoint handed to the settler.
    checkpointed: u64,
    last_checkpoint: Instant,
}

/// How many records a partition takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// All that wait, up to a limit.
    WhatIsThere,
    /// One, up to this sequence; then all that wait. After a panic in a round that ended there, to
    /// learn which record it was.
    RecordByRecord(u64),
}

/// What others see of a partition.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Which one it is.
    pub number: u16,
    /// What it knows.
    pub memory: Arc<Memory>,
    /// The sequence up to which everything is settled.
    pub settled: watch::Receiver<u64>,
    /// The sequence up to which a checkpoint is written.
    pub saved: watch::Receiver<u64>,
    /// How many of its entities are active.
    pub active: Arc<AtomicUsize>,
    /// Whether this host sends and answers, or another one.
    pub turn: Turn,
    /// The number of the logic version that holds behind what was applied.
    pub logic: Arc<AtomicU32>,
}

/// Where a partition tells what it does, and whether it is to.
#[derive(Clone, Debug)]
pub struct Outlet {
    /// Where answers go.
    pub replies: mpsc::Sender<Reply>,
    /// Where it counts.
    pub counts: SharedCounts,
    /// Whether this host sends and answers, or another one.
    pub turn: Turn,
}

/// Why a partition does not start.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The log is not the one that the checkpoint was made from.
    #[error(
        "the checkpoint of {kind}/{partition} does not belong to this log: {reason}; if the log was replaced on \
         purpose, delete the host's data folder, and it is built again from the log"
    )]
    OtherLog {
        /// Whose checkpoint.
        kind: Kind,
        /// Which partition.
        partition: u16,
        /// How it differs.
        reason: String,
    },
    /// The log was cut, and what is known here ends before.
    #[error(
        "the log of {kind} begins at sequence {first}, but {kind}/{partition} has to go on from {needed}, and there is \
         no snapshot from which it could; start the host with --snapshots and the place where those of this log are"
    )]
    Trimmed {
        /// Whose log.
        kind: Kind,
        /// Which partition.
        partition: u16,
        /// Where it begins.
        first: u64,
        /// Where it should begin at the latest.
        needed: u64,
    },
    /// Its entities behave in a way that this program does not know.
    #[error("{0}/{1}: {2}")]
    Logic(Kind, u16, UnknownLogic),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a partition stopped.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// A round could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A checkpoint could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From here on its entities behave in a way that this program does not know.
    #[error("{kind}/{partition} is upgraded at sequence {sequence}: {unknown}")]
    Logic {
        /// Whose log.
        kind: Kind,
        /// Which partition.
        partition: u16,
        /// Where the upgrade is.
        sequence: u64,
        /// To what.
        unknown: UnknownLogic,
    },
}

/// Reads a partition's checkpoint and checks that it belongs to the log: a stream that was made
/// anew or rolled back reuses sequences, and would be waited for in vain, or taken for another.
pub async fn attach(
    log: &SharedLog,
    kind: Kind,
    partition: u16,
    shelf: &SharedShelf,
    identity: &Identity,
) -> Result<(Meta, Logic), AttachError> {
    let meta = shelf.meta()?.unwrap_or_else(|| Meta::new(identity));
    let (first, needed) = (identity.first_sequence, meta.needs_from());
    if meta.epoch == identity.epoch && first > needed {
        return Err(AttachError::Trimmed { kind, partition, first, needed });
    }
    let logic = Logic::try_from(meta.logic).map_err(|unknown| AttachError::Logic(kind, partition, unknown))?;
    match misfit(log, kind, &meta, identity).await? {
        Some(reason) => Err(AttachError::OtherLog { kind, partition, reason }),
        None => Ok((meta, logic)),
    }
}

/// Why a checkpoint is not of this log, if it is not.
///
/// Its record at the cursor tells, which a log that was cut behind a snapshot still holds: it keeps a
/// margin before it. Only where others had the last word is it gone, and a snapshot vouches for all
/// that came since; and where the log begins right behind it, because the shop was repartitioned there.
/// There, epoch and creation must do.
pub async fn misfit(log: &SharedLog, kind: Kind, meta: &Meta, identity: &Identity) -> Result<Option<String>, LogError> {
    if meta.epoch != identity.epoch {
        return Ok(Some(format!("the log has the epoch {:016x} instead of {:016x}", identity.epoch, meta.epoch)));
    }
    if meta.created_unix_ns != identity.created_unix_ns {
        let at = |unix_ns: i128| Timestamp::from_unix_ms(u64::try_from(unix_ns / 1_000_000).unwrap_or(0));
        let (now, then) = (at(identity.created_unix_ns), at(meta.created_unix_ns));
        return Ok(Some(format!("the stream was made at {now}, that of the checkpoint at {then}")));
    }
    if identity.last_sequence < meta.cursor {
        return Ok(Some(format!("the log ends at {}, the checkpoint at {}", identity.last_sequence, meta.cursor)));
    }
    let is_cut_off = meta.cursor < identity.first_sequence && meta.cursor < meta.complete_to;
    let begins_behind = meta.cursor + 1 == identity.first_sequence;
    if meta.cursor == 0 || is_cut_off || begins_behind {
        return Ok(None);
    }
    Ok(match log.record(kind, meta.cursor).await? {
        Some(record) if hash(&record.payload) == meta.cursor_hash => None,
        Some(_) => Some(format!("the log holds another message at sequence {}", meta.cursor)),
        None => Some(format!("the log does not hold sequence {} any more", meta.cursor)),
    })
}

impl Partition {
    /// A partition that goes on from what [`attach`] returned, the settler that follows it, and what others see.
    pub fn new(
        kind: Kind,
        number: u16,
        log: SharedLog,
        shelf: SharedShelf,
        (meta, logic): (Meta, Logic),
        logs: Logs,
        Outlet { replies, counts, turn }: Outlet,
    ) -> (Self, impl Future<Output = Result<Settled, StoreError>> + Send + 'static, Handle) {
        let cursor = meta.cursor;
        let Identity { partitions, link_epoch, .. } = *logs.get(&kind).expect("every kind has a log");
        let memory = Arc::new(Memory::new(shelf.clone(), cursor, logic));
        let source = Source { origin: Origin::Partition(kind, number), epoch: link_epoch };
        let ((settled, settled_at), (saved, saved_at)) = (watch::channel(cursor), watch::channel(cursor));
        let (rounds, applied) = mpsc::channel(ROUNDS_MAX);
        let settler =
            Settler { memory: Arc::clone(&memory), shelf, replies, settled, saved, counts: Arc::clone(&counts) };
        let (known, active) = (Arc::clone(&memory), Arc::default());
        let logic_shown = Arc::new(AtomicU32::new(logic.number()));
        let handle = Handle {
            number,
            memory: known,
            settled: settled_at,
            saved: saved_at.clone(),
            active: Arc::clone(&active),
            turn: turn.clone(),
            logic: Arc::clone(&logic_shown),
        };
        let partition = Self {
            kind,
            number,
            partitions,
            entities: Entities::new(kind, Arc::clone(&memory)),
            outbox: Outbox::new(log.clone(), source, logs, Resent::clone(&counts.resent)),
            log,
            meta,
            last: Bytes::new(),
            logic,
            memory,
            turn,
            rounds,
            saved: saved_at,
            active,
            logic_shown,
            counts,
            checkpointed: cursor,
            last_checkpoint: Instant::now(),
        };
        (partition, settler.run(applied), handle)
    }

    /// Applies records until there are no more or `stop` is given; then writes a last checkpoint.
    pub async fn run(
        mut self,
        mut records: mpsc::Receiver<Record>,
        pace: Pace,
        stop: CancellationToken,
    ) -> Result<(), PartitionError> {
        let mut taken = Vec::with_capacity(ROUND_RECORDS_MAX);
        loop {
            let limit = match pace {
                Pace::RecordByRecord(until) if self.meta.cursor < until => 1,
                Pace::RecordByRecord(_) | Pace::WhatIsThere => ROUND_RECORDS_MAX,
            };
            let checkpoint_due = self.last_checkpoint + CHECKPOINT_INTERVAL;
            let (is_unsaved, is_saving) = (self.is_unsaved(), self.is_saving());
            // In this order, so that neither is kept waiting by a log that always has more.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(checkpoint_due), if is_unsaved && !is_saving => {
                    let is_whole = unless_stuck(&stop, self.settle(vec![], vec![], true)).await.is_some();
                    if !is_whole {
                        return Ok(());
                    }
                }
                Ok(()) = self.saved.changed(), if is_unsaved && is_saving => {}
                count = records.recv_many(&mut taken, limit) => match count {
                    0 => break,
                    _ => {
                        let is_whole = self.round(taken.drain(..), &stop).await?;
                        if !is_whole {
                            return Ok(());
                        }
                    }
                },
            }
        }
        if self.is_unsaved() {
            // Without it what came since the one before is applied once more.
            let _ = unless_stuck(&stop, self.settle(vec![], vec![], true)).await;
        }
        Ok(())
    }

    /// Applies records, and sends what follows unless another host does. Not whole is a round that was stopped while
    /// it was not clear who does, or while the logs did not take it: there must be no checkpoint of it.
    async fn round(
        &mut self,
        records: impl Iterator<Item = Record>,
        stop: &CancellationToken,
    ) -> Result<bool, PartitionError> {
        let Some(inputs) = unless_stuck(stop, self.accept(records)).await.transpose()? else { return Ok(false) };
        if self.memory.cursor() == self.meta.cursor {
            return Ok(true);
        }
        let accepted = inputs.len() as u64;
        let Applied { changed, effects } = self.entities.apply(inputs).await?;
        self.counts.accepted.add(accepted);
        self.active.store(self.entities.active(), Relaxed);
        self.memory.apply(self.meta.cursor, self.logic, changed);
        let (mut messages, mut replies) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Send(envelope) => messages.push(envelope),
                Effect::Reply(reply) => replies.push(reply),
            }
        }
        let sender = tokio::select! {
            biased;
            sender = self.turn.comes(self.meta.cursor) => sender,
            () = stop.cancelled() => return Ok(false),
        };
        let settled = async {
            match sender {
                Sender::Here => {
                    let sent = self.outbox.send(messages, self.meta.cursor, &mut self.meta.links).await;
                    self.settle(sent, replies, false).await;
                }
                Sender::Owner => {
                    self.outbox.pass(&messages, &mut self.meta.links);
                    self.settle(vec![], vec![], false).await;
                }
            }
        };
        Ok(unless_stuck(stop, settled).await.is_some())
    }

    /// Picks the messages that are to be applied, and moves the cursor behind all records.
    async fn accept(&mut self, records: impl Iterator<Item = Record>) -> Result<Vec<Input>, PartitionError> {
        let (mut inputs, mut duplicates, mut beyond_holes, mut count) = (Vec::new(), 0, 0, 0);
        for record in records.filter(|record| record.sequence > self.meta.cursor).collect::<Vec<_>>() {
            count += 1;
            self.meta.cursor = record.sequence;
            self.last = record.payload.clone();
            let Record { sequence, time: taken, .. } = record;
            match record.read(self.kind) {
                Ok(_) if record.partition != self.number => self.bury(record, NO_PARTITION.into()).await,
                Ok(Payload::Upgrade(upgrade)) => self.upgrade(upgrade, sequence)?,
                Ok(Payload::Frame(Frame { messages, .. }) | Payload::Repair(Repair { messages, .. }))
                    if !self.is_for_us(&messages) =>
                {
                    self.bury(record, OTHER_PARTITION.into()).await;
                }
                Ok(Payload::Repair(Repair { source, accepted, messages, .. })) => {
                    tracing::warn!("{}/{}: sequence {sequence} mends the link from {source}", self.kind, self.number);
                    self.meta.links.mend(source, accepted, sequence);
                    let logic = self.logic;
                    let now = logic.now(&mut self.meta.clock, taken);
                    let input = |(index, envelope)| Input { position: (sequence, index), now, logic, envelope };
                    inputs.extend(messages.into_iter().enumerate().map(input));
                }
                Ok(Payload::Frame(Frame { source, first, messages, .. })) => {
                    let accepted = self.meta.links.accept(source, first, messages.len(), sequence);
                    if accepted.len() < messages.len() {
                        let (kind, number, all) = (self.kind, self.number, messages.len());
                        tracing::debug!("{kind}/{number}: {accepted:?} of {all} from {source} at {sequence}");
                        let is_beyond_hole = accepted.is_empty() && first > self.meta.links.accepted(source) + 1;
                        let skipped = if is_beyond_hole { &mut beyond_holes } else { &mut duplicates };
                        *skipped += (all - accepted.len()) as u64;
                    }
                    let messages = messages.into_iter().enumerate().skip(accepted.start).take(accepted.len());
                    let logic = self.logic;
                    let now = logic.now(&mut self.meta.clock, taken);
                    inputs.extend(messages.map(|(index, envelope)| Input {
                        position: (sequence, index),
                        now,
                        logic,
                        envelope,
                    }));
                }
                Err(error) => self.bury(record, error.to_string()).await,
            }
        }
        self.counts.records.add(count);
        self.counts.duplicates.add(duplicates);
        self.counts.beyond_holes.add(beyond_holes);
        Ok(inputs)
    }

    /// Lets entities behave by another version from here on; never by an older one.
    fn upgrade(&mut self, upgrade: Upgrade, sequence: u64) -> Result<(), PartitionError> {
        let (kind, partition) = (self.kind, self.number);
        let logic = Logic::try_from(upgrade.logic);
        let logic = logic.map_err(|unknown| PartitionError::Logic { kind, partition, sequence, unknown })?;
        if logic > self.logic {
            tracing::info!("{kind}/{partition}: logic version {logic} from sequence {sequence} on");
            self.logic = logic;
            self.meta.logic = logic.number();
            self.logic_shown.store(logic.number(), Relaxed);
        }
        Ok(())
    }

    fn is_for_us(&self, messages: &[Envelope]) -> bool {
        messages.iter().all(|envelope| partition_of(&envelope.to, self.partitions) == self.number)
    }

    /// Keeps what cannot be read, before anything behind it counts.
    async fn bury(&self, record: Record, reason: String) {
        let (kind, number, sequence) = (self.kind, self.number, record.sequence);
        if self.is_echo(&record).await {
            tracing::warn!("{kind}/{number}: sequence {sequence} is a dead letter that came back, and is kept already");
            return;
        }
        tracing::error!("{kind}/{number}: sequence {sequence} is a dead letter: {reason}");
        self.counts.dead_letters.add(1);
        while let Err(error) = self.log.bury(kind, self.meta.epoch, record.clone(), reason.clone()).await {
            tracing::error!("{kind}/{number}: {error}; trying again");
            sleep(BURY_RETRY).await;
        }
    }

    /// Whether a record is a copy of a dead letter that was such a copy itself. A consumer of the dead letters whose
    /// target is a log would make one more of each of them, without end.
    async fn is_echo(&self, record: &Record) -> bool {
        let Some((kind, _, sequence)) = record.foreign.as_deref().and_then(origin_of_dead) else { return false };
        let origin = self.log.record(kind, sequence).await;
        matches!(origin, Ok(Some(Record { foreign: Some(_), .. })))
    }

    async fn settle(&mut self, sent: Vec<Acknowledged>, replies: Vec<Reply>, checkpoint: bool) {
        let cursor = self.meta.cursor;
        let checkpoint = checkpoint.then(|| {
            self.meta.cursor_hash = hash(&self.last);
            (self.checkpointed, self.last_checkpoint) = (cursor, Instant::now());
            Checkpoint { meta: self.meta.clone(), changes: self.memory.leave() }
        });
        // A settler that ended says why itself.
        let _ = self.rounds.send(Round { cursor, sent, replies, checkpoint }).await;
    }

    fn is_unsaved(&self) -> bool {
        self.meta.cursor > self.checkpointed
    }

    fn is_saving(&self) -> bool {
        *self.saved.borrow() < self.checkpointed
    }
}

/// Does what may have to wait for the logs; gives it up when the partition is stopped and they do not go on.
async fn unless_stuck<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = async { stop.cancelled().await; sleep(LAST_WAIT).await } => None,
    }
}

/// What tells a record from another one at the same sequence: FNV-1a (64 bit) of its bytes.
fn hash(record: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(record);
    hasher.finish()
}
