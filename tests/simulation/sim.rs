//! A shop in simulation: the logs, one host per kind or several, the doors, the callers.

mod company;
mod hosts;
mod repartition;
mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use shop_actors::{host::snapshotter::Schedule, repartition::RepartitionError, store::memory::MemoryStore};
use shop_domain::{
    caller::{Caller, Owner, Reach},
    delivery,
    entity::Reply,
    id::{Id, Key},
    kind::Kind,
    logic::Logic,
    message::{Envelope, Format, Message, ReplyTo, Request},
    order,
    ticket::Ticket,
};
use shop_nats::{
    log::Log,
    memory::{Calm, MemoryLog},
    subject::partition_of,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use self::{company::Company, repartition::Cutting, snapshots::Queue};
use crate::{
    careful::Errand,
    chaos::{Act, Keep, Mischief, Moment, Script},
    door::Door,
    exchange::Exchange,
    hearsay::Hearsay,
    host::Host,
    life::{Answers, Life, World},
    observer::Observer,
    trace::Trace,
    vault::Vault,
};

/// The place of a host among those of its kind.
pub(crate) type Slot = (Kind, u16);

/// How long nothing may happen until the shop counts as at rest: longer than any publisher waits
/// before it sends again (5 s for an acknowledgement, then at most 1 s).
const REST: Duration = Duration::from_secs(10);

/// Longer than anything is frozen on its way.
const LATE_MAX: Duration = Duration::from_secs(3_600);

/// How long hosts disagree in a script: longer than a standby is patient.
const STRIFE: Duration = Duration::from_secs(4);

/// A shop in simulation.
pub(crate) struct Sim {
    pub(crate) chance: fastrand::Rng,
    pub(crate) log: MemoryLog,
    pub(crate) shape: Shape,
    world: Arc<World>,
    events: mpsc::UnboundedReceiver<Event>,
    hosts: BTreeMap<Slot, Host>,
    /// Hosts that are to be started again, and with which checkpoints.
    away: BTreeMap<Slot, (Instant, MemoryStore)>,
    hearsay: Hearsay,
    company: Company,
    /// Who is to be let in where the snapshots are.
    queue: Queue,
    /// Hosts that believe that they are the only ones.
    zombies: Vec<Host>,
    doors: BTreeMap<(Kind, u16), Door>,
    /// The generation of the layout that was in force when it was looked last.
    generation: u32,
    cutting: Cutting,
    lives: u64,
    pub(crate) asked: Vec<Asked>,
    /// Requests that are frozen on their way, and until when.
    frozen: Vec<(Instant, usize)>,
    pub(crate) errands: Vec<Errand>,
    /// Whether no clock is set, so that customers may go by the time that they are told.
    pub(crate) trusts_clocks: bool,
    /// Nothing goes wrong any more.
    pub(crate) is_healed: bool,
    /// The moments that the script had to choose from.
    pub(crate) moments: Vec<Moment>,
}

/// What a shop is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) partitions: u16,
    pub(crate) logic: Logic,
    /// Hosts of each kind.
    pub(crate) hosts: u16,
    /// How many of them hold a partition beside its owner.
    pub(crate) standbys: usize,
    /// How often they write snapshots, if there are any.
    pub(crate) snapshots: Option<Schedule>,
}

impl Shape {
    /// One host for each kind, with one partition.
    pub(crate) const SMALL: Self = Self { partitions: 1, logic: Logic::NEWEST, hosts: 1, standbys: 0, snapshots: None };
}

/// Something that whoever runs the shop has to do.
#[derive(Debug)]
pub(crate) enum Event {
    /// The host or door that lived this life is dead.
    Died(u64),
    /// The host has ended by itself.
    Ended(u64),
    /// The script says that this is done, at a moment of that kind.
    Act(Act, Kind),
    /// Somebody wants to be let in where the snapshots are.
    Asks(oneshot::Sender<()>),
    /// The log of a kind is cut before that sequence.
    Cut(Kind, u64),
    /// The host that lives this life has seen that the layout of that generation is in force.
    Looked(u64, u32),
    /// Whoever lives this life, and cuts the shop into other partitions, tells the doors to hold.
    Hold(u64),
    /// The same is done with it, for better or worse.
    CutAnew(u64, Result<(), RepartitionError>),
}

/// Who asks about what is another's.
pub(crate) const TRESPASSER: &str = "mallory";

/// What a caller asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) to: Id,
    pub(crate) message: Message,
    pub(crate) key: Option<Key>,
    pub(crate) ticket: Option<Ticket>,
    /// For whom, if that is said.
    pub(crate) caller: Option<Caller>,
    pub(crate) inbox: Box<str>,
    /// The caller gave up on the answer, and asked the same again.
    pub(crate) asked_again: bool,
}

impl Sim {
    /// A shop in which nothing goes wrong yet.
    pub(crate) fn new(chance: fastrand::Rng, shape: Shape) -> Self {
        let log = MemoryLog::with_logic(shape.partitions, shape.logic, Arc::new(Calm));
        let (sender, events) = mpsc::unbounded_channel();
        let world = Arc::new(World {
            mischief: Mischief::new(sender.clone()),
            vault: Vault::default(),
            observer: Observer::new(log.clone()),
            exchange: Exchange::default(),
            answers: Answers::default().into(),
            events: sender,
        });
        let mut sim = Self {
            chance,
            log: log.whole(),
            shape,
            world,
            events,
            hosts: BTreeMap::new(),
            away: BTreeMap::new(),
            hearsay: Hearsay::default(),
            company: Company::default(),
            queue: Queue::default(),
            zombies: vec![],
            doors: BTreeMap::new(),
            generation: 0,
            cutting: Cutting::default(),
            lives: 0,
            asked: vec![],
            frozen: vec![],
            errands: vec![],
            trusts_clocks: false,
            is_healed: false,
            moments: vec![],
        };
        for kind in Kind::ALL {
            (0..shape.hosts).for_each(|number| sim.open((kind, number), MemoryStore::default()));
        }
        sim
    }

    /// From here on things go wrong by chance.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.world.mischief.seed(seed);
        self.hearsay.seed(seed);
    }

    /// From here on things go wrong as written down.
    pub(crate) fn follow(&self, script: Script) {
        self.world.mischief.follow(script);
    }

    /// Sends a command through the door of its kind.
    pub(crate) fn ask(&mut self, to: &str, message: impl Into<Message>) {
        self.ask_with(to.parse().expect("the plan names proper ids"), message.into(), None, None);
    }

    /// A write with a ticket, or the void of one; returns where it is answered.
    pub(crate) fn ask_with_ticket(&mut self, to: &str, message: Message, ticket: &Ticket) -> Box<str> {
        let number = self.note(to.parse().expect("the plan names proper ids"), message, None, Some(ticket.clone()));
        self.let_in(number);
        self.asked[number].inbox.clone()
    }

    /// The same, frozen on its way for a while.
    pub(crate) fn ask_late(&mut self, to: &str, message: Message, ticket: &Ticket, late: Duration) -> Box<str> {
        let number = self.note(to.parse().expect("the plan names proper ids"), message, None, Some(ticket.clone()));
        self.frozen.push((Instant::now() + late, number));
        self.asked[number].inbox.clone()
    }

    /// The same under an idempotency key.
    pub(crate) fn ask_with_key(&mut self, to: &str, message: impl Into<Message>, key: &str) {
        let key = key.parse().expect("the plan names proper keys");
        self.ask_with(to.parse().expect("the plan names proper ids"), message.into(), Some(key), None);
    }

    /// The client who asked this asks once more, unless it has a ticket: that is sent once, and voided.
    pub(crate) fn ask_again(&mut self, request: usize) {
        let Asked { to, message, key, ticket: None, caller, .. } = self.asked[request].clone() else { return };
        let number = self.note_for(caller, to, message, key, None);
        self.let_in(number);
    }

    /// A customer asks about what is another's, or the shop's.
    pub(crate) fn trespass(&mut self, to: &str, message: impl Into<Message>, key: &str) {
        let to = to.parse().expect("the plan names proper ids");
        let key = Some(key.parse().expect("the plan names proper keys"));
        let trespasser = Caller { name: TRESPASSER.parse().expect("it is a proper id"), reach: Reach::Own };
        let number = self.note_for(Some(trespasser), to, message.into(), key, None);
        self.let_in(number);
    }

    fn ask_with(&mut self, to: Id, message: Message, key: Option<Key>, ticket: Option<Ticket>) {
        let number = self.note(to, message, key, ticket);
        self.let_in(number);
    }

    fn note(&mut self, to: Id, message: Message, key: Option<Key>, ticket: Option<Ticket>) -> usize {
        let caller = self.caller_of(&to, &message, ticket.is_some());
        self.note_for(caller, to, message, key, ticket)
    }

    fn note_for(
        &mut self,
        caller: Option<Caller>,
        to: Id,
        message: Message,
        key: Option<Key>,
        ticket: Option<Ticket>,
    ) -> usize {
        let number = self.asked.len();
        let inbox: Box<str> = format!("caller {number}").into();
        self.asked.push(Asked { to, message, key, ticket, caller, inbox, asked_again: false });
        number
    }

    /// Whose request the next one is: the customer's whose the thing is, that of one of the staff, or that of who says
    /// nothing. A write and the void of its ticket are the same caller's.
    fn caller_of(&self, to: &Id, message: &Message, has_ticket: bool) -> Option<Caller> {
        if self.shape.logic < Logic::V5 {
            return None;
        }
        let staff = || Some(Caller { name: "mary".parse().expect("it is a proper id"), reach: Reach::Any });
        match self.asked.len() % 3 {
            0 => match self.customer_of(to, message) {
                Some(name) => Some(Caller { name, reach: Reach::Own }),
                None => staff(),
            },
            _ if has_ticket => Some(Caller { name: to.clone(), reach: Reach::Own }),
            1 => staff(),
            _ => None,
        }
    }

    fn customer_of(&self, to: &Id, message: &Message) -> Option<Id> {
        match Owner::of(to, message) {
            Owner::Customer(customer) => Some(customer),
            Owner::Shop => None,
            // Of an order that is not there, nobody's.
            Owner::Unknown => {
                let customer = |asked: &Asked| {
                    let Message::Order(order::Message::Place(place)) = &asked.message else { return None };
                    Some(place.user.clone().into())
                };
                self.asked.iter().filter(|asked| asked.to == *to).find_map(customer)
            }
        }
    }

    /// What was frozen long enough comes to its door.
    fn thaw(&mut self, now: Instant) {
        for (_, number) in self.frozen.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>() {
            self.let_in(number);
        }
    }

    fn let_in(&mut self, number: usize) {
        if self.is_held(number) {
            return;
        }
        let Asked { to, message, key, ticket, caller, inbox, .. } = self.asked[number].clone();
        let (kind, fingerprint) = (message.kind(), message.fingerprint());
        let reply = Some(ReplyTo { inbox, format: Format::Json });
        let precondition = None;
        let request = Some(Request { key, key_as_given: None, fingerprint, reply, ticket, precondition, caller });
        let envelope = Envelope { to, message, request, trace: None };
        if let Some(door) = self.former_door(kind, &envelope.to) {
            return door.let_in(number, &envelope);
        }
        let partition = partition_of(&envelope.to, self.log.partitions(kind));
        if !self.doors.contains_key(&(kind, partition)) {
            self.lives += 1;
            let life = Life::of_door(self.lives, kind, &self.world);
            self.doors.insert((kind, partition), Door::open(life, &self.log, kind, partition));
        }
        let door = self.doors.get_mut(&(kind, partition)).expect("it is open");
        door.let_in(number, &envelope);
    }

    /// Lets some time pass, and does what has to be done meanwhile; then checks what must hold at
    /// every moment.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let next_at = self.next_at(until);
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => {
                    self.notice_cut();
                    self.happen(event);
                }
                () = sleep_until(next_at) => {
                    if Instant::now() >= until {
                        break;
                    }
                    self.notice_cut();
                    self.mind_the_hosts();
                    self.mind_the_cut();
                    self.thaw(Instant::now());
                    self.mind_the_careful();
                    self.let_one_in().await;
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        for host in self.all_hosts().filter(|host| host.life.kept().is_none()) {
            for partition in host.view.borrow().partitions.values() {
                self.world.observer.compare(host.kind, &partition.handle, host.partitions);
            }
        }
        let violations = self.world.observer.violations();
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Died(life) => {
                if let Some(slot) = self.slot_of(life) {
                    let keep = self.hosts[&slot].life.kept().unwrap_or(Keep::Latest);
                    self.crash(slot, keep);
                } else if let Some(door) = self.doors.iter().find(|(_, door)| door.life.number == life) {
                    let at = *door.0;
                    self.close_door(at);
                } else {
                    self.close_former_door(life);
                }
                self.zombies.retain(|zombie| zombie.life.number != life);
            }
            Event::Ended(life) => {
                if let Some(slot) = self.slot_of(life) {
                    self.replace(slot, |host| host.cellar.keep(Keep::Latest), Duration::ZERO);
                }
                self.zombies.retain(|zombie| zombie.life.number != life);
            }
            Event::Act(act, kind) => self.act(act, kind),
            Event::Asks(let_in) => self.queue(let_in),
            Event::Cut(kind, first) => self.cut(kind, first),
            Event::Looked(life, generation) => self.looked(life, generation),
            Event::Hold(life) => self.hold(life),
            Event::CutAnew(life, outcome) => self.cut_anew(life, &outcome),
        }
    }

    fn act(&mut self, act: Act, kind: Kind) {
        match act {
            Act::Cancel => self.ask("o-1", order::Message::Cancel { reason: None }),
            Act::Dispatch => self.ask("o-1", delivery::Message::Dispatch),
            Act::PlaceAgain => {
                let is_place = |asked: &Asked| matches!(asked.message, Message::Order(order::Message::Place(_)));
                let place = self.asked.iter().position(is_place).expect("the order was placed");
                self.ask_again(place);
            }
            Act::Disrupt => self.disrupt(),
            Act::SecondHost(keep) => self.with_owner(kind, |sim, owner| sim.start_zombie(owner, keep)),
            Act::Stop => self.with_owner(kind, Self::stop),
            Act::KillOwner => self.with_owner(kind, |sim, owner| sim.crash(owner, Keep::Latest)),
            Act::KillStandby => {
                let standby = self.hosts.keys().find(|slot| slot.0 == kind && !self.hosts[slot].owns(0)).copied();
                standby.into_iter().for_each(|standby| self.crash(standby, Keep::Latest));
            }
            Act::TwoOwners => self.with_owner(kind, |sim, owner| sim.cut_off(owner, true, STRIFE)),
            Act::NoOwner => self.with_owner(kind, |sim, owner| sim.haunt(owner, 0, None, STRIFE)),
            Act::SilentOwner => self.with_owner(kind, |sim, owner| sim.silence(owner, STRIFE)),
        }
    }

    /// Does something to the host that owns the first partition of a kind; if none does, to any.
    fn with_owner(&mut self, kind: Kind, act: impl FnOnce(&mut Self, Slot)) {
        let mut slots = self.hosts.keys().filter(|(of, _)| *of == kind);
        let owner = slots.clone().find(|slot| self.hosts[slot].owns(0)).or_else(|| slots.next());
        if let Some(owner) = owner.copied() {
            act(self, owner);
        }
    }

    /// Nothing goes wrong any more; waits until all that was begun has come to its end. Callers
    /// whose answers were lost ask again.
    pub(crate) async fn heal(&mut self) {
        self.moments = self.world.mischief.switch_off();
        self.is_healed = true;
        self.hearsay.calm();
        self.bring_together();
        self.rest().await;
        self.thaw(Instant::now() + LATE_MAX);
        self.rest().await;
        self.careful_look();
        let lost = {
            let answers = self.world.answers.lock().expect("nobody panics while adding");
            let given: BTreeSet<_> = answers.given.iter().map(|reply| &reply.to.inbox).collect();
            // What a host was still to answer when the shop was cut is in no log that is read on.
            let behind = self.asked.iter().map(|asked| &asked.inbox).filter(|_| self.generation > 0);
            let lost = answers.lost.iter().chain(behind);
            lost.filter(|inbox| !given.contains(inbox)).cloned().collect::<BTreeSet<_>>()
        };
        for request in 0..self.asked.len() {
            if lost.contains(&self.asked[request].inbox) && !self.asked[request].asked_again {
                self.asked[request].asked_again = true;
                self.ask_again(request);
            }
        }
        self.rest().await;
    }

    async fn rest(&mut self) {
        let mut before = u64::MAX;
        for _ in 0..1_000 {
            self.pass(REST).await;
            let records = self.records();
            if records == before && self.unrest().is_empty() {
                return;
            }
            before = records;
        }
        panic!("the shop does not come to rest: {}", self.unrest().join(", "));
    }

    /// Every answer given so far.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        self.world.answers.lock().expect("nobody panics while adding").given.clone()
    }

    /// What a wallet holds after all that its log has taken.
    pub(crate) fn balance_in_log(&self, user: &str) -> u64 {
        self.world.observer.balance(&user.parse().expect("it is a proper id"))
    }

    /// How many records the logs have taken.
    pub(crate) fn records(&self) -> u64 {
        let last = |kind| self.log.last_sequence(kind).now_or_never().and_then(Result::ok);
        Kind::ALL.into_iter().map(|kind| last(kind).expect("the log in memory answers at once")).sum()
    }

    pub(crate) fn trace(&self) -> Trace {
        let mut hasher = DefaultHasher::new();
        for kind in Kind::ALL {
            for record in self.log.records(kind) {
                (record.sequence, record.partition, record.time.unix_ms(), &record.payload[..]).hash(&mut hasher);
            }
        }
        for reply in self.replies() {
            (&reply.to.inbox, &reply.answer.body).hash(&mut hasher);
        }
        let (checks, seen) = self.world.observer.counts();
        let mut faults = self.world.mischief.counts();
        faults.merge(&seen);
        faults.merge(&self.hearsay.counts);
        let (requests, records) = (self.asked.len() as u64, self.records());
        Trace { digest: hasher.finish(), runs: 1, requests, records, checks, faults }
    }
}
