//! A whole shop whose nats-server lets in only who has a key.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{as_role, client, keys, shop_with_keys};
use crate::{
    operator::{Said, tool},
    shop::{TestShop, eventually},
};
use async_nats::jetstream;
use serde_json::{Value, json};
use shop_local::{Options, keys::Keys};
use shop_nats::server::permissions::Role;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_with_keys_does_all_that_one_without_does() {
    let shop = shop_with_keys(&[]).await;
    shop.product("pear", 100, 10).await;
    shop.wallet("alice", 1_000).await;
    for number in 1..=2 {
        let order = json!({ "id": format!("o-{number}"), "user": "alice", "product": "pear", "quantity": 1 });
        shop.post("/orders", order).await.is(201);
    }
    shop.post("/orders/o-1/cancel", json!({})).await.is(200).has("/status", "CANCELLED");
    shop.get("/wallets/alice/statement").await.is(200);
    shop.get("/mypages/alice").await.is(200);

    // What is no frame becomes a dead letter, and the operator looks at it and would put it back.
    let operator = client(&shop, "operator").await;
    let log = jetstream::new(operator);
    log.publish("shop.log.wallet.0", "hello".into()).await.unwrap().await.unwrap();
    let read = async |line: &str| tool(&shop, &as_role(&shop, Role::Reader, line)).await;
    let operate = async |line: &str| tool(&shop, &as_role(&shop, Role::Operator, line)).await;
    let list = || read("dead list");
    eventually("the dead letter", list, |said: &Said| said.stdout.contains("5 bytes")).await;
    read("dead show 1").await.exits(0).says(&["hello"]);
    operate("dead requeue 1").await.exits(1);
    operate("dead skip wallet/1 --yes").await.exits(1);
    operate("link repair --yes").await.exits(0);

    read("log wallet").await.exits(0).says(&["charge", "refund"]);
    read("trace o-1").await.exits(0).says(&["undo: refund"]);
    read("why o-1").await.exits(0).says(&["CANCELLED"]);
    read("at wallet alice --seq 1").await.exits(0);
    let snapshots = shop.shop.folder().join("snapshots").display().to_string();
    operate("upgrade").await.exits(0);
    let backup = shop.shop.folder().join("backup").display().to_string();
    operate(&format!("backup --to {backup}")).await.exits(0);
    operate(&format!("repartition --kind wallet --to 3 --snapshots {snapshots}")).await.exits(0);
    operate(&format!("trim --dry-run --snapshots {snapshots}")).await;
    shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200);
    let audit = read(&format!("audit --snapshots {snapshots}")).await;
    assert!(audit.stdout.contains("\nmoney     put in 1001 = balances 901 + charged 100"), "{audit:?}");

    let restore_from = Some(backup);
    let copy = TestShop::open_as(|options| Options { secure: true, restore_from, ..options }).await;
    copy.get("/wallets/alice").await.is(200).has("/balance", 900);
    copy.close().await;

    // Over NATS with the key of a bridge, and not without.
    let bridge = client(&shop, "bridge").await;
    let answer = bridge.request("shop.order.o-2.get", "".into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.payload).unwrap()["status"], "CONFIRMED");
    assert!(async_nats::connect(shop.shop.nats_url()).await.is_err(), "whoever has no key is let in");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_gets_keys_later_keeps_all_that_it_had_and_does_not_lose_them_again() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 1_000).await;
    let folder = shop.shop.folder().to_owned();
    let shop = shop.reopen_as(|options| Options { secure: true, ..options }).await;
    shop.get("/wallets/alice").await.is(200).has("/balance", 1_000);
    shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200);
    // Without a word about keys, they stay.
    let shop = shop.reopen_as(|options| Options { secure: false, ..options }).await;
    shop.get("/wallets/alice").await.is(200).has("/balance", 1_001);
    assert!(async_nats::connect(shop.shop.nats_url()).await.is_err(), "whoever has no key is let in");
    let known: Vec<_> = keys(&shop).known().to_vec();
    for key in &known {
        let mode = fs::metadata(folder.join("keys").join(format!("{}.nk", key.name))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.name);
    }
    assert_eq!(Keys::read(&folder.join("keys")).unwrap().known(), known);
    shop.close().await;
}
