//! Every row of the table of errors.

use std::sync::Arc;

use futures::future::pending;
use hyper::Method;
use serde_json::{Value, json};
use shop_bridge_http::{Observed, limits::Limits};
use shop_domain::kind::Kind;
use shop_metrics::Observable;
use shop_nats::connection::{Connection, access::Access};
use tokio::net::TcpListener;

use crate::shop::{Answer, Customer, TestShop, eventually, raw};

/// All that every problem has to have, beyond its code and status.
#[track_caller]
fn problem(answer: Answer, status: u16, code: &str) -> Answer {
    let answer = answer.refused(status, code);
    for member in ["title", "detail"] {
        assert!(answer.body[member].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    }
    answer.has("/retryable", status == 503)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_with_a_problem() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 2).await;
    shop.wallet("alice", 5000).await;
    shop.order("sent", "alice", "apple", 1).await;
    shop.ask(Method::POST, "/deliveries/sent/dispatch").await.is(200);
    let order = |quantity: u64, price: u64| json!({ "user": "alice", "product": "apple", "quantity": quantity, "unit_price": price });
    for (ask, status, code) in [
        (shop.post("/wallets", json!({ "balance": -1 })), 422, "invalid"),
        (shop.ask(Method::POST, "/wallets").body("{"), 400, "malformed"),
        (shop.get("/products?colour=red"), 400, "malformed"),
        (shop.get("/products?limit=0"), 422, "invalid"),
        (shop.get("/products/pear"), 404, "not_found"),
        (shop.get("/wallets/bob"), 404, "not_found"),
        (shop.get("/wallets/bob/statement"), 404, "not_found"),
        (shop.get("/orders/o-9"), 404, "not_found"),
        (shop.get("/deliveries/o-9"), 404, "not_found"),
        (shop.post("/products", json!({ "id": "apple", "name": "x", "price": 1, "stock": 1 })), 409, "already_exists"),
        (shop.post("/wallets", json!({ "id": "alice" })), 409, "already_exists"),
        (shop.post("/orders", order(2, 9000)), 409, "insufficient_balance"),
        (shop.post("/orders", order(3, 1000)), 409, "out_of_stock"),
        (shop.post("/orders", order(1, 900)), 409, "price_changed"),
        (shop.post("/orders/sent/cancel", json!({})), 409, "not_cancellable"),
        (shop.ask(Method::POST, "/deliveries/sent/dispatch"), 409, "not_dispatchable"),
        (
            shop.post("/orders", json!({ "id": "sent", "user": "bob", "product": "apple", "quantity": 1 })),
            409,
            "idempotency_key_reused",
        ),
        (shop.ask(Method::POST, "/wallets").body(" ".repeat(65_537)), 413, "payload_too_large"),
        (
            shop.ask(Method::POST, "/wallets").body("{}").header("content-type", "text/plain"),
            415,
            "unsupported_media_type",
        ),
    ] {
        problem(ask.await, status, code);
    }
    let page = shop.get("/mypages/bob").await.is(200).has("/user", "bob").has("/items", json!([]));
    page.has("/next", Value::Null);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_methods_and_media_types_are_checked() {
    let shop = TestShop::open().await;
    for path in ["//", "/nothing", "/products/", "/products/a/b", "/Products", "/orders", "/wallets/"] {
        let method = if path == "/orders" { Method::GET } else { Method::POST };
        let answer = shop.ask(method, path).await;
        let (status, code) = if path == "/orders" { (405, "method_not_allowed") } else { (404, "not_found") };
        problem(answer, status, code);
    }
    for (method, path, allow) in [
        (Method::PUT, "/products", "POST, GET, HEAD, OPTIONS"),
        (Method::DELETE, "/products/apple", "GET, HEAD, PATCH, OPTIONS"),
        (Method::PATCH, "/orders/o-1", "GET, HEAD, DELETE, OPTIONS"),
        (Method::GET, "/wallets/alice/top-up", "POST, OPTIONS"),
        (Method::GET, "/orders/o-1/cancel", "POST, OPTIONS"),
        (Method::POST, "/mypages/alice", "GET, HEAD, OPTIONS"),
        (Method::POST, "/healthz", "GET, HEAD, OPTIONS"),
    ] {
        problem(shop.ask(method, path).await, 405, "method_not_allowed").with("allow", allow);
    }

    // Bodies that are too large, said in advance or not, and those that just fit.
    let large = format!("{{\"id\":\"a\"{}}}", " ".repeat(65_536));
    problem(shop.ask(Method::POST, "/wallets").body(large).await, 413, "payload_too_large");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let chunked = format!(
        "POST /wallets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
    );
    let answer = raw(&shop.address, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("payload_too_large"), "{answer}");
    let fitting = format!("{{\"id\":\"fits\"{}}}", " ".repeat(65_536 - 13));
    assert_eq!(fitting.len(), 65_536);
    shop.ask(Method::POST, "/wallets").body(fitting).await.is(201);
    shop.get("/wallets/a").await.refused(404, "not_found");

    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/msgpack", "multipart/form-data"]
    {
        let ask = shop.ask(Method::POST, "/wallets").body(r#"{"id":"a"}"#).header("content-type", media_type);
        problem(ask.await, 415, "unsupported_media_type");
    }
    shop.get("/wallets/a").await.refused(404, "not_found");
    for (id, media_type) in [("a", "application/json; charset=utf-8"), ("b", "application/vnd.shop+json")] {
        let ask = shop.ask(Method::POST, "/wallets").body(json!({ "id": id }).to_string());
        ask.header("content-type", media_type).await.is(201);
    }
    shop.ask(Method::POST, "/wallets").body(r#"{"id":"c"}"#).await.is(201);

    // HEAD is GET without the body, and the pages of the bridge's own are there.
    let head = shop.ask(Method::HEAD, "/wallets/a").await.is(200);
    assert!(head.bytes.is_empty(), "{head}");
    shop.get("/healthz").await.is(200);
    assert_eq!(shop.get("/readyz").await.is(200).body, json!({ "status": "ready" }));
    let readiness = shop.readiness().await;
    for kind in Kind::ALL {
        assert_eq!(readiness["bridge"]["kinds"][kind.as_str()], "ready", "{readiness}");
    }
    let metrics = shop.metrics().await;
    let counted = r#"shop_http_requests_total{method="POST",route="/wallets",status="201"} 4"#;
    assert!(metrics.contains(counted), "{metrics}");
    shop.get("/openapi.json").await.is(200).has("/openapi", "3.1.0");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_may_be_down_while_the_others_answer() {
    let mut shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    let reads = [
        (Kind::Product, "/products"),
        (Kind::Product, "/products/apple"),
        (Kind::Wallet, "/wallets/alice"),
        (Kind::Wallet, "/wallets/alice/statement"),
        (Kind::Order, "/orders/o-1"),
        (Kind::Delivery, "/deliveries/o-1"),
        (Kind::Mypage, "/mypages/alice"),
    ];
    let writes = [
        (Kind::Product, "/products/apple/restock", json!({ "quantity": 1 })),
        (Kind::Product, "/products", json!({ "name": "x", "price": 1, "stock": 1 })),
        (Kind::Wallet, "/wallets/alice/top-up", json!({ "amount": 1 })),
        (Kind::Order, "/orders", json!({ "user": "alice", "product": "apple", "quantity": 1, "unit_price": 1000 })),
        (Kind::Order, "/orders/o-1/cancel", json!({})),
        (Kind::Delivery, "/deliveries/o-1/dispatch", json!({})),
    ];
    for stopped in Kind::ALL {
        shop.shop.stop_kind(stopped).await.unwrap();
        for (kind, path) in reads {
            let answer = shop.get(path).prefer("wait=1").await;
            if kind == stopped { retry_after(problem(answer, 503, "unavailable")) } else { drop(answer.is(200)) }
        }
        for (_, path, body) in writes.iter().filter(|(kind, _, _)| *kind == stopped) {
            retry_after(problem(shop.post(*path, body.clone()).prefer("wait=0").await, 503, "unavailable"));
        }
        assert_eq!(shop.get("/readyz").await.is(200).body, json!({ "status": "ready" }));
        let bridge = &shop.readiness().await["bridge"];
        assert_eq!(
            (&bridge["status"], &bridge["kinds"][stopped.as_str()]),
            (&json!("degraded"), &json!("unavailable"))
        );
        shop.shop.start_kind(stopped).await.unwrap();
    }
    // Nothing of what was refused has happened.
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (49_000, 99));
    assert_eq!(shop.delivery_status("o-1").await, "SCHEDULED");

    // Without the products nobody can be asked for a price; without page and deliveries all is taken.
    shop.shop.stop_kind(Kind::Product).await.unwrap();
    let unpriced = json!({ "id": "o-2", "user": "alice", "product": "apple", "quantity": 1 });
    retry_after(problem(shop.post("/orders", unpriced.clone()).prefer("wait=1").await, 503, "unavailable"));
    shop.get("/orders/o-2").await.refused(404, "not_found");
    shop.shop.start_kind(Kind::Product).await.unwrap();
    shop.shop.stop_kind(Kind::Delivery).await.unwrap();
    shop.shop.stop_kind(Kind::Mypage).await.unwrap();
    shop.post("/orders", unpriced).await.is(201).has("/status", "CONFIRMED");
    shop.shop.start_kind(Kind::Delivery).await.unwrap();
    shop.shop.start_kind(Kind::Mypage).await.unwrap();
    assert_eq!(shop.delivery_status("o-2").await, "SCHEDULED");
    assert_eq!(shop.on_page("alice", "o-2").await["delivery_status"], "SCHEDULED");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_the_log_has_taken_is_never_a_server_error() {
    let mut shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    shop.shop.stop_kind(Kind::Wallet).await.unwrap();
    let order = |id: &str| {
        let order = json!({ "id": id, "user": "alice", "product": "apple", "quantity": 1 });
        shop.post("/orders", order)
    };
    // As long as it was asked to wait, or else five seconds.
    let (short, default) = (order("o-1").prefer("wait=1"), order("o-2"));
    let (first, second) = tokio::join!(short.clone().into_future(), default.into_future());
    for (taken, id, seconds) in [(first, "o-1", 1), (second, "o-2", 5)] {
        let taken = taken.is(202).with("location", &format!("/orders/{id}")).has("/id", id).has("/status", "PENDING");
        let taken = taken.with("preference-applied", &format!("wait={seconds}"));
        assert!((seconds..seconds + 2).contains(&taken.took.as_secs()), "after {:?}: {taken}", taken.took);
    }
    short.await.is(202);
    let orders = [order("o-1"), order("o-2")];
    shop.shop.start_kind(Kind::Wallet).await.unwrap();
    for order in orders {
        order.await.is(201).has("/status", "CONFIRMED");
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (48_000, 98));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_holds_no_more_requests_says_so() {
    let mut shop = TestShop::open().await;
    shop.wallet("alice", 1).await;
    let connection = Connection::connect(&Access::to(shop.shop.nats_url()), "small-bridge").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let small = Customer::of(&listener.local_addr().unwrap().to_string());
    let limits = Limits { in_flight_max: 1, ..Limits::default() };
    let config = shop_bridge_http::Config { limits, ..Default::default() };
    let observed = Observed::new();
    let serving = shop_bridge_http::run_observed(config, Arc::clone(&observed), connection, listener, pending());
    let bridge = tokio::spawn(serving);
    small.get("/wallets/alice").await.is(200);

    // One request that waits for a process takes the only place.
    shop.shop.stop_kind(Kind::Delivery).await.unwrap();
    let waiting = tokio::spawn(small.get("/deliveries/o-1").prefer("wait=3").into_future());
    let metrics = async || format!("{:?}", observed.numbers().await);
    let is_taken = |metrics: &String| metrics.contains(r"shop_http_requests_in_flight 1\n");
    eventually("the request that waits", metrics, is_taken).await;
    retry_after(problem(small.get("/wallets/alice").await, 503, "overloaded"));
    let counted = format!("{:?}", observed.numbers().await);
    assert!(counted.contains(r#"shop_http_limit_reached_total{limit=\"in_flight\"} 1\n"#), "{counted}");
    small.get("/healthz").await.is(200);
    waiting.await.unwrap().is(503);
    small.get("/wallets/alice").await.is(200);
    bridge.abort();
    shop.close().await;
}

#[track_caller]
fn retry_after(answer: Answer) {
    let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(seconds.is_some(), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_found_is_named_with_its_kind_and_quoted_in_the_sentence() {
    let shop = TestShop::open().await;
    for (ask, kind, id) in [
        (shop.get("/products/pear"), "product", "pear"),
        (shop.patch("/products/pear", json!({})), "product", "pear"),
        (shop.post("/products/pear/restock", json!({ "quantity": 1 })), "product", "pear"),
        (shop.get("/wallets/bob"), "wallet", "bob"),
        (shop.get("/wallets/bob/statement"), "wallet", "bob"),
        (shop.post("/wallets/bob/top-up", json!({ "amount": 1 })), "wallet", "bob"),
        (shop.get("/orders/o-9"), "order", "o-9"),
        (shop.post("/orders/o-9/cancel", json!({})), "order", "o-9"),
        (shop.get("/deliveries/o-9"), "delivery", "o-9"),
        (shop.ask(Method::POST, "/deliveries/o-9/dispatch"), "delivery", "o-9"),
        (shop.post("/orders", json!({ "user": "bob", "product": "pear", "quantity": 1 })), "product", "pear"),
    ] {
        let problem = problem(ask.await, 404, "not_found").has("/kind", kind).has("/id", id);
        problem.has("/detail", format!("there is no {kind} \"{id}\""));
    }
    // What is said stays short, and shows what could not be seen.
    let long = shop.get(format!("/{}", "x".repeat(5_000))).await.refused(404, "not_found");
    assert!(long.text("/detail").len() < 100, "{long}");
    let hidden = shop.get("/wallets/a%E2%80%8Bb").await.invalid(&["/id"]);
    assert!(hidden.text("/detail").ends_with("not U+200B"), "{hidden}");
    shop.close().await;
}
