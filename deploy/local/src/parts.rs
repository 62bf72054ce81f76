//! The two parts that other crates bring: the host of a kind, and the HTTP bridge.
//!
//! The only place that knows how they are called.

use std::path::PathBuf;

use shop_domain::kind::Kind;
use tokio::net::TcpListener;

use crate::service::{Outcome, Shutdown};

/// What every host and the bridge need to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where NATS is.
    pub(crate) nats_url: String,
    /// Where a host may keep checkpoints; each kind has a folder of its own in it.
    pub(crate) hosts_folder: PathBuf,
    /// How many partitions each kind has, if that was said.
    pub(crate) partitions: Option<u16>,
}

/// Serves one kind until `shutdown`, then drains and returns.
pub(crate) async fn host(kind: Kind, settings: Settings, shutdown: Shutdown) -> Outcome {
    let Settings { nats_url, hosts_folder, partitions } = settings;
    // WIRE: shop_actors::run(shop_actors::Config { kinds: vec![kind], .. }, shutdown).await
    drop((nats_url, hosts_folder, partitions, shutdown));
    Err(format!("the host of {kind} is not wired yet").into())
}

/// Serves HTTP on `listener` until `shutdown`, then answers what it has begun and returns.
pub(crate) async fn bridge(settings: Settings, listener: TcpListener, shutdown: Shutdown) -> Outcome {
    // WIRE: let connection = Connection::connect(&settings.nats_url, "bridge-http").await?;
    //       shop_bridge_http::run(config, connection, listener, shutdown).await
    drop((settings, listener, shutdown));
    Err("the HTTP bridge is not wired yet".into())
}
