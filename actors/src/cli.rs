//! The command line of `shop-actors`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use shop_domain::kind::Kind;
use shop_nats::topology::Topology;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    config::Config,
    host::{self, HostError},
};

/// The host of a shop: runs wallets, products, orders, deliveries and my pages over NATS.
#[derive(Debug, Parser)]
#[command(name = "shop-actors", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve some or all kinds until SIGINT or SIGTERM.
    Serve(Serve),
}

#[derive(Debug, Args)]
struct Serve {
    /// The kinds to serve, separated by commas.
    #[arg(long, env = "SHOP_KINDS", value_delimiter = ',', default_value = "wallet,product,order,delivery,mypage")]
    kinds: Vec<Kind>,
    /// Where NATS is; several servers separated by commas.
    #[arg(long, env = "SHOP_NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats_url: String,
    /// The folder for checkpoints. It may be deleted while the host is stopped: the log rebuilds it.
    #[arg(long, env = "SHOP_DATA_DIR", default_value = ".shop/actors")]
    data_dir: PathBuf,
    /// Partitions per kind, fixed when the streams are made [default: as they are; 1 on a single server, 12 on a cluster].
    #[arg(long, env = "SHOP_PARTITIONS")]
    partitions: Option<u16>,
    /// Copies of each stream when the streams are made: 1, 3 or 5 [default: 1 on a single server, 3 on a cluster].
    #[arg(long, env = "SHOP_REPLICAS")]
    replicas: Option<usize>,
}

impl Cli {
    /// Does what the command line says, until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), HostError> {
        let Command::Serve(Serve { mut kinds, nats_url, data_dir, partitions, replicas }) = self.command;
        kinds.sort_unstable();
        kinds.dedup();
        let topology = Topology { partitions, replicas };
        host::run(Config { kinds, nats_url, data_dir, topology }, stop).await
    }
}

/// What is logged: `RUST_LOG`, or everything from `info` on.
pub fn log_filter() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Given when the process is asked to stop, by SIGINT or SIGTERM.
pub fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let given = stop.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return tracing::error!("cannot wait for signals; stop this process with SIGKILL, nothing is lost by it");
        };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("stopping; once more ends at once, and loses nothing that was answered");
        given.cancel();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(130);
    });
    stop
}
