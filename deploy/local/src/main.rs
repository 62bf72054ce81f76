//! `shop-local`: the whole shop on one machine, until Ctrl-C.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use shop_local::{Options, Shop, banner::Banner, demo};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

type Error = Box<dyn std::error::Error>;

/// Orders are many small allocations on all threads, which the system's allocator serves slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let stderr = std::io::stderr;
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr().is_terminal()).with_writer(stderr).init();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop-local: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Error> {
    let mut stop = StopSignals::listen()?;
    let with_demo = options.demo;
    let mut shop = tokio::select! {
        shop = Shop::start(options) => shop?,
        name = stop.next() => return Err(format!("{name} before the shop was open").into()),
    };
    println!("{}", Banner::of(&shop));
    let outcome = tokio::select! {
        error = serve(&mut shop, with_demo) => Err(error),
        name = stop.next() => {
            println!("\n{name}: finishing what has begun, then stopping (once more: at once)");
            Ok(())
        }
    };
    tokio::select! {
        stopped = shop.stop() => outcome.and(stopped.map_err(Error::from))?,
        // The nats-server's watchdog ends it.
        name = stop.next() => return Err(format!("{name} once more: stopped at once").into()),
    }
    println!("stopped; everything is kept");
    Ok(())
}

/// Returns only when the shop cannot go on, or when the demo saw a wrong number.
async fn serve(shop: &mut Shop, with_demo: bool) -> Error {
    if with_demo {
        if let Err(error) = demo::play(shop).await {
            return error.into();
        }
        println!("\n  The shop stays open at http://{} until Ctrl-C.", shop.http_address());
    }
    shop.watch().await.into()
}

/// Ctrl-C, and what `kill` and service managers send.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }
}
