//! Entity tags: a gapless version of each entity on every answer that shows it, and requests that demand one.

mod nats;

use futures::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    operator::tool,
    shop::{Answer, Ask, TestShop, raw},
};

/// A market with an order that is confirmed (`o-1`), and one whose delivery is on its way (`o-2`).
async fn market(shop: &TestShop) {
    shop.product("apple", 10, 100).await;
    shop.wallet("alice", 1_000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    shop.order("o-2", "alice", "apple", 1).await;
    shop.post("/deliveries/o-2/dispatch", json!({})).await.is(200);
}

/// What shows an entity each.
const SHOWING: [&str; 5] = ["/products/apple", "/wallets/alice", "/orders/o-1", "/deliveries/o-1", "/mypages/alice"];

/// Every write to what is there, and what shows it.
fn writes(shop: &TestShop) -> Vec<(Ask, &'static str)> {
    vec![
        (shop.patch("/products/apple", json!({ "price": 11 })), "/products/apple"),
        (shop.post("/products/apple/restock", json!({ "quantity": 1 })), "/products/apple"),
        (shop.post("/wallets/alice/top-up", json!({ "amount": 1 })), "/wallets/alice"),
        (shop.post("/deliveries/o-2/deliver", json!({})), "/deliveries/o-2"),
        (shop.post("/deliveries/o-3/dispatch", json!({})), "/deliveries/o-3"),
        (shop.post("/orders/o-1/cancel", json!({})), "/orders/o-1"),
        (shop.ask(Method::DELETE, "/orders/o-4"), "/orders/o-4"),
    ]
}

async fn tag(shop: &TestShop, path: &str) -> String {
    shop.get(path).await.is(200).header("etag").unwrap_or_else(|| panic!("{path} has no tag")).to_owned()
}

/// What an entity is told to be, and its tag.
async fn sight(shop: &TestShop, path: &str) -> (String, Value) {
    let answer = shop.get(path).await.is(200);
    (answer.header("etag").unwrap().to_owned(), answer.body)
}

#[tokio::test]
async fn every_answer_that_shows_an_entity_has_its_tag_which_goes_up_by_one_with_each_change() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 100).await.with("etag", "\"1\"");
    shop.wallet("alice", 1_000).await.with("etag", "\"1\"");
    shop.get("/mypages/alice").await.is(200).with("etag", "\"0\"");
    shop.patch("/products/apple", json!({ "price": 11 })).await.is(200).with("etag", "\"2\"");
    shop.patch("/products/apple", json!({ "price": 11 })).await.is(200).with("etag", "\"2\"");
    shop.post("/products/apple/restock", json!({ "quantity": 1 })).await.is(200).with("etag", "\"3\"");
    shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200).with("etag", "\"2\"");
    // Placed and confirmed.
    shop.order("o-1", "alice", "apple", 1).await.with("etag", "\"2\"");
    let expected = ["\"4\"", "\"3\"", "\"2\"", "\"1\"", "\"2\""];
    for (path, tag) in SHOWING.iter().zip(expected) {
        shop.get(*path).await.is(200).with("etag", tag);
        shop.ask(Method::HEAD, *path).await.is(200).with("etag", tag);
    }
    shop.get("/mypages/alice?limit=1&before=0001769860800000-o-1").await.is(200).with("etag", "\"2\"");
    shop.post("/deliveries/o-1/dispatch", json!({})).await.is(200).with("etag", "\"2\"");
    shop.post("/deliveries/o-1/deliver", json!({})).await.is(200).with("etag", "\"3\"");
    // Cancelling, and confirmed again: the delivery has left.
    shop.post("/orders/o-1/cancel", json!({})).await.refused(409, "not_cancellable").without("etag");
    shop.get("/orders/o-1").await.is(200).with("etag", "\"4\"");
    shop.post("/wallets", json!({ "id": "alice" })).await.refused(409, "already_exists").without("etag");
    for path in ["/products", "/wallets/alice/statement"] {
        shop.get(path).await.is(200).without("etag");
    }
    let order = json!({ "id": "o-5", "user": "alice", "product": "apple", "quantity": 1 });
    shop.post("/orders", order).prefer("respond-async").await.is(202).without("etag");
    shop.close().await;
}

#[tokio::test]
async fn every_write_is_done_only_where_the_entity_is_as_it_demands() {
    let shop = TestShop::open().await;
    market(&shop).await;
    for order in ["o-3", "o-4"] {
        shop.order(order, "alice", "apple", 1).await;
    }
    for (write, path) in writes(&shop) {
        let before = sight(&shop, path).await;
        let other = "\"nonsense\", \"999\"";
        let refused = |answer: Answer| answer.refused(412, "precondition_failed").has("/etag", before.0.clone());
        for condition in [other, &format!("W/{}", before.0), "\"0\""] {
            refused(write.clone().header("if-match", condition).await).without("etag");
        }
        for condition in ["*", &before.0, &format!("W/{}", before.0)] {
            refused(write.clone().header("if-none-match", condition).await);
        }
        assert_eq!(sight(&shop, path).await, before, "{path}");
        let done = write.clone().header("if-match", other).header("if-match", before.0.clone());
        let done = done.header("if-none-match", other).await.is(200);
        assert_eq!(done.header("etag").map(str::to_owned), Some(tag(&shop, path).await), "{done}");
        assert_ne!(done.header("etag"), Some(&*before.0), "{done}");
    }
    let restock = shop.post("/products/apple/restock", json!({ "quantity": 1 }));
    restock.clone().header("if-match", "*").await.is(200);
    let nothing = shop.post("/products/pear/restock", json!({ "quantity": 1 }));
    nothing.clone().header("if-match", "*").await.refused(412, "precondition_failed").lacks("/etag");
    nothing.header("if-none-match", "*").await.refused(404, "not_found");
    shop.close().await;
}

#[tokio::test]
async fn what_is_to_be_made_is_made_only_where_there_is_nothing() {
    let shop = TestShop::open().await;
    let makers = [
        ("/products", json!({ "id": "apple", "name": "apple", "price": 10, "stock": 5 })),
        ("/wallets", json!({ "id": "alice", "balance": 100 })),
        ("/orders", json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 1 })),
    ];
    for (path, body) in &makers {
        let make = shop.post(*path, body.clone());
        for condition in ["*", "\"1\""] {
            make.clone().header("if-match", condition).await.refused(412, "precondition_failed").lacks("/etag");
        }
        let made = make.clone().header("if-none-match", "*").await.is(201);
        let again = make.header("if-none-match", "*").await;
        if *path == "/orders" {
            again.repeats(&made);
        } else {
            again.refused(412, "precondition_failed").has("/etag", "\"1\"");
        }
    }
    let (_, mut other) = makers[2].clone();
    other["quantity"] = 2.into();
    shop.post("/orders", other).header("if-none-match", "*").await.refused(409, "idempotency_key_reused");
    shop.close().await;
}

#[tokio::test]
async fn who_has_already_what_is_asked_for_gets_nothing_but_its_tag() {
    let shop = TestShop::open().await;
    market(&shop).await;
    for path in SHOWING {
        let tag = tag(&shop, path).await;
        for condition in [&*tag, &format!("W/{tag}"), "*", &format!("\"nonsense\" , {tag}")] {
            for method in [Method::GET, Method::HEAD] {
                let known = shop.ask(method, path).header("if-none-match", condition).await.is(304);
                assert!(known.with("etag", &tag).without("content-type").bytes.is_empty(), "{path} {condition}");
            }
        }
        shop.get(path)
            .header("if-none-match", "\"nonsense\"")
            .header("if-match", &*tag)
            .await
            .is(200)
            .with("etag", &tag);
        let failed = shop.get(path).header("if-match", "\"nonsense\"").header("if-none-match", &*tag).await;
        failed.refused(412, "precondition_failed").has("/etag", tag.clone()).without("etag");
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n");
        let answer = raw(&shop.address, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 304 Not Modified\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
    for path in ["/products", "/wallets/alice/statement"] {
        shop.get(path).header("if-none-match", "\"1\"").await.is(200);
        shop.get(path).header("if-none-match", "*").await.is(304).without("etag");
        shop.get(path).header("if-match", "*").await.is(200);
        shop.get(path).header("if-match", "\"1\"").await.refused(412, "precondition_failed").lacks("/etag");
    }
    shop.get("/wallets/bob").header("if-match", "\"1\"").header("if-none-match", "*").await.refused(404, "not_found");
    shop.close().await;
}

#[tokio::test]
async fn what_is_no_list_of_tags_is_malformed_whatever_it_is_sent_with() {
    let shop = TestShop::open().await;
    market(&shop).await;
    let all: Vec<Ask> = SHOWING.map(|path| shop.get(path)).into_iter().chain([shop.get("/products")]).collect();
    let all = all.into_iter().chain(writes(&shop).into_iter().map(|(write, _)| write));
    let makes = [
        shop.post("/products", json!({ "name": "pear", "price": 1, "stock": 1 })),
        shop.post("/wallets", json!({ "id": "bob" })),
        shop.post("/orders", json!({ "user": "alice", "product": "apple", "quantity": 1 })),
    ];
    let before = shop.look(&SHOWING).await;
    for ask in all.chain(makes) {
        for (name, said) in [("if-match", "If-Match"), ("if-none-match", "If-None-Match")] {
            for bad in ["nonsense", "", "7", "\"7", "*, \"7\"", "W/7", "\"a b\"", "\"7\" \"8\"", ","] {
                let answer = ask.clone().header(name, bad).await.refused(400, "malformed");
                assert!(answer.text("/detail").contains(&format!("the header {said} must be")), "{answer}");
            }
            ask.clone().header(name, "*").header(name, "\"7\"").await.refused(400, "malformed");
            let many = vec!["\"7\""; 101].join(",");
            ask.clone().header(name, many).await.refused(400, "malformed");
        }
    }
    assert_eq!(shop.look(&SHOWING).await, before);
    // Tags of somebody else.
    for fine in ["\"schl\u{fc}ssel\"", "\"\"", "\"a,b\"", "\"\u{1f34e}\", ,"] {
        shop.get("/wallets/alice").header("if-none-match", fine).await.is(200);
        let top_up = shop.post("/wallets/alice/top-up", json!({ "amount": 1 }));
        top_up.header("if-match", fine).await.refused(412, "precondition_failed");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_writes_at_once_that_demand_the_same_tag_one_is_done() {
    let shop = TestShop::open_with(2).await;
    market(&shop).await;
    for round in 1..=5 {
        let tag = tag(&shop, "/products/apple").await;
        let write = |price: u64| shop.patch("/products/apple", json!({ "price": 100 * round + price }));
        let asks = (0..20).map(|price| write(price).header("if-match", &*tag).into_future());
        let answers = join_all(asks).await;
        let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
        assert_eq!(done.len(), 1, "{done:?}");
        let now = format!("\"{}\"", 1 + tag.trim_matches('"').parse::<u64>().unwrap());
        for answer in refused {
            answer.refused(412, "precondition_failed").has("/etag", now.clone());
        }
        let (is, product) = sight(&shop, "/products/apple").await;
        assert_eq!((is, &product["price"]), (now, done[0].value("/price")));
    }
    // A cancel that is asked again while it is under way is the same one.
    let tag = tag(&shop, "/orders/o-1").await;
    let cancel = || shop.post("/orders/o-1/cancel", json!({})).header("if-match", &*tag).key("once").into_future();
    for answer in join_all((0..20).map(|_| cancel())).await {
        answer.is(200).has("/status", "CANCELLED");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_repeated_request_is_told_the_first_answer_with_its_tag_whatever_it_demands_now() {
    let mut shop = TestShop::open().await;
    market(&shop).await;
    let (was, _) = sight(&shop, "/products/apple").await;
    let write = |shop: &TestShop| shop.patch("/products/apple", json!({ "price": 77 })).key("k-1");
    let first = write(&shop).header("if-match", &*was).await.is(200);
    let refused = |shop: &TestShop| shop.patch("/products/apple", json!({ "price": 78 })).key("k-2");
    let no = refused(&shop).header("if-match", &*was).await.refused(412, "precondition_failed");
    shop.patch("/products/apple", json!({ "price": 79 })).await.is(200);
    let mut tags = shop.look(&SHOWING).await;
    for round in 0..3 {
        let now = tag(&shop, "/products/apple").await;
        for condition in [&*was, &*now, "\"nonsense\"", "*"] {
            write(&shop).header("if-match", condition).await.repeats(&first);
            refused(&shop).header("if-match", condition).await.repeats(&no);
        }
        write(&shop).await.repeats(&first);
        assert_eq!(shop.look(&SHOWING).await, tags, "round {round}");
        // Once with its checkpoints, and once without: then all comes from the logs.
        let forget = round == 1;
        shop = shop
            .reopen(move |folder| {
                if forget {
                    std::fs::remove_dir_all(folder.join("hosts")).unwrap();
                }
            })
            .await;
        tags = tags.into_iter().collect();
    }
    shop.close().await;
}

#[tokio::test]
async fn a_repartitioning_takes_versions_along() {
    let shop = TestShop::open_with(2).await;
    market(&shop).await;
    let before = shop.look(&SHOWING).await;
    tool(&shop, "repartition --to 3").await.exits(0);
    assert_eq!(shop.look(&SHOWING).await, before);
    for path in SHOWING {
        let tag = tag(&shop, path).await;
        shop.get(path).header("if-none-match", tag).await.is(304);
    }
    let (was, _) = sight(&shop, "/products/apple").await;
    let write = || shop.patch("/products/apple", json!({ "price": 77 })).header("if-match", &*was);
    write().await.is(200);
    write().await.refused(412, "precondition_failed");
    tool(&shop, "audit").await.exits(0);
    shop.close().await;
}
