//! The shop is cut into other partitions while it goes on, by the code that does it everywhere; hosts, doors and whoever
//! cuts may be frozen meanwhile, and find out later.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use shop_actors::{
    repartition::{Parts, Repartition, RepartitionError, Stores},
    store::{Store, memory::MemoryStore},
};
use shop_domain::{id::Id, kind::Kind};
use shop_nats::memory::MemoryLog;
use tokio::{task::JoinHandle, time::Instant};

use super::{Event, Sim, Slot};
use crate::{door::Door, host::Host, life::Life, trace::Fault, vault::Vault};

/// Into how many partitions a kind is cut at most.
const PARTITIONS_MAX: u16 = 4;
/// How long a host, or a door, goes on at most that has not heard that the shop was cut: they look now and then.
const UNAWARE_MS: u64 = 5_000;
/// The same of a host that was told to look.
const TOLD_MS: u64 = 300;
/// For how long doors hold that do not hear any more that they are to.
const HOLD: Duration = Duration::from_secs(2);

/// What there is of a shop that is being cut, or was.
#[derive(Default)]
pub(super) struct Cutting {
    work: Option<Work>,
    /// Whether the shop was ever to be cut, so that hosts look whether it was.
    is_ever: bool,
    /// Until when doors hold.
    held_until: Option<Instant>,
    /// Requests that wait until doors do not hold any more.
    held: Vec<usize>,
    /// Doors that have not noticed yet, and when they do.
    former: Vec<(Instant, Door)>,
    /// When somebody who was frozen gives a stream back the subjects of a former layout, and which one.
    gives_back: Option<(Instant, Kind)>,
}

/// Whoever cuts it.
struct Work {
    life: Arc<Life>,
    task: JoinHandle<()>,
    holds: bool,
}

impl Sim {
    /// Somebody begins to cut some kinds into other numbers of partitions, unless somebody does already.
    pub(crate) fn repartition(&mut self) {
        if self.cutting.work.is_some() {
            return;
        }
        self.cutting.is_ever = true;
        self.lives += 1;
        let life = Life::of_operator(self.lives, Kind::Order, &self.world);
        let mut partitions = BTreeMap::new();
        for kind in Kind::ALL {
            if self.chance.u8(0..4) > 0 {
                partitions.insert(kind, self.chance.u16(1..=PARTITIONS_MAX));
            }
        }
        let (log, lives, epoch) = (self.log.under(life.clone()), Arc::clone(&life), self.chance.u64(1 << 32..));
        let task = tokio::spawn(async move {
            let outcome = cut_anew(&lives, &log, partitions, epoch).await;
            let _the_run_is_over = lives.world().events.send(Event::CutAnew(lives.number, outcome));
        });
        self.cutting.work = Some(Work { life, task, holds: false });
        let next = self.next_look();
        self.zombies.iter_mut().for_each(|zombie| zombie.looks_at = Some(next));
        for slot in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.look_soon(slot, UNAWARE_MS);
        }
    }

    /// A host stands still for a while; and sometimes one of the doors of its kind.
    pub(crate) fn freeze(&mut self, slot: Slot, time: Duration) {
        self.count(Fault::HostFrozen);
        self.hosts[&slot].life.freeze(time);
        let doors: Vec<_> = self.doors.values().filter(|door| door.kind == slot.0).collect();
        if let Some(door) = self.chance.choice(doors).filter(|_| self.chance.bool()) {
            door.life.freeze(time);
            self.count(Fault::DoorFrozen);
        }
    }

    /// Whoever cuts the shop is gone, or stands still for a while.
    pub(crate) fn disturb_the_cut(&mut self, time: Duration) {
        match &self.cutting.work {
            Some(work) if self.chance.bool() => work.life.freeze(time),
            Some(work) => {
                let life = work.life.number;
                self.count(Fault::RepartitionKilled);
                self.end_the_cut(life);
            }
            None => {}
        }
    }

    /// Whether somebody cuts the shop.
    pub(crate) const fn is_being_cut(&self) -> bool {
        self.cutting.work.is_some()
    }

    /// Whether the shop was ever to be cut.
    pub(super) const fn is_ever_cut(&self) -> bool {
        self.cutting.is_ever
    }

    /// What is still to come because the shop is, or was, cut.
    pub(super) fn unrest_of_cut(&self) -> Vec<String> {
        let Cutting { work, held, former, gives_back, .. } = &self.cutting;
        let cut = work.iter().map(|work| format!("the shop is being cut, doors are to hold: {}", work.holds));
        let counts = [("held requests", held.len()), ("doors of a former layout", former.len())];
        let others = counts.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}"));
        let given_back = gives_back.iter().map(|(_, kind)| format!("the stream of {kind} is to be given back"));
        cut.chain(others).chain(given_back).collect()
    }

    /// When a host that hears of nothing looks next how the logs are cut.
    pub(super) fn next_look(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.chance.u64(0..UNAWARE_MS))
    }

    fn look_soon(&mut self, slot: Slot, ms_max: u64) {
        let at = Instant::now() + Duration::from_millis(self.chance.u64(0..ms_max));
        if let Some(host) = self.hosts.get_mut(&slot) {
            host.looks_at = Some(host.looks_at.map_or(at, |before| before.min(at)));
        }
    }

    /// Whether the doors hold, and this request waits until they do not any more.
    pub(super) fn is_held(&mut self, request: usize) -> bool {
        // Not all doors hear that they are to.
        let is_held = self.holds() && self.chance.u8(0..8) > 0;
        if is_held {
            self.count(Fault::HeldByDoors);
            self.cutting.held.push(request);
        }
        is_held
    }

    fn holds(&self) -> bool {
        self.cutting.held_until.is_some_and(|until| until > Instant::now())
    }

    /// A door that has not noticed yet that the shop was cut, if a request comes to one.
    pub(super) fn former_door(&mut self, kind: Kind, id: &Id) -> Option<&mut Door> {
        let at = self.cutting.former.iter().position(|(_, door)| door.is_for(kind, id))?;
        if self.chance.bool() {
            return None;
        }
        self.count(Fault::FormerDoor);
        self.cutting.former.get_mut(at).map(|(_, door)| door)
    }

    /// A door of a former layout has died.
    pub(super) fn close_former_door(&mut self, life: u64) {
        let at = self.cutting.former.iter().position(|(_, door)| door.life.number == life);
        if let Some((_, door)) = at.map(|at| self.cutting.former.remove(at)) {
            self.leave(door);
        }
    }

    fn leave(&mut self, door: Door) {
        let replies = self.replies();
        for request in door.leave() {
            let inbox = &self.asked[request].inbox;
            if replies.iter().all(|reply| reply.to.inbox != *inbox) {
                self.asked[request].asked_again = true;
                self.ask_again(request);
            }
        }
    }

    pub(super) fn hold(&mut self, life: u64) {
        if let Some(work) = self.cutting.work.as_mut().filter(|work| work.life.number == life) {
            work.holds = true;
        }
    }

    /// It is cut anew, or not; the doors are to open, and the hosts to look.
    pub(super) fn cut_anew(&mut self, life: u64, outcome: &Result<(), RepartitionError>) {
        if let Err(error) = outcome {
            self.count(Fault::RepartitionFailed);
            if let RepartitionError::Different(_) | RepartitionError::Store(_) | RepartitionError::Folder(_) = error {
                self.world.observer.report(error.to_string());
            }
        }
        self.end_the_cut(life);
        self.cutting.held_until = None;
        for slot in self.hosts.keys().copied().collect::<Vec<_>>() {
            // Some are not told.
            let ms_max = if self.chance.bool() { TOLD_MS } else { UNAWARE_MS };
            self.look_soon(slot, ms_max);
        }
    }

    fn end_the_cut(&mut self, life: u64) {
        if let Some(work) = self.cutting.work.take_if(|work| work.life.number == life) {
            work.task.abort();
        }
    }

    /// A host has looked which layout is in force.
    pub(super) fn looked(&mut self, life: u64, generation: u32) {
        let next = self.next_look();
        let mut hosts = self.hosts.values_mut().chain(&mut self.zombies);
        let Some(host) = hosts.find(|host| host.life.number == life) else { return };
        if host.generation == generation {
            host.looks_at = Some(next);
        } else {
            host.begin_anew();
            self.count(Fault::BegunAnew);
        }
    }

    /// Sees whether another layout is in force.
    pub(super) fn notice_cut(&mut self) {
        let now = self.log.generation();
        if now == std::mem::replace(&mut self.generation, now) {
            return;
        }
        self.count(Fault::Repartitioned);
        self.world.observer.follow();
        let frozen = self.hosts.values().filter(|host| host.life.thaws_at().is_some());
        frozen.for_each(|_| self.count(Fault::FrozenBehind));
        if self.chance.u8(0..4) == 0 {
            let kind = Kind::ALL[self.chance.usize(0..Kind::ALL.len())];
            self.cutting.gives_back = Some((self.next_look(), kind));
        }
        for door in std::mem::take(&mut self.doors).into_values() {
            let thaws_at = door.life.thaws_at().unwrap_or_else(Instant::now);
            let notices_at = thaws_at + Duration::from_millis(self.chance.u64(0..UNAWARE_MS));
            self.cutting.former.push((notices_at, door));
        }
    }

    /// When something is to be done next because the shop is, or was, cut.
    pub(super) fn next_of_cut(&self) -> Option<Instant> {
        let former = self.cutting.former.iter().map(|(at, _)| *at);
        let opens_at = self.cutting.held_until.filter(|_| !self.cutting.held.is_empty());
        former.chain(opens_at).chain(self.cutting.gives_back.map(|(at, _)| at)).min()
    }

    /// Does what is to be done because the shop is, or was, cut.
    pub(super) fn mind_the_cut(&mut self) {
        let now = Instant::now();
        if self.cutting.work.as_ref().is_some_and(|work| work.holds && work.life.thaws_at().is_none()) {
            self.cutting.held_until = Some(now + HOLD);
        }
        if let Some((_, kind)) = self.cutting.gives_back.take_if(|(at, _)| *at <= now) {
            self.count(Fault::GivenBack);
            self.log.give_back(kind);
        }
        if !self.holds() {
            self.cutting.held_until = None;
            std::mem::take(&mut self.cutting.held).into_iter().for_each(|request| self.let_in(request));
        }
        let (noticed, former) = std::mem::take(&mut self.cutting.former).into_iter().partition(|(at, _)| *at <= now);
        self.cutting.former = former;
        let noticed: Vec<(Instant, Door)> = noticed;
        noticed.into_iter().for_each(|(_, door)| self.leave(door));
        let (holds, next) = (self.holds(), self.next_look());
        let is_due = |host: &&mut Host| {
            let is_awake = host.life.kept().is_none() && host.life.thaws_at().is_none();
            is_awake && host.looks_at.is_some_and(|at| at <= now)
        };
        for host in self.hosts.values_mut().chain(&mut self.zombies).filter(is_due) {
            if holds && self.chance.u8(0..16) > 0 {
                // Who hears that the doors are to hold knows that somebody is at it.
                host.looks_at = Some(next);
            } else {
                host.look(&self.log);
            }
        }
    }
}

/// Cuts the shop, and says when the doors are to hold.
async fn cut_anew(
    life: &Arc<Life>,
    log: &MemoryLog,
    partitions: BTreeMap<Kind, u16>,
    epoch: u64,
) -> Result<(), RepartitionError> {
    let layouts = log.layouts();
    let decided = layouts.conform().await?;
    let store = |kind| (kind, Arc::new(MemoryStore::default()) as Arc<dyn Store>);
    let stores = || Stores::from(Kind::ALL.map(store));
    let parts = Parts {
        log: Arc::new(log.of_generation(decided.generation())),
        layouts,
        decided,
        snapshots: Vault::snapshots(life),
        before: stores(),
        after: stores(),
        partitions,
        epoch,
    };
    let mut repartition = Repartition::of(parts).await?;
    repartition.catch_up().await?;
    let _the_run_is_over = life.world().events.send(Event::Hold(life.number));
    let settled = repartition.settle().await?;
    // What is written is sorted on a thread of its own.
    Vault::enter(life).await;
    settled.rewrite().await?.commit().await
}
