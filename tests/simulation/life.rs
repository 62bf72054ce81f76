//! One life of a host or a door: the logs and checkpoints as it sees them, and its end.
//!
//! A host that is dead stores nothing, saves nothing and answers nothing, whatever its tasks still
//! do until they are gone: as if the process had been killed at that very moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_actors::{
    kind_host::KindError,
    partition::role::Role,
    snapshot::Name,
    store::{
        Checkpoint, CheckpointView, Items, ItemsError, Meta, PartitionStore, SharedPartitionStore, Store, StoreError,
        memory::MemoryStore,
    },
};
use shop_domain::{entity::Reply, id::Id, kind::Kind, rows::RowKey};
use shop_nats::{
    log::{
        PartitionId, Record,
        frame::{Frame, Origin, Payload, Source},
    },
    memory::{Chaos, Delivery, Fate},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    chaos::{Harm, Keep, Mischief, Moment},
    exchange::Exchange,
    observer::Observer,
    sim::Event,
    trace::Fault,
    vault::Vault,
};

/// What the hosts and doors of a run share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) mischief: Mischief,
    pub(crate) vault: Vault,
    pub(crate) observer: Observer,
    pub(crate) exchange: Exchange,
    pub(crate) answers: Mutex<Answers>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

/// What callers got.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) given: Vec<Reply>,
    /// Inboxes of answers that were lost with their host.
    pub(crate) lost: BTreeSet<Box<str>>,
}

/// One life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// The moment at which it hands frames to the log; none for who looks after the logs, and hands in none.
    appends: Option<Moment>,
    world: Arc<World>,
    end: Mutex<Option<Keep>>,
    /// When it goes on, if it is frozen.
    thaws_at: Mutex<Option<Instant>>,
    deeds: Mutex<Deeds>,
}

/// What a host has done, and what it was told.
#[derive(Debug, Default)]
struct Deeds {
    /// By link: the number of the last message that it has handed to the log.
    sent: BTreeMap<(PartitionId, PartitionId), u64>,
    /// By partition: up to where its owner is, as far as it has heard.
    told: BTreeMap<u16, u64>,
    standby: BTreeSet<u16>,
}

impl Life {
    /// A host's life.
    pub(crate) fn of_host(number: u64, kind: Kind, world: &Arc<World>) -> Arc<Self> {
        Self::begin(number, kind, Some(Moment::Append), world)
    }

    /// A door's life.
    pub(crate) fn of_door(number: u64, kind: Kind, world: &Arc<World>) -> Arc<Self> {
        Self::begin(number, kind, Some(Moment::Request), world)
    }

    fn begin(number: u64, kind: Kind, appends: Option<Moment>, world: &Arc<World>) -> Arc<Self> {
        let (world, end, thaws_at) = (Arc::clone(world), Mutex::default(), Mutex::default());
        Arc::new(Self { number, kind, appends, world, end, thaws_at, deeds: Mutex::default() })
    }

    /// Stands still for a while: nothing comes from it, and it hears nothing.
    pub(crate) fn freeze(&self, time: Duration) {
        let thaws_at = self.thaws_at().max(Some(Instant::now() + time));
        *self.thaws_at.lock().expect("nobody panics while freezing") = thaws_at;
    }

    /// When it goes on, if it is frozen.
    pub(crate) fn thaws_at(&self) -> Option<Instant> {
        let mut thaws_at = self.thaws_at.lock().expect("nobody panics while freezing");
        *thaws_at = thaws_at.filter(|at| *at > Instant::now());
        *thaws_at
    }

    /// Waits until it goes on, if it is frozen.
    pub(crate) async fn thawed(&self) {
        while let Some(at) = self.thaws_at() {
            sleep_until(at).await;
        }
    }

    /// With what it comes back, once it is dead.
    pub(crate) fn kept(&self) -> Option<Keep> {
        *self.end.lock().expect("nobody panics while dying")
    }

    /// Ends here.
    pub(crate) fn end(&self, keep: Keep) {
        let before = self.end.lock().expect("nobody panics while dying").replace(keep);
        if before.is_none() {
            let _the_run_is_over = self.world.events.send(Event::Died(self.number));
        }
    }

    /// Its host has come to an end by itself. Whatever may happen to a host is mended by starting
    /// it again; what may not is a violation.
    pub(crate) fn ended(&self, outcome: Result<(), KindError>, is_cut_anew: bool) {
        match outcome {
            Err(error) if is_cut_anew && error.may_come_of_a_cut() => self.count(Fault::EndedBehind),
            Err(KindError::Log(error)) if error.to_string().ends_with("is missing") => {
                self.count(Fault::CutUnderReader)
            }
            Ok(()) | Err(KindError::Log(_) | KindError::Stuck(_)) => {}
            Err(
                error @ (KindError::Attach(_)
                | KindError::Store(_)
                | KindError::Snapshot(_)
                | KindError::Partition(_)
                | KindError::Unsent(_)
                | KindError::Bug(..)),
            ) => self.world.observer.report(format!("the host of {} ended: {error}", self.kind)),
        }
        let _the_run_is_over = self.world.events.send(Event::Ended(self.number));
    }

    /// The life of somebody who looks after the logs of a kind.
    pub(crate) fn of_operator(number: u64, kind: Kind, world: &Arc<World>) -> Arc<Self> {
        Self::begin(number, kind, None, world)
    }

    /// What it shares with all others.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Who sees what it shows.
    pub(crate) fn observer(&self) -> &Observer {
        &self.world.observer
    }

    /// Something happened to it.
    pub(crate) fn count(&self, fault: Fault) {
        self.world.mischief.count(fault);
    }

    /// It was told that the owner of a partition is as far as that.
    pub(crate) fn told(&self, partition: u16, settled: u64) {
        let mut deeds = self.deeds();
        let known = deeds.told.entry(partition).or_default();
        if *known > settled {
            self.count(Fault::HearsayOld);
        }
        *known = settled.max(*known);
    }

    /// From now on it is this to a partition.
    pub(crate) fn is_now(&self, partition: u16, role: Role) {
        let mut deeds = self.deeds();
        match role {
            Role::Owner => drop(deeds.standby.remove(&partition)),
            Role::Standby | Role::Spectator => drop(deeds.standby.insert(partition)),
        }
    }

    /// It hands a frame to the log.
    fn hands_in(&self, to: PartitionId, frame: &Bytes) {
        let Ok(Payload::Frame(Frame { source, first, messages, .. })) = Payload::decode(to.0, frame) else { return };
        let Source { origin: Origin::Partition(kind, partition), .. } = source else { return };
        let last = first + messages.len() as u64 - 1;
        let mut deeds = self.deeds();
        let is_standby = deeds.standby.contains(&partition);
        let sent = deeds.sent.entry(((kind, partition), to)).or_default();
        if last > *sent {
            *sent = last;
            if is_standby {
                self.count(Fault::SentByStandby);
            }
        }
    }

    /// A host may only keep what a receipt in the log vouches for, or what it has sent on its own.
    fn keeps(&self, partition: u16, before: u64, cursor: u64) {
        let place = (self.kind, partition);
        let vouched = self.world.observer.vouched(place).max(before);
        let deeds = self.deeds();
        for (to, number) in self.world.observer.sent_between(place, vouched, cursor) {
            let sent = deeds.sent.get(&(place, to)).copied().unwrap_or_default();
            if sent < number {
                let (kind, target) = to;
                self.world.observer.report(format!(
                    "a checkpoint of {}/{partition} at {cursor}: its messages up to {number} to {kind}/{target} are in                      nobody's name: the log vouches for {vouched}, and this host has sent {sent}",
                    self.kind
                ));
            }
        }
    }

    fn deeds(&self) -> MutexGuard<'_, Deeds> {
        self.deeds.lock().expect("nobody panics while noting")
    }

    /// What goes wrong when it has written a snapshot but for its last byte.
    pub(crate) fn at_snapshot(&self) -> Option<Harm> {
        // Who looks after the logs writes so many at a time that none of its works would come to an end.
        self.appends.and_then(|_| self.at(Moment::Snapshot))
    }

    /// What goes wrong at this moment of it.
    pub(crate) fn at(&self, moment: Moment) -> Option<Harm> {
        self.world.mischief.at(moment, self.kind)
    }

    /// Takes the answers of a host, as long as it lives.
    pub(crate) async fn answer(self: Arc<Self>, mut replies: mpsc::Receiver<Reply>) {
        while let Some(reply) = replies.recv().await {
            self.thawed().await;
            let harm = if self.kept().is_none() { self.at(Moment::Reply) } else { None };
            if let Some(Harm::CrashBefore(keep)) = harm {
                self.end(keep);
            }
            if self.kept().is_some() {
                self.world.answers.lock().expect("nobody panics while adding").lost.insert(reply.to.inbox);
                continue;
            }
            self.world.observer.answered(&reply);
            self.world.answers.lock().expect("nobody panics while adding").given.push(reply);
            if let Some(Harm::CrashAfter(keep)) = harm {
                self.end(keep);
            }
        }
    }
}

impl Chaos for Life {
    fn append(&self, kind: Kind, partition: u16, frame: &Bytes) -> Fate {
        // Before each record but the first, so that it sees them one by one, in the order of time.
        self.world.observer.follow();
        if self.kept().is_some() {
            return Fate::Lost;
        }
        self.hands_in((kind, partition), frame);
        let delay = self.world.mischief.acknowledgement_delay(kind, partition);
        match self.appends.and_then(|moment| self.at(moment)) {
            None => Fate::Stored(delay),
            Some(Harm::Refused) => Fate::Refused(delay),
            Some(Harm::Lost) => Fate::Lost,
            Some(Harm::Unacknowledged) => Fate::Unacknowledged,
            Some(Harm::CrashBefore(keep)) => {
                self.end(keep);
                Fate::Lost
            }
            Some(Harm::CrashAfter(keep)) => {
                self.end(keep);
                Fate::Unacknowledged
            }
            Some(harm @ (Harm::Twice | Harm::Late | Harm::ReaderLost | Harm::ReadFailed)) => {
                unreachable!("{harm:?} happens to deliveries")
            }
        }
    }

    fn deliver(&self, kind: Kind, record: &Record) -> Delivery {
        if self.kept().is_some() {
            return Delivery::PROMPT;
        }
        let mischief = &self.world.mischief;
        let delay = mischief.delivery_delay(kind, record.partition);
        match self.appends.and_then(|_| self.at(Moment::Delivery)) {
            None => Delivery::Comes { delay, copies: 1 },
            Some(Harm::Twice) => Delivery::Comes { delay, copies: 2 },
            Some(Harm::Late) => Delivery::Comes { delay: mischief.long_delay(), copies: 1 },
            Some(Harm::ReaderLost) => Delivery::ReaderLost(mischief.long_delay()),
            Some(Harm::ReadFailed) => Delivery::Failed,
            Some(Harm::CrashBefore(keep)) => {
                self.end(keep);
                Delivery::PROMPT
            }
            Some(harm @ (Harm::Refused | Harm::Lost | Harm::Unacknowledged | Harm::CrashAfter(_))) => {
                unreachable!("{harm:?} does not happen to deliveries")
            }
        }
    }

    fn frozen(&self) -> Option<BoxFuture<'static, ()>> {
        self.thaws_at().map(|at| sleep_until(at).boxed())
    }

    fn way(&self) -> Duration {
        let (way, frozen) = self.world.mischief.way();
        if let Some(time) = frozen {
            self.count(Fault::FrozenWhileCutting);
            self.freeze(time);
        }
        way
    }
}

/// Where one host keeps its checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct Cellar {
    life: Arc<Life>,
    latest: MemoryStore,
    older: Arc<Mutex<MemoryStore>>,
}

impl Cellar {
    pub(crate) fn new(life: Arc<Life>, latest: MemoryStore) -> Self {
        let older = Arc::new(Mutex::new(latest.snapshot()));
        Self { life, latest, older }
    }

    /// What a host that comes back finds.
    pub(crate) fn keep(&self, keep: Keep) -> MemoryStore {
        match keep {
            Keep::Latest => self.latest.snapshot(),
            Keep::Older => self.older.lock().expect("nobody panics while changing it").snapshot(),
            Keep::Nothing => MemoryStore::default(),
        }
    }
}

impl Store for Cellar {
    fn partition(&self, partition: u16) -> Result<SharedPartitionStore, StoreError> {
        let partition_store = self.latest.partition(partition)?;
        Ok(Arc::new(CellarPartitionStore { cellar: self.clone(), partition, partition_store }))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.latest.flush()
    }
}

#[derive(Debug)]
struct CellarPartitionStore {
    cellar: Cellar,
    partition: u16,
    partition_store: SharedPartitionStore,
}

impl PartitionStore for CellarPartitionStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.partition_store.meta()
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        self.partition_store.state(id)
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        self.partition_store.row(id, row)
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        self.partition_store.states_after(after, limit)
    }

    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        self.partition_store.rows_before(id, prefix, before, limit)
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let life = &self.cellar.life;
        let harm = if life.kept().is_none() { life.at(Moment::Checkpoint) } else { None };
        if let Some(Harm::CrashBefore(keep)) = harm {
            life.end(keep);
        }
        if life.kept().is_some() {
            return Ok(());
        }
        let (before, cursor) = (self.partition_store.meta()?.map_or(0, |meta| meta.cursor), checkpoint.meta.cursor);
        life.world.observer.settled(life.kind, self.partition, cursor, "a checkpoint");
        life.keeps(self.partition, before, cursor);
        *self.cellar.older.lock().expect("nobody panics while changing it") = self.cellar.latest.snapshot();
        self.partition_store.write(checkpoint)?;
        if let Some(Harm::CrashAfter(keep)) = harm {
            life.end(keep);
        }
        Ok(())
    }

    fn tidy(&self) -> Result<(), StoreError> {
        self.partition_store.tidy()
    }

    fn blocks(&self) -> bool {
        self.partition_store.blocks()
    }

    fn freeze(&self) -> Result<Option<Box<dyn CheckpointView>>, StoreError> {
        self.partition_store.freeze()
    }

    fn restore(&self, meta: &Meta, items_max: u64, items: &mut Items<'_>) -> Result<(), ItemsError> {
        let life = &self.cellar.life;
        if life.kept().is_some() {
            return Ok(());
        }
        let before = self.partition_store.meta()?;
        self.partition_store.restore(meta, items_max, items)?;
        let place = (life.kind, self.partition);
        life.world.observer.settled(life.kind, self.partition, meta.cursor, "a snapshot");
        life.count(if before.is_some() { Fault::RestoredBehind } else { Fault::Restored });
        if life.world.vault.is_newer_spoiled(place, Name::of(meta)) {
            life.count(Fault::RestoredOlder);
        }
        Ok(())
    }
}
