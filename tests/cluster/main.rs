//! `just cluster`: a shop on three nats-servers, with two host processes for every kind and two bridges,
//! all on loopback and on free ports, until Ctrl-C. Whatever is killed meanwhile is started again.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use shop_local::folder::FolderLock;
use shop_tests::{
    cluster::{Cluster, TWO_PROCESSES_PER_KIND},
    folder::Folder,
    process::Process,
    servers::{Servers, name},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

/// How long whatever has ended stays away: one looks this often.
const AWAY: Duration = Duration::from_secs(5);

/// Runs a shop on three nats-servers, with two host processes for every kind and two bridges.
#[derive(Debug, Parser)]
struct Options {
    /// Where everything is kept
    #[arg(long, value_name = "FOLDER", env = "SHOP_DATA_DIR", default_value = ".shop/cluster")]
    data_dir: PathBuf,
}

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Options { data_dir }: Options) -> Result<(), Error> {
    let mut stop =
        StopSignals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    let _lock = FolderLock::take(&data_dir)?;
    let folder = data_dir.canonicalize()?;
    let open = async {
        let servers = Servers::three(&folder, false, None).await?;
        let cluster = Cluster::of(servers, Folder::kept(&folder), None).apart().with(&TWO_PROCESSES_PER_KIND).await;
        let second = Bridge::beside(&cluster, SocketAddr::from(([127, 0, 0, 1], 0))).await;
        Ok::<_, Error>((cluster, second))
    };
    let (mut cluster, mut second) = tokio::select! {
        open = open => open?,
        () = stop.next() => return Err("stopped before the shop was open".into()),
    };
    println!("{}", banner(&mut cluster, &second));
    tokio::select! {
        never = revive(&mut cluster, &mut second) => never,
        () = stop.next() => {}
    }
    println!("\nfinishing what has begun, then stopping (once more: at once)");
    tokio::select! {
        () = async { second.process.terminate().await; cluster.stop().await } => {}
        () = stop.next() => return Err("stopped at once".into()),
    }
    println!("stopped; everything is kept");
    Ok(())
}

/// Starts again whatever ends, after a while.
async fn revive(cluster: &mut Cluster, second: &mut Bridge) {
    let mut looks = interval(AWAY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        for name in cluster.revive().await {
            println!("  {name} had ended and is started again");
        }
        if second.process.has_ended().is_some() {
            *second = Bridge::beside(cluster, second.http).await;
            println!("  the second bridge had ended and is started again");
        }
    }
}

/// The second of two.
struct Bridge {
    process: Process,
    http: SocketAddr,
}

impl Bridge {
    async fn beside(cluster: &Cluster, http: SocketAddr) -> Self {
        let (process, http) = cluster.spawn_bridge("bridge-2", http).await;
        Self { process, http }
    }
}

/// Where everything is, and what to try.
fn banner(cluster: &mut Cluster, second: &Bridge) -> String {
    let (http, also, folder) = (cluster.client().address(), second.http, cluster.folder().display().to_string());
    let urls = cluster.servers().url();
    let mut servers = String::new();
    for (number, server) in cluster.servers().all().iter().enumerate() {
        let (name, url, version) = (name(number), server.url(), server.version());
        let pid = server.pid().unwrap_or_default();
        servers += &format!("    {name}  {url:<28}  nats-server {version}, pid {pid}\n");
    }
    let mut hosts = String::new();
    for pair in TWO_PROCESSES_PER_KIND.chunks(2) {
        let pids: Vec<_> = pair.iter().map(|(name, _)| cluster.host(name).pid().to_string()).collect();
        hosts += &format!("    {:<8}  two hosts, pids {}\n", pair[0].1, pids.join(" and "));
    }
    format!(
        r#"
  The shop is open, on three nats-servers.

    HTTP    http://{http:<21}  a bridge
    HTTP    http://{also:<21}  another one
{servers}{hosts}    data    {folder}: what a process says is in the file of its name there
    stop    Ctrl-C

  Four things to try in another terminal; whatever is killed is started again:

    curl -s http://{http}/wallets -H 'Content-Type: application/json' -d '{{"id":"alice","balance":999999}}'
    kill -9 {victim}
    kill -9 {host}
    cargo run -- audit --nats-url {urls}
"#,
        victim = cluster.servers().all()[0].pid().unwrap_or_default(),
        host = cluster.host("orders-1").pid(),
    )
}

/// Ctrl-C, and what `kill` and service managers send.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
