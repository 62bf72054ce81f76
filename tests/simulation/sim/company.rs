//! Several hosts of a kind: what they say to each other, when, and what becomes of it.

use std::{collections::BTreeMap, time::Duration};

use shop_domain::kind::Kind;
use tokio::time::Instant;

use super::Sim;
use crate::{
    hearsay::{self, Saying},
    host::Host,
    trace::Fault,
};

/// How often a host says that it is there.
const BEAT: Duration = Duration::from_millis(250);
/// The same while nothing happens: sooner than it is missed.
const IDLE_BEAT: Duration = Duration::from_secs(1);
/// How often is looked what hosts have to say, while something happens.
const LOOK: Duration = Duration::from_millis(10);
/// The least time between two looks: what timers can tell apart.
const PAUSE: Duration = Duration::from_millis(1);
/// How long something happens after the logs took the last record, or a host said something new.
const BUSY: Duration = Duration::from_secs(1);

/// What was seen of the hosts when it was looked last.
#[derive(Debug, Default)]
pub(super) struct Company {
    busy_until: Option<Instant>,
    length: u64,
    /// Partitions that do not have one owner, and how many they have instead.
    owners: BTreeMap<(Kind, u16), usize>,
}

impl Sim {
    /// When the hosts have to be minded next; at `until`, if not before.
    pub(super) fn next_at(&self, until: Instant) -> Instant {
        let look = self.is_busy().then(|| Instant::now() + LOOK);
        let hosts = self.all_hosts().filter_map(Host::next_at);
        let away = self.away.values().map(|(at, _)| *at);
        let others = self.hearsay.next_at().into_iter().chain(self.queue.next_at()).chain(self.next_of_cut());
        let next = hosts.chain(away).chain(others).chain(look).min();
        // Whoever is dead and not yet buried has nothing to say.
        next.map_or(until, |next| next.max(Instant::now() + PAUSE).min(until))
    }

    fn is_busy(&self) -> bool {
        self.company.busy_until.is_some_and(|busy| busy > Instant::now())
    }

    /// Lets hosts hear, decide and speak, and starts those again that were away.
    pub(super) fn mind_the_hosts(&mut self) {
        let now = Instant::now();
        let back: Vec<_> = self.away.iter().filter(|(_, (at, _))| *at <= now).map(|(slot, _)| *slot).collect();
        for slot in back {
            let (_, store) = self.away.remove(&slot).expect("it was just there");
            self.open(slot, store);
        }
        while let Some(Saying { to, what }) = self.hearsay.next() {
            let host = self.slot_of(to).and_then(|slot| self.hosts.get_mut(&slot));
            if let Some(at) = host.as_ref().and_then(|host| host.life.thaws_at()) {
                self.hearsay.keep_until(at, Saying { to, what });
                continue;
            }
            if let Some(host) = host.filter(|host| host.life.kept().is_none()) {
                let view = host.view.borrow().clone();
                if let Some(member) = &mut host.member {
                    member.hear(&what, &view);
                }
            }
        }
        self.let_them_speak();
        self.look_for_owners();
        let length = self.records();
        if length != std::mem::replace(&mut self.company.length, length) {
            self.company.busy_until = Some(now + BUSY);
        }
    }

    fn let_them_speak(&mut self) {
        let beat = if self.is_busy() { BEAT } else { IDLE_BEAT };
        let there: Vec<_> = self.hosts.values().map(|host| (host.kind, host.life.number)).collect();
        let is_awake = |host: &&mut Host| host.life.kept().is_none() && host.life.thaws_at().is_none();
        for host in self.hosts.values_mut().filter(is_awake) {
            host.go_on();
            let (kind, life, view) = (host.kind, host.life.number, host.view.borrow().clone());
            let others = || there.iter().filter(move |(of, other)| *of == kind && *other != life);
            let ghosts: Vec<_> = self.hearsay.ghosts(kind).collect();
            let mut is_gone = |name: &str| {
                let is_there = others().any(|(kind, life)| hearsay::name(*kind, *life) == name);
                !is_there && ghosts.iter().all(|ghost| ghost.host != name) && self.hearsay.is_noticed()
            };
            let Some(member) = &mut host.member else { continue };
            let is_beat = member.next_beat() <= Instant::now();
            if let Some(announcement) = member.speak(&view, beat, &mut is_gone) {
                others().for_each(|(_, other)| self.hearsay.say(*other, announcement));
            }
            if is_beat {
                ghosts.iter().for_each(|ghost| self.hearsay.say(life, ghost));
            }
        }
    }

    /// Tells a host that joins of those that are there, as far as these are heard of.
    pub(super) fn introduce(&self, host: &mut Host) {
        let view = host.view.borrow().clone();
        let Some(member) = &mut host.member else { return };
        let others = self.hosts.values().filter(|other| other.kind == host.kind);
        for other in others.filter_map(|other| other.member.as_ref()) {
            if other.mute_until <= Instant::now() {
                member.hear(other.announcement(), &view);
            }
        }
        member.decide(&view);
    }

    fn look_for_owners(&mut self) {
        if self.shape.hosts == 1 {
            return;
        }
        for kind in Kind::ALL {
            for partition in 0..self.log.partitions(kind) {
                let owners = self.owners(kind, partition);
                let before = self.company.owners.insert((kind, partition), owners).unwrap_or(1);
                match owners {
                    0 if before != 0 => self.count(Fault::NoOwner),
                    2.. if before < 2 => self.count(Fault::TwoOwners),
                    0.. => {}
                }
            }
        }
    }

    /// How many hosts among others own a partition.
    fn owners(&self, kind: Kind, partition: u16) -> usize {
        let is_one =
            |host: &&Host| host.kind == kind && host.life.kept().is_none() && host.generation == self.generation;
        let hosts = self.hosts.values().filter(is_one);
        hosts.filter(|host| host.owns(partition)).count()
    }

    /// All hosts hear of each other, and none stays away any longer.
    pub(super) fn bring_together(&mut self) {
        let now = Instant::now();
        self.away.values_mut().for_each(|(at, _)| *at = now);
        for member in self.hosts.values_mut().filter_map(|host| host.member.as_mut()) {
            (member.deaf_until, member.mute_until, member.silent_until) = (now, now, now);
        }
    }

    /// At rest every partition has one owner, and as many standbys as it should.
    pub(crate) fn expect_one_owner_each(&self) {
        if self.shape.hosts == 1 {
            return;
        }
        for kind in Kind::ALL {
            for partition in 0..self.log.partitions(kind) {
                assert_eq!(self.owners(kind, partition), 1, "owners of {kind}/{partition}");
                let of_kind = self.hosts.values().filter(|host| host.kind == kind);
                let holders = of_kind.filter(|host| host.view.borrow().partitions.contains_key(&partition)).count();
                let expected = (self.shape.standbys + 1).min(self.shape.hosts.into());
                assert_eq!(holders, expected, "hosts that hold {kind}/{partition}");
            }
        }
    }
}
