//! `shop-bridge-http`: the HTTP face as a process of its own.

use std::io::{IsTerminal, stderr};
use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use shop_bridge_http::Config;
use shop_nats::{access::Access, connection::Connection};
use tokio::signal::unix::{SignalKind, signal};

/// How long what is on its way may take to leave at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Turns HTTP into NATS requests and back.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    nats: Access,
    /// Where to listen for HTTP.
    #[arg(long, env = "SHOP_HTTP_ADDR", value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http_addr: SocketAddr,
    /// Milliseconds to serve after SIGTERM while /readyz says 503, so that balancers send nobody here any more
    #[arg(long, value_name = "MS", env = "SHOP_LEAVE_MS", default_value = "5000")]
    leave_ms: u64,
}

/// Orders are many small allocations on all threads, which the system's allocator serves slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // What the client says of its connections, they say themselves.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,async_nats=warn,warp::server=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    let served = serve(Arguments::parse()).await;
    served.inspect_err(|error| tracing::error!("{error}")).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

async fn serve(Arguments { nats, http_addr, leave_ms }: Arguments) -> Result<(), Box<dyn Error>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let connection = tokio::select! {
        connected = Connection::connect_patiently(&nats, "shop-bridge-http") => connected?,
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
    let bound = tokio::net::TcpListener::bind(http_addr).await;
    let listener = bound.map_err(|error| format!("cannot listen on {http_addr}: {error}"))?;
    let config = Config { leave_time: Duration::from_millis(leave_ms), ..Config::default() };
    shop_bridge_http::run(config, connection.clone(), listener, stop).await;
    connection.close(CLOSE_LIMIT).await;
    Ok(())
}
