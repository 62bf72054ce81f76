//! The command line of a bridge: the HTTP face as a process of its own.

use std::{error::Error, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use futures::future::LocalBoxFuture;
use shop_nats::connection::{Connection, access::Access};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Config, Host, Observed, Origin,
    auth::{self, Guard, check_address},
    limits::Limits,
};

/// How long what is on its way may take to leave at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// `shop bridge`: turns HTTP into NATS requests and back.
#[derive(Debug, Args)]
pub struct Bridge {
    #[command(flatten)]
    nats: Access,
    /// Where to listen for HTTP.
    #[arg(long, env = "SHOP_HTTP_ADDR", value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http_addr: SocketAddr,
    /// Milliseconds to serve after SIGTERM while /readyz says 503, so that balancers send nobody here any more
    #[arg(long, value_name = "MS", env = "SHOP_LEAVE_MS", default_value = "5000")]
    leave_ms: u64,
    /// Whose pages may use the shop from a browser, as in https://shop.example; may be given several times
    #[arg(long = "cors-origin", value_name = "ORIGIN", env = "SHOP_CORS_ORIGIN", value_delimiter = ',')]
    cors_origins: Vec<Origin>,
    /// Under which name or address the bridge may be asked, as in shop.example, whatever the port; may be given several
    /// times, beside localhost and the address at which it listens
    #[arg(long = "allow-host", value_name = "HOST", env = "SHOP_ALLOW_HOST", value_delimiter = ',')]
    allow_hosts: Vec<Host>,
    /// Where to serve /readyz with how each kind is, and /metrics, of this bridge, for example 127.0.0.1:9091 [default:
    /// nowhere].
    #[arg(long, env = "SHOP_OBSERVE_ADDR", value_name = "HOST:PORT")]
    observe_addr: Option<String>,
    #[command(flatten)]
    auth: auth::Options,
    #[command(flatten)]
    limits: Limits,
}

impl Bridge {
    /// Serves until SIGINT or SIGTERM.
    pub fn run(self) -> LocalBoxFuture<'static, ExitCode> {
        // Boxed, so that all of it is compiled with this crate, and not with the program.
        Box::pin(async {
            let served = serve(self).await;
            served.inspect_err(|error| tracing::error!("{error}")).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        })
    }
}

async fn serve(bridge: Bridge) -> Result<(), Box<dyn Error>> {
    let Bridge { nats, http_addr, leave_ms, cors_origins, allow_hosts, observe_addr, auth, limits } = bridge;
    check_address(http_addr, &auth)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let observed = Observed::new();
    let _looking = match observe_addr.filter(|address| !address.is_empty()) {
        Some(address) => Some(observe(&address, &observed).await?),
        None => None,
    };
    let guard = Guard::open(&auth).await?;
    let connection = tokio::select! {
        connected = Connection::connect_bridge(&nats) => connected?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let stop = async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("leaving; once more ends at once");
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(130);
        });
    };
    let bound = TcpListener::bind(http_addr).await;
    let listener = bound.map_err(|error| format!("cannot listen on {http_addr}: {error}"))?;
    let leave_time = Duration::from_millis(leave_ms);
    let config = Config { leave_time, guard, cors_origins, allow_hosts, limits, ..Config::default() };
    crate::run_observed(config, observed, connection.clone(), listener, stop).await;
    connection.close(CLOSE_LIMIT).await;
    Ok(())
}

/// Shows how the bridge is, until what it returns is dropped.
async fn observe(address: &str, observed: &Arc<Observed>) -> Result<AbortOnDropHandle<()>, String> {
    let failed = |error| {
        format!("cannot show how this bridge is on {address}: {error} (use --observe-addr for another address)")
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!("how this bridge is can be seen on http://{bound}/readyz and http://{bound}/metrics");
    let observed: Arc<Observed> = Arc::clone(observed);
    Ok(AbortOnDropHandle::new(tokio::spawn(shop_metrics::serve(listener, vec![observed]))))
}
