//! A shop in simulation: the logs, a host per kind (and sometimes two), the doors, the callers.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
    time::Duration,
};

use shop_actors::{
    kind_host::{KindHost, View},
    store::memory::MemoryStore,
};
use shop_domain::{
    entity::Reply,
    kind::Kind,
    message::{Envelope, Format, Message, ReplyTo, Request},
};
use shop_nats::{
    frame::{EncodedMessage, Origin, Source, frames},
    log::{Log, SharedLog},
    memory::MemoryLog,
    publisher::Publisher,
    subject::partition_of,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::chaos::Seeded;

/// Frames of a door on their way: more than the real door has, so that bursts have holes.
const DOOR_WINDOW: usize = 4;

/// How long nothing may happen until the shop counts as at rest: longer than any publisher waits
/// before it sends again (5 s for an acknowledgement, then at most 1 s).
const REST: Duration = Duration::from_secs(10);

/// A shop in simulation.
pub(crate) struct Sim {
    pub(crate) chance: fastrand::Rng,
    pub(crate) log: MemoryLog,
    pub(crate) partitions: u16,
    chaos: Arc<Seeded>,
    hosts: BTreeMap<Kind, Host>,
    zombies: Vec<Host>,
    doors: BTreeMap<(Kind, u16), Door>,
    replies: Arc<Mutex<Vec<Reply>>>,
    crashes: u64,
    requests: u64,
    pub(crate) asked: Vec<String>,
    begin: tokio::time::Instant,
}

struct Host {
    kind: Kind,
    store: MemoryStore,
    view: watch::Receiver<Arc<View>>,
    task: JoinHandle<()>,
}

struct Door {
    source: Source,
    next: u64,
    publisher: Publisher,
}

/// What a run was, in numbers; the digest tells two runs apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) digest: u64,
    runs: u64,
    requests: u64,
    records: u64,
    crashes: u64,
}

impl Trace {
    pub(crate) fn add(&mut self, run: &Self) {
        self.runs += run.runs;
        self.requests += run.requests;
        self.records += run.records;
        self.crashes += run.crashes;
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, requests, records, crashes, .. } = self;
        write!(f, "{runs} runs, {requests} requests, {records} records in the logs, {crashes} crashes")
    }
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let chaos = Arc::new(Seeded::new(chance.u64(..)));
        let partitions = chance.u16(1..4);
        let mut sim = Self {
            log: MemoryLog::new(partitions, chaos.clone()),
            chance,
            partitions,
            chaos,
            hosts: BTreeMap::new(),
            zombies: vec![],
            doors: BTreeMap::new(),
            replies: Arc::default(),
            crashes: 0,
            requests: 0,
            asked: vec![],
            begin: tokio::time::Instant::now(),
        };
        for kind in Kind::ALL {
            let host = sim.start(kind, MemoryStore::default());
            sim.hosts.insert(kind, host);
        }
        sim
    }

    /// Sends a command through the door of its kind; its caller waits at the returned inbox.
    pub(crate) async fn ask(&mut self, to: &str, message: impl Into<Message>) {
        let message = message.into();
        self.requests += 1;
        let reply = Some(ReplyTo { inbox: format!("caller {}", self.requests).into(), format: Format::Json });
        let request = Some(Request { key: None, fingerprint: message.fingerprint(), reply });
        let to = to.parse().expect("the plan names proper ids");
        let kind = message.kind();
        self.asked.push(format!("{to} {message:?} at {:?}", tokio::time::Instant::now() - self.begin));
        let partition = partition_of(&to, self.partitions);
        let encoded = [EncodedMessage::new(&Envelope { to, message, request, trace: None })];
        let log: SharedLog = Arc::new(self.log.clone());
        let door = self.doors.entry((kind, partition)).or_insert_with(|| Door {
            source: Source { origin: Origin::Door, epoch: 1 },
            next: 1,
            publisher: Publisher::new(log, kind, partition, DOOR_WINDOW),
        });
        for (frame, next) in frames(door.source, door.next, &encoded) {
            door.next = next;
            drop(door.publisher.send(frame).await);
        }
    }

    /// Lets some time pass.
    pub(crate) async fn pause(&mut self, ms_max: u64) {
        sleep(Duration::from_millis(self.chance.u64(0..ms_max))).await;
    }

    /// The host of a kind is killed, and started again with what `keep` leaves of its checkpoints.
    pub(crate) fn crash(&mut self, kind: Kind, keep: impl FnOnce(MemoryStore) -> MemoryStore) {
        self.crashes += 1;
        if let Some(host) = self.hosts.remove(&kind) {
            host.task.abort();
            let host = self.start(kind, keep(host.store));
            self.hosts.insert(kind, host);
        }
    }

    /// What a host's checkpoints are right now.
    pub(crate) fn checkpoints(&self, kind: Kind) -> MemoryStore {
        self.hosts[&kind].store.snapshot()
    }

    /// A second host on the same partitions, which believes that it is the only one.
    pub(crate) fn start_zombie(&mut self, kind: Kind, store: MemoryStore) {
        let zombie = self.start(kind, store);
        self.zombies.push(zombie);
    }

    /// Kills the oldest second host.
    pub(crate) fn stop_zombie(&mut self) {
        if !self.zombies.is_empty() {
            self.crashes += 1;
            self.zombies.remove(0).task.abort();
        }
    }

    fn start(&self, kind: Kind, store: MemoryStore) -> Host {
        let (view, seen) = watch::channel(Arc::new(View::default()));
        let (replies, mut given) = mpsc::channel::<Reply>(64);
        let all = Arc::clone(&self.replies);
        tokio::spawn(async move {
            while let Some(reply) = given.recv().await {
                all.lock().expect("nobody panics while adding").push(reply);
            }
        });
        let (log, kept) = (self.log.clone(), store.clone());
        let task = tokio::spawn(async move {
            let identity = log.identity(kind).await.expect("the log in memory answers");
            let mut logs = BTreeMap::new();
            for kind in Kind::ALL {
                logs.insert(kind, log.identity(kind).await.expect("the log in memory answers"));
            }
            let store = Arc::new(kept);
            let host = KindHost { kind, log: Arc::new(log), identity, logs, store, replies, view };
            host.run(CancellationToken::new()).await.expect("the host goes on");
        });
        Host { kind, store, view: seen, task }
    }

    /// Nothing goes wrong any more; waits until all that was begun has come to its end.
    pub(crate) async fn heal(&mut self) {
        self.chaos.switch_off();
        let mut before = u64::MAX;
        for _ in 0..1_000 {
            sleep(REST).await;
            assert!(self.all_hosts().all(|host| !host.task.is_finished()), "a host ended");
            let records = self.length();
            if records == before && self.all_hosts().all(|host| self.is_settled(host)) {
                return;
            }
            before = records;
        }
        panic!("the shop does not come to rest");
    }

    fn is_settled(&self, host: &Host) -> bool {
        let view = host.view.borrow();
        let records = self.log.records(host.kind);
        let last =
            |number| records.iter().rfind(|record| record.partition == number).map_or(0, |record| record.sequence);
        view.parked.is_empty()
            && view.partitions.len() == usize::from(self.partitions)
            && view.partitions.values().all(|one| *one.handle.settled.borrow() >= last(one.handle.number))
    }

    fn all_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().chain(&self.zombies)
    }

    /// What every host of a kind shows: the proper one first, then second ones.
    pub(crate) fn views(&self, kind: Kind) -> Vec<Arc<View>> {
        self.all_hosts().filter(|host| host.kind == kind).map(|host| Arc::clone(&host.view.borrow())).collect()
    }

    /// A host of a kind that begins with nothing but the log.
    pub(crate) async fn rebuilt(&self, kind: Kind) -> Arc<View> {
        let host = self.start(kind, MemoryStore::default());
        for _ in 0..1_000 {
            sleep(Duration::from_millis(100)).await;
            if self.is_settled(&host) {
                return Arc::clone(&host.view.borrow());
            }
        }
        panic!("{kind} cannot be rebuilt from its log");
    }

    /// Every answer given so far.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        self.replies.lock().expect("nobody panics while adding").clone()
    }

    /// How many callers there were.
    pub(crate) fn callers(&self) -> u64 {
        self.requests
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
        let (requests, records, crashes) = (self.requests, self.length(), self.crashes);
        Trace { digest: hasher.finish(), runs: 1, requests, records, crashes }
    }
}
