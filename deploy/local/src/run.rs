//! The whole shop on one machine, until Ctrl-C.

use std::process::ExitCode;

use futures::future::LocalBoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    Options, Shop,
    banner::Banner,
    demo::{self, Telling},
    ports::PortsFile,
};

type Error = Box<dyn std::error::Error>;

/// Opens the shop, says where everything is, and keeps it open until SIGINT or SIGTERM.
pub fn run(options: Options) -> LocalBoxFuture<'static, ExitCode> {
    // Boxed, so that all of it is compiled with this crate, and not with the program.
    Box::pin(async {
        match open(options).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shop: {error}");
                ExitCode::FAILURE
            }
        }
    })
}

async fn open(options: Options) -> Result<(), Error> {
    if options.demo && options.auth.asks_who() {
        return Err("--demo plays a customer without a token: leave --auth and --api-keys out, or --demo".into());
    }
    let mut stop = StopSignals::listen()?;
    let telling = options.demo.then_some(if options.verbose { Telling::Whole } else { Telling::Short });
    let ports = options.ports_file.as_deref().map(PortsFile::prepare).transpose()?;
    let mut shop = tokio::select! {
        shop = Shop::start(options) => shop?,
        name = stop.next() => return Err(format!("{name} before the shop was open").into()),
    };
    // Who reads that the shop is open finds the file.
    let outcome = match ports.as_ref().map_or(Ok(()), |file| file.write(&shop)) {
        Ok(()) => {
            println!("{}", Banner::of(&shop));
            tokio::select! {
                error = serve(&mut shop, telling) => Err(error),
                name = stop.next() => {
                    println!("\n{name}: finishing what has begun, then stopping (once more: at once)");
                    Ok(())
                }
            }
        }
        Err(error) => Err(error.into()),
    };
    drop(ports);
    tokio::select! {
        stopped = shop.stop() => outcome.and(stopped.map_err(Error::from))?,
        // The nats-server's watchdog ends it.
        name = stop.next() => return Err(format!("{name} once more: stopped at once").into()),
    }
    println!("stopped; everything is kept");
    Ok(())
}

/// Returns only when the shop cannot go on, or when the demo saw a wrong number.
async fn serve(shop: &mut Shop, telling: Option<Telling>) -> Error {
    if let Some(telling) = telling {
        if let Err(error) = demo::play(shop, telling).await {
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
