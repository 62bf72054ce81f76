//! Callers over NATS: who is named in the subject sees and moves what is its own, or everybody's.

use async_nats::{Client, HeaderMap, Message};
use serde_json::{Value, json};
use shop_tests::wait::until;

use crate::{
    nats_face::Format,
    operator::{tool, tool_at},
    permissions::{client, shop_with_keys},
    shop::TestShop,
    upgrade::OldShop,
};

/// A program that speaks as one caller.
struct Caller {
    nats: Client,
    /// What its subjects begin with.
    prefix: String,
    format: Format,
}

impl Caller {
    async fn ask_with_key(&self, target: &str, body: &Value, key: Option<&str>) -> (u64, Value) {
        let headers: HeaderMap = key.into_iter().map(|key| ("Idempotency-Key".parse().unwrap(), key.into())).collect();
        let subject = format!("{}.{target}", self.prefix);
        let answer = self.nats.request_with_headers(subject.clone(), headers, self.format.write(body).into()).await;
        self.read(&answer.unwrap_or_else(|error| panic!("{subject}: {error}")))
    }

    async fn ask(&self, target: &str, body: &Value) -> (u64, Value) {
        self.ask_with_key(target, body, None).await
    }

    /// The status of the answer, 200 if it is no refusal, and its body.
    fn read(&self, answer: &Message) -> (u64, Value) {
        let status = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
        let status = status.map_or(200, |status| status.as_str().parse().unwrap());
        (status, self.format.read(answer))
    }
}

/// Apples, and alice and bob with an order each.
async fn shop_of_two(shop: &TestShop) {
    shop.product("apple", 100, 50).await;
    for user in ["alice", "bob"] {
        shop.wallet(user, 1_000).await;
        let order = json!({ "id": format!("o-{user}"), "user": user, "product": "apple", "quantity": 1 });
        shop.post("/orders", order).await.is(201);
    }
}

#[tokio::test]
async fn a_customer_sees_and_moves_what_is_his_own_and_staff_what_is_anybodys() {
    let shop = TestShop::open().await;
    shop_of_two(&shop).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    for format in [Format::Json, Format::Msgpack] {
        let caller = |prefix: &str| Caller { nats: nats.clone(), prefix: prefix.to_owned(), format };
        let (alice, mary) = (caller("shop.by.alice"), caller("shop.staff.mary"));
        let new = format!("{format:?}");
        let order = |user: &str| json!({ "user": user, "product": "apple", "quantity": 1 });
        let none = json!({});
        let own = [
            ("wallet.alice.get", none.clone()),
            ("wallet.alice.statement", none.clone()),
            ("wallet.alice.top-up", json!({ "amount": 1 })),
            ("order.o-alice.get", none.clone()),
            ("delivery.o-alice.get", none.clone()),
            ("mypage.alice.get", none.clone()),
            ("product.apple.get", none.clone()),
            ("product.list", none.clone()),
            ("order.status", none.clone()),
            (&format!("order.{new}-1.place"), order("alice")),
            (&format!("order.{new}-1.cancel"), none.clone()),
        ];
        for (target, body) in &own {
            assert_eq!(alice.ask(target, body).await.0, 200, "{target} {format:?}");
        }
        let hidden = [
            ("wallet.bob.get", none.clone()),
            ("wallet.bob.statement", none.clone()),
            ("order.o-bob.get", none.clone()),
            ("delivery.o-bob.get", none.clone()),
            ("mypage.bob.get", none.clone()),
            ("order.o-bob.key-scope", json!({ "user": "bob" })),
        ];
        for (target, body) in &hidden {
            let (status, problem) = alice.ask(target, body).await;
            assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{target} {format:?}");
            // As of what is not there at all.
            let (kind, rest) = target.split_once('.').unwrap();
            let (id, verb) = rest.split_once('.').unwrap();
            if verb == "get" && kind != "mypage" {
                let (_, missing) = alice.ask(&format!("{kind}.no-{id}.get"), body).await;
                let told = problem["detail"].as_str().unwrap();
                assert_eq!(missing["detail"].as_str().unwrap().replace(&format!("no-{id}"), id), told);
            }
            assert_eq!(mary.ask(target, body).await.0, 200, "{target} {format:?}");
        }
        let closed = [
            ("wallet.bob.top-up", json!({ "amount": 1 })),
            (&format!("wallet.{new}.open"), json!({ "balance": 5 })),
            (&format!("order.{new}-2.place"), order("bob")),
            ("product.apple.restock", json!({ "quantity": 1 })),
            ("product.apple.change", json!({ "price": 100 })),
            (&format!("product.{new}.create"), json!({ "name": "fig", "price": 1, "stock": 1 })),
            (&format!("order.{new}-2.cancel"), none.clone()),
            ("delivery.o-alice.dispatch", none.clone()),
            ("delivery.o-alice.deliver", none.clone()),
        ];
        for (target, body) in &closed {
            if !target.ends_with("-2.cancel") {
                let (status, problem) = alice.ask(target, body).await;
                assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "{target} {format:?}: {problem}");
            }
            let (status, answer) = mary.ask(target, body).await;
            assert!(status == 200 || answer["code"].as_str().unwrap().starts_with("not_d"), "{target}: {answer}");
        }
        let (status, problem) = alice.ask("order.o-bob.cancel", &none).await;
        assert_eq!((status, &problem["code"], &problem["id"]), (403, &json!("forbidden"), &json!("o-bob")));
        assert_eq!(mary.ask("order.o-bob.get", &none).await.1["status"], "CONFIRMED");
    }
    let stranger = Caller { nats, prefix: "shop.by.schlüssel".to_owned(), format: Format::Json };
    let (status, problem) = stranger.ask("wallet.alice.get", &json!({})).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/caller")));
    tool(&shop, "audit").await.exits(0);
    shop.close().await;
}

#[tokio::test]
async fn a_key_is_its_callers_own_and_the_log_says_who_asked() {
    let shop = TestShop::open().await;
    shop_of_two(&shop).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let caller = |prefix: &str| Caller { nats: nats.clone(), prefix: prefix.to_owned(), format: Format::Json };
    let (alice, mary, paul) = (caller("shop.by.alice"), caller("shop.staff.mary"), caller("shop.staff.paul"));
    let five = json!({ "amount": 5 });
    for caller in [&alice, &mary, &paul, &mary] {
        assert_eq!(caller.ask_with_key("wallet.alice.top-up", &five, Some("k-1")).await.0, 200);
    }
    shop.get("/wallets/alice").await.is(200).has("/balance", 1_000 - 100 + 15);
    alice.ask_with_key("order.o-alice.cancel", &json!({ "reason": "too many" }), None).await;
    mary.ask_with_key("order.o-bob.cancel", &json!({}), None).await;

    let trace = tool(&shop, "trace o-alice").await.exits(0);
    assert!(trace.stdout.lines().any(|line| line.contains("cancel") && line.contains("  by alice")), "{trace:?}");
    let line = tool(&shop, "trace o-bob --json").await.exits(0).stdout;
    let callers: Vec<Value> = line.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let cancel = callers.iter().find(|moment| moment["message"]["cancel"].is_object()).unwrap();
    assert_eq!(cancel["caller"], "mary");
    // Only what came from outside was asked by somebody.
    assert_eq!(callers.iter().filter(|moment| !moment["caller"].is_null()).count(), 1, "{line}");
    tool(&shop, "log wallet").await.exits(0).says(&["  by staff mary", "  by staff paul", "  by alice"]);
    shop.close().await;
}

#[tokio::test]
async fn before_the_shop_is_upgraded_no_caller_moves_anything_and_each_sees_only_what_it_may() {
    let OldShop { cluster, url, host, client } = OldShop::open().await;
    for wallet in ["alice", "bob"] {
        client.post("/wallets", &json!({ "id": wallet, "balance": 10 })).await.json(201);
    }
    let nats = async_nats::connect(&url).await.unwrap();
    let alice = Caller { nats, prefix: "shop.by.alice".to_owned(), format: Format::Json };
    let (one, none) = (json!({ "amount": 1 }), json!({}));
    let (status, problem) = alice.ask("wallet.alice.top-up", &one).await;
    assert_eq!((status, &problem["retryable"]), (503, &json!(false)), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("logic version 5"), "{problem}");
    assert_eq!(alice.ask("wallet.bob.top-up", &one).await.0, 403);
    assert_eq!(alice.ask("wallet.bob.get", &none).await.0, 404);
    assert_eq!(alice.ask("wallet.alice.get", &none).await.1["balance"], 10);
    tool_at(&url, "upgrade").await.exits(0);
    let top_up = async || (alice.ask("wallet.alice.top-up", &one).await.0 == 200).then_some(());
    until("the hosts know that callers are heeded", top_up).await;
    host.terminate().await;
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_key_of_a_customer_a_program_speaks_as_that_customer_and_as_nobody_else() {
    let shop = shop_with_keys(&["customer-alice", "staff-mary"]).await;
    shop_of_two(&shop).await;
    let alice = come(&shop, "customer-alice", "shop.by.alice").await;
    let mary = come(&shop, "staff-mary", "shop.staff.mary").await;
    let none = json!({});
    assert_eq!(alice.ask("wallet.alice.get", &none).await.0, 200);
    assert_eq!(alice.ask("wallet.bob.get", &none).await.0, 404);
    assert_eq!(mary.ask("wallet.bob.get", &none).await.0, 200);
    for subject in ["shop.wallet.bob.get", "shop.by.bob.wallet.bob.get", "shop.staff.alice.wallet.bob.get"] {
        let asked = alice.nats.request(subject, "".into());
        // The server lets nobody hear it.
        let answer = tokio::time::timeout(std::time::Duration::from_millis(300), asked).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{subject}: {answer:?}");
    }
    shop.close().await;
}

async fn come(shop: &TestShop, key: &str, prefix: &str) -> Caller {
    Caller { nats: client(shop, key).await, prefix: prefix.to_owned(), format: Format::Json }
}
