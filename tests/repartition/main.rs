//! `just repartition`: shops with many wallets are cut into more partitions while customers order without a
//! pause; shows how long each part takes, and what customers see of it.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use serde_json::Value;
use shop_tests::{
    cluster::{ALL_KINDS, Cluster},
    fill,
    load::{Load, Seen},
    process::Process,
};
use tokio::time::sleep;

/// How long a tool may take: it reads and writes everything.
const TOOL_LIMIT: Duration = Duration::from_secs(600);
/// How long customers order before and after.
const BESIDE: Duration = Duration::from_secs(3);

/// Cuts shops into more partitions while customers order.
#[derive(Debug, Parser)]
struct Options {
    /// Wallets of each shop
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
    wallets: Vec<u64>,
    /// Partitions before
    #[arg(long, default_value = "1")]
    from: u16,
    /// Partitions after
    #[arg(long, default_value = "12")]
    to: u16,
    /// Customers who order without a pause
    #[arg(long, default_value = "16")]
    customers: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let Options { from, to, customers, .. } = options;
    println!("all kinds in one host, {from} -> {to} partitions each, {customers} customers; all on this machine\n");
    println!(
        "{:>9}{:>10}{:>11}{:>10}{:>10}{:>10}{:>9}{:>24}{:>8}",
        "wallets",
        "entities",
        "followed,",
        "settled,",
        "written,",
        "begun,",
        "held,",
        "longest time without an",
        "other"
    );
    let seconds = "s";
    println!(
        "{:>9}{:>10}{seconds:>11}{seconds:>10}{seconds:>10}{seconds:>10}{seconds:>9}{:>24}{:>8}",
        "", "", "order, s", "answers"
    );
    let mut wrong = vec![];
    for &wallets in &options.wallets {
        wrong.extend(cut(&options, wallets).await);
    }
    for wrong in &wrong {
        println!("WRONG: {wrong}");
    }
    if wrong.is_empty() {
        println!("\nall as promised: nobody was turned away, and shop audit found no differences");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

/// Returns what was not as promised.
async fn cut(options: &Options, wallets: u64) -> Vec<String> {
    let cluster = Cluster::without_processes(options.from).await.that_keeps_snapshots();
    let mut cluster = cluster.with(&[("host", ALL_KINDS)]).await;
    let nats = async_nats::connect(cluster.servers().url()).await.expect("the nats-server runs");
    fill::wallets(&nats, 1..=wallets).await;
    let load = Load::begin(&cluster.client(), options.customers).await;
    sleep(BESIDE).await;
    let mut confirmed = load.look().orders;
    let to = options.to.to_string();
    let lines = tool(&mut cluster, &["repartition", "--to", &to]).await;
    let lines = match lines {
        Ok(lines) => lines,
        Err(error) => return vec![error],
    };
    sleep(BESIDE).await;
    let Seen { orders, longest_pause, others, .. } = load.look();
    confirmed += orders + load.end().await;

    let times = lines.last().cloned().unwrap_or_default();
    let second = |name: &str| times[format!("{name}_seconds")].as_f64().unwrap_or(f64::NAN);
    let entities: u64 = lines.iter().filter_map(|line| line["entities"].as_u64()).sum();
    let [followed, settled, written, begun, held] = ["followed", "settled", "written", "begun", "held"].map(second);
    let pause = longest_pause.as_secs_f64();
    println!(
        "{wallets:>9}{entities:>10}{followed:>11.1}{settled:>10.1}{written:>10.1}{begun:>10.1}{held:>9.1}{pause:>24.1}{:>8}",
        others.len()
    );
    let mut wrong: Vec<_> = others.into_iter().map(|other| format!("{wallets} wallets: {other}")).collect();
    let audit = tool(&mut cluster, &["audit"]).await.unwrap_or_else(|error| vec![Value::String(error)]);
    let report = audit.first().cloned().unwrap_or_default();
    let is_clean = report["clean"] == true && report["books"]["orders"]["confirmed"] == confirmed;
    wrong.extend((!is_clean).then(|| format!("{wallets} wallets, {confirmed} orders: {report}")));
    cluster.stop().await;
    wrong
}

/// Runs a tool, and returns the lines that it answers with.
async fn tool(cluster: &mut Cluster, line: &[&str]) -> Result<Vec<Value>, String> {
    let (url, snapshots) = (cluster.servers().url(), cluster.snapshots().display().to_string());
    let common = ["--json", "--nats-url", &url, "--snapshots", &snapshots];
    let mut process = Process::spawn(cluster.folder(), line[0], line.iter().chain(&common));
    let status = process.ends_within(TOOL_LIMIT).await;
    if !status.success() {
        return Err(format!("{} ended with {status}: {}{}", line[0], process.stdout(), process.stderr()));
    }
    let stdout = process.stdout();
    Ok(stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect())
}
