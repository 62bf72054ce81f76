//! What can be chosen on the command line.

use std::path::PathBuf;

use clap::ValueEnum;
use shop_tests::bench::report::{Load, Sync};

/// Measures the shop as it is shipped: profile dist, own nats-server, HTTP
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "shop")]
pub(crate) struct Options {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "limits,postgres,matrix,builds,auth,overload,growth,recovery")]
    pub(crate) parts: Vec<Part>,

    /// Callers at a time, of the shop and (up to 256) of PostgreSQL
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256,1024", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Vec<u32>,

    /// Seconds that each figure is measured for, after a fifth of that to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,

    /// When the nats-server syncs
    #[arg(long, value_delimiter = ',', default_value = "always,default")]
    pub(crate) syncs: Vec<SyncName>,

    /// Any product, or always the same one
    #[arg(long, value_delimiter = ',', default_value = "uniform,hot")]
    pub(crate) loads: Vec<LoadName>,

    /// How the bridge knows who asks, but in the part that compares both
    #[arg(long, value_enum, value_name = "MODE", default_value = "none")]
    pub(crate) auth: AuthName,

    /// Orders do not name a price, so that each is quoted first
    #[arg(long)]
    pub(crate) quote: bool,

    /// Partitions of each kind [default: the shop's]
    #[arg(long, value_name = "COUNT")]
    pub(crate) partitions: Option<u16>,

    /// Sizes of the shops that growth is measured in: 1000000 takes some minutes
    #[arg(long, value_delimiter = ',', value_name = "COUNTS", default_value = "1000,100000")]
    pub(crate) growth_wallets: Vec<u64>,

    /// Lengths of the logs that growth is measured with: 10000000 takes some minutes
    #[arg(long, value_delimiter = ',', value_name = "COUNTS", default_value = "100000,1000000")]
    pub(crate) growth_messages: Vec<u64>,

    /// Messages in the logs of the shop that is started again
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub(crate) recovery_messages: u64,

    /// Everything in small, in about a minute: whether it works, not how fast it is
    #[arg(long)]
    pub(crate) quick: bool,

    /// Writes the figures here
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Writes the table here as well
    #[arg(long, value_name = "FILE")]
    pub(crate) table: Option<PathBuf>,

    /// Draws throughput and latency here
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Where all data are while it runs: a disk like the one that the shop will have, not memory
    #[arg(long, value_name = "FOLDER", default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) folder: PathBuf,

    /// The program that is measured, if not the one that is built like this one
    #[arg(skip)]
    pub(crate) program: Option<PathBuf>,

    /// Said by `cargo bench`, and not by `cargo test`, which must not measure
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What the machine can do at all
    Limits,
    /// The same orders in PostgreSQL
    Postgres,
    /// Orders at every number of connections
    Matrix,
    /// The same orders by the program of each profile
    Builds,
    /// The same orders with and without tokens, in turns
    Auth,
    /// More orders than the shop can take
    Overload,
    /// More wallets, longer logs
    Growth,
    /// Starting again
    Recovery,
}

/// When the nats-server syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SyncName {
    /// Before every acknowledgement
    Always,
    /// Every two minutes
    Default,
}

/// How the bridge knows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthName {
    /// It does not
    None,
    /// Each customer has a token
    Jwt,
}

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadName {
    /// Any product
    Uniform,
    /// Always the same
    Hot,
}

impl Options {
    /// With what `--quick` makes smaller.
    pub(crate) fn completed(mut self) -> Self {
        if self.quick {
            self.seconds = 1;
            self.connections = vec![1, 64, 256];
            self.growth_wallets = vec![1_000, 20_000];
            self.growth_messages = vec![50_000];
            self.recovery_messages = 50_000;
        }
        self
    }
}

impl From<SyncName> for Sync {
    fn from(name: SyncName) -> Self {
        match name {
            SyncName::Always => Self::Always,
            SyncName::Default => Self::Default,
        }
    }
}

impl From<LoadName> for Load {
    fn from(name: LoadName) -> Self {
        match name {
            LoadName::Uniform => Self::Uniform,
            LoadName::Hot => Self::Hot,
        }
    }
}
