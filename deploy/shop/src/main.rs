//! `shop`: the one program of the shop.

mod cli;
mod completions;
#[cfg(test)]
mod reference;
mod version;

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
};

use clap::Parser;
use rustix::{fs::Mode, process::umask};

use crate::cli::Cli;

/// Orders are many small allocations on all threads, which the system's allocator serves slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // What the shop keeps, and what its nats-server does, is its owner's alone, whatever the shell would have it be.
    umask(Mode::RWXG | Mode::RWXO);
    let cli = Cli::parse();
    let colours = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(cli.log_filter()).with_writer(stderr).with_ansi(colours).init();
    cli.run().await
}
