//! What a host is told when it starts.

use std::path::PathBuf;

use shop_domain::kind::Kind;
use shop_nats::topology::Topology;

/// What a host runs, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The kinds that it serves.
    pub kinds: Vec<Kind>,
    /// Where NATS is: `nats://host:port`, several separated by commas.
    pub nats_url: String,
    /// The folder for checkpoints; each kind has one of its own in it.
    pub data_dir: PathBuf,
    /// Where it answers whoever looks at it, `host:port`; nowhere when there is none.
    pub observe_addr: Option<String>,
    /// How the streams are to be.
    pub topology: Topology,
}
