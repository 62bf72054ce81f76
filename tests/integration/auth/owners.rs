//! What is whose: customers see and move what is their own, and staff what its scopes cover.

use hyper::Method;
use serde_json::{Value, json};
use shop_tests::login::STAFF;

use super::{issuer::Issuer, shop_of, with};
use crate::shop::{Answer, TestShop};

/// Who also pays in by itself.
const CUSTOMER: &str = "orders:read orders:write wallets:read wallets:fund";

/// A shop with two customers who have an order each, and the tokens of both and of staff.
async fn shop_of_two(issuer: &Issuer) -> (TestShop, [String; 3]) {
    let shop = shop_of(issuer, |auth| auth).await;
    let tokens =
        [("alice", CUSTOMER), ("bob", CUSTOMER), ("mary", STAFF)].map(|(name, scopes)| issuer.token(name, scopes));
    let [alice, bob, staff] = &tokens;
    let apple = json!({ "id": "apple", "name": "apple", "price": 10, "stock": 100 });
    with(shop.post("/products", apple), staff).await.is(201);
    for (name, token) in [("alice", alice), ("bob", bob)] {
        with(shop.post("/wallets", json!({ "id": name, "balance": 1_000 })), staff).await.is(201);
        let order = json!({ "id": format!("o-{name}"), "user": name, "product": "apple", "quantity": 1 });
        with(shop.post("/orders", order), token).await.is(201).has("/status", "CONFIRMED");
    }
    (shop, tokens)
}

/// What an answer says, whatever the thing is called.
fn without_name(answer: Answer, name: &str) -> Value {
    serde_json::from_str(&answer.is(404).body.to_string().replace(name, "x")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_anothers_looks_to_a_customer_as_if_it_were_not_there() {
    let issuer = Issuer::new("a");
    let (shop, [alice, _, staff]) = shop_of_two(&issuer).await;
    for (path, bobs, nobodys) in [
        ("/wallets/{}", "bob", "bobo"),
        ("/wallets/{}/statement", "bob", "bobo"),
        ("/orders/{}", "o-bob", "o-bobo"),
        ("/deliveries/{}", "o-bob", "o-bobo"),
    ] {
        let at = |name: &str| path.replace("{}", name);
        let of_bob = with(shop.get(at(bobs)), &alice).await.refused(404, "not_found").without("etag");
        let of_nobody = with(shop.get(at(nobodys)), &alice).await.refused(404, "not_found");
        assert_eq!(without_name(of_bob, bobs), without_name(of_nobody, nobodys));
        let head = with(shop.ask(Method::HEAD, at(bobs)), &alice).await.is(404);
        assert!(head.bytes.is_empty(), "{head}");
        // Not even by asking whether it has changed.
        with(shop.get(at(bobs)), &alice).header("if-none-match", "*").await.is(404);
        with(shop.get(at(&bobs.replace("bob", "alice"))), &alice).await.is(200);
        with(shop.get(at(bobs)), &staff).await.is(200);
    }
    with(shop.get("/mypages/bob"), &alice).await.is(404);
    with(shop.get("/mypages/alice"), &alice).await.is(200);
    with(shop.get("/mypages/bob"), &staff).await.is(200);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_anothers_is_moved_by_no_customer_and_nothing_happens() {
    let issuer = Issuer::new("a");
    let (shop, [alice, bob, staff]) = shop_of_two(&issuer).await;
    let for_bob = |id: &str| json!({ "id": id, "user": "bob", "product": "apple", "quantity": 1 });
    let asks = || {
        vec![
            shop.post("/orders/o-bob/cancel", json!({})),
            shop.ask(Method::DELETE, "/orders/o-bob"),
            shop.post("/orders", for_bob("o-new")),
            shop.post("/wallets/bob/top-up", json!({ "amount": 1 })),
            shop.post("/wallets", json!({ "id": "carol", "balance": 5 })),
        ]
    };
    for (number, ask) in asks().into_iter().enumerate() {
        with(ask.clone(), &alice).await.refused(403, "forbidden").lacks("/scope");
        with(ask.key(&format!("k-{number}")), &alice).await.refused(403, "forbidden").lacks("/scope");
    }
    with(shop.get("/orders/o-new"), &staff).await.is(404);
    with(shop.get("/wallets/carol"), &staff).await.is(404);
    with(shop.get("/wallets/bob"), &bob).await.is(200).has("/balance", 990);
    with(shop.get("/orders/o-bob"), &bob).await.is(200).has("/status", "CONFIRMED");
    // Staff moves it, and bob himself.
    with(shop.post("/wallets/bob/top-up", json!({ "amount": 1 })), &staff).await.is(200).has("/balance", 991);
    with(shop.post("/orders", for_bob("o-by-staff")), &staff).await.is(201);
    with(shop.post("/orders/o-by-staff/cancel", json!({})), &bob).await.is(200).has("/status", "CANCELLED");
    with(shop.post("/deliveries/o-bob/dispatch", json!({})), &staff).await.is(200);
    with(shop.post("/deliveries/o-alice/dispatch", json!({})), &bob).await.refused(403, "forbidden");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_repeating_is_its_callers_own() {
    let issuer = Issuer::new("a");
    let (shop, [alice, bob, staff]) = shop_of_two(&issuer).await;
    let order = |user: &str| shop.post("/orders", json!({ "user": user, "product": "apple", "quantity": 1 })).key("k");
    let of_alice = with(order("alice"), &alice).await.is(201);
    with(order("alice"), &alice).await.repeats(&of_alice);
    let of_bob = with(order("bob"), &bob).await.is(201);
    assert_ne!(of_alice.text("/id"), of_bob.text("/id"));
    // The same key of staff says nothing of what a customer has ordered.
    let by_staff = with(order("alice"), &staff).await.is(201).without("idempotency-replayed");
    assert_ne!(of_alice.text("/id"), by_staff.text("/id"));
    shop.close().await;
}
