//! Orders in a shop with many wallets, and in one with long logs.

use shop_tests::bench::report::{Growth, Sync};

use crate::{
    load::Orders,
    matrix::SIZE,
    options::Options,
    shop::{Counted, OpenShop},
    usage,
};

/// Callers: as many as the shop needs to be busy.
const CONNECTIONS: u32 = 256;

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
    orders.warm_up(shop).await;
    let messages = shop.count_messages(counted).await;
    let (run, _) = orders.send(shop).await.unwrap_or_else(|error| panic!("{error}"));
    shop.at_rest().await;
    let per_second = run.per_second();
    eprintln!("growth: {per_second:.0} orders/s with {} wallets and {messages} messages", shop.wallets);
    Growth {
        wallets: shop.wallets,
        messages,
        per_second,
        latency: run.latency,
        shop_mb: usage::memory_mb(shop.pid()),
        shop_peak_mb: usage::peak_mb(shop.pid()),
        nats_mb: usage::memory_mb(shop.nats_pid()),
        checkpoints_mb: shop.checkpoints_mb(),
    }
}
