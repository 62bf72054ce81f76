//! Requests of many callers in one message, and their answers: everyone is told what concerns them.

use futures::{StreamExt, future::join_all};
use serde_json::json;
use shop_domain::kind::Kind;

use crate::shop::{TestShop, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_crowd_that_asks_for_all_sorts_of_things_everyone_gets_an_answer_of_their_own() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 100, 1_000).await;
    shop.product("pear", 100, 0).await;
    shop.wallet("alice", 1_000_000).await;
    shop.wallet("bob", 0).await;
    let order = |id: String, user: &str, product: &str| {
        let order = json!({ "id": id, "user": user, "product": product, "quantity": 1, "unit_price": 100 });
        shop.post("/orders", order).into_future()
    };
    let numbers = 0..60;
    let (bought, poor, sold_out, missing) = tokio::join!(
        join_all(numbers.clone().map(|number| order(format!("bought-{number}"), "alice", "apple"))),
        join_all(numbers.clone().map(|number| order(format!("poor-{number}"), "bob", "apple"))),
        join_all(numbers.clone().map(|number| order(format!("sold-out-{number}"), "alice", "pear"))),
        join_all(numbers.clone().map(|number| shop.get(format!("/orders/missing-{number}")).into_future())),
    );
    for (number, answer) in numbers.clone().zip(bought) {
        answer.is(201).has("/id", format!("bought-{number}")).has("/status", "CONFIRMED");
    }
    for (number, answer) in numbers.clone().zip(poor) {
        answer.refused(409, "insufficient_balance").has("/order", format!("poor-{number}"));
    }
    for (number, answer) in numbers.clone().zip(sold_out) {
        answer.refused(409, "out_of_stock").has("/order", format!("sold-out-{number}"));
    }
    for (number, answer) in numbers.clone().zip(missing) {
        assert!(answer.refused(404, "not_found").text("/detail").contains(&format!("missing-{number}")));
    }
    // Once more: the first answers again, and each to whom it was given.
    for (number, answer) in
        numbers.clone().zip(join_all(numbers.map(|number| order(format!("bought-{number}"), "alice", "apple"))).await)
    {
        answer.is(201).has("/id", format!("bought-{number}")).with("idempotency-replayed", "true");
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (994_000, 940));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_the_same_moment_share_messages() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let mut bundles = nats.subscribe("shop.wallet.bundle").await.unwrap();
    nats.flush().await.unwrap();
    let top_up = |_| shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).into_future();
    for answer in join_all((0..300).map(top_up)).await {
        answer.is(200);
    }
    // All that the server has sent so far, and no more.
    nats.flush().await.unwrap();
    bundles.drain().await.unwrap();
    let messages = bundles.count().await;
    assert!((1..300).contains(&messages), "{messages} messages for 300 requests");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_nobody_serves_is_told_so_and_the_others_are_served() {
    let mut shop = TestShop::open().await;
    shop.product("apple", 100, 10).await;
    shop.wallet("alice", 100).await;
    shop.shop.stop_kind(Kind::Product).await.unwrap();
    let products = join_all((0..50).map(|_| shop.get("/products/apple").prefer("wait=0").into_future()));
    let wallets = join_all((0..50).map(|_| shop.get("/wallets/alice").into_future()));
    let (products, wallets) = tokio::join!(products, wallets);
    for answer in products {
        let answer = answer.refused(503, "unavailable");
        assert!(answer.text("/detail").starts_with("no process serves products right now"), "{answer}");
    }
    for answer in wallets {
        answer.is(200).has("/balance", 100);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_bundle_harm_nobody() {
    let shop = TestShop::open().await;
    shop.product("apple", 100, 10).await;
    shop.wallet("alice", 1_000).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    for kind in Kind::ALL {
        for bytes in [&b""[..], b"{}", b"\x81\xa8requests\xdd\xff\xff\xff\xff", b"\xff\xff\xff"] {
            let subject = format!("shop.{kind}.bundle");
            nats.publish(subject.clone(), bytes.into()).await.unwrap();
            let answer = nats.request(subject, bytes.into()).await.unwrap();
            let code = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
            assert!(code.is_some_and(|code| code.as_str().starts_with('4')), "{kind}: {answer:?}");
        }
    }
    shop.order("o-1", "alice", "apple", 1).await.is(201);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_an_inbox_like_a_bridges_gets_the_answer_there() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let mut answers = nats.subscribe("_INBOX.shop.by-hand.>").await.unwrap();
    let top_up = json!({ "amount": 1 }).to_string();
    nats.publish_with_reply("shop.wallet.alice.top-up", "_INBOX.shop.by-hand.7", top_up.into()).await.unwrap();
    assert_eq!(&*answers.next().await.unwrap().subject, "_INBOX.shop.by-hand.7");
    eventually("the balance", || shop.balance("alice"), |balance| *balance == 1).await;
    shop.close().await;
}
