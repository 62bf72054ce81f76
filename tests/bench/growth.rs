//! Orders in a shop with many wallets, and in one with long logs, beside a small one.

use shop_tests::bench::{
    report::{Growth, Sync},
    wrk::Run,
};

use crate::{
    load::Orders,
    matrix::SIZE,
    options::Options,
    shop::{Counted, OpenShop},
    usage,
};

/// Callers: as many as the shop needs to be busy.
const CONNECTIONS: u32 = 256;
/// Wallets of the small shop.
const FEW: u64 = 1_000;
/// How often a shop is measured beside a small one; the pair with the middle ratio counts.
const PAIRS: usize = 3;

/// First with more and more wallets, each in a new shop, then with longer and longer logs.
pub(crate) async fn measure(options: &Options) -> Vec<Growth> {
    let mut figures = Vec::new();
    for &wallets in &options.growth_wallets {
        eprintln!("growth: opening {wallets} wallets");
        let mut shop = OpenShop::start_with(options, Sync::Always, wallets, SIZE.1).await;
        figures.push(measure_one(options, &mut shop, &mut Counted::default()).await);
        shop.stop().await;
    }
    let mut shop = OpenShop::start_with(options, Sync::Always, SIZE.0, SIZE.1).await;
    let mut counted = Counted::default();
    for &messages in &options.growth_messages {
        fill_logs(options, &mut shop, messages, &mut counted).await;
        figures.push(measure_one(options, &mut shop, &mut counted).await);
    }
    shop.stop().await;
    figures
}

/// Orders until there are so many messages in the logs.
pub(crate) async fn fill_logs(options: &Options, shop: &mut OpenShop, messages: u64, counted: &mut Counted) {
    loop {
        let there = shop.count_messages(counted).await;
        eprintln!("{there} of {messages} messages are in the logs");
        if there >= messages {
            return;
        }
        let orders = Orders { seconds: 5.max(options.seconds), ..Orders::uniform(options, CONNECTIONS) };
        orders.send(shop).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

async fn measure_one(options: &Options, shop: &mut OpenShop, counted: &mut Counted) -> Growth {
    let orders = Orders::uniform(options, CONNECTIONS);
    let messages = shop.count_messages(counted).await;
    let mut pairs: Vec<(f64, Run)> = Vec::new();
    for _ in 0..PAIRS {
        // A new one each time, and just before: a machine is not equally fast for minutes.
        let mut small = OpenShop::start_with(options, Sync::Always, FEW, SIZE.1).await;
        let beside = run(orders, &mut small).await.per_second();
        small.stop().await;
        pairs.push((beside, run(orders, shop).await));
    }
    pairs.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
    let (small_per_second, run) = pairs.swap_remove(PAIRS / 2);
    let per_second = run.per_second();
    let wallets = shop.wallets;
    eprintln!(
        "growth: {per_second:.0} orders/s with {wallets} wallets and {messages} messages, {small_per_second:.0} in a small shop"
    );
    Growth {
        wallets,
        messages,
        per_second,
        small_per_second,
        latency: run.latency,
        shop_mb: usage::memory_mb(shop.pid()),
        shop_peak_mb: usage::peak_mb(shop.pid()),
        nats_mb: usage::memory_mb(shop.nats_pid()),
        checkpoints_mb: shop.checkpoints_mb(),
    }
}

async fn run(orders: Orders, shop: &mut OpenShop) -> Run {
    orders.warm_up(shop).await;
    let (run, _) = orders.send(shop).await.unwrap_or_else(|error| panic!("{error}"));
    shop.at_rest().await;
    run
}

fn ratio((small, run): &(f64, Run)) -> f64 {
    run.per_second() / small
}
