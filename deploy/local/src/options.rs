//! What can be set from the command line or the environment, and the defaults.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use shop_actors::host::config::SnapshotOptions;
use shop_bridge_http::{Host, Origin, auth, limits::Limits};
use shop_nats::connection::access::{Credentials, NatsUrl};

/// Runs the whole shop on this machine: a nats-server, the five kinds and the HTTP bridge.
#[derive(Clone, Debug, clap::Parser)]
#[command(version)]
pub struct Options {
    /// Where HTTP is served; port 0 takes any free one
    #[arg(long, value_name = "HOST:PORT", env = "SHOP_HTTP_ADDR", default_value = "127.0.0.1:8080")]
    pub http_addr: String,

    /// Whose pages may use the shop from a browser, as in https://shop.example; may be given several times
    #[arg(long = "cors-origin", value_name = "ORIGIN", env = "SHOP_CORS_ORIGIN", value_delimiter = ',')]
    pub cors_origins: Vec<Origin>,

    /// Under which name or address HTTP may be asked, as in shop.example, whatever the port; may be given several times,
    /// beside localhost and the address at which it is served
    #[arg(long = "allow-host", value_name = "HOST", env = "SHOP_ALLOW_HOST", value_delimiter = ',')]
    pub allow_hosts: Vec<Host>,

    /// Who may ask over HTTP, and how often
    #[command(flatten)]
    pub auth: auth::Options,

    /// What HTTP takes at a time
    #[command(flatten)]
    pub limits: Limits,

    /// Where it can be seen how bridge and hosts are: /healthz, /readyz and /metrics; port 0 takes any free one, and
    /// nothing ('') is nowhere
    #[arg(long, value_name = "HOST:PORT", env = "SHOP_OBSERVE_ADDR", default_value = "127.0.0.1:0")]
    pub observe_addr: String,

    /// Port of the shop's own nats-server, on loopback; 0 takes any free one
    #[arg(long, value_name = "PORT", env = "SHOP_NATS_PORT", default_value_t = 4222)]
    pub nats_port: u16,

    /// Lets into the shop's own nats-server only who has a key, one for each role, which it makes in the data folder; from
    /// then on it is so with every start
    #[arg(long, env = "SHOP_SECURE", value_parser = FalseyValueParser::new(), conflicts_with = "nats_url")]
    pub secure: bool,

    /// A nats-server that runs already (2.12 or newer, with JetStream), instead of an own one [env: SHOP_NATS_URL=]
    // The variable may hold a password, so that clap must not show it.
    #[arg(long, value_name = "URL", env = "SHOP_NATS_URL", hide_env = true)]
    pub nats_url: Option<NatsUrl>,

    /// What lets the shop in there
    #[command(flatten)]
    pub credentials: Credentials,

    /// Where everything is kept
    #[arg(long, value_name = "FOLDER", env = "SHOP_DATA_DIR", default_value = ".shop")]
    pub data_dir: PathBuf,

    /// Partitions per kind when the data folder is first used; `shop repartition` changes them later [default: as
    /// they are; 1, on a cluster 12]
    #[arg(long, value_name = "COUNT", env = "SHOP_PARTITIONS", value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: Option<u16>,

    /// Plays a customer's story through HTTP first, checks every number, and stays open
    #[arg(long, env = "SHOP_DEMO", value_parser = FalseyValueParser::new())]
    pub demo: bool,

    /// Of the demo, shows every request, every answer and every number that is checked
    #[arg(short, long, env = "SHOP_VERBOSE", value_parser = FalseyValueParser::new())]
    pub verbose: bool,

    /// Writes where everything is to this file as JSON, once the shop is open; it is gone when the shop is [default: none]
    #[arg(long, value_name = "FILE", env = "SHOP_PORTS_FILE")]
    pub ports_file: Option<PathBuf>,

    /// Puts a backup into the data folder first, where there must be no shop yet: a folder, or a URL [default: none]
    #[arg(long, value_name = "BACKUP", env = "SHOP_RESTORE_FROM")]
    pub restore_from: Option<String>,

    /// How large each kind's log may become, in bytes; 0: without limit. When one is full, orders are answered with
    /// `overloaded`, nothing is lost, and `shop trim` makes room [default: as it is; without limit]
    #[arg(long, value_name = "BYTES", env = "SHOP_LOG_MAX_BYTES")]
    pub log_max_bytes: Option<u64>,

    /// Where snapshots are, unless in the data folder
    #[command(flatten)]
    pub snapshots: SnapshotOptions,
}

impl Options {
    /// Free ports and the given folder: for tests, many of which run at once.
    pub fn for_test(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            http_addr: "127.0.0.1:0".to_owned(),
            cors_origins: Vec::new(),
            allow_hosts: Vec::new(),
            auth: auth::Options::default(),
            limits: Limits::default(),
            observe_addr: "127.0.0.1:0".to_owned(),
            nats_port: 0,
            secure: false,
            nats_url: None,
            credentials: Credentials::default(),
            data_dir: data_dir.into(),
            partitions: None,
            demo: false,
            verbose: false,
            ports_file: None,
            restore_from: None,
            log_max_bytes: None,
            snapshots: SnapshotOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn every_option_can_be_set_from_the_environment_under_its_own_name() {
        Options::command().debug_assert();
        for argument in Options::command().get_arguments() {
            let Some(long) = argument.get_long() else { continue };
            let expected = format!("SHOP_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()));
        }
    }

    #[test]
    fn no_partitions_at_all_are_refused() {
        assert!(Options::try_parse_from(["shop", "--partitions", "0"]).is_err());
        assert_eq!(Options::try_parse_from(["shop", "--partitions", "3"]).unwrap().partitions, Some(3));
    }
}
