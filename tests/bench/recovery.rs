//! How long the shop takes to be back: with its checkpoints, and without any.

use std::{fs, time::Duration};

use shop_tests::{
    bench::report::{Before, Recovery, Sync},
    process::Signal,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    growth::fill_logs,
    load::Orders,
    matrix::SIZE,
    options::Options,
    shop::{Counted, OpenShop},
    usage,
};

/// Callers in the rush that a kill interrupts.
const CONNECTIONS: u32 = 64;
/// How long it is on when that happens, and when it ends by itself.
const RUSH: Duration = Duration::from_secs(1);
const RUSH_LIMIT_SECONDS: u32 = 30;

/// One shop, started again and again.
pub(crate) async fn measure(options: &Options) -> Vec<Recovery> {
    let mut shop = OpenShop::start_with(options, Sync::Always, SIZE.0, SIZE.1).await;
    let mut counted = Counted::default();
    fill_logs(options, &mut shop, options.recovery_messages, &mut counted).await;
    let mut figures = Vec::new();
    for after in [Before::Terminated, Before::Killed, Before::CheckpointsDeleted] {
        let signal = match after {
            Before::Terminated => Signal::TERM,
            Before::Killed | Before::CheckpointsDeleted => Signal::KILL,
        };
        let messages = shop.count_messages(&mut counted).await;
        let rush = (after == Before::Killed).then(|| begin_rush(options, &mut shop));
        if rush.is_some() {
            sleep(RUSH).await;
        }
        let between = |shop: &OpenShop| {
            drop(rush);
            prepare(shop, after);
        };
        let start = shop.restart(signal, between).await;
        let shop_cpu_s = usage::cpu_seconds(shop.pid());
        let [answering_ms, ready_ms] = [start.answering, start.ready].map(|time| time.as_secs_f64() * 1e3);
        eprintln!("recovery: {after:?}: ready after {ready_ms:.0} ms, {messages} messages in the logs");
        figures.push(Recovery { after, messages, answering_ms, ready_ms, shop_cpu_s });
    }
    shop.stop().await;
    figures
}

/// Callers who are gone when this is dropped.
fn begin_rush(options: &Options, shop: &mut OpenShop) -> JoinSet<()> {
    let orders = Orders { seconds: RUSH_LIMIT_SECONDS, ..Orders::uniform(options, CONNECTIONS) };
    let orders = orders.send(shop);
    let mut rush = JoinSet::new();
    rush.spawn(async { drop(orders.await) });
    rush
}

fn prepare(shop: &OpenShop, after: Before) {
    match after {
        Before::Terminated | Before::Killed => {}
        Before::CheckpointsDeleted => fs::remove_dir_all(shop.checkpoints()).expect("there should be checkpoints"),
    }
}
