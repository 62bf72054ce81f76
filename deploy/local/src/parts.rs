//! The two parts that other crates bring: the host of a kind, and the HTTP bridge.
//!
//! The only place that knows how they are called.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use shop_actors::{
    host::{
        self,
        config::{Config, STANDBYS, SnapshotOptions},
    },
    observe::Observed,
};
use shop_bridge_http::{self as bridge_http, Host, Origin, auth::Guard, limits::Limits};
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{Connection, access::Access},
    stream::topology::Topology,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::service::{Outcome, Shutdown};

/// How long what is on its way may take to leave when the bridge stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What every host and the bridge need to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where NATS is, and what lets the shop in.
    pub(crate) nats: Access,
    /// The same for the bridge, and for what changes the logs.
    pub(crate) bridge_nats: Access,
    pub(crate) operator_nats: Access,
    /// Where a host may keep checkpoints; each kind has a folder of its own in it.
    pub(crate) hosts_folder: PathBuf,
    /// How many partitions each kind has, if that was said.
    pub(crate) partitions: Option<u16>,
    /// How large each log may become, if that was said.
    pub(crate) log_max_bytes: Option<u64>,
    /// Where hosts keep snapshots, and how often they write them.
    pub(crate) snapshots: SnapshotOptions,
    /// How the host of each kind is.
    pub(crate) observed: BTreeMap<Kind, Arc<Observed>>,
    /// How the bridge is.
    pub(crate) bridge_observed: Arc<bridge_http::Observed>,
    /// What knows who asks the bridge, if anything does.
    pub(crate) guard: Option<Arc<Guard>>,
    /// Whose pages may use the bridge from a browser.
    pub(crate) cors_origins: Vec<Origin>,
    /// Under which hosts the bridge may be asked.
    pub(crate) allow_hosts: Vec<Host>,
    /// What the bridge takes at a time.
    pub(crate) limits: Limits,
}

/// Serves one kind until `shutdown`, then drains and returns.
pub(crate) async fn host(kind: Kind, settings: Settings, shutdown: Shutdown) -> Outcome {
    let Settings { nats, hosts_folder: data_dir, partitions, log_max_bytes, snapshots, observed, .. } = settings;
    let topology = Topology { partitions, replicas: None, log_max_bytes };
    let stop = CancellationToken::new();
    let kinds = vec![kind];
    let config = Config { kinds, nats, data_dir, observe_addr: None, snapshots, standbys: STANDBYS, topology };
    let host = host::run_observed(config, Arc::clone(&observed[&kind]), stop.clone());
    tokio::pin!(host);
    tokio::select! {
        ended = &mut host => return Ok(ended?),
        () = shutdown => stop.cancel(),
    }
    Ok(host.await?)
}

/// Serves HTTP on `listener` until `shutdown`, then answers what it has begun and returns.
pub(crate) async fn bridge(settings: Settings, listener: TcpListener, shutdown: Shutdown) -> Outcome {
    let Settings { bridge_nats, bridge_observed: observed, guard, cors_origins, allow_hosts, limits, .. } = settings;
    let connection = Connection::connect_bridge(&bridge_nats).await?;
    let config = bridge_http::Config { guard, cors_origins, allow_hosts, limits, ..Default::default() };
    let bridge = bridge_http::run_observed(config, observed, connection.clone(), listener, shutdown);
    // Boxed, because the compiler cannot see through warp's future that it is `Send`.
    let bridge: BoxFuture<'_, ()> = Box::pin(bridge);
    bridge.await;
    connection.close(CLOSE_LIMIT).await;
    Ok(())
}
