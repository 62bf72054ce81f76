//! wrk, which sends the orders: <https://github.com/wg/wrk>.

use std::process::{Command as Blocking, Stdio};

use shop_tests::bench::{report::Load, wrk::Run};
use tokio::process::Command;

use crate::{options::Options, shop::OpenShop, usage};

/// The price of a piece, which the orders name.
pub(crate) const PRICE: u64 = 1_000;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/order.lua");
/// An order that takes longer counts as lost. The bridge answers after 5 seconds at the latest.
const TIMEOUT: &str = "30s";

/// Orders in a closed loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders {
    /// Callers.
    pub(crate) connections: u32,
    /// For how long.
    pub(crate) seconds: u32,
    /// What is ordered.
    pub(crate) load: Load,
    /// Whether the shop is to quote the price.
    pub(crate) quote: bool,
}

impl Orders {
    /// Of any product, as the options have it.
    pub(crate) fn uniform(options: &Options, connections: u32) -> Self {
        Self { connections, seconds: options.seconds, load: Load::Uniform, quote: options.quote }
    }

    /// Sends them. Also returns the CPU seconds that this took. An error is what wrk said.
    pub(crate) fn send(self, shop: &mut OpenShop) -> impl Future<Output = Result<(Run, f64), String>> + use<> {
        let load = match self.load {
            Load::Uniform => "uniform",
            Load::Hot => "hot",
        };
        let price = if self.quote { "quote".to_owned() } else { PRICE.to_string() };
        let (prefix, wallets, products) = (shop.next_prefix(), shop.customers().to_string(), shop.products.to_string());
        let tokens = shop.tokens().map(|tokens| tokens.file().display().to_string());
        let url = format!("http://{}", shop.http);
        async move {
            let words = [&*prefix, load, &wallets, &products, &price];
            let words: Vec<&str> = words.into_iter().chain(tokens.as_deref()).collect();
            wrk(self.connections, self.seconds, &url, &words).await
        }
    }

    /// Sends them for a fifth of the time first, without looking.
    pub(crate) async fn warm_up(self, shop: &mut OpenShop) {
        let briefly = Self { seconds: self.seconds.div_ceil(5), ..self };
        briefly.send(shop).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// `GET /healthz` in a closed loop; answers per second.
pub(crate) async fn healthz(shop: &OpenShop, connections: u32, seconds: u32) -> f64 {
    let url = format!("http://{}/healthz", shop.http);
    let (run, _) = wrk(connections, seconds, &url, &["healthz"]).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run.errors, 0, "GET /healthz failed");
    run.per_second()
}

/// Says how to get wrk when it is not there.
pub(crate) fn require_wrk() {
    version().expect("the orders are sent by wrk, which is not on this machine: apt-get install wrk");
}

/// What wrk says its version is.
pub(crate) fn version() -> Option<String> {
    // Ends with failure, because there is nothing to do.
    let output = Blocking::new("wrk").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    Some(words.replace("debian/", ""))
}

async fn wrk(connections: u32, seconds: u32, url: &str, words: &[&str]) -> Result<(Run, f64), String> {
    let before = usage::cpu_seconds_of_ended_children();
    let output = Command::new("wrk")
        .args(["--threads", &connections.min(2).to_string(), "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), "--timeout", TIMEOUT, "--script", SCRIPT, url, "--"])
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("cannot run wrk: {error}"))?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let run = Run::read(&said).map_err(|error| format!("{error}\n{complained}"))?;
    // Nothing else that was started ends meanwhile.
    Ok((run, usage::cpu_seconds_of_ended_children() - before))
}
