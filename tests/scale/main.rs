//! `just scale`: customers order without a pause while a second and a third host come, one is killed
//! and comes back, and two leave again; shows what that does to them, and who owns what.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use async_nats::Client as Nats;
use clap::Parser;
use serde_json::Value;
use shop_tests::{
    cluster::{ALL_KINDS, Cluster},
    load::{Load, Seen},
    parts::Part,
    process::Process,
    wait::until,
};
use tokio::time::sleep;

/// Partitions of each kind.
const PARTITIONS: u16 = 12;
/// How long there may be no confirmed order.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long an audit may take: it replays everything.
const AUDIT_LIMIT: Duration = Duration::from_secs(300);

/// What happens, one after the other.
const STEPS: [Step; 7] = [
    Step::Nothing,
    Step::Comes("host-2"),
    Step::Comes("host-3"),
    Step::IsKilled("host-1"),
    Step::Comes("host-1"),
    Step::Leaves("host-2"),
    Step::Leaves("host-3"),
];

/// Lets hosts come and go while customers order.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each step
    #[arg(long, default_value = "10")]
    seconds: u64,
    /// Customers who order without a pause
    #[arg(long, default_value = "64")]
    customers: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Nothing,
    Comes(&'static str),
    IsKilled(&'static str),
    Leaves(&'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Nothing => "host-1 is alone".to_owned(),
            Self::Comes(name) => format!("{name} comes"),
            Self::IsKilled(name) => format!("kill -9 {name}"),
            Self::Leaves(name) => format!("SIGTERM to {name}"),
        };
        f.pad(&text)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let wrong = run(Options::parse()).await;
    for wrong in &wrong {
        println!("WRONG: {wrong}");
    }
    if wrong.is_empty() {
        println!("all as promised");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

/// Returns what was not as promised.
async fn run(Options { seconds, customers }: Options) -> Vec<String> {
    let mut cluster = Cluster::start(PARTITIONS, &[("host-1", ALL_KINDS)]).await;
    let nats = async_nats::connect(cluster.servers().url()).await.expect("the nats-server runs");
    println!(
        "all kinds in every host, {PARTITIONS} partitions each, {customers} customers, {seconds} s for each step; all \
         on this machine\n"
    );
    println!(
        "{:<20}{:>10}{:>28}{:>14}{:>8}  owned + held",
        "", "orders/s", "longest time without an", "slowest", "other"
    );
    println!("{:<20}{:>10}{:>28}{:>14}{:>8}  partitions of each host", "", "", "order, ms", "order, ms", "answers");
    let load = Load::begin(&cluster.client(), customers).await;
    let (mut wrong, mut confirmed, mut hosts) = (vec![], 0, 1);
    for step in STEPS {
        confirmed += load.look().orders;
        let begin = std::time::Instant::now();
        hosts = take(step, &mut cluster, hosts).await;
        sleep(Duration::from_secs(seconds).saturating_sub(begin.elapsed())).await;
        let seen = load.look();
        let shares = shares(&nats, hosts).await;
        let Seen { orders, longest_pause, slowest, ref others } = seen;
        let per_second = orders as f64 / begin.elapsed().as_secs_f64();
        let (pause, slowest) = (longest_pause.as_millis(), slowest.as_millis());
        println!("{step:<20}{per_second:>10.0}{pause:>28}{slowest:>14}{:>8}  {shares}", others.len());
        wrong.extend(others.iter().map(|other| format!("{step}: {other}")));
        wrong.extend((longest_pause > PAUSE_MAX).then(|| format!("{step}: {pause} ms without an order")));
        confirmed += orders;
    }
    confirmed += load.end().await;
    let (audit, is_clean) = audit(&mut cluster).await;
    let (found, differences) = (&audit["books"]["orders"]["confirmed"], &audit["differences"]["count"]);
    println!("\n{confirmed} orders were confirmed to their customers, {found} are in the books");
    println!("shop audit: {differences} differences");
    wrong.extend((!is_clean || *found != confirmed).then(|| format!("the books: {audit}")));
    cluster.stop().await;
    wrong
}

/// Returns how many hosts there are then.
async fn take(step: Step, cluster: &mut Cluster, hosts: usize) -> usize {
    match step {
        Step::Nothing => hosts,
        Step::Comes(name) => {
            cluster.add_host(name, ALL_KINDS).await;
            hosts + 1
        }
        Step::IsKilled(name) => {
            cluster.remove_host(name).kill().await;
            hosts - 1
        }
        Step::Leaves(name) => {
            cluster.remove_host(name).terminate().await;
            hosts - 1
        }
    }
}

/// How many partitions each host owns, and how many it holds beside them.
async fn shares(nats: &Nats, hosts: usize) -> String {
    let parts = until("all hosts say what they hold", async || Part::all(nats, hosts).await).await;
    let mut shares: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for Part { host, is_owner, .. } in parts {
        let (owned, held) = shares.entry(host).or_default();
        *(if is_owner { owned } else { held }) += 1;
    }
    let mut text = String::new();
    for (owned, held) in shares.values() {
        write!(text, "{owned:>3} + {held:<4}").expect("a string takes everything");
    }
    text.trim_end().to_owned()
}

async fn audit(cluster: &mut Cluster) -> (Value, bool) {
    let url = cluster.servers().url();
    let mut audit = Process::spawn(cluster.folder(), "audit", ["audit", "--json", "--nats-url", &url]);
    let status = audit.ends_within(AUDIT_LIMIT).await;
    let report: Value = serde_json::from_str(audit.stdout().trim()).unwrap_or_default();
    let is_clean = status.success() && report["clean"] == true;
    (report, is_clean)
}
