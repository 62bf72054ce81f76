//! Torture: a shop of real processes under a steady load, of which one part after the other is
//! killed, frozen, robbed, starved of disk, cut off or fed with garbage. Its customers write down
//! all that they are told, and hold every later answer against it; in the end the books and
//! `shop-actors audit` have to agree with them.

mod books;
mod counter;
mod customer;
mod faults;
mod goods;
mod ledger;
mod run;
mod table;

use std::time::Duration;

use self::{
    faults::Fault,
    run::{Run, Until},
};

/// For how long the long form runs, in seconds.
const SECONDS: &str = "SHOP_TORTURE_SECONDS";
/// The seed of a run that is to be repeated: the same faults in the same order.
const SEED: &str = "SHOP_TORTURE_SEED";
/// Only the faults whose names contain this, in search of what one of them does.
const ONLY: &str = "SHOP_TORTURE_ONLY";

/// How long a fault lasts that lasts, in a test that everybody runs.
const BRIEF: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_was_told_stays_true_whichever_process_is_killed_frozen_or_robbed() {
    brief(1, |fault| fault.is_about_processes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_was_told_stays_true_with_full_disks_bad_lines_and_garbage_in_the_logs() {
    brief(2, |fault| !fault.is_about_processes()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: just torture"]
async fn fresh_seeds() {
    let number = |variable: &str| {
        let value = std::env::var(variable).ok()?;
        Some(value.parse().unwrap_or_else(|_| panic!("{variable} should be a whole number, not {value:?}")))
    };
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..1_000_000));
    let seconds = Duration::from_secs(number(SECONDS).unwrap_or(300));
    let only = std::env::var(ONLY).unwrap_or_default();
    let faults: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.name().contains(&only)).collect();
    assert!(!faults.is_empty(), "{ONLY}={only:?} is part of no fault's name");
    let run =
        Run { seed, faults, until: Until::Over(seconds), hold: Duration::from_secs(20), orders: 100, customers: 12 };
    run.survive().await;
}

/// Every fault of a sort once.
async fn brief(seed: u64, is_of_that_sort: impl Fn(Fault) -> bool) {
    let faults = Fault::ALL.into_iter().filter(|fault| is_of_that_sort(*fault)).collect();
    Run { seed, faults, until: Until::EachOnce, hold: BRIEF, orders: 5, customers: 6 }.survive().await;
}
