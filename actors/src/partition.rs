//! The loop of one partition: take what is there, apply it, send what follows, settle behind.

mod attach;
pub mod backlog;
pub mod cache;
pub mod entities;
pub mod entity_actor;
pub mod outbox;
pub mod overlay;
pub mod role;
pub mod settle;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use shop_domain::{
    entity::{Effect, Reply},
    kind::Kind,
    logic::{Logic, UnknownLogic},
    message::Envelope,
};
use shop_nats::{
    log::{
        Identity, Logs, Record, SharedLog,
        frame::{self, Frame, Origin, Payload, Repair, Source, Upgrade},
        publisher::{Acknowledged, Resent},
    },
    subject::{origin_of_dead, partition_of},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use self::attach::{AttachError, attach, misfit};
use self::{
    attach::hash,
    backlog::Backlog,
    entities::{Applied, ApplyError, Entities},
    entity_actor::Input,
    outbox::{Numbered, Outbox},
    overlay::Overlay,
    role::{PATIENCE, RoleWatch, Sender},
    settle::{ROUNDS_MAX, Round, Settled, Settler, raise},
};
use crate::{
    counts::SharedCounts,
    store::{Checkpoint, Meta, SharedPartitionStore, StoreError},
};

/// Most records in one round: bounds what one round holds in memory and how long it takes.
const ROUND_RECORDS_MAX: usize = 64;
/// How often a checkpoint is written while something changes. It bounds what is replayed after a
/// crash; each touched entity is written once however often it changed meanwhile.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);
/// How often an owner writes a receipt while there is something new to vouch for, and after how many records at once.
/// It bounds what a standby keeps, and sends once more when it takes the partition over.
const RECEIPT_INTERVAL: Duration = Duration::from_millis(500);
const RECEIPT_RECORDS: u64 = 1_024;
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
    overlay: Arc<Overlay>,
    entities: Entities,
    outbox: Outbox,
    /// Whether this host sends and answers, or another one.
    role: RoleWatch,
    /// What this host would have sent.
    backlog: Backlog,
    receipts: Receipts,
    /// The sequence up to which all that follows is known to be in the logs.
    proven: watch::Sender<u64>,
    rounds: mpsc::Sender<Round>,
    saved: watch::Receiver<u64>,
    /// A checkpoint that may not be written before the logs have all that follows from what it holds.
    unproven: Option<Checkpoint>,
    active: Arc<AtomicUsize>,
    /// The number of that version, for others.
    logic_shown: Arc<AtomicU32>,
    counts: SharedCounts,
    /// How much is kept, for others.
    kept: Arc<AtomicUsize>,
    /// The cursor of the last checkpoint that was made.
    checkpointed: u64,
    last_checkpoint: Instant,
}

/// What the partition's log says of how far the logs have what follows from it.
#[derive(Debug)]
struct Receipts {
    /// What makes a frame a receipt of this log.
    source: Source,
    /// The newest one that was read.
    newest: watch::Sender<u64>,
    /// Up to where one vouches.
    vouched: u64,
    /// The last record that is none.
    last_record: u64,
    /// When this host wrote one last, and where its cursor was.
    written: (Instant, u64),
}

impl Receipts {
    /// When the next one is due, if the log goes on.
    fn due(&self, cursor: u64) -> Instant {
        let (at, before) = self.written;
        if cursor.saturating_sub(before) >= RECEIPT_RECORDS { at } else { at + RECEIPT_INTERVAL }
    }

    /// Whether something is not vouched for.
    const fn is_behind(&self) -> bool {
        self.last_record > self.vouched
    }

    /// Takes in a frame at a sequence; up to where it vouches, if it is a receipt.
    fn take(&mut self, frame: &Frame, sequence: u64) -> Option<u64> {
        match frame.vouches(self.source, sequence) {
            Some(vouched) => {
                self.newest.send_replace(sequence);
                self.vouched = self.vouched.max(vouched);
                Some(vouched)
            }
            None => {
                self.last_record = sequence;
                None
            }
        }
    }
}

/// How many records a partition takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
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
    pub overlay: Arc<Overlay>,
    /// The sequence up to which everything is settled, as far as this host has heard.
    pub settled: watch::Receiver<u64>,
    /// The sequence up to which all that follows is known to be in the logs.
    pub proven: watch::Receiver<u64>,
    /// The sequence of the newest receipt that it has read.
    pub receipt: watch::Receiver<u64>,
    /// How many messages and answers it keeps until there is a receipt of them.
    pub kept: Arc<AtomicUsize>,
    /// The sequence up to which a checkpoint is written.
    pub saved: watch::Receiver<u64>,
    /// How many of its entities are active.
    pub active: Arc<AtomicUsize>,
    /// Whether this host sends and answers, or another one.
    pub role: RoleWatch,
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
    pub role: RoleWatch,
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

impl Partition {
    /// A partition that goes on from what [`attach`] returned, the settler that follows it, and what others see.
    pub fn new(
        kind: Kind,
        number: u16,
        log: SharedLog,
        partition_store: SharedPartitionStore,
        (meta, logic): (Meta, Logic),
        logs: Logs,
        Outlet { replies, counts, role }: Outlet,
    ) -> (Self, impl Future<Output = Result<Settled, StoreError>> + Send + 'static, Handle) {
        let cursor = meta.cursor;
        let Identity { partitions, epoch, link_epoch, .. } = *logs.get(&kind).expect("every kind has a log");
        let overlay = Arc::new(Overlay::new(partition_store.clone(), cursor, logic));
        let origin = Origin::Partition(kind, number);
        let source = Source { origin, epoch: link_epoch };
        let ((settled, settled_at), (saved, saved_at)) = (watch::channel(cursor), watch::channel(cursor));
        let ((proven, proven_to), (newest, receipt)) = (watch::channel(cursor), watch::channel(0));
        let (rounds, applied) = mpsc::channel(ROUNDS_MAX);
        let settler = Settler {
            overlay: Arc::clone(&overlay),
            partition_store,
            replies,
            settled,
            proven: proven.clone(),
            saved,
            counts: Arc::clone(&counts),
        };
        let receipts = Receipts {
            source: Source { origin, epoch },
            newest,
            vouched: 0,
            last_record: cursor,
            written: (Instant::now(), cursor),
        };
        let (shown, active, kept) = (Arc::clone(&overlay), Arc::default(), Arc::default());
        let logic_shown = Arc::new(AtomicU32::new(logic.number()));
        let handle = Handle {
            number,
            overlay: shown,
            settled: settled_at,
            proven: proven_to,
            receipt,
            kept: Arc::clone(&kept),
            saved: saved_at.clone(),
            active: Arc::clone(&active),
            role: role.clone(),
            logic: Arc::clone(&logic_shown),
        };
        let partition = Self {
            kind,
            number,
            partitions,
            entities: Entities::new(kind, Arc::clone(&overlay)),
            outbox: Outbox::new(log.clone(), source, logs, Resent::clone(&counts.resent)),
            log,
            meta,
            last: Bytes::new(),
            logic,
            overlay,
            role,
            backlog: Backlog::default(),
            receipts,
            proven,
            rounds,
            saved: saved_at,
            unproven: None,
            active,
            logic_shown,
            counts,
            kept,
            checkpointed: cursor,
            last_checkpoint: Instant::now(),
        };
        (partition, settler.run(applied), handle)
    }

    /// Applies records until there are no more or `stop` is given; then writes a last checkpoint.
    pub async fn run(
        mut self,
        mut records: mpsc::Receiver<Record>,
        throttle: Throttle,
        stop: CancellationToken,
    ) -> Result<(), PartitionError> {
        let mut taken = Vec::with_capacity(ROUND_RECORDS_MAX);
        let mut proven = self.proven.subscribe();
        loop {
            let limit = match throttle {
                Throttle::RecordByRecord(until) if self.meta.cursor < until => 1,
                Throttle::RecordByRecord(_) | Throttle::WhatIsThere => ROUND_RECORDS_MAX,
            };
            let checkpoint_due = self.last_checkpoint + CHECKPOINT_INTERVAL;
            let (is_unsaved, is_saving) = (self.is_unsaved(), self.is_saving());
            let receipt_due = self.receipts.due(self.meta.cursor);
            let owes_receipt = self.role.owes_receipts() && self.receipts.is_behind();
            let kept_since = self.backlog.since();
            // In this order, so that none is kept waiting by a log that always has more.
            let is_whole = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.role.calls(kept_since.unwrap_or_else(Instant::now)), if kept_since.is_some() => {
                    unless_stuck(&stop, self.send_kept()).await.is_some()
                }
                () = sleep_until(checkpoint_due), if is_unsaved && !is_saving => {
                    unless_stuck(&stop, self.checkpoint()).await.is_some()
                }
                () = sleep_until(receipt_due), if owes_receipt => {
                    unless_stuck(&stop, self.write_receipt()).await.is_some()
                }
                Ok(()) = self.saved.changed(), if is_unsaved && is_saving => true,
                Ok(()) = proven.changed(), if kept_since.is_some() || self.unproven.is_some() => unless_stuck(&stop, self.forget()).await.is_some(),
                count = records.recv_many(&mut taken, limit) => match count {
                    0 => break,
                    _ => self.round(taken.drain(..), &stop).await?,
                },
            };
            if !is_whole {
                return Ok(());
            }
        }
        // Without a last checkpoint what came since the one before is applied once more.
        let _ = unless_stuck(&stop, async {
            self.forget().await;
            if self.is_unsaved() && self.backlog.is_empty() {
                self.checkpoint().await;
            }
        })
        .await;
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
        if self.overlay.cursor() == self.meta.cursor {
            return Ok(true);
        }
        let accepted = inputs.len() as u64;
        let Applied { changed, effects } = self.entities.apply(inputs).await?;
        self.counts.accepted.add(accepted);
        self.active.store(self.entities.active(), Relaxed);
        self.overlay.apply(self.meta.cursor, self.logic, changed);
        let (mut messages, mut replies) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Send(envelope) => messages.push(envelope),
                Effect::Reply(reply) => replies.push(reply),
            }
        }
        let messages = self.outbox.number(messages, &mut self.meta.links);
        let sender = tokio::select! {
            biased;
            sender = self.role.await_output_right(self.meta.cursor) => sender,
            () = stop.cancelled() => return Ok(false),
        };
        Ok(unless_stuck(stop, self.follow_up(sender, messages, replies)).await.is_some())
    }

    /// Does with what follows from a round what its `sender` asks for.
    async fn follow_up(&mut self, sender: Sender, messages: Vec<Numbered>, replies: Vec<Reply>) {
        let cursor = self.meta.cursor;
        match sender {
            Sender::Here => self.send(messages, replies).await,
            Sender::Owner => {
                self.backlog.keep(cursor, messages, replies);
                self.kept.store(self.backlog.len(), Relaxed);
                self.settle(None, vec![], None).await;
                if self.backlog.is_full() {
                    self.make_room().await;
                }
            }
            Sender::Other => {
                raise(&self.proven, cursor);
                self.settle(None, vec![], None).await;
            }
        }
    }

    /// Sends what follows up to the cursor, behind all that is kept: the numbers on a link leave no hole.
    async fn send(&mut self, messages: Vec<Numbered>, replies: Vec<Reply>) {
        let (mut all, mut all_replies) = self.backlog.take();
        self.kept.store(0, Relaxed);
        all.extend(messages);
        all_replies.extend(replies);
        let sent = self.outbox.send(&all, self.meta.cursor).await;
        self.settle(Some(sent), all_replies, None).await;
        self.forget().await;
    }

    /// Sends all that is kept.
    async fn send_kept(&mut self) {
        let (kind, number, kept) = (self.kind, self.number, self.backlog.len());
        tracing::info!("{kind}/{number}: sending {kept} messages and answers that were kept");
        self.send(vec![], vec![]).await;
    }

    /// Lets go of what is kept and is proven to be in the logs, and of the checkpoint that waits for that.
    async fn forget(&mut self) {
        let proven = *self.proven.borrow();
        self.backlog.forget(proven);
        self.kept.store(self.backlog.len(), Relaxed);
        let is_covered = |checkpoint: &mut Checkpoint| self.backlog.is_clear_to(checkpoint.meta.cursor);
        if let Some(checkpoint) = self.unproven.take_if(is_covered) {
            self.settle(None, vec![], Some(checkpoint)).await;
        }
    }

    /// Makes room where too much is kept: where this host is far behind, others know of a receipt that it would come
    /// to later. That it is there is looked up.
    async fn make_room(&mut self) {
        let until = Instant::now() + PATIENCE;
        let mut known = self.meta.cursor;
        while self.backlog.is_full() {
            let Some(named) = self.role.named_receipt(known, until).await else { return self.send_kept().await };
            known = named;
            if let Some(vouched) = self.look_up(named).await {
                raise(&self.proven, vouched);
                self.forget().await;
            }
        }
    }

    /// Up to where the record at a sequence vouches, if it is a receipt.
    async fn look_up(&self, sequence: u64) -> Option<u64> {
        let record = self.log.record(self.kind, sequence).await.ok()??;
        match record.read(self.kind).ok()? {
            Payload::Frame(frame) if record.partition == self.number => frame.vouches(self.receipts.source, sequence),
            Payload::Frame(_) | Payload::Repair(_) | Payload::Upgrade(_) => None,
        }
    }

    /// Says in the log how far all that follows is in the logs. One that does not get there is written anew.
    async fn write_receipt(&mut self) {
        self.receipts.written = (Instant::now(), self.meta.cursor);
        let proven = *self.proven.borrow();
        if proven <= self.receipts.vouched {
            return;
        }
        let receipt = frame::receipt(self.receipts.source, proven);
        if let Err(error) = self.log.append(self.kind, self.number, receipt).await {
            tracing::debug!("no receipt: {error}");
        }
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
                    self.receipts.last_record = sequence;
                    self.meta.links.mend(source, accepted, sequence);
                    let logic = self.logic;
                    let now = logic.now(&mut self.meta.clock, taken);
                    let input = |(index, envelope)| Input { position: (sequence, index), now, logic, envelope };
                    inputs.extend(messages.into_iter().enumerate().map(input));
                }
                Ok(Payload::Frame(frame)) => {
                    if let Some(vouched) = self.receipts.take(&frame, sequence) {
                        self.role.trust();
                        raise(&self.proven, vouched);
                    }
                    let Frame { source, first, messages, .. } = frame;
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

    /// Makes a checkpoint. It is written when the logs have all that follows from what it holds.
    async fn checkpoint(&mut self) {
        self.meta.cursor_hash = hash(&self.last);
        (self.checkpointed, self.last_checkpoint) = (self.meta.cursor, Instant::now());
        self.unproven = Some(Checkpoint { meta: self.meta.clone(), changes: self.overlay.leave() });
        self.forget().await;
    }

    async fn settle(&mut self, sent: Option<Vec<Acknowledged>>, replies: Vec<Reply>, checkpoint: Option<Checkpoint>) {
        // A settler that ended says why itself.
        let _ = self.rounds.send(Round { cursor: self.meta.cursor, sent, replies, checkpoint }).await;
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
