//! Processes that are killed in the middle of the rush. Whatever the moment: no order is lost,
//! none is paid twice, and what a customer was told stays true.

use fastrand::Rng;
use shop_tests::{
    cluster::{A_PROCESS_PER_KIND, ALL_KINDS, Cluster},
    market::{Market, Outcomes},
    process::Signal,
    rush::{Rush, Told, id_of},
    seed::rng,
    wait::until,
};

const HOST: &str = "host";

#[tokio::test]
async fn a_host_that_is_killed_in_the_rush_loses_nothing_and_does_nothing_twice() {
    let mut cluster = Cluster::start(3, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(1), 1_000).await;
    let mut rush = Rush::begin(&client, market.orders("order", 1_000));
    for moment in moments(rng(1), 6, 1_000) {
        rush.has_answered(moment).await;
        cluster.take_host(HOST).kill().await;
        cluster.start_host(HOST);
    }
    let told = rush.finish().await;
    has_tested_much(market.audit(&client, &told).await);
}

#[tokio::test]
async fn any_of_five_processes_that_is_killed_in_the_rush_finds_back() {
    let mut cluster = Cluster::start(2, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(5), 600).await;
    let mut rush = Rush::begin(&client, market.orders("order", 600));
    let mut victims = A_PROCESS_PER_KIND;
    rng(5).shuffle(&mut victims);
    for ((name, _), moment) in victims.into_iter().zip(moments(rng(5), victims.len(), 600)) {
        rush.has_answered(moment).await;
        cluster.take_host(name).kill().await;
        cluster.start_host(name);
    }
    let told = rush.finish().await;
    has_tested_much(market.audit(&client, &told).await);
}

#[tokio::test]
async fn a_shop_whose_processes_are_all_killed_at_once_loses_nothing_that_a_customer_was_told() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(6), 400).await;
    let mut rush = Rush::begin(&client, market.orders("order", 400));
    for moment in moments(rng(6), 3, 400) {
        rush.has_answered(moment).await;
        let (host, bridge) = (cluster.take_host(HOST), cluster.take_bridge());
        tokio::join!(cluster.nats().kill(), host.kill(), bridge.kill());
        cluster.nats().start_again().await.unwrap();
        cluster.start_host(HOST);
        cluster.start_bridge().await;
    }
    let told = rush.finish().await;
    has_tested_much(market.audit(&client, &told).await);
}

#[tokio::test]
async fn a_nats_server_that_is_killed_in_the_rush_loses_nothing_that_it_acknowledged() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(2), 400).await;
    let mut rush = Rush::begin(&client, market.orders("order", 400));
    for moment in moments(rng(2), 3, 400) {
        rush.has_answered(moment).await;
        cluster.nats().kill().await;
        cluster.nats().start_again().await.unwrap();
    }
    let told = rush.finish().await;
    has_tested_much(market.audit(&client, &told).await);
    // Nobody started them again: they found back by themselves.
    cluster.wait_until_ready().await;
}

#[tokio::test]
async fn a_bridge_that_is_killed_in_the_rush_is_replaced_by_another_one() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(3), 300).await;
    let mut rush = Rush::begin(&client, market.orders("order", 300));
    for moment in moments(rng(3), 3, 300) {
        rush.has_answered(moment).await;
        cluster.take_bridge().kill().await;
        cluster.start_bridge().await;
    }
    let told = rush.finish().await;
    has_tested_much(market.audit(&client, &told).await);
}

#[tokio::test]
async fn what_was_taken_is_settled_though_the_bridge_and_then_the_host_are_killed() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(7), 100).await;
    let orders = market.orders("order", 100);
    for order in &orders {
        client.post_async("/orders", order).await;
    }
    cluster.take_bridge().kill().await;
    cluster.take_host(HOST).kill().await;
    cluster.start_host(HOST);
    cluster.start_bridge().await;
    for order in &orders {
        until(&format!("{order} is settled"), async || {
            let order = client.read(&format!("/orders/{}", id_of(order))).await.json(200);
            ["CONFIRMED", "REJECTED"].iter().find(|end| order["status"] == **end)
        })
        .await;
    }
    // Who asks again is told how it ended.
    let told = Rush::begin(&client, orders).finish().await;
    market.audit(&client, &told).await;
}

#[tokio::test]
async fn a_host_that_was_frozen_goes_on_beside_its_double_without_doing_anything_twice() {
    const DOUBLE: &str = "double";
    let mut cluster = Cluster::start(2, &[(HOST, ALL_KINDS), (DOUBLE, ALL_KINDS)]).await;
    cluster.wait_for_host(HOST).await;
    cluster.wait_for_host(DOUBLE).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(4), 400).await;
    let mut rush = Rush::begin(&client, market.orders("order", 400));
    let mut told = Told::new();
    for (part, moment) in moments(rng(4), 2, 200).into_iter().enumerate() {
        rush.has_answered(moment).await;
        cluster.host(HOST).signal(Signal::STOP);
        // What the frozen one is given waits in its sockets, and is late when it wakes up.
        rush.has_answered(moment + 20).await;
        cluster.host(HOST).signal(Signal::CONT);
        told.extend(Rush::begin(&client, market.orders(&format!("late-{part}"), 50)).finish().await);
    }
    told.extend(rush.finish().await);
    has_tested_much(market.audit(&client, &told).await);

    // Each of the two knows the same, alone.
    cluster.take_host(DOUBLE).kill().await;
    let seen_by_host = market.picture(&client, &told).await;
    cluster.take_host(HOST).kill().await;
    cluster.start_host(DOUBLE);
    assert_eq!(market.picture(&client, &told).await, seen_by_host);
}

/// When to strike: after so many answers, in ascending order.
fn moments(mut rng: Rng, count: usize, orders: usize) -> Vec<usize> {
    let part = orders / count;
    (0..count).map(|n| n * part + rng.usize(part / 10..part * 8 / 10)).collect()
}

/// A rush in which nothing was refused or undone would not have shown much.
fn has_tested_much(outcomes: Outcomes) {
    let Outcomes { confirmed, rejected, refunded } = outcomes;
    assert!(confirmed > 100 && rejected > 0 && refunded > 0, "{outcomes:?}");
}
