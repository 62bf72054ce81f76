//! Where it is measured, and with what.

use std::{
    fs,
    process::Command,
    thread::available_parallelism,
    time::{SystemTime, UNIX_EPOCH},
};

use shop_domain::timestamp::Timestamp;
use shop_tests::bench::{report::Machine, text::count};

use crate::{
    load, matrix, nats,
    options::{AuthName, Options},
    postgres,
};

/// What stands above the figures.
pub(crate) fn describe(options: &Options) -> Machine {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let total = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let total_kb: u64 = total.split_whitespace().next().and_then(|kb| kb.parse().ok()).unwrap_or_default();
    let commit = said("git", &["describe", "--always", "--dirty"]);
    let shop = format!("shop {} ({})", env!("CARGO_PKG_VERSION"), commit.as_deref().unwrap_or("no repository"));
    let wrk = load::version().unwrap_or_default();
    Machine {
        at: Timestamp::from_unix_ms(since_epoch.as_millis() as u64).to_string(),
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: available_parallelism().map_or(1, usize::from),
        memory_mb: total_kb / 1_024,
        kernel: said("uname", &["-sr"]).unwrap_or_default(),
        file_system: file_system(options),
        programs: [shop, nats::version(), wrk].into_iter().chain(postgres::version()).collect(),
        method: method(options),
    }
}

fn method(options: &Options) -> String {
    let (wallets, products) = matrix::SIZE;
    let price = if options.quote { "quoted by the shop" } else { "named by the customer" };
    let tokens = match options.auth {
        AuthName::None => "",
        AuthName::Jwt => ", each customer with a token",
    };
    format!(
        "{} wallets, {} products, orders of one piece whose price is {price}{tokens}; closed loop, keep-alive, {} s each",
        count(wallets),
        count(products),
        options.seconds,
    )
}

fn file_system(options: &Options) -> String {
    let folder = options.folder.display().to_string();
    let table = said("df", &["--output=fstype", &folder]);
    table
        .and_then(|table| Some(table.lines().last()?.to_owned()))
        .unwrap_or_else(|| "an unknown file system".to_owned())
}

/// What stands behind a name and a colon.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
