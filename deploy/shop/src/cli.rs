//! The command line: every command, and what is logged while it runs.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use shop_actors::{
    cli::{Serve, stop_signal},
    operator::Tool,
};
use shop_bridge_http::{auth::new_key::Keys, cli::Bridge};
use shop_local::{Options, keygen::Nats, seed::Seed};
use tracing_subscriber::EnvFilter;

use crate::{completions::Completions, version::VERSION};

/// Runs the whole shop on this machine: a nats-server, the five kinds and the HTTP bridge.
///
/// The commands run one part of a shop as a process of its own, or look into what happened in one.
#[derive(Debug, Parser)]
#[command(name = "shop", version = VERSION.as_str(), args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    whole: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve some or all kinds until SIGINT or SIGTERM: a host.
    Serve(Serve),
    /// Turn HTTP into NATS requests and back until SIGINT or SIGTERM.
    Bridge(Box<Bridge>),
    #[command(flatten)]
    Look(Tool),
    /// Fill a running shop with products, customers and orders to look at. Doing it twice does it once.
    Seed(Seed),
    /// Keys and configurations for nats-servers that let in only whom they know.
    #[command(subcommand)]
    Nats(Nats),
    /// Keys for programs that ask over HTTP.
    #[command(subcommand)]
    Keys(Keys),
    /// Print what makes a shell complete this program's commands and options.
    ///
    /// For example in ~/.bashrc: `source <(shop completions bash)`.
    Completions(Completions),
}

impl Cli {
    /// Does what the command line says.
    pub(crate) async fn run(self) -> ExitCode {
        match self.command {
            None => shop_local::run(self.whole).await,
            Some(Command::Serve(serve)) => serve.run(stop_signal()).await,
            Some(Command::Bridge(bridge)) => bridge.run().await,
            Some(Command::Look(tool)) => tool.run(stop_signal()).await,
            Some(Command::Seed(seed)) => seed.run().await,
            Some(Command::Nats(nats)) => nats.run(),
            Some(Command::Keys(keys)) => keys.run(),
            Some(Command::Completions(completions)) => completions.print(Self::command()),
        }
    }

    /// What is logged: `RUST_LOG`, or else of a part everything from `info` on, and of the whole shop and of a tool
    /// what went wrong.
    pub(crate) fn log_filter(&self) -> EnvFilter {
        let level = match self.command {
            None => "warn",
            // What the client says of its connections, they say themselves.
            Some(Command::Serve(_) | Command::Bridge(_)) => "info,async_nats=warn",
            Some(
                Command::Look(_) | Command::Seed(_) | Command::Nats(_) | Command::Keys(_) | Command::Completions(_),
            ) => "warn",
        };
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_can_be_parsed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_the_whole_shop() {
        assert!(Cli::try_parse_from(["shop", "--nats-port", "0"]).unwrap().command.is_none());
        assert!(Cli::try_parse_from(["shop", "--nats-port", "0", "serve"]).is_err());
    }
}
