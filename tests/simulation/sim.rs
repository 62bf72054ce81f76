//! A shop in simulation: the logs, a host per kind (and sometimes two), the doors, the callers.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use shop_actors::{kind_host::View, store::memory::MemoryStore};
use shop_domain::{
    delivery,
    entity::Reply,
    id::{Id, Key},
    kind::Kind,
    logic::Logic,
    message::{Envelope, Format, Message, ReplyTo, Request},
    order,
};
use shop_nats::{
    frame::Upgrade,
    memory::{Calm, MemoryLog},
    subject::partition_of,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    chaos::{Act, Keep, Mischief, Moment, Script},
    door::Door,
    host::Host,
    life::{Answers, Life, World},
    observer::Observer,
    trace::{Fault, Trace},
};

/// How long nothing may happen until the shop counts as at rest: longer than any publisher waits
/// before it sends again (5 s for an acknowledgement, then at most 1 s).
const REST: Duration = Duration::from_secs(10);

/// A shop in simulation.
pub(crate) struct Sim {
    pub(crate) chance: fastrand::Rng,
    pub(crate) log: MemoryLog,
    pub(crate) partitions: u16,
    world: Arc<World>,
    events: mpsc::UnboundedReceiver<Event>,
    hosts: BTreeMap<Kind, Host>,
    zombies: Vec<Host>,
    doors: BTreeMap<(Kind, u16), Door>,
    lives: u64,
    pub(crate) asked: Vec<Asked>,
    /// The moments that the script had to choose from.
    pub(crate) moments: Vec<Moment>,
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
}

/// What a caller asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) to: Id,
    pub(crate) message: Message,
    pub(crate) key: Option<Key>,
    pub(crate) inbox: Box<str>,
    /// The caller gave up on the answer, and asked the same again.
    pub(crate) asked_again: bool,
}

impl Sim {
    /// A shop in which nothing goes wrong yet.
    pub(crate) fn new(chance: fastrand::Rng, partitions: u16, logic: Logic) -> Self {
        let log = MemoryLog::with_logic(partitions, logic, Arc::new(Calm));
        let (sender, events) = mpsc::unbounded_channel();
        let world = Arc::new(World {
            mischief: Mischief::new(sender.clone()),
            observer: Observer::new(log.clone()),
            answers: Answers::default().into(),
            events: sender,
        });
        let mut sim = Self {
            chance,
            log,
            partitions,
            world,
            events,
            hosts: BTreeMap::new(),
            zombies: vec![],
            doors: BTreeMap::new(),
            lives: 0,
            asked: vec![],
            moments: vec![],
        };
        for kind in Kind::ALL {
            let host = sim.start(kind, MemoryStore::default());
            sim.hosts.insert(kind, host);
        }
        sim
    }

    /// From here on things go wrong by chance.
    pub(crate) fn seed(&self, seed: u64) {
        self.world.mischief.seed(seed);
    }

    /// From here on things go wrong as written down.
    pub(crate) fn follow(&self, script: Script) {
        self.world.mischief.follow(script);
    }

    /// Sends a command through the door of its kind.
    pub(crate) fn ask(&mut self, to: &str, message: impl Into<Message>) {
        self.ask_with(to.parse().expect("the plan names proper ids"), message.into(), None);
    }

    /// The same under an idempotency key.
    pub(crate) fn ask_with_key(&mut self, to: &str, message: impl Into<Message>, key: &str) {
        let key = key.parse().expect("the plan names proper keys");
        self.ask_with(to.parse().expect("the plan names proper ids"), message.into(), Some(key));
    }

    /// The client who asked this asks once more.
    pub(crate) fn ask_again(&mut self, request: usize) {
        let Asked { to, message, key, .. } = self.asked[request].clone();
        self.ask_with(to, message, key);
    }

    fn ask_with(&mut self, to: Id, message: Message, key: Option<Key>) {
        let (number, kind) = (self.asked.len(), message.kind());
        let inbox: Box<str> = format!("caller {number}").into();
        let asked = Asked { to: to.clone(), message: message.clone(), key: key.clone(), inbox, asked_again: false };
        let reply = Some(ReplyTo { inbox: asked.inbox.clone(), format: Format::Json });
        let request = Some(Request { key, fingerprint: message.fingerprint(), reply });
        self.asked.push(asked);
        let partition = partition_of(&to, self.partitions);
        if !self.doors.contains_key(&(kind, partition)) {
            self.lives += 1;
            let life = Life::of_door(self.lives, kind, &self.world);
            self.doors.insert((kind, partition), Door::open(life, &self.log, kind, partition));
        }
        let door = self.doors.get_mut(&(kind, partition)).expect("it is open");
        door.let_in(number, &Envelope { to, message, request, trace: None });
    }

    /// Lets some time pass, and does what has to be done meanwhile; then checks what must hold at
    /// every moment.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.happen(event),
                () = sleep_until(until) => break,
            }
        }
        self.check();
    }

    fn check(&self) {
        for host in self.all_hosts().filter(|host| host.life.kept().is_none()) {
            for partition in host.view.borrow().partitions.values() {
                self.world.observer.compare(host.kind, &partition.handle);
            }
        }
        let violations = self.world.observer.violations();
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Died(life) => {
                let kind = self.hosts.values().find(|host| host.life.number == life).map(|host| host.kind);
                if let Some(kind) = kind {
                    let keep = self.hosts[&kind].life.kept().unwrap_or(Keep::Latest);
                    self.crash(kind, keep);
                } else if let Some(door) = self.doors.iter().find(|(_, door)| door.life.number == life) {
                    let at = *door.0;
                    self.close_door(at);
                }
                self.zombies.retain(|zombie| zombie.life.number != life);
            }
            Event::Ended(life) => {
                let kind = self.hosts.values().find(|host| host.life.number == life).map(|host| host.kind);
                if let Some(kind) = kind {
                    self.replace(kind, |host| host.cellar.keep(Keep::Latest));
                }
                self.zombies.retain(|zombie| zombie.life.number != life);
            }
            Event::Act(act, kind) => self.act(act, kind),
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
            Act::SecondHost(keep) => self.start_zombie(kind, keep),
            Act::Stop => self.stop(kind),
            Act::Disrupt => self.disrupt(),
        }
    }

    /// The host of a kind is killed, and started again with what is kept of its checkpoints.
    pub(crate) fn crash(&mut self, kind: Kind, keep: Keep) {
        self.count_what_it_leaves(&self.hosts[&kind]);
        self.count(match keep {
            Keep::Latest => Fault::FromLatest,
            Keep::Older => Fault::FromOlder,
            Keep::Nothing => Fault::FromNothing,
        });
        self.replace(kind, |host| host.cellar.keep(keep));
    }

    /// The same with checkpoints of long ago.
    pub(crate) fn crash_back_to(&mut self, kind: Kind, store: MemoryStore) {
        self.count_what_it_leaves(&self.hosts[&kind]);
        self.count(Fault::FromOlder);
        self.replace(kind, |_| store);
    }

    fn replace(&mut self, kind: Kind, store: impl FnOnce(&Host) -> MemoryStore) {
        let before = self.hosts.remove(&kind).expect("every kind has a host");
        before.kill();
        let host = self.start(kind, store(&before));
        self.hosts.insert(kind, host);
    }

    fn count_what_it_leaves(&self, host: &Host) {
        host.leaves(&self.log).into_iter().for_each(|window| self.count(window));
    }

    fn close_door(&mut self, at: (Kind, u16)) {
        let Some(door) = self.doors.remove(&at) else { return };
        for request in door.close() {
            self.asked[request].asked_again = true;
            self.ask_again(request);
        }
    }

    /// The host of a kind is asked to stop; it is started again when it has.
    pub(crate) fn stop(&self, kind: Kind) {
        self.count(Fault::Stopped);
        self.hosts[&kind].stop.cancel();
    }

    /// The connection is lost and comes back: what was on its way may be lost.
    pub(crate) fn disrupt(&self) {
        self.count(Fault::Disrupted);
        self.log.disrupt();
    }

    /// A partition of a kind goes on with the newest logic.
    pub(crate) fn upgrade(&self, kind: Kind, partition: u16) {
        self.count(Fault::Upgraded);
        self.log.store(kind, partition, Upgrade { logic: Logic::NEWEST.number() }.encode());
        self.world.observer.follow();
    }

    /// What a host's checkpoints are right now.
    pub(crate) fn checkpoints(&self, kind: Kind) -> MemoryStore {
        self.hosts[&kind].cellar.keep(Keep::Latest)
    }

    /// A second host on the same partitions, which believes that it is the only one.
    pub(crate) fn start_zombie(&mut self, kind: Kind, keep: Keep) {
        self.count(Fault::SecondHost);
        let zombie = self.start(kind, self.hosts[&kind].cellar.keep(keep));
        self.zombies.push(zombie);
    }

    /// Kills the oldest second host.
    pub(crate) fn stop_zombie(&mut self) {
        if !self.zombies.is_empty() {
            self.zombies.remove(0).kill();
        }
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.world.mischief.count(fault);
    }

    fn start(&mut self, kind: Kind, store: MemoryStore) -> Host {
        self.lives += 1;
        Host::start(Life::of_host(self.lives, kind, &self.world), &self.log, store)
    }

    /// Nothing goes wrong any more; waits until all that was begun has come to its end. Callers
    /// whose answers were lost ask again.
    pub(crate) async fn heal(&mut self) {
        self.moments = self.world.mischief.switch_off();
        self.rest().await;
        let lost = {
            let answers = self.world.answers.lock().expect("nobody panics while adding");
            let given: BTreeSet<_> = answers.given.iter().map(|reply| &reply.to.inbox).collect();
            answers.lost.iter().filter(|inbox| !given.contains(inbox)).cloned().collect::<BTreeSet<_>>()
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
            let records = self.length();
            if records == before && self.all_hosts().all(|host| host.is_settled(&self.log, self.partitions)) {
                return;
            }
            before = records;
        }
        panic!("the shop does not come to rest");
    }

    fn all_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().chain(&self.zombies)
    }

    /// What every host of a kind shows: the proper one first, then second ones.
    pub(crate) fn views(&self, kind: Kind) -> Vec<Arc<View>> {
        self.all_hosts().filter(|host| host.kind == kind).map(|host| Arc::clone(&host.view.borrow())).collect()
    }

    /// A host of a kind that begins with nothing but the log.
    pub(crate) async fn rebuilt(&mut self, kind: Kind) -> Arc<View> {
        let host = self.start(kind, MemoryStore::default());
        for _ in 0..1_000 {
            self.pass(Duration::from_millis(100)).await;
            if host.is_settled(&self.log, self.partitions) {
                return Arc::clone(&host.view.borrow());
            }
        }
        panic!("{kind} cannot be rebuilt from its log");
    }

    /// Every answer given so far.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        self.world.answers.lock().expect("nobody panics while adding").given.clone()
    }

    pub(crate) fn length(&self) -> u64 {
        Kind::ALL.into_iter().map(|kind| self.log.records(kind).len() as u64).sum()
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
        let (requests, records) = (self.asked.len() as u64, self.length());
        Trace { digest: hasher.finish(), runs: 1, requests, records, checks, faults }
    }
}
