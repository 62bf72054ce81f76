//! The same orders in the same shop, by the program as each profile of cargo makes it: what `cargo run` starts, and what
//! a build that takes longer is worth.

use shop_tests::{
    bench::report::{Build, Sync},
    program,
};

use crate::{load::Orders, matrix::SIZE, options::Options, shop::OpenShop};

/// Of `cargo run`, of `cargo build --release`, and what is measured everywhere else.
const PROFILES: [&str; 3] = ["dev", "release", "dist"];
/// Callers: as many as the shop needs to be busy.
const CONNECTIONS: u32 = 256;

/// A new shop for each.
pub(crate) async fn measure(options: &Options) -> Vec<Build> {
    // Before any of them, so that no compiler runs beside a shop.
    let programs = PROFILES.map(program::built_as);
    let mut figures = Vec::new();
    for (profile, program) in PROFILES.into_iter().zip(programs) {
        let options = Options { program: Some(program), ..options.clone() };
        let mut shop = OpenShop::start_with(&options, Sync::Always, SIZE.0, SIZE.1).await;
        let orders = Orders::uniform(&options, CONNECTIONS);
        orders.warm_up(&mut shop).await;
        let (run, _) = orders.send(&mut shop).await.unwrap_or_else(|error| panic!("{error}"));
        shop.stop().await;
        eprintln!("profile {profile}: {:.0} orders/s", run.per_second());
        let (per_second, errors) = (run.per_second(), run.errors);
        figures.push(Build { profile, connections: CONNECTIONS, per_second, errors, latency: run.latency });
    }
    figures
}
