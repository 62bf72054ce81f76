//! What a host is asked about a partition that it does not run, or not any more: one that runs it answers.

use std::sync::Arc;

use futures::future::join_all;
use shop_actors::{
    kind_host::{Parked, PartitionView, View, read_index::ReadIndex},
    partition::{Handle, overlay::Overlay, role::RoleWatch},
    query::{About, Found, Holders, Local, Query, Reads},
    store::{Store, memory::MemoryStore},
};
use shop_domain::{
    kind::Kind,
    logic::Logic,
    problem::{Code, Problem},
};
use shop_local::NatsServer;
use shop_nats::{
    connection::{Connection, access::Access},
    log::Log,
    memory::{Calm, MemoryLog},
};
use shop_tests::wait::until;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// As many questions of others as a host answers at a time.
const QUESTIONS: usize = 8_192;

/// Where hosts of wallets, of one partition, ask each other.
struct Servers {
    nats: NatsServer,
    _folder: TempDir,
}

/// A host, of which the test says what it runs.
struct Host {
    view: watch::Sender<Arc<View>>,
    reads: Reads,
    _serving: AbortOnDropHandle<()>,
}

/// A partition that has applied one record, up to where it has settled.
struct Running {
    view: Arc<View>,
    settled: watch::Sender<u64>,
}

impl Servers {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = NatsServer::start(&folder.path().join("nats"), 0).await.unwrap();
        Self { nats, _folder: folder }
    }

    async fn host(&self) -> Host {
        self.host_under(0).await
    }

    /// A host that began under the layout of that generation.
    async fn host_under(&self, generation: u32) -> Host {
        let connection = Connection::connect(&Access::to(self.nats.url()), "test").await.unwrap();
        let log = MemoryLog::new(1, Arc::new(Calm));
        let identity = log.identity(Kind::Wallet).await.unwrap();
        let read_index = ReadIndex::new(Arc::new(log), Kind::Wallet, identity.epoch);
        let (view, seen) = watch::channel(Arc::default());
        let local = Local::new(Kind::Wallet, 1, read_index, seen, watch::channel(Some(0)).1);
        let holders = Holders::new(Kind::Wallet, generation, Arc::new(connection.clone()));
        let reads = Reads::new(Kind::Wallet, &identity, local.clone(), holders.clone());
        let serving = tokio::spawn(holders.serve(connection, local, CancellationToken::new()));
        Host { view, reads, _serving: AbortOnDropHandle::new(serving) }
    }
}

impl Host {
    fn shows(&self, view: impl Into<Arc<View>>) {
        self.view.send_replace(view.into());
    }

    fn ask(&self) -> JoinHandle<Result<Found, Problem>> {
        let reads = self.reads.clone();
        tokio::spawn(async move { reads.answer(Query::Of("alice".parse().unwrap(), About::Itself)).await })
    }

    /// Waits until it is said that there is no such wallet, which only who runs the partition can say.
    async fn is_answered(&self) {
        let is_answered = async || self.ask().await.unwrap().is_err_and(|problem| problem.code == Code::NOT_FOUND);
        until("an answer", async || is_answered().await.then_some(())).await;
    }
}

impl Running {
    fn settled_to(settled: u64) -> Self {
        let partition_store = MemoryStore::default().partition(0).unwrap();
        let (settled, settled_at) = watch::channel(settled);
        let handle = Handle {
            number: 0,
            overlay: Arc::new(Overlay::new(partition_store.clone(), 1, Logic::NEWEST)),
            settled: settled_at,
            proven: watch::channel(0).1,
            receipt: watch::channel(0).1,
            kept: Arc::default(),
            saved: watch::channel(0).1,
            active: Arc::default(),
            role: RoleWatch::alone(),
            logic: Arc::default(),
        };
        let partition = PartitionView { handle, assigned: Arc::default(), partition_store, snapshot: Arc::default() };
        let dispatched = Some(watch::channel(0).1);
        let view = View { partitions: [(0, partition)].into(), dispatched, ..View::default() };
        Self { view: Arc::new(view), settled }
    }

    /// Whether so many wait until it has settled more.
    fn is_waited_for_by(&self, readers: usize) -> bool {
        self.settled.receiver_count() > readers
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_has_parked_is_answered_by_another_one_that_runs_it() {
    let servers = Servers::start().await;
    let (first, second) = (servers.host().await, servers.host().await);
    let parked = Parked { sequence: 7, reason: "wallet bob panicked 3 times".into() };
    first.shows(View { parked: [(0, parked)].into(), ..View::default() });
    let problem = first.ask().await.unwrap().unwrap_err();
    assert_eq!(problem.code, Code::UNAVAILABLE);
    assert!(problem.detail.ends_with("no host runs partition 0 right now"), "{}", problem.detail);
    second.shows(Running::settled_to(1).view);
    first.is_answered().await;
    let status = first.reads.answer(Query::Status).await.unwrap();
    assert!(String::from_utf8_lossy(&status.json).contains(r#""parked_at":7"#), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_one_layout_is_not_asked_about_the_partitions_of_another() {
    let servers = Servers::start().await;
    let mut others = vec![];
    for generation in 0..3 {
        let (asking, holding) = (servers.host_under(generation).await, servers.host_under(generation).await);
        let problem = asking.ask().await.unwrap().unwrap_err();
        assert_eq!(problem.code, Code::UNAVAILABLE, "{}", problem.detail);
        holding.shows(Running::settled_to(1).view);
        asking.is_answered().await;
        others.push(holding);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_partition_that_starts_again_is_answered_when_it_runs() {
    let servers = Servers::start().await;
    let host = servers.host().await;
    let before = Running::settled_to(0);
    host.shows(Arc::clone(&before.view));
    let asked = host.ask();
    until("it is waited for", async || before.is_waited_for_by(1).then_some(())).await;
    drop(before);
    host.shows(Running::settled_to(1).view);
    assert_eq!(asked.await.unwrap().unwrap_err().code, Code::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_partition_that_goes_to_another_host_is_answered_there() {
    let servers = Servers::start().await;
    let (here, there, elsewhere) = (servers.host().await, servers.host().await, servers.host().await);
    there.shows(Running::settled_to(1).view);
    elsewhere.is_answered().await;
    let before = Running::settled_to(0);
    here.shows(Arc::clone(&before.view));
    // Some of them go to the one, some to the other.
    let mut asked = vec![here.ask()];
    until("a question of another host waits", async || {
        asked.push(elsewhere.ask());
        before.is_waited_for_by(2).then_some(())
    })
    .await;
    here.shows(View::default());
    drop(before);
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap_err().code, Code::NOT_FOUND);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_questions_than_a_host_answers_at_a_time_are_refused_at_once() {
    const TOO_MANY: usize = 100;
    let servers = Servers::start().await;
    let (busy, asking) = (servers.host().await, servers.host().await);
    busy.shows(Running::settled_to(1).view);
    asking.is_answered().await;
    let stuck = Running::settled_to(0);
    busy.shows(Arc::clone(&stuck.view));
    let asked: Vec<_> = (0..QUESTIONS + TOO_MANY).map(|_| asking.ask()).collect();
    let problems = join_all(asked).await.into_iter().map(|answer| answer.unwrap().unwrap_err());
    let overloaded = problems.filter(|problem| problem.code == Code::OVERLOADED).count();
    assert_eq!(overloaded, TOO_MANY);
}
