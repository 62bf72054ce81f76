//! The audit, of a shop that is open, and of one in which something does not add up.

use async_nats::jetstream;
use futures::StreamExt;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_tests::{client::Client, market::Market, rush::Rush, seed::rng};

use super::{Said, nats, small_shop, tool};
use crate::shop::{TestShop, eventually};

const ORDERS: usize = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_an_open_shop_finds_no_difference_in_the_rush_and_after_it() {
    let shop = TestShop::open_with(3).await;
    let client = Client::new(shop.shop.http_address());
    let mut market = Market::open(&client, rng(61), ORDERS).await;
    let mut rush = Rush::begin(&client, market.orders("rush", ORDERS));
    rush.has_answered(ORDERS / 4).await;
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    let told = rush.finish().await;

    let confirmed: Vec<&String> =
        told.iter().filter(|(_, (_, answer))| answer.status == 201).map(|(id, _)| id).collect();
    let (cancelled, dispatched) = confirmed.split_at(confirmed.len() / 3);
    for id in cancelled {
        client.post(&format!("/orders/{id}/cancel"), &json!({})).await.json(200);
    }
    for id in dispatched.iter().step_by(2) {
        client.post(&format!("/deliveries/{id}/dispatch"), &json!({})).await.json(200);
        client.post(&format!("/orders/{id}/cancel"), &json!({})).await.json(409);
    }
    client.post("/wallets/customer-0/top-up", &json!({ "amount": 77 })).await.json(200);

    let report = tool(&shop, "audit --json").await.exits(0).json().remove(0);
    assert_eq!((&report["clean"], &report["differences"]["count"]), (&json!(true), &json!(0)), "{report}");
    let orders = &report["books"]["orders"];
    assert_eq!(orders["confirmed"], dispatched.len(), "{report}");
    assert_eq!(orders["cancelled"], cancelled.len(), "{report}");
    assert_eq!(orders["rejected"], told.len() - confirmed.len(), "{report}");
    assert_eq!(orders["under_way"], 0, "{report}");
    let sum = |name: &str| report["books"][name].as_u64().unwrap();
    assert_eq!(sum("put_in"), sum("balances") + sum("charged"));
    let entities: u64 =
        report["kinds"].as_object().unwrap().values().map(|kind| kind["entities"].as_u64().unwrap()).sum();
    assert_eq!(report["hosts"], json!({ "agreed": entities, "not_compared": {} }));
    assert!(report["messages"]["arrived_as_sent"].as_u64().unwrap() > 5 * ORDERS as u64, "{report}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_messages_that_nobody_has_sent() {
    let shop = small_shop().await;
    shop.order("o-1", "alice", "apple", 2).await;
    tool(&shop, "audit").await.exits(0);
    let log = jetstream::new(nats(&shop).await);
    let stream = log.get_stream("SHOP_WALLET").await.unwrap();
    // The second record is the charge of o-1, from the only partition of the orders.
    let charge = stream.get_raw_message(2).await.unwrap().payload;
    let charge: Value = rmp_serde::from_slice(&charge[1..]).unwrap();
    let publish = async |change: &dyn Fn(&mut Value)| {
        let mut frame = charge.clone();
        change(&mut frame);
        let bytes = [&[1][..], &rmp_serde::to_vec_named(&frame).unwrap()].concat();
        log.publish("shop.log.wallet.0", bytes.into()).await.unwrap().await.unwrap();
    };

    // A refund from a partition of a log that there is not.
    publish(&|frame| {
        frame["source"]["epoch"] = json!(7);
        frame["messages"][0]["message"]["wallet"] = json!({ "refund": { "order": "o-1" } });
    })
    .await;
    eventually("the refund", || shop.balance("alice"), |balance| *balance == 1000).await;
    let named = tool(&shop, "audit").await.exits(1).says(&[
        "2 differences",
        "wallet/0 at sequence 3: message 1 to alice \"refund order=o-1\" is from order/0 of epoch 0000000000000007",
        "order o-1 is CONFIRMED, but wallet alice is not charged 200 for it",
    ]);
    assert!(!named.stdout.contains("host says"), "{}", named.stdout);

    // A charge with the next number of the real link.
    publish(&|frame| {
        frame["first"] = json!(2);
        frame["messages"][0]["message"]["wallet"] = json!({ "charge": { "order": "o-9", "amount": 1 } });
    })
    .await;
    let report = tool(&shop, "audit --json").await.exits(1).json().remove(0);
    assert_eq!((&report["clean"], &report["differences"]["count"]), (&json!(false), &json!(3)), "{report}");
    let unsent =
        "message 2 from order/0 to wallet/0, to alice \"charge order=o-9 amount=1\", is in the log at sequence 4";
    assert!(report["differences"]["named"].to_string().contains(&unsent.replace('"', "\\\"")), "{report}");
    // What has the same number in truth is not charged.
    shop.post("/orders", json!({ "id": "o-2", "user": "alice", "product": "pear", "quantity": 1 }))
        .prefer("respond-async")
        .await;
    let audit = || tool(&shop, "audit");
    let is_other = |said: &Said| said.stdout.contains("is not what the log has at sequence 4");
    eventually("the difference", audit, is_other).await.exits(1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_what_a_host_says_and_the_log_does_not() {
    let mut shop = small_shop().await;
    shop.shop.stop_kind(Kind::Wallet).await.unwrap();
    tool(&shop, "audit").await.exits(0).says(&["1 of wallet could not be compared: nobody serves", "no differences"]);

    // Somebody else answers for wallets.
    let client = nats(&shop).await;
    let mut questions = client.subscribe("shop.wallet.>").await.unwrap();
    client.flush().await.unwrap();
    let liar = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let answer = if question.subject.ends_with(".status") {
                json!({ "kind": "wallet", "status": "ready" })
            } else {
                json!({ "id": "alice", "balance": 1, "updated_at": "2026-11-22T15:15:12.167Z" })
            };
            client.publish(question.reply.unwrap(), answer.to_string().into()).await.unwrap();
        }
    });
    tool(&shop, "audit")
        .await
        .exits(1)
        .says(&["1 difference\n", "wallet alice is not what its host says: {\"id\":\"alice\",\"balance\":1"]);
    liar.abort();
    shop.close().await;
}
