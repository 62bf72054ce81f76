//! Torture: a shop of real processes under a steady load, of which one part after the other is
//! killed, frozen, robbed, starved of disk, cut off or fed with garbage. Its customers write down
//! all that they are told, and hold every later answer against it; in the end the books and
//! `shop audit` have to agree with them.

mod books;
mod callers;
mod counter;
mod customer;
mod direct;
mod faults;
mod goods;
mod ledger;
mod others;
mod run;
mod table;

use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use serde_json::json;
use shop_local::nats_server::NatsServer;
use shop_tests::{
    cluster::{ALL_KINDS, Cluster},
    login::Login,
    machines::Machines,
    program,
    wait::{LIMIT, until},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::{
    callers::Callers,
    counter::{Counter, Untrue},
    customer::Customer,
    faults::Fault,
    goods::Goods,
    run::{Access, On, Run, Until},
};

/// For how long the long form runs, in seconds.
const SECONDS: &str = "SHOP_TORTURE_SECONDS";
/// The seed of a run that is to be repeated: the same faults in the same order.
const SEED: &str = "SHOP_TORTURE_SEED";
/// Who is let in, `keys` or `none`, if not the seed says so.
const ACCESS: &str = "SHOP_TORTURE_ACCESS";
/// Only the faults whose names contain this, in search of what one of them does.
const ONLY: &str = "SHOP_TORTURE_ONLY";

/// How long a fault lasts that lasts, in a test that everybody runs.
const BRIEF: Duration = Duration::from_millis(1_500);
/// How long a machine is cut off there: three servers take 4 to 9 seconds to have a new leader.
const LONG_ENOUGH_FOR_AN_ELECTION: Duration = Duration::from_secs(10);

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
    long(On::OneServer, &Fault::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_was_told_stays_true_whichever_of_several_hosts_comes_goes_freezes_or_is_lied_to() {
    brief_on(On::SeveralHosts, 3, Fault::ON_SEVERAL_HOSTS.to_vec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: just torture-hosts"]
async fn several_hosts_with_any_seed() {
    long(On::SeveralHosts, &Fault::ON_SEVERAL_HOSTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: just torture-cluster"]
async fn three_servers_with_any_seed() {
    long(On::ThreeServers, &Fault::ON_THREE_SERVERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_customer_was_told_stays_true_when_the_network_between_machines_is_cut() {
    const NAME: &str = "what_a_customer_was_told_stays_true_when_the_network_between_machines_is_cut";
    if Machines::around_us().is_some() {
        let (until, hold) = (Until::EachOnce, LONG_ENOUGH_FOR_AN_ELECTION);
        let faults = vec![Fault::CutOffLeadersMachine];
        let (seed, access) = (4, access(4));
        let run = Run { on: On::ThreeMachines, access, seed, faults, until, hold, orders: 5, customers: 6 };
        return run.survive().await;
    }
    match Machines::make() {
        Ok(machines) => {
            find_nats_server().await;
            let ended = machines.run_again([NAME, "--exact", "--nocapture"]).output().expect("it can be run");
            print!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
            assert!(ended.status.success(), "what ran between the machines says above what is wrong");
        }
        Err(why) => eprintln!("SKIPPED: there can be no machines here: {why}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: just torture-partition"]
async fn three_machines_with_any_seed() {
    if Machines::around_us().is_some() {
        return long(On::ThreeMachines, &Fault::ON_THREE_MACHINES).await;
    }
    let machines = Machines::make().unwrap_or_else(|why| panic!("there can be no machines here: {why}"));
    find_nats_server().await;
    let arguments = ["three_machines_with_any_seed", "--exact", "--ignored", "--nocapture"];
    let ended = machines.run_again(arguments).status().expect("it can be run");
    assert!(ended.success(), "what ran between the machines says above what is wrong");
}

/// Where machines are, nothing can be fetched.
async fn find_nats_server() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let server = NatsServer::start(folder.path(), 0).await;
    server.unwrap_or_else(|error| panic!("{error}")).stop().await;
    program::path();
}

/// Nothing can be found by customers who do not look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_notice_what_happens_behind_their_backs() {
    let cluster = Cluster::start(1, &[("host", ALL_KINDS)]).await;
    let client = cluster.client();
    let counter = Counter::new(client.clone(), Goods::offer(&client).await);
    let stranger = |path: String, body| {
        let client = client.clone();
        async move { until("it is done", async || (client.post(&path, &body).await.status == 200).then_some(())).await }
    };
    stranger("/products/product-0/restock".into(), json!({ "quantity": 1 })).await;
    let Untrue(what) = counter.goods.all_are_true(&counter).await.expect_err("there is one more");
    assert!(what.contains("product-0"), "{what}");
    counter.goods.restock_begins(0, 1);
    counter.goods.restocked(0, 1);
    assert!(counter.goods.all_are_true(&counter).await.is_ok());

    let top_up = async {
        stranger("/wallets/robbed-0/top-up".into(), json!({ "amount": 1 })).await;
        std::future::pending().await
    };
    // One after the other: the first may be one that the customer is about to cancel as well.
    let cancel = async {
        loop {
            let page = until("there is an order", async || {
                let page = client.items("/mypages/robbed-1", "before").await;
                page.into_iter().find(|order| order["delivery_status"] == "SCHEDULED")
            });
            let id = page.await["id"].as_str().expect("orders have ids").to_owned();
            client.post(&format!("/orders/{id}/cancel"), &json!({})).await;
        }
    };
    for (user, harm) in [("robbed-0", top_up.boxed_local()), ("robbed-1", cancel.boxed_local())] {
        let customer = Customer::open(counter.clone(), user.into(), Rng::with_seed(3)).await;
        let life = customer.unwrap_or_else(|Untrue(what)| panic!("{what}")).live(CancellationToken::new());
        let found = tokio::select! { found = timeout(LIMIT, life) => found, never = harm => never };
        let Untrue(what) = found.expect("he looks often enough").expect_err("he lives until he finds something");
        assert!(what.contains(user), "{what}");
    }
}

/// Nothing can be found either by customers who do not try what is not allowed. Here one is let do it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_notice_who_sees_or_moves_what_is_anothers() {
    let users = ["honest", "thief"];
    let login = Login::new(users.map(str::to_owned));
    let cluster = Cluster::without_processes_behind(Some(login), 1).await.with(&[("host", ALL_KINDS)]).await;
    let client = cluster.client();
    let counter = Counter::new(client.clone(), Goods::offer(&client).await);
    let [honest, thief] = [Callers::of(&cluster, "honest").await, Callers::of_thief(&cluster, "thief").await];
    let live = async |user: &str, callers, seed| {
        let customer = Customer::open(counter.of(callers), user.into(), Rng::with_seed(seed)).await;
        customer.unwrap_or_else(|Untrue(what)| panic!("{what}")).live(CancellationToken::new()).await
    };
    let found = tokio::select! {
        found = timeout(LIMIT, live("thief", thief, 5)) => found.expect("he tries often enough"),
        found = live("honest", honest, 6) => found,
    };
    let Untrue(what) = found.expect_err("both live until something is found");
    assert!(what.contains("thief") || what.contains("honest"), "{what}");
}

/// One fault after the other for as long as the environment says.
async fn long(on: On, faults: &[Fault]) {
    let number = |variable: &str| {
        let value = std::env::var(variable).ok()?;
        Some(value.parse().unwrap_or_else(|_| panic!("{variable} should be a whole number, not {value:?}")))
    };
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..1_000_000));
    let seconds = Duration::from_secs(number(SECONDS).unwrap_or(300));
    let only = std::env::var(ONLY).unwrap_or_default();
    let faults: Vec<Fault> = faults.iter().copied().filter(|fault| fault.name().contains(&only)).collect();
    assert!(!faults.is_empty(), "{ONLY}={only:?} is part of no fault's name");
    let (until, hold) = (Until::Over(seconds), Duration::from_secs(20));
    Run { on, access: access(seed), seed, faults, until, hold, orders: 100, customers: 12 }.survive().await;
}

/// As the environment says, or the seed: of seeds that are drawn, half are odd.
fn access(seed: u64) -> Access {
    match std::env::var(ACCESS).as_deref() {
        Ok("keys") => Access::Keys,
        Ok("none") => Access::None,
        Ok("") | Err(_) => {
            if seed.is_multiple_of(2) {
                Access::None
            } else {
                Access::Keys
            }
        }
        Ok(other) => panic!("{ACCESS} should be keys or none, not {other:?}"),
    }
}

/// Every fault of a sort once.
async fn brief(seed: u64, is_of_that_sort: impl Fn(Fault) -> bool) {
    let faults = Fault::ALL.into_iter().filter(|fault| is_of_that_sort(*fault)).collect();
    brief_on(On::OneServer, seed, faults).await;
}

async fn brief_on(on: On, seed: u64, faults: Vec<Fault>) {
    let until = Until::EachOnce;
    Run { on, access: access(seed), seed, faults, until, hold: BRIEF, orders: 5, customers: 6 }.survive().await;
}
