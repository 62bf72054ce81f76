//! What a host is told when it starts.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, builder::RangedU64ValueParser};
use shop_domain::kind::Kind;
use shop_nats::{connection::access::Access, stream::topology::Topology};

use crate::{
    host::snapshotter::Schedule,
    snapshot::{retention::Retention, trim::MARGIN},
};

/// Hosts that hold a partition beside its owner, unless somebody says otherwise: one may die at any time.
pub const STANDBYS: usize = 1;

/// What a host runs, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The kinds that it serves.
    pub kinds: Vec<Kind>,
    /// Where NATS is, and what lets a host in.
    pub nats: Access,
    /// The folder for checkpoints; each kind has one of its own in it.
    pub data_dir: PathBuf,
    /// Where it answers whoever looks at it, `host:port`; nowhere when there is none.
    pub observe_addr: Option<String>,
    /// Where snapshots are, and how often they are written.
    pub snapshots: SnapshotOptions,
    /// Hosts that hold a partition beside its owner, if there are so many.
    pub standbys: usize,
    /// How the streams are to be.
    pub topology: Topology,
}

/// Where snapshots are, and how often they are written.
#[derive(Clone, Debug, Args)]
pub struct SnapshotOptions {
    /// Where snapshots are: a folder that all hosts of a kind share, or a URL [default: in the data folder of a whole
    /// shop on one machine; of a host by itself, nowhere]
    #[arg(long, env = "SHOP_SNAPSHOTS", value_name = "URL")]
    pub snapshots: Option<String>,

    /// A partition's snapshot is written after so many records of its kind's log: what a host without a checkpoint
    /// has to replay, half a minute of work
    #[arg(long, env = "SHOP_SNAPSHOT_EVERY", value_name = "RECORDS", default_value_t = 100_000,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub snapshot_every: u64,

    /// And after so many minutes, if there were any records
    #[arg(long, env = "SHOP_SNAPSHOT_MINUTES", value_name = "MINUTES", default_value_t = 60,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub snapshot_minutes: u64,

    /// So many snapshots of each partition are kept, so that one may be damaged
    #[arg(long, env = "SHOP_SNAPSHOTS_KEPT", value_name = "COUNT", default_value_t = 3,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub snapshots_kept: usize,

    /// What a log took more than so many days ago is cut off, as far as snapshots stand for it [default: nothing is]
    #[arg(long, env = "SHOP_TRIM_AFTER_DAYS", value_name = "DAYS")]
    pub trim_after_days: Option<u64>,

    /// So many records before its oldest snapshot stay even then
    #[arg(long, env = "SHOP_TRIM_MARGIN", value_name = "RECORDS", default_value_t = MARGIN,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub trim_margin: u64,
}

impl SnapshotOptions {
    /// How often, and how many.
    pub fn schedule(&self) -> Schedule {
        let interval = Duration::from_secs(self.snapshot_minutes.saturating_mul(60));
        let retention = self.trim_after_days.map(|days| Retention { days, margin: self.trim_margin });
        Schedule { records: self.snapshot_every, interval, keep: self.snapshots_kept, retention }
    }

    /// The same, in a folder if no other place is named.
    #[must_use]
    pub fn or_in(self, folder: &Path) -> Self {
        let in_folder = || folder.to_string_lossy().into_owned();
        Self { snapshots: Some(self.snapshots.filter(|url| !url.is_empty()).unwrap_or_else(in_folder)), ..self }
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            snapshots: None,
            snapshot_every: 100_000,
            snapshot_minutes: 60,
            snapshots_kept: 3,
            trim_after_days: None,
            trim_margin: MARGIN,
        }
    }
}
