//! One run: opens a shop, lets customers in, strikes, and in the end compares everything.

use std::{
    fmt,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::Value;
use shop_tests::{
    cluster::{A_PROCESS_PER_KIND, ALL_KINDS, Cluster, panics},
    login::Login,
    machines::Machines,
    process::Process,
    wait::until,
};
use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    books,
    callers::Callers,
    counter::{Counter, Figures, Found, Untrue},
    customer::Customer,
    faults::{Fault, Stage},
    goods::Goods,
    ledger::Ledger,
    table::Table,
};

/// Partitions of each kind: more than one, so that an order crosses them.
const PARTITIONS: u16 = 2;
/// Hosts for the same kinds: more than a partition needs, so that each holds only a part.
const HOSTS: [&str; 3] = ["host-1", "host-2", "host-3"];
/// Partitions that they share.
const PARTITIONS_OF_SEVERAL: u16 = 4;
/// How often a long run says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the audit may take: it replays all logs.
const AUDIT_LIMIT: Duration = Duration::from_secs(300);

/// What is to be survived.
pub(crate) struct Run {
    pub(crate) on: On,
    pub(crate) access: Access,
    pub(crate) seed: u64,
    pub(crate) faults: Vec<Fault>,
    pub(crate) until: Until,
    /// How long a fault lasts that lasts.
    pub(crate) hold: Duration,
    /// Confirmed orders before and after each fault.
    pub(crate) orders: u64,
    pub(crate) customers: usize,
}

/// What the shop runs on.
#[derive(Clone, Copy)]
pub(crate) enum On {
    /// One nats-server, disks that can be filled and lines that can be cut.
    OneServer,
    /// Three, with the partitions that a shop has there by default.
    ThreeServers,
    /// One nats-server, and several hosts that serve all kinds, each with a line that can be cut.
    SeveralHosts,
    /// Three machines with a network that can be cut, each with a nats-server and a host that serves all kinds.
    ThreeMachines,
}

/// Who is let in.
#[derive(Clone, Copy)]
pub(crate) enum Access {
    /// Everybody, to the nats-servers and to the bridge.
    None,
    /// To the nats-servers who has a key, over TLS; to the bridge who has a token. Each customer has both, the staff as
    /// well, and customers try what is not theirs.
    Keys,
}

/// When it is enough.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// Every fault has struck once.
    EachOnce,
    /// The time is over, and every fault has struck at least once.
    Over(Duration),
}

/// Customers at work, who end with where they have asked and what they were told.
type Customers = JoinSet<Found<(Counter, Ledger)>>;

impl Run {
    /// Fails when anything that a customer was told is not true any more.
    pub(crate) async fn survive(self) {
        let seed = self.seed;
        let access = self.access;
        eprintln!(
            "seed {seed}, access {access}: SHOP_TORTURE_SEED={seed} SHOP_TORTURE_ACCESS={access} strikes in the same order"
        );
        let (mut cluster, no_disks) = self.open().await;
        let (client, start) = (cluster.client(), Instant::now());
        let counter = Counter::new(client.clone(), Goods::offer(&client).await);
        let stop = CancellationToken::new();
        let mut customers = Customers::new();
        for number in 0..self.customers {
            let (user, stop) = (user(number), stop.clone());
            let counter = counter.of(Callers::of(&cluster, &user).await);
            let rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(number as u64));
            customers.spawn(async move {
                let customer = Customer::open(counter.clone(), user, rng).await?;
                Ok((counter, customer.live(stop).await?))
            });
        }
        let table = tokio::select! {
            found = customers.join_next() => panic!("{}", at(start, seed, found)),
            table = self.strike(&mut cluster, &counter, no_disks.as_deref(), start) => table,
        };
        stop.cancel();
        let mut ledgers = Vec::new();
        while let Some(ended) = customers.join_next().await {
            match ended {
                Ok(Ok(ledger)) => ledgers.push(ledger),
                found @ (Ok(Err(_)) | Err(_)) => panic!("{}", at(start, seed, Some(found))),
            }
        }
        let ledgers = compare(ledgers, &counter, start, seed).await;
        let audit = audit(&cluster).await;
        report(&table, &ledgers, &counter, &audit, start);
        let outcomes = books::outcomes(ledgers.iter());
        for (status, count) in books::by_status(&outcomes) {
            assert_eq!(audit["books"]["orders"][status], count, "the orders that customers have placed: {outcomes:?}");
        }
        assert_eq!(dead_letters(&audit), table.dead_letters, "what was published and is no frame, and what is dead");
        assert_eq!(panics(cluster.folder()), Vec::<String>::new(), "processes that panicked");
        cluster.stop().await;
    }

    /// Opens the shop; of one without disks that can be filled also why, if there should be some.
    async fn open(&self) -> (Cluster, Option<String>) {
        let login = match self.access {
            Access::None => None,
            Access::Keys => Some(Login::new((0..self.customers).map(user))),
        };
        let hosts = HOSTS.map(|name| (name, ALL_KINDS));
        match self.on {
            On::OneServer => Cluster::start_on_disks_and_lines(PARTITIONS, &A_PROCESS_PER_KIND, login).await,
            On::ThreeServers => (Cluster::start_on_three_servers(&A_PROCESS_PER_KIND, login).await, None),
            On::SeveralHosts => {
                (Cluster::start_on_lines_of_their_own(PARTITIONS_OF_SEVERAL, &hosts, login).await, None)
            }
            On::ThreeMachines => {
                let machines = Machines::around_us().expect("the run was started in the hub of machines");
                (Cluster::start_on_machines(machines, &hosts, login).await, None)
            }
        }
    }

    /// Whether customers were told enough for something untrue to be among it.
    fn is_much(&self, counter: &Counter) -> bool {
        let is_refused = match self.access {
            Access::None => true,
            Access::Keys => counter.has_refused_much(),
        };
        is_refused && counter.has_told_much()
    }

    /// Strikes again and again, each time in another order.
    async fn strike(&self, cluster: &mut Cluster, counter: &Counter, no_disks: Option<&str>, start: Instant) -> Table {
        let mut rng = Rng::with_seed(self.seed);
        let mut table = Table::default();
        let (hold, orders, confirmed) = (self.hold, self.orders, counter.confirmed());
        let mut stage = Stage { cluster, no_disks, rng: &mut rng.fork(), hold, orders, confirmed };
        let mut faults = self.faults.clone();
        for round in 0.. {
            rng.shuffle(&mut faults);
            for fault in &faults {
                let is_over = match self.until {
                    Until::EachOnce => round > 0,
                    Until::Over(time) => round > 0 && start.elapsed() >= time,
                };
                if is_over {
                    until("customers are told much", async || self.is_much(counter).then_some(())).await;
                    return table;
                }
                stage.some_orders().await;
                let before = counter.figures();
                counter.watch_pauses();
                let progress = progress(*fault, counter, start);
                let outcome = tokio::select! {
                    outcome = fault.strike(&mut stage) => outcome,
                    never = progress => never,
                };
                stage.cluster.wait_until_ready().await;
                stage.some_orders().await;
                table.enter(*fault, outcome, before, counter.figures());
            }
        }
        table
    }
}

/// Says how far it is, for as long as a fault lasts.
async fn progress<T>(fault: Fault, counter: &Counter, start: Instant) -> T {
    let mut ticks = interval(PROGRESS_INTERVAL);
    loop {
        ticks.tick().await;
        let Figures { requests, reads_checked, .. } = counter.figures();
        let (seconds, confirmed) = (start.elapsed().as_secs(), *counter.confirmed().borrow());
        let what = fault.name();
        eprintln!("{seconds:>5} s  {requests} requests, {confirmed} confirmed, {reads_checked} reads true  {what}");
    }
}

/// All that the customers were told, against all that they are shown.
async fn compare(ledgers: Vec<(Counter, Ledger)>, counter: &Counter, start: Instant, seed: u64) -> Vec<Ledger> {
    let mut closing = JoinSet::new();
    for (counter, ledger) in ledgers {
        closing.spawn(async move {
            ledger.close(&counter).await?;
            Ok(ledger)
        });
    }
    let mut closed = Vec::new();
    while let Some(ended) = closing.join_next().await {
        match ended {
            Ok(Ok(ledger)) => closed.push(ledger),
            found @ (Ok(Err(_)) | Err(_)) => panic!("{}", at(start, seed, Some(found))),
        }
    }
    let end = async {
        counter.goods.all_are_true(counter).await?;
        counter.others().are_unharmed(counter).await
    };
    if let Err(Untrue(what)) = end.await {
        panic!("after {:?} with seed {seed}: {what}", start.elapsed());
    }
    closed
}

/// `shop audit`, as an operator runs it.
async fn audit(cluster: &Cluster) -> Value {
    let options = [cluster.nats_options("reader"), cluster.snapshot_options()].concat();
    let arguments = ["audit", "--json"].into_iter().chain(options.iter().map(String::as_str));
    let mut audit = Process::spawn(cluster.folder(), "audit", arguments);
    let status = audit.ends_within(AUDIT_LIMIT).await;
    let said = audit.stdout();
    assert_eq!(status.code(), Some(0), "the audit found differences: {said}\n{}", audit.stderr());
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn sum(audit: &Value, column: &str) -> u64 {
    let kinds = audit["kinds"].as_object().into_iter().flat_map(|kinds| kinds.values());
    kinds.filter_map(|kind| kind[column].as_u64()).sum()
}

fn dead_letters(audit: &Value) -> u64 {
    sum(audit, "dead_letters")
}

fn report(table: &Table, ledgers: &[Ledger], counter: &Counter, audit: &Value, start: Instant) {
    let (figures, slowest) = (&counter.figures(), counter.slowest());
    let Figures { requests, answered, over_nats, reads_checked, repeats_checked, .. } = figures;
    let ((longest, slowest), (late, latest)) = (slowest, counter.latest());
    let seconds = start.elapsed().as_secs();
    println!("\n{table}");
    println!("{seconds} s, {} processes killed, {} customers", table.kills, ledgers.len());
    println!("{requests} requests, {answered} answered, {over_nats} of them over NATS");
    let refusals = counter.others().refusals();
    if !refusals.is_empty() {
        let refusals: Vec<_> = refusals.iter().map(|(status, count)| format!("{count} × {status}")).collect();
        println!("asked for and refused, because it is another's: {}", refusals.join(", "));
    }
    println!("the slowest after {:.1} s, repeated until it was definite: {slowest}", longest.as_secs_f64());
    println!("the latest answer {:.1} s after the end of its wait: {latest}", late.as_secs_f64());
    println!("{reads_checked} reads and {repeats_checked} repeated writes were as they had been told");
    let outcomes = books::outcomes(ledgers.iter());
    let outcomes: Vec<_> = outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    println!("orders: {}", outcomes.join(", "));
    let [messages, duplicates, beyond_holes, dead] =
        ["messages", "duplicates", "beyond_holes", "dead_letters"].map(|column| sum(audit, column));
    println!("logs: {messages} messages, {duplicates} duplicates, {beyond_holes} beyond a hole, {dead} dead letters");
    println!("shop audit: no differences");
}

/// What the customers are called, by number.
fn user(number: usize) -> String {
    format!("user-{number:02}")
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Keys => "keys",
        })
    }
}

fn at<T: std::fmt::Debug>(
    start: Instant,
    seed: u64,
    found: Option<Result<Found<T>, tokio::task::JoinError>>,
) -> String {
    let what = match found {
        Some(Ok(Err(Untrue(what)))) => what,
        other @ (Some(Ok(Ok(_)) | Err(_)) | None) => format!("a customer has gone: {other:?}"),
    };
    format!("after {:?} with seed {seed}, this is not true: {what}", start.elapsed())
}
