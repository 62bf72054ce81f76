//! `just rolling`: two bridges behind haproxy, two host processes for every kind, and siege; every process
//! is restarted twice, one at a time, first in good order and then by `kill -9`. Nobody may be turned
//! away, and no order may be lost.

mod observer;
mod shop;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use shop_tests::{
    balancer::installed,
    login::Login,
    process::Process,
    siege::{Connections, Figures, Siege},
};

use crate::{
    observer::{Observed, Observer},
    shop::{End, Shop, processes},
};

/// How often each process is restarted in one siege.
const ROUNDS: usize = 2;
/// The part of a siege in which restarts begin: who is hit by the last must be answered as well.
const STRIKING: f64 = 0.9;
/// How long there may be no confirmed order, also after a `kill -9`.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How much longer than it was told siege may take: its longest request.
const SIEGE_ENDS_WITHIN: Duration = Duration::from_secs(40);

/// Restarts every process of a shop under siege, and counts who was turned away.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of each of the four sieges
    #[arg(long, default_value = "60")]
    seconds: u64,
    /// Customers who ask without a pause
    #[arg(long, default_value = "10")]
    customers: u16,
    /// Keep the logs on three nats-servers instead of one
    #[arg(long)]
    three_servers: bool,
    /// Who is let in
    #[arg(long, value_enum, default_value = "none")]
    access: Access,
}

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Access {
    /// Everybody
    None,
    /// To the nats-servers who has a key, over TLS; to the bridges who has a token
    Keys,
}

impl Access {
    fn in_words(self) -> &'static str {
        match self {
            Self::None => "without a login",
            Self::Keys => "with keys and TLS for NATS and tokens over HTTP",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let (Some(siege), Some(haproxy)) = (installed("siege"), installed("haproxy")) else {
        eprintln!("rolling: siege and haproxy are needed: apt-get install siege haproxy");
        return ExitCode::FAILURE;
    };
    let wrong = run(&options, &siege, &haproxy).await;
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
async fn run(options: &Options, siege: &Path, haproxy: &Path) -> Vec<String> {
    let mut shop = Shop::open(haproxy, options.three_servers, options.access).await;
    println!(
        "{} nats-server(s), 2 hosts for every kind, 2 bridges behind haproxy, {}; siege with {} customers, {} s each time\n",
        if options.three_servers { 3 } else { 1 },
        options.access.in_words(),
        options.customers,
        options.seconds
    );
    let (mut wrong, mut told, mut again, mut broken_off) = (vec![], vec![], 0, 0);
    for end in [End::Terminated, End::Killed] {
        for connections in [Connections::Kept, Connections::New] {
            let plan = Siege { customers: options.customers, time: Duration::from_secs(options.seconds), connections };
            let caller = shop.login().map(Login::staff);
            let besieging = plan.start(siege, &shop.folder(), &shop.requests(), caller.as_ref());
            let prefix = format!("{}-{}", end.name(), connections.name());
            let observer = Observer::begin(shop.client(), shop.customers(), prefix);
            let figures = besiege(&mut shop, plan, besieging, end).await;
            let seen = observer.end().await;
            println!("{seen}\n");
            wrong.extend(judge(end, figures, &seen));
            again += seen.again.len();
            broken_off += u64::from(plan.customers) + figures.map_or(0, |figures| figures.failed_transactions);
            told.extend(seen.told);
        }
    }
    wrong.extend(shop.lost(&told, again, broken_off).await);
    shop.close().await;
    wrong
}

/// Restarts everything while the siege lasts; returns what siege says, if there was time for all.
async fn besiege(
    shop: &mut Shop,
    Siege { time, connections, .. }: Siege,
    mut siege: Process,
    end: End,
) -> Option<Figures> {
    let start = Instant::now();
    let processes = processes();
    let slots = ROUNDS * processes.len();
    let mut restarts = 0;
    for slot in 0..slots {
        let begins = time.mul_f64(STRIKING * slot as f64 / slots as f64);
        tokio::time::sleep(begins.saturating_sub(start.elapsed())).await;
        if start.elapsed() < time {
            shop.restart(processes[slot % processes.len()], end).await;
            restarts += 1;
        }
    }
    siege.ends_within(time + SIEGE_ENDS_WITHIN).await;
    println!("{restarts} of {slots} restarts by {end}, {connections}; siege says:\n{}", siege.stdout().trim());
    Figures::read(&siege.stdout()).filter(|_| restarts == slots)
}

fn judge(end: End, figures: Option<Figures>, seen: &Observed) -> Vec<String> {
    let mut wrong = vec![];
    match figures {
        None => wrong.push(format!("by {end}: the siege was not whole, or there was not time for all restarts")),
        Some(figures) if end == End::Terminated && !figures.is_flawless() => {
            wrong.push(format!("by {end}: not every request was answered well: {figures:?}"));
        }
        Some(_) => {}
    }
    if seen.longest_pause > PAUSE_MAX {
        wrong.push(format!("by {end}: {:?} without a confirmed order", seen.longest_pause));
    }
    if end == End::Terminated {
        wrong.extend(seen.again.iter().map(|why| format!("by {end}: an order was not confirmed at once: {why}")));
    }
    wrong.extend(seen.wrong.iter().cloned());
    wrong
}
