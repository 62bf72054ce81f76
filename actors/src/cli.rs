//! The command line of a host.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use shop_domain::kind::Kind;
use shop_nats::{connection::access::Access, stream::topology::Topology};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::host::{
    self,
    config::{Config, STANDBYS, SnapshotOptions},
};

/// `shop serve`: a host, which runs wallets, products, orders, deliveries and my pages over NATS.
#[derive(Debug, Args)]
pub struct Serve {
    /// The kinds to serve, separated by commas.
    #[arg(long, env = "SHOP_KINDS", value_delimiter = ',', default_value = "wallet,product,order,delivery,mypage")]
    kinds: Vec<Kind>,
    #[command(flatten)]
    nats: Access,
    /// The folder for checkpoints. It may be deleted while the host is stopped: the log rebuilds it.
    #[arg(long, env = "SHOP_DATA_DIR", value_name = "FOLDER", default_value = ".shop/actors")]
    data_dir: PathBuf,
    /// Partitions per kind when the streams are made; `shop repartition` changes them later [default: as they
    /// are; 1 on a single server, 12 on a cluster].
    #[arg(long, env = "SHOP_PARTITIONS", value_name = "COUNT")]
    partitions: Option<u16>,
    /// Copies of each stream when the streams are made: 1, 3 or 5 [default: 1 on a single server, 3 on a cluster].
    #[arg(long, env = "SHOP_REPLICAS", value_name = "COUNT", value_parser = copies)]
    replicas: Option<usize>,
    /// Where to serve /healthz, /readyz and /metrics of this host, for example 127.0.0.1:9090 [default: nowhere].
    #[arg(long, env = "SHOP_OBSERVE_ADDR", value_name = "HOST:PORT")]
    observe_addr: Option<String>,
    /// How large each kind's log may become, in bytes; 0: without limit. When one is full, its door answers
    /// `overloaded`, nothing is lost, and `shop trim` makes room [default: as it is; without limit].
    #[arg(long, env = "SHOP_LOG_MAX_BYTES", value_name = "BYTES")]
    log_max_bytes: Option<u64>,
    /// Standby hosts per partition, as far as there are so many hosts. If the owner fails, one of them takes over.
    #[arg(long, env = "SHOP_STANDBYS", value_name = "COUNT", default_value_t = STANDBYS)]
    standbys: usize,
    #[command(flatten)]
    snapshots: SnapshotOptions,
}

impl Serve {
    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) -> ExitCode {
        let Self { mut kinds, nats, data_dir, partitions, replicas, observe_addr, .. } = self;
        let Self { log_max_bytes, standbys, snapshots, .. } = self;
        let observe_addr = observe_addr.filter(|address| !address.is_empty());
        kinds.sort_unstable();
        kinds.dedup();
        let topology = Topology { partitions, replicas, log_max_bytes };
        match host::run(Config { kinds, nats, data_dir, observe_addr, snapshots, standbys, topology }, stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Copies vote, so that their number is odd; the server keeps at most five.
pub(crate) fn copies(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        Ok(_) | Err(_) => Err("there can be 1, 3 or 5 copies".to_owned()),
    }
}

/// Given when the process is asked to stop, by SIGINT or SIGTERM.
pub fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let given = stop.clone();
    // At once: whoever sees that something is done can interrupt it.
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Host {
        #[command(flatten)]
        serve: Serve,
    }

    #[test]
    fn copies_that_cannot_vote_are_refused() {
        Host::command().debug_assert();
        let parse = |copies: &str| Host::try_parse_from(["serve", "--replicas", copies]);
        for copies in ["1", "3", "5"] {
            assert_eq!(parse(copies).unwrap().serve.replicas, copies.parse().ok());
        }
        for copies in ["0", "2", "4", "7", "many"] {
            assert!(parse(copies).unwrap_err().to_string().contains("there can be 1, 3 or 5 copies"), "{copies}");
        }
    }
}
