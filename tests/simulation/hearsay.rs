//! What the hosts of a kind hear of each other: late, in another order, or not at all. What a host
//! makes of it is the production code's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use shop_actors::{
    host::placement::{self, Placement},
    kind_host::View,
    partition::role::{Decision, Role, RoleWatch},
};
use shop_domain::kind::Kind;
use shop_nats::{
    hosts::membership::{Announcement, HostState},
    log::Identity,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    life::Life,
    trace::{Counts, Fault},
};

/// How long what is said takes when nothing goes wrong.
const PROMPT: Duration = Duration::from_millis(1);
/// How late what is late comes at most: after whoever said it counts as gone.
const LATE_MS: u64 = 2_500;

/// What is on its way between hosts.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    /// By when it comes.
    on_the_way: BTreeMap<(Instant, u64), Saying>,
    said: u64,
    ghosts: Vec<Ghost>,
    weather: Option<Weather>,
    pub(crate) counts: Counts,
}

/// Something that was said, and the life of the host that hears it.
#[derive(Debug)]
pub(crate) struct Saying {
    pub(crate) to: u64,
    pub(crate) what: Announcement,
}

/// A host that is not there, and announced nonetheless.
#[derive(Debug)]
struct Ghost {
    kind: Kind,
    what: Announcement,
    until: Instant,
}

/// What a host that is not there says of its progress.
#[derive(Debug)]
pub(crate) struct Lies {
    /// Up to where it has settled all.
    pub(crate) settled: u64,
    /// Where there is a receipt.
    pub(crate) receipt: u64,
}

/// How much of what is said goes wrong.
#[derive(Debug)]
struct Weather {
    chance: fastrand::Rng,
    lost_percent: u32,
    late_percent: u32,
}

impl Hearsay {
    /// From here on chance decides what comes, and when.
    pub(crate) fn seed(&mut self, seed: u64) {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut percent = || if chance.bool() { 0 } else { chance.u32(1..60) };
        let (lost_percent, late_percent) = (percent(), percent());
        self.weather = Some(Weather { chance, lost_percent, late_percent });
    }

    /// From here on everything comes at once, and only of those that are there.
    pub(crate) fn calm(&mut self) {
        self.weather = None;
        self.ghosts.clear();
    }

    /// Says something to whoever lives that life.
    pub(crate) fn say(&mut self, to: u64, what: &Announcement) {
        let delay = match self.weather.as_mut().map_or(Fate::Comes(PROMPT), Weather::draw) {
            Fate::Comes(delay) => delay,
            Fate::Late(delay) => {
                self.counts.add(Fault::HearsayLate);
                delay
            }
            Fate::Lost => return self.counts.add(Fault::HearsayLost),
        };
        self.said += 1;
        self.on_the_way.insert((Instant::now() + delay, self.said), Saying { to, what: what.clone() });
    }

    /// What came to a host that is frozen waits until it goes on.
    pub(crate) fn keep_until(&mut self, at: Instant, saying: Saying) {
        self.said += 1;
        self.on_the_way.insert((at, self.said), saying);
    }

    /// The next saying that has come.
    pub(crate) fn next(&mut self) -> Option<Saying> {
        let first = self.on_the_way.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }

    /// When the next one comes.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.on_the_way.keys().next().map(|(at, _)| *at)
    }

    /// Whether it is seen by now that a host's connection is closed; otherwise it will be missed later.
    pub(crate) fn is_noticed(&mut self) -> bool {
        self.weather.as_mut().is_none_or(|weather| weather.chance.bool())
    }

    /// Announces a host that is not there for a while, one that would own a partition if it were. Its `lies` are how far
    /// it says that it is, with all partitions.
    pub(crate) fn haunt(
        &mut self,
        kind: Kind,
        partition: u16,
        there: &[&Announcement],
        lies: Option<Lies>,
        time: Duration,
    ) {
        let Some(epoch) = there.first().map(|one| one.epoch) else { return };
        let is_new = |name: &String| self.ghosts.iter().all(|ghost| ghost.what.host != *name);
        let names = (0..).map(|number| format!("ghost {number}")).filter(is_new);
        let owner = |name| {
            let mut ghost = Placement::new(kind, name, epoch, 0);
            ghost.me.state = HostState::Ready;
            let (decisions, roles): (Vec<_>, Vec<_>) = (0..=partition).map(|_| RoleWatch::new()).unzip();
            for one in there {
                ghost.hear(one, &decisions);
            }
            ghost.decide(&decisions, &watch::channel(BTreeSet::new()).0);
            (roles[usize::from(partition)].now() == Role::Owner).then_some(ghost.me)
        };
        let mut what = names.filter_map(owner).next().expect("some name comes first");
        self.counts.add(Fault::Ghost);
        if let Some(Lies { settled, receipt }) = lies {
            self.counts.add(Fault::Lied);
            for number in 0..=partition {
                what.settled.insert(number, settled);
                what.receipts.insert(number, receipt);
            }
        }
        self.ghosts.push(Ghost { kind, what, until: Instant::now() + time });
    }

    /// Whether nothing goes wrong by chance.
    pub(crate) const fn is_calm(&self) -> bool {
        self.weather.is_none()
    }

    /// The hosts of a kind that are announced though they are not there.
    pub(crate) fn ghosts(&mut self, kind: Kind) -> impl Iterator<Item = Announcement> {
        self.ghosts.retain(|ghost| ghost.until > Instant::now());
        self.ghosts.iter().filter(move |ghost| ghost.kind == kind).map(|ghost| ghost.what.clone())
    }
}

/// What becomes of something that was said.
enum Fate {
    Comes(Duration),
    Late(Duration),
    Lost,
}

impl Weather {
    fn draw(&mut self) -> Fate {
        if self.chance.u32(0..100) < self.lost_percent {
            return Fate::Lost;
        }
        if self.chance.u32(0..100) < self.late_percent {
            return Fate::Late(Duration::from_millis(self.chance.u64(0..LATE_MS)));
        }
        Fate::Comes(Duration::from_millis(self.chance.u64(0..8)))
    }
}

/// A host among the others of its kind.
pub(crate) struct Member {
    life: Arc<Life>,
    members: Placement,
    decisions: Vec<Decision>,
    held: watch::Sender<BTreeSet<u16>>,
    next_beat: Instant,
    /// Until when it hears nothing.
    pub(crate) deaf_until: Instant,
    /// Until when nobody hears it.
    pub(crate) mute_until: Instant,
    /// Until when it does not say how far it is.
    pub(crate) silent_until: Instant,
}

impl Member {
    /// A host that joins, and where its partitions learn whether it is their turn, and which ones it holds.
    pub(crate) fn join(
        life: &Arc<Life>,
        identity: &Identity,
        standbys: usize,
    ) -> (Self, Vec<RoleWatch>, watch::Receiver<BTreeSet<u16>>) {
        let (decisions, roles) = (0..identity.partitions).map(|_| RoleWatch::new()).unzip();
        let (held, to_hold) = watch::channel(BTreeSet::new());
        let now = Instant::now();
        let member = Self {
            life: Arc::clone(life),
            members: Placement::new(life.kind, name(life.kind, life.number), identity.epoch, standbys),
            decisions,
            held,
            next_beat: now,
            deaf_until: now,
            mute_until: now,
            silent_until: now,
        };
        (member, roles, to_hold)
    }

    /// What it says of itself.
    pub(crate) const fn announcement(&self) -> &Announcement {
        &self.members.me
    }

    /// Takes in what it hears.
    pub(crate) fn hear(&mut self, what: &Announcement, view: &View) {
        if self.deaf_until > Instant::now() {
            return;
        }
        if what.epoch == self.members.me.epoch {
            for (partition, settled) in &what.settled {
                self.life.told(*partition, *settled);
            }
        }
        self.members.hear(what, &self.decisions);
        self.decide(view);
    }

    /// It has caught up with its log, or is leaving.
    pub(crate) fn enter(&mut self, state: HostState, view: &View) {
        self.members.me.state = state;
        self.next_beat = Instant::now();
        self.decide(view);
    }

    /// Decides what it is to each partition.
    pub(crate) fn decide(&mut self, view: &View) {
        let before: Vec<Role> = self.roles().collect();
        let held = self.held.borrow().clone();
        self.members.decide(&self.decisions, &self.held);
        for ((number, before), now) in (0..).zip(before).zip(self.roles()) {
            self.life.is_now(number, now);
            if let Some(partition) = view.partitions.get(&number).filter(|_| before != now) {
                let cursor = partition.handle.overlay.cursor();
                let has_more = cursor > *partition.handle.settled.borrow();
                let keeps = partition.handle.kept.load(Relaxed) > 0;
                self.life.count(match (now, has_more || keeps) {
                    (Role::Owner, true) => Fault::PromotedHolding,
                    (Role::Owner, false) => Fault::Promoted,
                    (Role::Standby, true) => Fault::DemotedSending,
                    (Role::Standby, false) => Fault::Demoted,
                    (Role::Spectator, _) => unreachable!("a host is no spectator"),
                });
            }
        }
        let holds = self.held.borrow();
        if !held.is_empty() && !holds.is_subset(&held) {
            self.life.count(Fault::TookUp);
        }
        if !holds.is_superset(&held) {
            self.life.count(Fault::LetGo);
        }
    }

    /// What it has to say now, if anything; then at the latest after a `beat` again.
    pub(crate) fn speak(
        &mut self,
        view: &View,
        beat: Duration,
        is_gone: &mut dyn FnMut(&str) -> bool,
    ) -> Option<&Announcement> {
        let now = Instant::now();
        let (settled, receipts) = placement::progress_of(view, &self.decisions);
        let is_further = settled.iter().any(|(partition, at)| self.members.me.settled.get(partition) < Some(at));
        let is_beat = now >= self.next_beat;
        if is_beat {
            self.next_beat = now + beat;
            self.members.forget_silent(&self.decisions);
            for host in self.members.others().cloned().collect::<Vec<_>>() {
                if is_gone(&host) {
                    self.members.forget(&host, &self.decisions);
                }
            }
            self.decide(view);
        }
        let is_silent = self.silent_until > now;
        if !is_silent {
            (self.members.me.settled, self.members.me.receipts) = (settled, receipts);
        }
        ((is_beat || is_further && !is_silent) && self.mute_until <= now).then_some(&self.members.me)
    }

    /// When it has something to say for sure.
    pub(crate) const fn next_beat(&self) -> Instant {
        self.next_beat
    }

    /// What it is to each partition.
    pub(crate) fn roles(&self) -> impl Iterator<Item = Role> {
        self.decisions.iter().map(|decision| *decision.role.borrow())
    }

    /// Which partitions it is to hold.
    pub(crate) fn held(&self) -> BTreeSet<u16> {
        self.held.borrow().clone()
    }
}

/// The name under which the host that lives that life is known.
pub(crate) fn name(kind: Kind, life: u64) -> String {
    format!("{kind} {life}")
}
