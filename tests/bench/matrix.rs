//! Orders at every number of connections, with what they cost.

use shop_tests::bench::report::{Cost, Load, Orders, Sync};

use crate::{
    load,
    options::Options,
    shop::OpenShop,
    usage::{self, Fsyncs},
};

/// Wallets and products of the shop that is measured, as in PostgreSQL.
pub(crate) const SIZE: (u64, u64) = (10_000, 1_000);

/// A new shop for every figure, so that none depends on what was ordered before it.
pub(crate) async fn measure(options: &Options) -> Vec<Orders> {
    let mut figures = Vec::new();
    for sync in options.syncs.iter().copied().map(Sync::from) {
        for load in options.loads.iter().copied().map(Load::from) {
            for &connections in &options.connections {
                let mut shop = OpenShop::start_with(options, sync, SIZE.0, SIZE.1).await;
                let orders = measure_one(options, &mut shop, sync, load, connections).await;
                shop.stop().await;
                let (per_second, p99_ms) = (orders.per_second, orders.latency.p99_ms);
                eprintln!("{sync:?} {load:?} at {connections}: {per_second:.0} orders/s, p99 {p99_ms:.1} ms");
                figures.push(orders);
            }
        }
    }
    figures
}

async fn measure_one(options: &Options, shop: &mut OpenShop, sync: Sync, load: Load, connections: u32) -> Orders {
    let orders = load::Orders { load, ..load::Orders::uniform(options, connections) };
    orders.warm_up(shop).await;
    let before = shop.at_rest().await;
    let processes = [shop.pid(), shop.nats_pid()];
    processes.into_iter().for_each(usage::forget_peak);
    let cpu_before = processes.map(usage::cpu_seconds);
    let fsyncs = Fsyncs::count(&processes);

    let (run, load_cpu) = orders.send(shop).await.unwrap_or_else(|error| panic!("{error}"));

    // What the orders cause is theirs as well, although nobody waits for it.
    let after = shop.at_rest().await;
    let fsyncs = fsyncs.map(Fsyncs::stop);
    let cpu_after = processes.map(usage::cpu_seconds);
    let confirmed = run.confirmed.max(1) as f64;
    let [shop_peak_mb, nats_peak_mb] = processes.map(usage::peak_mb);
    let messages = (after.0 - before.0) as f64 / confirmed;
    let derived = || match sync {
        Sync::Always => Some(messages),
        Sync::Default => None,
    };
    let cost = Cost {
        shop_cpu_s: (cpu_after[0] - cpu_before[0]) / confirmed * 1e3,
        nats_cpu_s: (cpu_after[1] - cpu_before[1]) / confirmed * 1e3,
        load_cpu_s: load_cpu / confirmed * 1e3,
        shop_peak_mb,
        nats_peak_mb,
        messages,
        bytes: (after.1 - before.1) as f64 / confirmed,
        fsyncs: fsyncs.map_or_else(derived, |count| Some(count as f64 / confirmed)),
    };
    Orders { sync, load, connections, per_second: run.per_second(), errors: run.errors, latency: run.latency, cost }
}
