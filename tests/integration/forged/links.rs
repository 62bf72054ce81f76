//! Messages that say that they are from a partition, and are not.

use std::future::IntoFuture;

use async_nats::jetstream;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::log::frame::{Origin, Source};

use super::{MANY, append, newest_frame, top_ups};
use crate::{
    backup::Elsewhere,
    operator::{Said, tool},
    shop::{Answer, TestShop, eventually},
};

const ORDERS: Origin = Origin::Partition(Kind::Order, 0);

async fn ordered(shop: &TestShop, order: &str) {
    let body = json!({ "id": order, "user": "alice", "product": "pear", "quantity": 1, "unit_price": 10 });
    shop.post("/orders", body).prefer("respond-async").await;
}

/// Waits until these orders are so.
async fn are(shop: &TestShop, orders: &[&str], status: &str) {
    for order in orders {
        let look = || shop.get(format!("/orders/{order}")).into_future();
        eventually(order, look, |answer: &Answer| answer.body["status"] == status).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_hang_because_of_forged_numbers_go_on_when_an_operator_repairs_the_link() {
    let shop = TestShop::open().await;
    shop.product("pear", 10, 100).await;
    shop.wallet("alice", 1_000).await;
    shop.order("o-1", "alice", "pear", 1).await;
    let said = tool(&shop, "link repair --yes").await.exits(0);
    assert!(said.stderr.contains("nothing to repair"), "{said:?}");

    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    let newest = newest_frame(&log, Kind::Wallet, |frame| frame.source.origin == ORDERS).await;
    let source: Source = newest.source;
    append(&log, Kind::Wallet, top_ups(source, newest.first + 1, 5)).await;
    let hanging = ["o-2", "o-3", "o-4", "o-5", "o-6"];
    for order in hanging {
        ordered(&shop, order).await;
    }
    // What comes behind those numbers goes on; and is so far ahead of the next ones that it stays so.
    shop.order("o-7", "alice", "pear", 1).await;
    are(&shop, &hanging, "PENDING").await;
    let audit = tool(&shop, "audit").await.exits(1);
    assert_eq!(audit.stdout.matches("is not what the log has at sequence").count(), 5, "{audit:?}");
    append(&log, Kind::Wallet, top_ups(source, newest.first + 7, MANY)).await;
    ordered(&shop, "o-8").await;
    are(&shop, &["o-8"], "PENDING").await;
    tool(&shop, "audit").await.exits(1).says(&["message 9 from order/0 to wallet/0", "but nobody has sent it"]);

    let plan =
        ["from order/0 to wallet/0: number 307 was let in last", "6 message(s)", "alice  charge order=o-2 amount=10"];
    let last = last_sequence(&log).await;
    tool(&shop, "link repair --dry-run").await.exits(0).says(&plan);
    let said = tool(&shop, "link repair").await.exits(1).says(&plan);
    assert!(said.stderr.contains("say --yes"), "{said:?}");
    assert_eq!(last_sequence(&log).await, last, "nothing was written");

    let said = tool(&shop, "link repair --yes").await.exits(0).says(&plan);
    assert!(said.stderr.contains("repaired with 2 record(s)"), "{said:?}");
    are(&shop, &hanging, "CONFIRMED").await;
    are(&shop, &["o-8"], "CONFIRMED").await;
    shop.order("o-9", "alice", "pear", 1).await;
    let said = tool(&shop, "link repair --yes").await.exits(0);
    assert!(said.stderr.contains("nothing to repair"), "{said:?}");

    let is_whole = async |shop: &TestShop, balance: u64| {
        assert_eq!(shop.balance("alice").await, balance);
        let told = ["no differences", "were put right by repairs"];
        tool(shop, "audit").await.exits(0).says(&told);
        let line = "[repair: number 9 comes next from order/0";
        tool(shop, "log wallet").await.exits(0).says(&[line, "charge order=o-2"]);
        tool(shop, "trace o-2").await.exits(0).says(&["charge", "charged", "CONFIRMED"]);
        tool(shop, "why o-2").await.exits(0).says(&["CONFIRMED"]);
    };
    is_whole(&shop, 910).await;
    let repairs: Vec<_> = tool(&shop, "log wallet --json").await.exits(0).json();
    assert!(repairs.iter().any(|line| line["repair"]["accepted"] == 8), "{repairs:?}");

    // In a replay, in what is restored, and when the shop is cut anew.
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    is_whole(&shop, 910).await;
    let place = tempfile::tempdir().unwrap();
    tool(&shop, &format!("backup --to {}", place.path().display())).await.exits(0);
    let there = Elsewhere::new().await;
    there.restore(place.path()).await.exits(0);
    let restored = there.open().await;
    restored.order("o-10", "alice", "pear", 1).await;
    is_whole(&restored, 900).await;
    restored.close().await;
    tool(&shop, "repartition --to 3").await.exits(0);
    shop.order("o-10", "alice", "pear", 1).await;
    is_whole(&shop, 900).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_repaired_while_orders_come_in() {
    let shop = TestShop::open().await;
    shop.product("pear", 10, 1_000).await;
    shop.wallet("alice", 10_000).await;
    shop.order("o-0", "alice", "pear", 1).await;
    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    let orders = async {
        for number in 1..=60 {
            ordered(&shop, &format!("o-{number}")).await;
        }
    };
    let repairs = async {
        for _ in 0..3 {
            let newest = newest_frame(&log, Kind::Wallet, |frame| frame.source.origin == ORDERS).await;
            let next = newest.first + newest.messages.len() as u64;
            append(&log, Kind::Wallet, top_ups(newest.source, next, 3)).await;
            tool(&shop, "link repair --yes").await.exits(0);
        }
    };
    tokio::join!(orders, repairs);
    // The last forged ones may have come too late to be in the way of anything, or to be seen.
    tool(&shop, "link repair --yes").await.exits(0);
    let ids: Vec<String> = (0..=60).map(|number| format!("o-{number}")).collect();
    are(&shop, &ids.iter().map(String::as_str).collect::<Vec<_>>(), "CONFIRMED").await;
    assert_eq!((shop.balance("alice").await, shop.stock("pear").await), (10_000 - 610, 1_000 - 61));
    let audit: Said = tool(&shop, "audit").await.exits(0);
    audit.says(&["no differences"]);
    shop.close().await;
}

async fn last_sequence(log: &jetstream::Context) -> u64 {
    log.get_stream("SHOP_WALLET").await.unwrap().cached_info().state.last_sequence
}
