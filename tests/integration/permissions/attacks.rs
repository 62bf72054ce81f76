//! What somebody would do with a key that he should not have.

use std::time::Duration;

use async_nats::{Client, jetstream};
use futures::StreamExt;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use tokio::time::timeout;

use super::{Raw, client, key_named, keys, shop_with_keys};
use crate::shop::TestShop;

/// The last sequence of each log, as the operator sees it.
async fn ends(operator: &Client) -> Vec<u64> {
    let context = jetstream::new(operator.clone());
    let mut ends = vec![];
    for kind in Kind::ALL {
        let stream = context.get_stream(shop_nats::subject::stream(kind)).await.unwrap();
        ends.push(stream.cached_info().state.last_sequence);
    }
    ends
}

/// Alice with 1000, and a pear.
async fn furnished(more: &[&str]) -> TestShop {
    let shop = shop_with_keys(more).await;
    shop.product("pear", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    shop
}

/// Waits until all that was sent before is done: what comes after it is answered.
async fn settled(client: &Client, question: &'static str) {
    client.flush().await.unwrap();
    client.request(question, "".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_key_of_a_bridge_nobody_elses_answers_and_no_log_frames_are_heard() {
    let shop = furnished(&["bridge-2"]).await;
    let (keys, address) = (keys(&shop), shop.shop.nats_server().unwrap().address().to_string());
    let thief = key_named(keys, "bridge-2");
    let mut raw = Raw::come(&address, &keys.seed(thief)).await;
    for key in keys.known() {
        let may = raw.may_subscribe(&format!("_INBOX.{}.>", key.public)).await;
        assert_eq!(may, key == thief, "the inboxes of {}", key.name);
    }
    for subject in ["_INBOX.>", "_INBOX.*.>", ">", "shop.log.>", "shop.hosts.>", "shop.order.>", "_R_.>"] {
        assert!(!raw.may_subscribe(subject).await, "{subject}");
    }
    // And whatever it hears, while others order, is nothing.
    let nats = client(&shop, "bridge-2").await;
    let mut heard = nats.subscribe(format!("_INBOX.{}.>", thief.public)).await.unwrap();
    nats.flush().await.unwrap();
    for number in 0..20 {
        let order = json!({ "id": format!("o-{number}"), "user": "alice", "product": "pear", "quantity": 1 });
        shop.post("/orders", order).await.is(201);
        shop.get("/wallets/alice").await.is(200);
    }
    nats.flush().await.unwrap();
    assert!(timeout(Duration::ZERO, heard.next()).await.is_err(), "something came");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_wants_its_answer_where_no_caller_waits_is_not_carried_out() {
    let shop = furnished(&[]).await;
    let (bridge, operator) = (client(&shop, "bridge").await, client(&shop, "operator").await);
    let before = ends(&operator).await;
    for elsewhere in [
        "shop.log.wallet.0",
        "shop.wallet.alice.top-up",
        "shop.hold",
        "shop.hosts.order",
        "$JS.API.STREAM.PURGE.SHOP_WALLET",
        "$SYS.REQ.SERVER.PING",
        "anything.else",
        "_INBOX.>",
    ] {
        for (subject, body) in [
            ("shop.wallet.alice.top-up", r#"{"amount":1}"#),
            ("shop.wallet.alice.top-up", "no JSON"),
            ("shop.wallet.alice.get", ""),
            ("shop.wallet.status", ""),
            ("shop.servers.status", ""),
        ] {
            bridge.publish_with_reply(subject, elsewhere, body.into()).await.unwrap();
        }
        operator.publish_with_reply("$SRV.PING", elsewhere, "".into()).await.unwrap();
    }
    settled(&bridge, "shop.wallet.alice.get").await;
    settled(&operator, "shop.wallet.alice.get").await;
    assert_eq!(ends(&operator).await, before, "something is in a log");
    shop.get("/wallets/alice").await.is(200).has("/balance", 1_000);
    // With a place where a caller waits, it is.
    let answer = bridge.request("shop.wallet.alice.top-up", r#"{"amount":1}"#.into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.payload).unwrap()["balance"], 1_001);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_only_reads_cannot_have_jetstream_write_an_answer_into_a_log() {
    let shop = furnished(&[]).await;
    let (reader, operator) = (client(&shop, "reader").await, client(&shop, "operator").await);
    let feed = client(&shop, "feed").await;
    let before = ends(&operator).await;
    for client in [&reader, &feed] {
        for elsewhere in ["shop.log.product.0", "shop.log.wallet.0", "$JS.API.STREAM.PURGE.SHOP_WALLET", "shop.hold"] {
            for (question, body) in [
                ("$JS.API.INFO", ""),
                ("$JS.API.STREAM.INFO.SHOP_WALLET", ""),
                ("$JS.API.STREAM.MSG.GET.SHOP_WALLET", r#"{"seq":1}"#),
                ("$JS.API.DIRECT.GET.SHOP_WALLET", r#"{"seq":1}"#),
                ("$JS.API.DIRECT.GET.SHOP_WALLET", r#"{"seq":1,"batch":10}"#),
            ] {
                client.publish_with_reply(question, elsewhere, body.into()).await.unwrap();
            }
        }
        settled(client, "$JS.API.INFO").await;
    }
    assert_eq!(ends(&operator).await, before, "something is in a log");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_key_of_a_tool_no_consumer_is_made_that_delivers_into_a_log() {
    let shop = furnished(&[]).await;
    let (keys, address) = (keys(&shop), shop.shop.nats_server().unwrap().address().to_string());
    let operator = client(&shop, "operator").await;
    let before = ends(&operator).await;
    let consumer = json!({
        "stream_name": "SHOP_WALLET",
        "config": { "name": "x", "deliver_subject": "shop.log.product.0", "ack_policy": "none", "deliver_policy": "all" },
    });
    let body = consumer.to_string();
    for name in ["bridge", "reader", "operator", "feed"] {
        let mut raw = Raw::come(&address, &keys.seed(key_named(keys, name))).await;
        for subject in [
            "$JS.API.CONSUMER.CREATE.SHOP_WALLET",
            "$JS.API.CONSUMER.CREATE.SHOP_WALLET.x",
            "$JS.API.CONSUMER.CREATE.SHOP_WALLET.x.shop.log.wallet.0",
            "$JS.API.CONSUMER.DURABLE.CREATE.SHOP_WALLET.x",
        ] {
            let refused = raw.refused(&format!("PUB {subject} {}\r\n{body}\r\n", body.len())).await;
            assert!(refused.is_some_and(|refusal| refusal.contains("Permissions Violation")), "{name} {subject}");
        }
    }
    shop.get("/wallets/alice").await.is(200);
    assert_eq!(ends(&operator).await, before, "something is in a log");
    shop.close().await;
}
