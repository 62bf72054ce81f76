//! The logs, and an entity as it was.

use std::path::Path;

use async_nats::jetstream;
use serde_json::{Value, json};
use shop_tests::process::Process;

use super::{nats, small_shop, tool};
use crate::shop::Answer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_printed_with_what_came_twice_and_what_is_dead() {
    let shop = small_shop().await;
    shop.order("o-1", "alice", "apple", 2).await;
    let log = jetstream::new(nats(&shop).await);
    let charge = log.get_stream("SHOP_WALLET").await.unwrap().get_raw_message(2).await.unwrap().payload;
    for bytes in [charge, "hello".into()] {
        log.publish("shop.log.wallet.0", bytes).await.unwrap().await.unwrap();
    }
    let said = tool(&shop, "log wallet").await.exits(0).says(&[
        "open balance=1000  → 1000 there now",
        "order/0           1  alice  charge order=o-1 amount=200  → 200 charged, 800 left",
        "charge order=o-1 amount=200  [duplicate: skipped]",
        "[dead: 5 bytes, frame version 104 instead of 1]",
    ]);
    assert_eq!(said.stdout.lines().count(), 5, "{}", said.stdout);

    let lines = tool(&shop, "log wallet --from 2 --json").await.exits(0).json();
    let of = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("sequence"), [2, 3, 4]);
    assert_eq!(of("fate"), [json!("accepted"), json!("duplicate"), Value::Null]);
    assert_eq!(lines[0]["message"], json!({ "charge": { "order": "o-1", "amount": 200 } }));
    assert_eq!((&lines[0]["source"]["kind"], &lines[0]["number"]), (&json!("order"), &json!(1)));
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&json!("200 charged, 800 left"), &Value::Null));
    assert_eq!(lines[2]["dead"], json!({ "reason": "frame version 104 instead of 1", "bytes": 5 }));
    tool(&shop, "audit").await.exits(0);
    let too_much = json!({ "id": "o-2", "user": "alice", "product": "apple", "quantity": 100 });
    shop.post("/orders", too_much).await.refused(409, "out_of_stock");
    tool(&shop, "log order").await.exits(0).says(&["→ CONFIRMED", "→ REJECTED  ✗ out_of_stock: the order wants 100"]);
    let again = json!({ "id": "alice", "balance": 1 });
    shop.post("/wallets", again).await.refused(409, "already_exists");
    tool(&shop, "log wallet").await.exits(0).says(&["open balance=1  ✗ answered already_exists"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_followed_goes_on_with_what_comes() {
    let shop = small_shop().await;
    let folder = shop.shop.folder().to_owned();
    let url = shop.shop.nats_url();
    let options = ["log", "wallet", "--follow", "--nats-url", url.as_str()];
    let mut following = Process::spawn(Path::new(&folder), "follow", options);
    following.says("what was there", |said| said.contains("open balance=1000").then_some(())).await;
    shop.post("/wallets/alice/top-up", json!({ "amount": 7 })).await.is(200);
    following.says("what comes", |said| said.contains("top_up amount=7").then_some(())).await;
    following.terminate().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_is_shown_as_callers_saw_it_then() {
    let shop = small_shop().await;
    let opened = shop.get("/wallets/alice").await.is(200);
    shop.order("o-1", "alice", "apple", 2).await;
    let charged = shop.get("/wallets/alice").await.is(200);
    let page = shop.get("/mypages/alice").await.is(200);
    let at = async |line: &str| tool(&shop, line).await.exits(0).json().remove(0);
    assert_eq!(at("at wallet alice --seq 1 --json").await, opened.body);
    assert_eq!(at("at wallet alice --seq 2 --json").await, charged.body);
    let then = |answer: &Answer| format!("at wallet alice --json --time {}", answer.text("/updated_at"));
    assert_eq!(at(&then(&charged)).await, charged.body);
    if opened.text("/updated_at") != charged.text("/updated_at") {
        assert_eq!(at(&then(&opened)).await, opened.body);
    }
    assert_eq!(at("at mypage alice --json --time 2999-01-01T00:00:00Z").await["items"], *page.value("/items"));
    let early = tool(&shop, "at wallet alice --time 1999-01-01T00:00:00Z").await.exits(1);
    assert!(early.stderr.contains("there was no wallet alice then"), "{}", early.stderr);
    tool(&shop, "at wallet alice --seq 3").await.exits(1);
    tool(&shop, "at wallet alice").await.exits(2);
    shop.close().await;
}
