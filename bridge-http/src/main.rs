//! `shop-bridge-http`: the HTTP face as a process of its own.

use std::io::{IsTerminal, stderr};
use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use shop_bridge_http::{Config, Origin};
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
    /// Whose pages may use the shop from a browser, as in https://shop.example; may be given several times
    #[arg(long = "cors-origin", value_name = "ORIGIN", env = "SHOP_CORS_ORIGIN", value_delimiter = ',')]
    cors_origins: Vec<Origin>,
}

/// Orders are many small allocations on all threads, which the system's allocator serves slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    let served = serve(Arguments::parse()).await;
    served.inspect_err(|error| tracing::error!("{error}")).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

async fn serve(Arguments { nats, http_addr, leave_ms, cors_origins }: Arguments) -> Result<(), Box<dyn Error>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        tracing::info!("leaving; once more ends at once");
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(130);
        });
    };
    let connection = Connection::connect(&nats, "shop-bridge-http").await?;
    let bound = tokio::net::TcpListener::bind(http_addr).await;
    let listener = bound.map_err(|error| format!("cannot listen on {http_addr}: {error}"))?;
    let config = Config { leave_time: Duration::from_millis(leave_ms), cors_origins, ..Config::default() };
    shop_bridge_http::run(config, connection.clone(), listener, stop).await;
    connection.close(CLOSE_LIMIT).await;
    Ok(())
}
