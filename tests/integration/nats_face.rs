//! The NATS face: the same shop for whoever speaks NATS, and what happens to bytes in its logs
//! that no shop has written.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Message, jetstream};
use futures::{StreamExt, stream};
use hyper::Method;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_local::nats_server::NatsServer;
use shop_nats::{
    connection::{Connection, access::Access},
    rpc::{
        discovery::{Server, Stats},
        service::{Incoming, Listener, Response},
    },
    subject::origin_of_dead,
};
use shop_tests::{
    folder::Folder,
    proxy::{Line, Proxy},
    wait::until,
};
use tokio_util::sync::CancellationToken;

use crate::shop::{TestShop, eventually};

/// How a caller writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    Json,
    Msgpack,
}

impl Format {
    pub(crate) fn write(self, value: &Value) -> Vec<u8> {
        match self {
            Self::Json => value.to_string().into_bytes(),
            Self::Msgpack => rmp_serde::to_vec_named(value).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn read(self, message: &Message) -> Value {
        let bytes = &message.payload;
        match self {
            Self::Json => serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {message:?}")),
            Self::Msgpack => {
                assert_ne!(bytes[0], b'{', "should be MessagePack: {message:?}");
                rmp_serde::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {message:?}"))
            }
        }
    }
}

async fn client(shop: &TestShop) -> Client {
    async_nats::connect(shop.shop.nats_url()).await.unwrap()
}

async fn ask(nats: &Client, subject: &str, body: impl Into<bytes::Bytes>, headers: &[(&str, &str)]) -> Message {
    let headers: HeaderMap = headers.iter().map(|(name, value)| (name.parse().unwrap(), (*value).into())).collect();
    let request = nats.request_with_headers(subject.to_owned(), headers, body.into());
    request.await.unwrap_or_else(|error| panic!("{subject}: {error}"))
}

fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

/// A problem, with its code and status in the headers and in the body.
#[track_caller]
fn refused(message: &Message, format: Format, status: u16, code: &str) -> Value {
    let problem = format.read(message);
    assert_eq!(header(message, "Nats-Service-Error-Code"), Some(&*status.to_string()), "{problem}");
    assert_eq!(header(message, "Nats-Service-Error"), Some(code), "{problem}");
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{problem}");
    assert_eq!(problem["retryable"], json!(status == 503), "{problem}");
    problem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_answers_in_the_format_in_which_it_is_asked() {
    let shop = TestShop::open_with(2).await;
    let nats = client(&shop).await;
    for format in [Format::Json, Format::Msgpack] {
        let [apple, alice, order, other] =
            ["apple", "alice", "o-1", "o-2"].map(|id| format!("{id}-{}", u8::from(format == Format::Json)));
        let place = json!({ "user": alice, "product": apple, "quantity": 10 });
        let agreed = json!({ "user": alice, "lines": [{ "product": apple, "quantity": 1, "unit_price": 1100 }] });
        for (subject, body, pointer, value) in [
            (
                format!("shop.product.{apple}.create"),
                json!({ "name": "apple", "price": 1000, "stock": 1000 }),
                "/stock",
                json!(1000),
            ),
            (format!("shop.product.{apple}.restock"), json!({ "quantity": 5 }), "/stock", json!(1005)),
            (format!("shop.product.{apple}.change"), json!({ "name": "🍎" }), "/name", json!("🍎")),
            (format!("shop.product.{apple}.get"), json!({}), "/price", json!(1000)),
            (format!("shop.wallet.{alice}.open"), json!({ "balance": 999_999 }), "/balance", json!(999_999)),
            (format!("shop.wallet.{alice}.top-up"), json!({ "amount": "1" }), "/balance", json!(1_000_000)),
            (format!("shop.order.{order}.place"), place, "/status", json!("CONFIRMED")),
            (format!("shop.order.{order}.get"), json!({}), "/lines/0/unit_price", json!(1000)),
            (format!("shop.wallet.{alice}.get"), json!({}), "/balance", json!(990_000)),
            (format!("shop.order.{order}.cancel"), json!({ "reason": "x" }), "/status", json!("CANCELLED")),
            (format!("shop.delivery.{order}.get"), json!({}), "/status", json!("CANCELLED")),
            (format!("shop.wallet.{alice}.statement"), json!({ "limit": 1 }), "/items/0/kind", json!("REFUND")),
            (format!("shop.product.{apple}.change"), json!({ "price": 1100 }), "/price", json!(1100)),
            (format!("shop.order.{other}.place"), agreed, "/amount", json!(1100)),
            (format!("shop.delivery.{other}.dispatch"), json!({}), "/status", json!("DISPATCHED")),
            (format!("shop.delivery.{other}.deliver"), json!({}), "/status", json!("DELIVERED")),
            (format!("shop.mypage.{alice}.get"), json!({ "limit": 2 }), "/items/0/delivery_status", json!("DELIVERED")),
            ("shop.product.list".to_owned(), json!({ "limit": 1000 }), "/next", Value::Null),
        ] {
            let message = ask(&nats, &subject, format.write(&body), &[]).await;
            let answer = format.read(&message);
            assert_eq!(answer.pointer(pointer), Some(&value), "{subject} {body}: {answer}");
            assert_eq!(header(&message, "Nats-Service-Error"), None, "{subject}");
        }
        // It is the same shop, with the same JSON.
        for (subject, path) in [
            (format!("shop.product.{apple}.get"), format!("/products/{apple}")),
            (format!("shop.wallet.{alice}.get"), format!("/wallets/{alice}")),
            (format!("shop.wallet.{alice}.statement"), format!("/wallets/{alice}/statement")),
            (format!("shop.order.{order}.get"), format!("/orders/{order}")),
            (format!("shop.delivery.{order}.get"), format!("/deliveries/{order}")),
            (format!("shop.mypage.{alice}.get"), format!("/mypages/{alice}")),
        ] {
            let over_http = shop.get(path).await.is(200);
            let message = ask(&nats, &subject, format.write(&json!({})), &[]).await;
            assert_eq!(format.read(&message), over_http.body, "{subject}");
            for nothing in ["", " ", "\n{}"] {
                assert_eq!(ask(&nats, &subject, nothing, &[]).await.payload, over_http.bytes, "{subject}");
            }
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_so_in_its_headers_and_changes_nothing() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("alice", 5000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    let paths = ["/products", "/wallets/alice", "/wallets/alice/statement", "/orders/o-1", "/deliveries/o-1"];
    let before = shop.look(&paths).await;
    let place = |quantity: u64| json!({ "user": "alice", "product": "apple", "quantity": quantity });
    for format in [Format::Json, Format::Msgpack] {
        for (subject, body, status, code) in [
            ("shop.product.apple.create", json!({ "name": "x", "price": 1, "stock": 1 }), 409, "already_exists"),
            ("shop.wallet.bob.get", json!({}), 404, "not_found"),
            ("shop.order.o-2.place", place(5), 409, "insufficient_balance"),
            ("shop.order.o-3.place", place(11), 409, "out_of_stock"),
            ("shop.order.o-1.place", place(2), 409, "idempotency_key_reused"),
            ("shop.delivery.o-1.deliver", json!({}), 409, "not_deliverable"),
            ("shop.wallet.alice.top-up", json!({ "amount": -1 }), 422, "invalid"),
            ("shop.wallet.alice.top-up", json!({ "amount": 1.5 }), 422, "invalid"),
            ("shop.wallet.alice.top-up", json!({}), 422, "invalid"),
            ("shop.wallet.alice.top-up", json!({ "amount": 1, "colour": "red" }), 422, "invalid"),
            ("shop.wallet.alice.open", json!({ "id": "bob" }), 422, "invalid"),
            ("shop.product.list", json!({ "limit": 0 }), 422, "invalid"),
            ("shop.product.list", json!({ "limit": 1001 }), 422, "invalid"),
            ("shop.wallet.alice.statement", json!({ "before": "x" }), 422, "invalid"),
            ("shop.mypage.alice.get", json!({ "before": "7" }), 422, "invalid"),
            ("shop.wallet.alice.dance", json!({}), 404, "not_found"),
            ("shop.wallet.alice.place", json!({}), 404, "not_found"),
            ("shop.wallet.alice.TOP-UP", json!({ "amount": 1 }), 404, "not_found"),
            ("shop.wallet.list", json!({}), 404, "not_found"),
            ("shop.wallet.a.b.get", json!({}), 422, "invalid"),
            ("shop.wallet.a!b.get", json!({}), 422, "invalid"),
            ("shop.wallet.🍎.get", json!({}), 422, "invalid"),
            (
                "shop.wallet.x2345678901234567890123456789012345678901234567890123456789012345.get",
                json!({}),
                422,
                "invalid",
            ),
        ] {
            refused(&ask(&nats, subject, format.write(&body), &[]).await, format, status, code);
        }
        let message = ask(&nats, "shop.order.o-4.place", format.write(&place(5)), &[]).await;
        let problem = refused(&message, format, 409, "insufficient_balance");
        assert_eq!(
            (&problem["balance"], &problem["needed"], &problem["order"]),
            (&json!(4000), &json!(5000), &json!("o-4"))
        );
    }
    for body in [&b"{"[..], b"nonsense", b"\xc1", b"\xff\x00", b"{\"amount\":1}x"] {
        let message = ask(&nats, "shop.wallet.alice.top-up", body.to_vec(), &[]).await;
        let problem = refused(&message, Format::Json, 400, "malformed");
        assert!(problem["line"].is_u64() && problem["column"].is_u64(), "{problem}");
    }
    for body in [&b"\x81\xa6amount"[..], b"\x81\xa6amount\x01\x01", b"\x80\x80", b"\xdf\xff\xff\xff\xff"] {
        let message = ask(&nats, "shop.wallet.alice.top-up", body.to_vec(), &[]).await;
        let problem = refused(&message, Format::Msgpack, 400, "malformed");
        assert!(problem["offset"].is_u64(), "{problem}");
    }
    let large = ask(&nats, "shop.wallet.alice.top-up", " ".repeat(65_537), &[]).await;
    refused(&large, Format::Json, 413, "payload_too_large");
    assert_eq!(shop.look(&paths).await, before);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_preferences_and_traces_are_headers_as_in_http() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.wallet("alice", 0).await;
    let top_up = async |amount: u64, headers: &[(&str, &str)]| {
        ask(&nats, "shop.wallet.alice.top-up", json!({ "amount": amount }).to_string(), headers).await
    };
    let key = ("Idempotency-Key", "k-1");
    let first = top_up(5, &[key]).await;
    assert_eq!(header(&first, "Idempotency-Replayed"), None);
    let again = top_up(5, &[key]).await;
    assert_eq!((&again.payload, header(&again, "Idempotency-Replayed")), (&first.payload, Some("true")));
    refused(&top_up(6, &[key]).await, Format::Json, 409, "idempotency_key_reused");
    refused(&top_up(6, &[("Idempotency-Key", "k 1")]).await, Format::Json, 422, "invalid");
    // The key that HTTP knows is the key that NATS knows.
    let over_http = shop.post("/wallets/alice/top-up", json!({ "amount": 5 })).key("k-1").await.is(200);
    assert_eq!(over_http.with("idempotency-replayed", "true").bytes, first.payload);
    assert_eq!(shop.balance("alice").await, 5);

    let accepted = top_up(7, &[("Prefer", "respond-async"), ("Idempotency-Key", "k-2")]).await;
    assert_eq!(header(&accepted, "Preference-Applied"), Some("respond-async"));
    eventually("the top-up", || shop.balance("alice"), |balance| *balance == 12).await;
    assert_eq!(header(&top_up(7, &[("Idempotency-Key", "k-2")]).await, "Idempotency-Replayed"), Some("true"));

    let trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    shop.product("apple", 1, 10).await;
    let order = json!({ "user": "alice", "product": "apple", "quantity": 1 }).to_string();
    for message in [
        top_up(1, &[trace]).await,
        top_up(1, &[trace, ("Prefer", "respond-async")]).await,
        ask(&nats, "shop.order.o-1.place", order, &[trace]).await,
        ask(&nats, "shop.order.o-1.cancel", "", &[trace]).await,
        ask(&nats, "shop.wallet.alice.get", "", &[trace]).await,
        ask(&nats, "shop.wallet.nobody.get", "", &[trace]).await,
        ask(&nats, "shop.wallet.alice.top-up", "{", &[trace]).await,
    ] {
        assert_eq!(header(&message, "traceparent"), Some(trace.1), "{message:?}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_nine_hundred_callers_of_one_order_is_told_the_outcome_or_that_many_wait() {
    let mut shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.product("apple", 1, 10).await;
    shop.wallet("alice", 10).await;
    shop.shop.stop_kind(Kind::Wallet).await.unwrap();
    let line = json!({ "product": "apple", "quantity": 1, "unit_price": 1 });
    let place = json!({ "user": "alice", "lines": [line] }).to_string();
    ask(&nats, "shop.order.o-1.place", place.clone(), &[("Prefer", "respond-async")]).await;
    let callers = (0..900).map(|number| {
        let (verb, body) = if number % 3 == 0 { ("place", place.clone()) } else { ("cancel", String::new()) };
        let nats = &nats;
        async move { (verb, ask(nats, &format!("shop.order.o-1.{verb}"), body, &[]).await) }
    });
    let all = futures::future::join_all(callers);
    let back = async {
        // Until then nobody can be told the outcome.
        let is_asked = async || shop.order_status("o-1").await == "CANCELLING";
        until("the cancel", async || is_asked().await.then_some(())).await;
        shop.shop.start_kind(Kind::Wallet).await.unwrap();
    };
    let (answers, ()) = tokio::join!(all, back);
    let mut told = std::collections::BTreeMap::new();
    for (verb, message) in &answers {
        let answer = Format::Json.read(message);
        let word = answer.get("code").unwrap_or(&answer["status"]).as_str().unwrap().to_owned();
        *told.entry((*verb, word)).or_insert(0) += 1;
    }
    assert_eq!(told.values().sum::<i32>(), 900, "{told:?}");
    assert!(told.keys().all(|(_, word)| word == "CANCELLED" || word == "overloaded"), "{told:?}");
    assert!(told[&("place", "CANCELLED".to_owned())] >= 255, "{told:?}");
    assert!(told[&("cancel", "CANCELLED".to_owned())] >= 256, "{told:?}");
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (10, 10));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_wait_is_told_at_once_what_is_known_also_over_nats() {
    let shop = TestShop::open_with(2).await;
    let nats = client(&shop).await;
    shop.product("apple", 1, 10).await;
    shop.wallet("alice", 10).await;
    shop.order("sent", "alice", "apple", 1).await;
    shop.ask(Method::POST, "/deliveries/sent/dispatch").await.is(200);
    let place = |quantity: u64| json!({ "user": "alice", "product": "apple", "quantity": quantity });
    let hurry = [("Prefer", "respond-async")];
    for format in [Format::Json, Format::Msgpack] {
        let order = format!("o-{format:?}");
        let first = ask(&nats, &format!("shop.order.{order}.place"), format.write(&place(1)), &[]).await;
        let again = ask(&nats, &format!("shop.order.{order}.place"), format.write(&place(1)), &hurry).await;
        assert_eq!((&again.payload, header(&again, "Idempotency-Replayed")), (&first.payload, Some("true")));
        assert_eq!(header(&again, "Preference-Applied"), None);
        for (subject, body, status, code) in [
            (format!("shop.order.{order}.place"), place(2), 409, "idempotency_key_reused"),
            ("shop.order.none.cancel".into(), json!({}), 404, "not_found"),
            ("shop.order.sent.cancel".into(), json!({}), 409, "not_cancellable"),
            ("shop.wallet.none.top-up".into(), json!({ "amount": 1 }), 404, "not_found"),
            ("shop.product.apple.create".into(), json!({ "name": "x", "price": 1, "stock": 1 }), 409, "already_exists"),
            (format!("shop.delivery.{order}.deliver"), json!({}), 409, "not_deliverable"),
        ] {
            refused(&ask(&nats, &subject, format.write(&body), &hurry).await, format, status, code);
        }
        let fresh = ask(&nats, &format!("shop.order.{order}-2.place"), format.write(&place(1)), &hurry).await;
        assert_eq!(header(&fresh, "Preference-Applied"), Some("respond-async"));
        assert_eq!(format.read(&fresh), json!({ "id": format!("{order}-2"), "status": "PENDING" }));
        let cancel = ask(&nats, &format!("shop.order.{order}.cancel"), format.write(&json!({})), &hurry).await;
        assert_eq!(format.read(&cancel), json!({ "id": order, "status": "CANCELLING" }));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_published_is_done_as_well() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    for (subject, body) in [
        ("shop.product.apple.create", r#"{"name":"apple","price":1000,"stock":1000}"#),
        ("shop.wallet.alice.open", r#"{"balance":999999}"#),
        ("shop.wallet.alice.top-up", r#"{"amount":1}"#),
        ("shop.wallet.alice.top-up", r#"{"amount":"#),
        ("shop.wallet.alice.dance", ""),
    ] {
        nats.publish(subject, body.into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    let get = || shop.get("/wallets/alice").into_future();
    eventually("the top-up", get, |answer| answer.body["balance"] == 1_000_000).await;
    nats.publish("shop.order.o-1.place", r#"{"user":"alice","product":"apple","quantity":10}"#.into()).await.unwrap();
    let get = || shop.get("/orders/o-1").into_future();
    eventually("the order", get, |answer| answer.body["status"] == "CONFIRMED").await;
    nats.publish("shop.order.o-1.cancel", "".into()).await.unwrap();
    eventually("the cancel", get, |answer| answer.body["status"] == "CANCELLED").await;
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (1_000_000, 1000));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_found_as_a_nats_service() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.wallet("alice", 1).await;
    shop.get("/wallets/bob").await.refused(404, "not_found");
    let names: BTreeSet<String> = Kind::ALL.iter().map(|kind| format!("shop-{kind}")).collect();
    for (verb, kind_of_answer) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let answers = gather(&nats, &format!("$SRV.{verb}"), 5).await;
        let found: BTreeSet<String> =
            answers.iter().map(|answer| answer["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, names);
        for answer in &answers {
            assert_eq!(answer["type"], format!("io.nats.micro.v1.{kind_of_answer}_response"), "{answer}");
            assert!(answer["id"].is_string() && answer["version"].is_string(), "{answer}");
            let (name, id) = (answer["name"].as_str().unwrap(), answer["id"].as_str().unwrap());
            for subject in [format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{id}")] {
                assert_eq!(gather(&nats, &subject, 1).await[0]["id"], id);
            }
        }
    }
    let wallet = &gather(&nats, "$SRV.STATS.shop-wallet", 1).await[0]["endpoints"][0];
    assert_eq!(wallet["subject"], "shop.wallet.>", "{wallet}");
    assert!(wallet["num_requests"].as_u64() >= Some(2) && wallet["num_errors"] == 1, "{wallet}");
    shop.close().await;
}

/// The first so many answers to a question that goes to all.
async fn gather(nats: &Client, subject: &str, count: usize) -> Vec<Value> {
    let inbox = nats.new_inbox();
    let answers = nats.subscribe(inbox.clone()).await.unwrap();
    nats.publish_with_reply(subject.to_owned(), inbox, "".into()).await.unwrap();
    let answers = answers.take(count).map(|message| Format::Json.read(&message)).collect();
    tokio::time::timeout(Duration::from_secs(10), answers).await.unwrap_or_else(|_| panic!("too few answer {subject}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_a_log_that_are_no_frame_are_put_aside_with_the_reason_and_everything_goes_on() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    let log = jetstream::new(nats.clone());
    // A frame as the shop has written it, to be bent out of shape.
    let wallets = log.get_stream("SHOP_WALLET").await.unwrap();
    let frame = wallets.get_raw_message(1).await.unwrap().payload.to_vec();
    let unmapped = [&[1][..], &rmp_serde::to_vec_named(&json!({ "hello": "world" })).unwrap()].concat();
    let garbage = [
        (vec![], "no bytes"),
        (b"hello".to_vec(), "version"),
        (frame[..frame.len() - 1].to_vec(), "not a frame"),
        (frame[..1].to_vec(), "not a frame"),
        (unmapped, "not a frame"),
        ([&[2][..], &frame[1..]].concat(), "version 2"),
        (frame[1..].to_vec(), "version"),
    ];
    let mut buried = 0;
    for kind in Kind::ALL {
        for (bytes, reason) in &garbage {
            let subject = format!("shop.log.{kind}.0");
            let sequence = log.publish(subject, bytes.clone().into()).await.unwrap().await.unwrap().sequence;
            buried += 1;
            let dead = dead_letter(&log, buried).await;
            assert_eq!(&*dead.payload, &**bytes, "{kind}: {reason}");
            assert_eq!(
                origin_of_dead(&dead.subject).map(|(kind, _, sequence)| (kind, sequence)),
                Some((kind, sequence))
            );
            let header = |name: &str| dead.headers.get(name).unwrap().to_string();
            assert!(header("Shop-Dead-Reason").contains(reason), "{reason}: {}", header("Shop-Dead-Reason"));
            assert_eq!(header("Shop-Dead-Origin"), format!("{kind}/{sequence}"));
        }
        // A frame for somebody else.
        if kind != Kind::Wallet {
            log.publish(format!("shop.log.{kind}.0"), frame.clone().into()).await.unwrap().await.unwrap();
            buried += 1;
            let reason = dead_letter(&log, buried).await.headers.get("Shop-Dead-Reason").unwrap().to_string();
            assert_eq!(reason, format!("a message to a wallet in the log of {kind}"));
        }
        shop.order(&format!("after-{kind}"), "alice", "apple", 1).await;
    }
    // A frame that was in the log before is known, and does nothing a second time.
    log.publish("shop.log.wallet.0", frame.into()).await.unwrap().await.unwrap();
    shop.order("last", "alice", "apple", 1).await;
    let paths = ["/wallets/alice", "/wallets/alice/statement", "/products", "/mypages/alice", "/deliveries/last"];
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (44_000, 94));

    // Reading it all once more puts nothing aside twice, and comes to the same.
    let before = shop.look(&paths).await;
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.look(&paths).await, before);
    shop.order("again", "alice", "apple", 1).await;
    let log = jetstream::new(client(&shop).await);
    let kept = log.get_stream("SHOP_DEAD").await.unwrap().cached_info().state.messages;
    assert_eq!(kept, buried, "dead letters");
    shop.close().await;
}

async fn dead_letter(log: &jetstream::Context, number: u64) -> jetstream::message::StreamMessage {
    let look = || async {
        let stream = log.get_stream("SHOP_DEAD").await.unwrap();
        stream.get_raw_message(number).await.ok()
    };
    eventually(&format!("dead letter {number}"), look, Option::is_some).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_for_a_partition_that_does_not_exist_stop_nobody() {
    let shop = TestShop::open_with(2).await;
    let nats = client(&shop).await;
    let log = jetstream::new(nats);
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    for (number, partition) in ["2", "7", "65535"].iter().enumerate() {
        for kind in Kind::ALL {
            let subject = format!("shop.log.{kind}.{partition}");
            let refused = log.publish(subject, "hello".into()).await.unwrap().await.unwrap_err();
            assert_eq!(refused.kind(), jetstream::context::PublishErrorKind::StreamNotFound, "no log takes it");
        }
        shop.order(&format!("o-{number}"), "alice", "apple", 1).await;
    }
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    shop.order("after", "alice", "apple", 1).await;
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (46_000, 96));
    shop.close().await;
}

/// What the shop would never write, though it can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_with_numbers_that_nobody_counts_to_stops_nobody() {
    let shop = TestShop::open().await;
    let log = jetstream::new(client(&shop).await);
    shop.wallet("alice", 0).await;
    let stream = log.get_stream("SHOP_WALLET").await.unwrap();
    let bytes = stream.get_raw_message(1).await.unwrap().payload;
    let frame: Value = rmp_serde::from_slice(&bytes[1..]).unwrap();
    let publish = async |change: &dyn Fn(&mut Value)| {
        let mut frame = frame.clone();
        change(&mut frame);
        let bytes = [&[1][..], &rmp_serde::to_vec_named(&frame).unwrap()].concat();
        log.publish("shop.log.wallet.0", bytes.into()).await.unwrap().await.unwrap();
    };
    let changes: [&dyn Fn(&mut Value); 5] = [
        &|frame| frame["messages"] = json!([]),
        &|frame| (frame["first"], frame["messages"]) = (json!(u64::MAX), json!([])),
        &|frame| frame["first"] = json!(u64::MAX),
        &|frame| {
            let message = frame["messages"][0].clone();
            (frame["first"], frame["messages"]) = (json!(u64::MAX), json!([message, message]));
            frame["source"]["epoch"] = json!(7);
        },
        &|frame| frame["first"] = json!(u64::MAX - 1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        publish(change).await;
        let balance = number + 1;
        shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200).has("/balance", balance);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_for_what_is_no_partition_stop_nobody() {
    let shop = TestShop::open().await;
    let log = jetstream::new(client(&shop).await);
    shop.wallet("alice", 0).await;
    for (number, partition) in ["x", "65536", "-1"].into_iter().enumerate() {
        let sent = log.publish(format!("shop.log.wallet.{partition}"), "hello".into()).await.unwrap();
        // A log that does not take it at all is as good.
        let _ = tokio::time::timeout(Duration::from_secs(1), sent.into_future()).await;
        let balance = number + 1;
        shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200).has("/balance", balance);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_counts_however_its_header_is_spelt() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.wallet("alice", 0).await;
    for name in ["Idempotency-Key", "idempotency-key", "IDEMPOTENCY-KEY"] {
        let headers = [(name.parse().unwrap(), "k-1".into())].into_iter().collect::<HeaderMap>();
        let body = r#"{"amount":1}"#.into();
        nats.request_with_headers("shop.wallet.alice.top-up", headers, body).await.unwrap();
    }
    assert_eq!(shop.balance("alice").await, 1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_not_sent_to_where_the_shop_itself_listens() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    shop.wallet("alice", 0).await;
    for inbox in ["shop.log.wallet.0", "shop.wallet.alice.top-up", "$JS.API.STREAM.DELETE.SHOP_WALLET"] {
        nats.publish_with_reply("shop.wallet.alice.top-up", inbox, "no JSON".into()).await.unwrap();
        nats.publish_with_reply("shop.wallet.alice.get", inbox, "".into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200).has("/balance", 1);
    let log = jetstream::new(nats).get_stream("SHOP_WALLET").await.unwrap();
    assert_eq!(log.cached_info().state.messages, 2, "only what was asked for is in the log");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_read_on_though_its_consumers_say_that_they_are_there_and_bring_nothing() {
    let shop = TestShop::open().await;
    shop.product("pear", 100, 10).await;
    shop.wallet("alice", 10_000).await;
    let nats = client(&shop).await;
    let mut paused = 0;
    for kind in Kind::ALL {
        let stream = format!("SHOP_{}", kind.as_str().to_uppercase());
        let consumers = ask(&nats, &format!("$JS.API.CONSUMER.NAMES.{stream}"), "", &[]).await;
        let consumers: Value = serde_json::from_slice(&consumers.payload).unwrap();
        for consumer in consumers["consumers"].as_array().unwrap() {
            let subject = format!("$JS.API.CONSUMER.PAUSE.{stream}.{}", consumer.as_str().unwrap());
            let for_ever = json!({ "pause_until": "2100-01-01T00:00:00Z" }).to_string();
            let answer: Value = serde_json::from_slice(&ask(&nats, &subject, for_ever, &[]).await.payload).unwrap();
            assert_eq!(answer["paused"], true, "{answer}");
            paused += 1;
        }
    }
    assert_eq!(paused, Kind::ALL.len(), "each kind has one reader");
    let order = json!({ "id": "o-1", "user": "alice", "lines": [{ "product": "pear", "quantity": 1 }] });
    let place = || async { shop.post("/orders", order.clone()).await.status };
    eventually("that the order is confirmed", place, |status| *status == 201).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_loses_its_server_just_when_it_begins_to_listen_listens_when_it_has_one_again() {
    let folder = Folder::new();
    let mut server = NatsServer::start(folder.path(), 0).await.unwrap();
    let line = Proxy::to(([127, 0, 0, 1], server.port()).into()).await;
    let connection = Connection::connect(&Access::to(format!("nats://{}", line.address())), "host").await.unwrap();
    line.set(Line::Unanswered);
    let stats = Arc::new(Stats::new(Server { host: "host".to_owned(), snapshots: None, layout: 0 }));
    let listening = async { connection.listen(Kind::Wallet, &stats).await.unwrap() };
    let line_is_noticed_and_mended = async {
        until("that nobody answers is noticed", async || (!connection.is_connected()).then_some(())).await;
        line.set(Line::Good);
    };
    let (mut listener, ()) = tokio::join!(listening, line_is_noticed_and_mended);

    let nats = async_nats::connect(server.url()).await.unwrap();
    nats.publish("shop.wallet.alice.get", "".into()).await.unwrap();
    assert_eq!(listener.next().await.unwrap().target, "alice.get");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_leave_while_they_are_asked_leave_no_request_unanswered() {
    const TIMES: usize = 100;
    const CALLERS: usize = 32;
    const ANSWERS_OF_EACH: usize = 30;
    let folder = Folder::new();
    let mut server = NatsServer::start(folder.path(), 0).await.unwrap();
    let url = server.url();
    let come = async || {
        let connection = Connection::connect(&Access::to(url.clone()), "host").await.unwrap();
        let stats = Arc::new(Stats::new(Server { host: "host".to_owned(), snapshots: None, layout: 0 }));
        let listener = connection.listen(Kind::Wallet, &stats).await.unwrap();
        (connection, listener)
    };
    let serve_and_leave = async |(connection, mut listener): (Connection, Listener), most: usize| {
        let mut answered = 0;
        while let Some(Incoming { body, inbox, .. }) = listener.next().await {
            let response = Response { body, ..Response::default() };
            connection.respond(inbox.unwrap(), response).await;
            answered += 1;
            if answered == most {
                listener.close().await;
            }
        }
        connection.close(Duration::from_secs(10)).await;
        answered
    };
    let staying = serve_and_leave(come().await, usize::MAX);
    let all_left = CancellationToken::new();
    let leaving = async {
        let mut after_they_closed = 0;
        for _ in 0..TIMES {
            after_they_closed += serve_and_leave(come().await, ANSWERS_OF_EACH).await - ANSWERS_OF_EACH;
        }
        all_left.cancel();
        after_they_closed
    };
    let callers = async {
        let nats = async_nats::connect(server.url()).await.unwrap();
        let requests = stream::repeat_with(|| nats.request("shop.wallet.alice.get", "".into()));
        let answers = requests.take_until(all_left.cancelled()).buffer_unordered(CALLERS);
        answers.filter_map(async |answer| answer.err().map(|error| error.to_string())).collect::<Vec<_>>().await
    };
    let (after_they_closed, unanswered) = tokio::select! {
        left_and_asked = async { tokio::join!(leaving, callers) } => left_and_asked,
        _ = staying => unreachable!("one host stays"),
    };
    assert_eq!(unanswered, [""; 0]);
    assert!(after_they_closed > 0, "none was asked any more when it left");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_with_a_ticket_is_done_once_or_voided_and_both_are_told_it_in_either_format() {
    let shop = TestShop::open().await;
    let nats = client(&shop).await;
    for format in [Format::Json, Format::Msgpack] {
        let user = format!("{format:?}");
        shop.wallet(&user, 100).await;
        let (top_up, void) = (format!("shop.wallet.{user}.top-up"), format!("shop.wallet.{user}.void"));
        let (body, nothing) = (format.write(&json!({ "amount": 5 })), format.write(&json!({})));
        let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let ticket = |token: &str| format!("{user}-{token}.{now_ms}.{}", now_ms + 30_000);
        let put_in = async |ticket: &str| ask(&nats, &top_up, body.clone(), &[("Shop-Ticket", ticket)]).await;
        let is_voided = async |ticket: &str| ask(&nats, &void, nothing.clone(), &[("shop-ticket", ticket)]).await;

        let used = ticket("used");
        let first = put_in(&used).await;
        assert_eq!((header(&first, "Shop-Ticket"), &format.read(&first)["balance"]), (Some("kept"), &json!(105)));
        for again in [put_in(&used).await, is_voided(&used).await] {
            assert_eq!((header(&again, "Shop-Ticket"), &again.payload), (Some("kept"), &first.payload));
        }
        let void = ticket("void");
        for answer in [is_voided(&void).await, put_in(&void).await, is_voided(&void).await] {
            let problem = refused(&answer, format, 503, "unavailable");
            assert_eq!((&problem["done"], &problem["retryable"]), (&json!(false), &json!(true)), "{problem}");
            assert_eq!(header(&answer, "Shop-Ticket"), Some("kept"));
        }
        let expired = format!("{user}-expired.{}.{}", now_ms - 10_000, now_ms - 5_000);
        assert_eq!(refused(&put_in(&expired).await, format, 503, "unavailable")["done"], false);
        assert_eq!(shop.balance(&user).await, 105);

        for bad in ["", "x", "a.1", "a.2.1", "a b.1.2", &format!("x.{now_ms}.{}", now_ms + 60_001)] {
            refused(&put_in(bad).await, format, 422, "invalid");
        }
        let with_key = [("Shop-Ticket", &*ticket("both")), ("Idempotency-Key", "k")];
        refused(&ask(&nats, &top_up, body.clone(), &with_key).await, format, 422, "invalid");
        refused(&ask(&nats, &format!("shop.wallet.{user}.void"), nothing.clone(), &[]).await, format, 422, "invalid");
        let of_order = ask(&nats, "shop.order.o-1.void", nothing.clone(), &[("Shop-Ticket", &ticket("order"))]).await;
        refused(&of_order, format, 404, "not_found");
        assert_eq!(shop.balance(&user).await, 105);
    }
    shop.close().await;
}
