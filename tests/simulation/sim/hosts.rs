//! The hosts of a shop in simulation: started, killed, stopped in peace, and started again.

use std::{sync::Arc, time::Duration};

use shop_actors::{kind_host::View, partition::role::Role, store::memory::MemoryStore};
use shop_domain::{id::Id, kind::Kind, logic::Logic};
use shop_nats::{log::frame::Upgrade, subject::partition_of};
use tokio::time::Instant;

use super::{Sim, Slot};
use crate::{
    chaos::Keep,
    hearsay::{Lies, Member},
    host::{Host, Setting},
    life::Life,
    reads::LookAt,
    trace::Fault,
};

/// How long a host among others is away at most until it is started again: longer than it takes the
/// others to notice, and shorter than that.
const AWAY_MS: u64 = 3_000;
/// How long a host that leaves gives the others at most.
const FAREWELL_MS: u64 = 400;
/// By how many milliseconds the clock of the logs is put back at most at a time: so far that it has not caught up when
/// the run ends.
const PUT_BACK_MS: u64 = 20_000;
/// How long it is away in a script.
const AWAY: Duration = Duration::from_secs(1);

impl Sim {
    /// Starts a host in its place.
    pub(super) fn open(&mut self, slot: Slot, store: MemoryStore) {
        let standbys = (self.shape.hosts > 1).then_some(self.shape.standbys);
        let mut host = self.start(slot.0, store, standbys);
        self.introduce(&mut host);
        host.looks_at = self.is_ever_cut().then(|| self.next_look());
        self.hosts.insert(slot, host);
    }

    /// One of the hosts of a kind, if there is one.
    pub(crate) fn any_host(&mut self, kind: Kind) -> Option<Slot> {
        let slots: Vec<Slot> = self.hosts.keys().filter(|(of, _)| *of == kind).copied().collect();
        self.chance.choice(slots)
    }

    pub(super) fn slot_of(&self, life: u64) -> Option<Slot> {
        self.hosts.iter().find(|(_, host)| host.life.number == life).map(|(slot, _)| *slot)
    }

    /// A host is killed, and started again with what is kept of its checkpoints.
    pub(crate) fn crash(&mut self, slot: Slot, keep: Keep) {
        self.count_what_it_leaves(slot);
        self.count(match keep {
            Keep::Latest => Fault::FromLatest,
            Keep::Older => Fault::FromOlder,
            Keep::Nothing => Fault::FromNothing,
        });
        let away = self.time_away();
        self.replace(slot, |host| host.cellar.keep(keep), away);
    }

    /// The same with checkpoints of long ago.
    pub(crate) fn crash_back_to(&mut self, slot: Slot, store: MemoryStore) {
        self.count_what_it_leaves(slot);
        self.count(Fault::FromOlder);
        let away = self.time_away();
        self.replace(slot, |_| store, away);
    }

    /// A host that is the only one is started again at once, because nothing happens without it.
    fn time_away(&mut self) -> Duration {
        if self.shape.hosts == 1 {
            return Duration::ZERO;
        }
        if self.hearsay.is_calm() {
            return AWAY;
        }
        Duration::from_millis(if self.chance.bool() { self.chance.u64(0..AWAY_MS) } else { 0 })
    }

    pub(super) fn replace(&mut self, slot: Slot, store: impl FnOnce(&Host) -> MemoryStore, away: Duration) {
        let before = self.hosts.remove(&slot).expect("there is a host");
        before.kill();
        let store = store(&before);
        if away.is_zero() {
            self.open(slot, store);
        } else {
            self.away.insert(slot, (Instant::now() + away, store));
        }
    }

    fn count_what_it_leaves(&self, slot: Slot) {
        self.hosts[&slot].leaves(&self.log).into_iter().for_each(|window| self.count(window));
    }

    pub(super) fn close_door(&mut self, at: (Kind, u16)) {
        let Some(door) = self.doors.remove(&at) else { return };
        for request in door.close() {
            self.asked[request].asked_again = true;
            self.ask_again(request);
        }
    }

    /// A host is asked to stop; it is started again when it has.
    pub(crate) fn stop(&mut self, slot: Slot) {
        if self.hosts[&slot].life.thaws_at().is_some() {
            return;
        }
        self.count(Fault::Stopped);
        let others = self.hosts.iter().filter(|(of, host)| of.0 == slot.0 && **of != slot && host.is_ready());
        if others.count() > 0 {
            self.count(Fault::HandedOver);
        }
        let after = Duration::from_millis(self.chance.u64(0..FAREWELL_MS));
        self.hosts.get_mut(&slot).expect("there is a host").stop(after);
    }

    /// The connection is lost and comes back: what was on its way may be lost.
    pub(crate) fn disrupt(&self) {
        self.count(Fault::Disrupted);
        self.log.disrupt();
    }

    /// The clock of the logs turns out to have gone ahead.
    pub(crate) fn put_back(&mut self) {
        self.count(Fault::ClockPutBack);
        self.log.put_back(Duration::from_millis(self.chance.u64(1..PUT_BACK_MS)));
    }

    /// A partition of a kind goes on with the newest logic.
    pub(crate) fn upgrade(&self, kind: Kind, partition: u16) {
        self.count(Fault::Upgraded);
        self.log.store(kind, partition, Upgrade { logic: Logic::NEWEST.number() }.encode());
        self.world.observer.follow();
    }

    /// What a host's checkpoints are right now.
    pub(crate) fn checkpoints(&self, slot: Slot) -> MemoryStore {
        self.hosts[&slot].cellar.keep(Keep::Latest)
    }

    /// A second host on the same partitions, which believes that it is the only one.
    pub(crate) fn start_zombie(&mut self, slot: Slot, keep: Keep) {
        self.count(Fault::SecondHost);
        let store = self.hosts[&slot].cellar.keep(keep);
        let mut zombie = self.start(slot.0, store, None);
        zombie.looks_at = self.is_ever_cut().then(|| self.next_look());
        self.zombies.push(zombie);
    }

    /// Kills the oldest second host.
    pub(crate) fn stop_zombie(&mut self) {
        if !self.zombies.is_empty() {
            self.zombies.remove(0).kill();
        }
    }

    /// For a while a host hears nothing of the others, and they hear nothing of it if it `is_mute`.
    pub(crate) fn cut_off(&mut self, slot: Slot, is_mute: bool, time: Duration) {
        self.count(if is_mute { Fault::CutOff } else { Fault::Deaf });
        let until = Instant::now() + time;
        if let Some(member) = self.hosts.get_mut(&slot).and_then(|host| host.member.as_mut()) {
            member.deaf_until = until;
            if is_mute {
                member.mute_until = until;
            }
        }
    }

    /// For a while a host does not say how far it is.
    pub(crate) fn silence(&mut self, slot: Slot, time: Duration) {
        self.count(Fault::Silent);
        if let Some(member) = self.hosts.get_mut(&slot).and_then(|host| host.member.as_mut()) {
            member.silent_until = Instant::now() + time;
        }
    }

    /// For a while a host is announced that is not there, to which a partition would belong.
    pub(crate) fn haunt(&mut self, slot: Slot, partition: u16, lies: Option<Lies>, time: Duration) {
        if lies.is_some() {
            self.world.observer.lied_to();
        }
        let there = self.hosts.values().filter(|host| host.kind == slot.0);
        let there: Vec<_> = there.filter_map(|host| host.member.as_ref()).map(Member::announcement).collect();
        self.hearsay.haunt(slot.0, partition, &there, lies, time);
    }

    /// The last record of a kind.
    pub(crate) fn last_of(&self, kind: Kind) -> u64 {
        self.world.observer.last(kind)
    }

    /// A customer asks a host something.
    pub(crate) fn look(&mut self, slot: Slot, at: LookAt) {
        let host = self.hosts.get_mut(&slot).expect("there is a host");
        if !host.is_ready() {
            return;
        }
        let role = |id: &Id| {
            let partition = partition_of(id, host.partitions);
            let is_held = host.view.borrow().partitions.contains_key(&partition);
            is_held.then(|| if host.owns(partition) { Role::Owner } else { Role::Standby })
        };
        let role = if let LookAt::Entity(id) = &at { role(id) } else { None };
        host.reads.look(at, role);
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.world.mischief.count(fault);
    }

    fn start(&mut self, kind: Kind, store: MemoryStore, standbys: Option<usize>) -> Host {
        self.lives += 1;
        let setting = Setting { standbys, schedule: self.shape.snapshots };
        Host::start(Life::of_host(self.lives, kind, &self.world), &self.log, store, setting)
    }

    pub(super) fn all_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().chain(&self.zombies)
    }

    /// What is still to come: hosts that are not there, or have not settled all that the logs hold, for instance.
    pub(super) fn unrest(&self) -> Vec<String> {
        let away = self.away.keys().map(|slot| format!("{slot:?} is away"));
        let is_busy = |host: &&Host| !(host.is_ready() && host.is_settled(&self.log));
        let busy = self.all_hosts().filter(is_busy).map(|host| host.describe(&self.log));
        away.chain(busy).chain(self.unrest_of_cut()).collect()
    }

    /// What every host of a kind shows: the proper ones first, then second ones.
    pub(crate) fn views(&self, kind: Kind) -> Vec<Arc<View>> {
        self.all_hosts().filter(|host| host.kind == kind).map(|host| Arc::clone(&host.view.borrow())).collect()
    }

    /// A host of a kind that begins with nothing but the log.
    pub(crate) async fn rebuilt(&mut self, kind: Kind) -> Arc<View> {
        let host = self.start(kind, MemoryStore::default(), None);
        for _ in 0..1_000 {
            self.pass(Duration::from_millis(100)).await;
            if host.is_settled(&self.log) {
                return Arc::clone(&host.view.borrow());
            }
        }
        panic!("{kind} cannot be rebuilt from its log");
    }
}
