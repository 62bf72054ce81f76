//! Two hosts for the same kinds: one of them owns each partition, the other one knows all that it
//! knows, and takes over when it leaves, is killed or freezes.

use std::{collections::BTreeMap, time::Duration};

use async_nats::Subscriber;
use futures::StreamExt;
use serde_json::{Value, json};
use shop_tests::{process::Signal, wait::until};
use tokio::time::timeout;

use super::several::{ORDERS, Shop};

const FIRST: &str = "first";
const SECOND: &str = "second";
const HOSTS: [&str; 2] = [FIRST, SECOND];
const PARTITIONS: u16 = 4;
const BACK_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn of_two_hosts_each_owns_some_partitions_and_nothing_is_sent_twice() {
    let mut shop = Shop::open(41, PARTITIONS, &HOSTS).await;
    let owners = shop.owners(2).await;
    assert!(owners.iter().all(|owned| *owned > 0), "of 20 partitions they own {owners:?}");
    assert_eq!(owners.iter().sum::<usize>(), 20);
    let sent_twice = shop.sent_twice().await;
    let rush = shop.rush("order");
    shop.close(rush).await;
    assert_eq!(shop.sent_twice().await, sent_twice);
    shop.cluster.stop().await;
}

#[tokio::test]
async fn a_host_that_is_killed_in_the_rush_is_followed_by_its_standby_without_anybody_s_help() {
    let mut shop = Shop::open(42, PARTITIONS, &HOSTS).await;
    let mut rush = shop.rush("order");
    rush.has_answered(ORDERS / 4).await;
    shop.cluster.take_host(FIRST).kill().await;
    rush.has_answered(ORDERS / 2).await;
    assert_eq!(shop.owners(1).await, [20]);
    shop.cluster.start_host(FIRST);
    rush.has_answered(ORDERS * 3 / 4).await;
    shop.cluster.take_host(SECOND).kill().await;
    shop.close(rush).await;
    shop.cluster.stop().await;
}

#[tokio::test]
async fn a_host_that_leaves_in_the_rush_hands_its_partitions_over_first() {
    let mut shop = Shop::open(43, PARTITIONS, &HOSTS).await;
    let mut rush = shop.rush("order");
    for (moment, leaves) in [(ORDERS / 4, FIRST), (ORDERS / 2, SECOND)] {
        rush.has_answered(moment).await;
        shop.cluster.take_host(leaves).terminate().await;
        assert_eq!(shop.owners(1).await, [20]);
        shop.cluster.start_host(leaves);
        shop.cluster.wait_for_host(leaves).await;
    }
    shop.close(rush).await;
    let owners = shop.owners(2).await;
    assert!(owners.iter().all(|owned| *owned > 0), "of 20 partitions they own {owners:?}");
    shop.cluster.stop().await;
}

#[tokio::test]
async fn a_host_that_freezes_is_done_without_and_does_no_harm_when_it_goes_on() {
    let mut shop = Shop::open(44, PARTITIONS, &HOSTS).await;
    let mut rush = shop.rush("order");
    rush.has_answered(ORDERS / 4).await;
    let nats = shop.nats().await;
    shop.cluster.host(FIRST).signal(Signal::STOP);
    rush.has_answered(ORDERS / 2).await;
    until("the other one owns everything", async || (shop.owners(1).await == [20]).then_some(())).await;
    let mut announced = nats.subscribe("shop.hosts.*").await.unwrap();
    let awake = said(&mut announced).await.0;
    shop.cluster.host(FIRST).signal(Signal::CONT);
    // What it owned before it owns again when it has caught up, and not before.
    let mut states = BTreeMap::<String, Vec<Value>>::new();
    let is_back = |states: &Vec<Value>| states.ends_with(&[json!("joining"), json!("ready")]);
    let all_are_back = async {
        while states.len() < 5 || !states.values().all(is_back) {
            let (host, kind, state) = said(&mut announced).await;
            let states = states.entry(kind).or_default();
            if host != awake && states.last() != Some(&state) {
                states.push(state);
            }
        }
    };
    let are_back = timeout(BACK_WITHIN, all_are_back).await;
    assert!(are_back.is_ok(), "{states:?}");
    shop.close(rush).await;
    shop.cluster.stop().await;
}

/// The next thing that a host says: its name, of which kind, and what it is.
async fn said(announced: &mut Subscriber) -> (Value, String, Value) {
    let message = announced.next().await.expect("hosts say something all the time");
    let mut said: Value = serde_json::from_slice(&message.payload).unwrap();
    (said["host"].take(), message.subject.to_string(), said["state"].take())
}

#[tokio::test]
async fn hosts_that_are_lied_to_about_each_other_do_everything_once_all_the_same() {
    let mut shop = Shop::open(45, PARTITIONS, &HOSTS).await;
    let nats = shop.nats().await;
    let mut announced = nats.subscribe("shop.hosts.*").await.unwrap();
    // Each host hears of every other one that it leaves, right after that says that it is there.
    let liar = nats.clone();
    let lies = tokio::spawn(async move {
        while let Some(message) = announced.next().await {
            let mut said: Value = serde_json::from_slice(&message.payload).unwrap();
            if said["state"] == "ready" {
                said["state"] = json!("leaving");
                said["settled"] = json!({});
                liar.publish(message.subject, said.to_string().into()).await.unwrap();
            }
        }
    });
    let mut rush = shop.rush("order");
    rush.has_answered(ORDERS / 2).await;
    until("more than 20 partitions are owned", async || {
        (shop.owners(2).await.iter().sum::<usize>() > 20).then_some(())
    })
    .await;
    shop.close(rush).await;
    lies.abort();
    shop.cluster.stop().await;
}
