//! The same orders where nobody says who asks, and where each customer has a token: in turns in two shops that are open at
//! the same time, so that what the machine does besides meets both.

use shop_tests::bench::report::{Auth, AuthPair, AuthRun, Sync};

use crate::{
    load::Orders,
    matrix::SIZE,
    options::{AuthName, Options},
    shop::OpenShop,
    usage,
};

/// Callers: as many as the shop needs to be busy, so that all that is done more is lost.
const CONNECTIONS: u32 = 256;
/// How often both are measured, and with `--quick`.
const PAIRS: usize = 11;
const PAIRS_QUICK: usize = 3;

/// The pair with the middle ratio counts.
pub(crate) async fn measure(options: &Options) -> Auth {
    let orders = Orders::uniform(options, CONNECTIONS);
    let mut none = open(options, AuthName::None, orders).await;
    let mut jwt = open(options, AuthName::Jwt, orders).await;
    let mut pairs = Vec::new();
    for number in 0..if options.quick { PAIRS_QUICK } else { PAIRS } {
        // Who comes first changes as well: the second finds a disk that is still busy.
        let pair = if number % 2 == 0 {
            let none = run(orders, &mut none).await;
            AuthPair { none, jwt: run(orders, &mut jwt).await }
        } else {
            let jwt = run(orders, &mut jwt).await;
            AuthPair { none: run(orders, &mut none).await, jwt }
        };
        eprintln!("auth: {:.0} orders/s without tokens, {:.0} with", pair.none.per_second, pair.jwt.per_second);
        pairs.push(pair);
    }
    let customers = jwt.customers();
    none.stop().await;
    jwt.stop().await;
    Auth { connections: CONNECTIONS, customers, pairs }
}

async fn open(options: &Options, auth: AuthName, orders: Orders) -> OpenShop {
    let mut shop = OpenShop::start_with(&Options { auth, ..options.clone() }, Sync::Always, SIZE.0, SIZE.1).await;
    orders.warm_up(&mut shop).await;
    shop.at_rest().await;
    shop
}

async fn run(orders: Orders, shop: &mut OpenShop) -> AuthRun {
    let before = usage::cpu_seconds(shop.pid());
    let (run, _) = orders.send(shop).await.unwrap_or_else(|error| panic!("{error}"));
    shop.at_rest().await;
    let shop_cpu_s = (usage::cpu_seconds(shop.pid()) - before) / run.confirmed.max(1) as f64 * 1e3;
    AuthRun { per_second: run.per_second(), errors: run.errors, latency: run.latency, shop_cpu_s }
}
