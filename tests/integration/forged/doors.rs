//! Frames that say that they are from a door, and are not.

use std::{
    future::IntoFuture,
    sync::atomic::{AtomicBool, Ordering},
};

use async_nats::jetstream;
use futures::future::join_all;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::log::frame::{Frame, Origin, Source};

use super::{MANY, append, newest_frame, top_ups, top_ups_by};
use crate::{
    operator::tool,
    shop::{Answer, TestShop, eventually},
};

/// Customers who top up at once, and how often each does.
const CUSTOMERS: usize = 8;
const TOP_UPS: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_numbers_of_a_live_door_swallow_no_write() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    let is_of_a_door = |source: Source| source.origin == Origin::Door;
    let newest = newest_frame(&log, Kind::Wallet, |frame| is_of_a_door(frame.source)).await;
    let next = newest.first + newest.messages.len() as u64;
    append(&log, Kind::Wallet, top_ups(newest.source, next, MANY)).await;
    // The host need not have read it yet.
    shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200).has("/balance", 1);
    let order = json!({ "id": "o-1", "user": "alice", "product": "nothing", "quantity": 1, "unit_price": 1 });
    shop.post("/orders", order).prefer("respond-async").await.is(202);

    // And while writes are under way, again and again, ahead of whatever the door uses by then.
    let is_over = AtomicBool::new(false);
    let is_real = |frame: &Frame| is_of_a_door(frame.source) && frame.messages[0].to.as_str() == "alice";
    let forger = async {
        let mut forged = 0;
        while !is_over.load(Ordering::Relaxed) {
            let newest = newest_frame(&log, Kind::Wallet, is_real).await;
            let next = newest.first + newest.messages.len() as u64;
            append(&log, Kind::Wallet, top_ups(newest.source, next, 3)).await;
            forged += 1;
        }
        forged
    };
    let customer = async || {
        for _ in 0..TOP_UPS {
            shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200);
        }
    };
    let customers = async {
        join_all((0..CUSTOMERS).map(|_| customer())).await;
        is_over.store(true, Ordering::Relaxed);
    };
    let (forged, ()) = tokio::join!(forger, customers);
    assert!(forged > 5, "only {forged} were forged");
    let order = || shop.get("/orders/o-1").into_future();
    eventually("the refusal", order, |answer: &Answer| answer.body["status"] == "REJECTED").await;
    let expected = (1 + CUSTOMERS * TOP_UPS) as u64;
    let statement = shop.get("/wallets/alice/statement?limit=1000").await.is(200);
    assert_eq!(shop.balance("alice").await, expected, "{}", statement);
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.balance("alice").await, expected);
    tool(&shop, "log wallet").await.exits(0).says(&["[duplicate: skipped]"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_forged_doors_that_the_live_one_is_forgotten_swallow_no_write() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    for round in 1..=3 {
        // Handed in at once, so that the write comes into the middle of them.
        let forged = (0..MANY).map(|number| {
            let source = Source { origin: Origin::Door, epoch: 1_000 * round + number };
            append(&log, Kind::Wallet, top_ups(source, 1, 1))
        });
        let top_up = || shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).into_future();
        let (_, one, other) = tokio::join!(join_all(forged), top_up(), top_up());
        for answer in [one, other, top_up().await] {
            answer.is(200);
        }
        assert_eq!(shop.balance("alice").await, 3 * round);
    }
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.balance("alice").await, 9);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_what_came_from_a_door_and_was_not_let_in() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    let append = async |epoch: u64, first: u64, amount: u64| {
        append(&log, Kind::Wallet, top_ups_by(amount, Source { origin: Origin::Door, epoch }, first, 1)).await
    };
    let first = append(0x61, 1, 10).await;
    append(0x61, 1, 10).await;
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    let (other, beyond) = (append(0x61, 1, 20).await, append(0x61, 3, 30).await);
    let again = append(0x62, 1, 20).await;
    let from = |sequence: u64, number: u64, amount: u64| {
        format!(
            "wallet/0 at sequence {sequence}: message {number} from door 0000000000000061, to nobody \
             \"top_up amount={amount}\", was not let in: "
        )
    };
    let (under_its_number, sent_again) = (
        format!("another message came under its number at sequence {first}"),
        format!("it was sent again, at sequence {again}"),
    );
    tool(&shop, "audit").await.exits(1).says(&[
        "2 differences",
        &format!("{}{under_its_number}; {sent_again}", from(other, 1, 20)),
        &format!("{}messages before it are missing; it was not sent again", from(beyond, 3, 30)),
    ]);
    let report = tool(&shop, "audit --json").await.exits(1).json().remove(0);
    assert_eq!(report["differences"]["count"], 2, "{report}");
    shop.close().await;
}
