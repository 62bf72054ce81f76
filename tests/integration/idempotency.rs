//! A key, or an order's id, makes a request happen once, and its first answer last for ever.

use futures::future::join_all;
use hyper::Method;
use serde_json::json;

use crate::shop::{Ask, MAX, TestShop};

/// What must not change when nothing may happen.
const STATE: [&str; 6] =
    ["/products", "/wallets/alice", "/wallets/alice/statement", "/mypages/alice", "/orders/o-1", "/deliveries/o-1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_with_the_same_body_gets_the_first_answer_again() {
    let shop = TestShop::open_with(2).await;
    // Each request, and another one under the same key.
    let pairs: Vec<(Ask, Ask)> = [
        (
            "/products",
            json!({ "id": "apple", "name": "apple", "price": 1000, "stock": 100 }),
            json!({ "id": "apple", "name": "apple", "price": 1000, "stock": 101 }),
        ),
        ("/wallets", json!({ "id": "alice", "balance": 9000 }), json!({ "id": "alice", "balance": 9001 })),
        ("/wallets/alice/top-up", json!({ "amount": 5 }), json!({ "amount": 6 })),
        ("/products/apple/restock", json!({ "quantity": 5 }), json!({ "quantity": 6 })),
        (
            "/orders",
            json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 1 }),
            json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 2 }),
        ),
        ("/orders/o-1/cancel", json!({ "reason": "no" }), json!({ "reason": "yes" })),
    ]
    .into_iter()
    .map(|(path, body, other)| (shop.post(path, body), shop.post(path, other)))
    .chain([(
        shop.patch("/products/apple", json!({ "price": 1100 })),
        shop.patch("/products/apple", json!({ "price": 1200 })),
    )])
    .collect();

    let mut answered = Vec::new();
    for (number, (ask, other)) in pairs.into_iter().enumerate() {
        let key = format!("key-{number}");
        let first = ask.clone().key(&key).await.without("idempotency-replayed");
        assert!(matches!(first.status, 200 | 201), "{first}");
        let before = shop.look(&STATE).await;
        ask.clone().key(&key).await.repeats(&first);
        other.clone().key(&key).await.refused(409, "idempotency_key_reused").without("idempotency-replayed");
        ask.clone().key(&key).await.repeats(&first);
        assert_eq!(shop.look(&STATE).await, before, "{first}");
        answered.push((ask.key(&key), first));
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (9005, 105));

    // Deliveries have no other body; another verb under the same key is another request.
    shop.order("o-2", "alice", "apple", 1).await;
    let dispatch = shop.ask(Method::POST, "/deliveries/o-2/dispatch").key("d");
    let first = dispatch.clone().await.is(200);
    dispatch.clone().await.repeats(&first);
    shop.ask(Method::POST, "/deliveries/o-2/deliver").key("d").await.refused(409, "idempotency_key_reused");
    let deliver = shop.ask(Method::POST, "/deliveries/o-2/deliver").key("e");
    let delivered = deliver.clone().await.is(200);
    deliver.clone().await.repeats(&delivered);
    answered.extend([(dispatch, first), (deliver, delivered)]);

    // Keys never expire, whatever happened since, not even when the shop has to start from its logs.
    let before = shop.look(&STATE).await;
    let shop = shop.reopen(|_| {}).await;
    for again in [false, true] {
        for (ask, first) in &answered {
            ask.clone().at(&shop).await.repeats(first);
        }
        assert_eq!(shop.look(&STATE).await, before, "again: {again}");
    }
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    for (ask, first) in &answered {
        ask.clone().at(&shop).await.repeats(first);
    }
    assert_eq!(shop.look(&STATE).await, before);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_answer_and_is_replayed_as_well() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 5).await;
    shop.wallet("alice", 2000).await;
    shop.order("gone", "alice", "apple", 1).await;
    shop.ask(Method::DELETE, "/orders/gone").await.is(200);
    let refusals = [
        (shop.post("/products", json!({ "id": "apple", "name": "x", "price": 1, "stock": 1 })), 409, "already_exists"),
        (shop.post("/wallets", json!({ "id": "alice" })), 409, "already_exists"),
        (shop.post("/wallets/bob/top-up", json!({ "amount": 1 })), 404, "not_found"),
        (shop.post("/wallets/alice/top-up", json!({ "amount": MAX })), 409, "limit_exceeded"),
        (shop.post("/products/pear/restock", json!({ "quantity": 1 })), 404, "not_found"),
        (shop.patch("/products/pear", json!({ "price": 1 })), 404, "not_found"),
        (
            shop.post("/orders", json!({ "user": "alice", "product": "apple", "quantity": 3 })),
            409,
            "insufficient_balance",
        ),
        (shop.post("/orders/unknown/cancel", json!({})), 404, "not_found"),
        (shop.ask(Method::POST, "/deliveries/gone/dispatch"), 409, "not_dispatchable"),
    ];
    for (number, (ask, status, code)) in refusals.iter().enumerate() {
        let ask = ask.clone().key(&format!("k-{number}"));
        let first = ask.clone().await.refused(*status, code).without("idempotency-replayed");
        ask.await.repeats(&first);
    }
    // Also when by now it would be possible.
    let bob = shop.post("/wallets/bob/top-up", json!({ "amount": 1 }));
    shop.wallet("bob", 0).await;
    bob.clone().key("k-2").await.refused(404, "not_found").with("idempotency-replayed", "true");
    shop.post("/wallets/alice/top-up", json!({ "amount": 5000 })).await.is(200);
    let again = shop.post("/orders", json!({ "user": "alice", "product": "apple", "quantity": 3 })).key("k-6").await;
    again.refused(409, "insufficient_balance").with("idempotency-replayed", "true").has("/balance", 2000);
    // What broke a rule at the door was no request at all: the key is still free.
    shop.post("/wallets/bob/top-up", json!({ "amount": -1 })).key("free").await.invalid(&["/amount"]);
    shop.post("/wallets/bob/top-up", json!({ "amount": 1 })).key("free").await.is(200).has("/balance", 1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_an_order_is_its_key() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    shop.wallet("bob", 50_000).await;
    let order =
        |user: &str, quantity: u64| json!({ "id": "o-1", "user": user, "product": "apple", "quantity": quantity });
    let first = shop.post("/orders", order("alice", 3)).await.is(201).without("idempotency-replayed");
    shop.post("/orders", order("alice", 3)).await.repeats(&first);
    // The same order in other words: as a line, with digits as text, under any key.
    let as_line = json!({ "user": "alice", "lines": [{ "quantity": "3", "product": "apple" }], "id": "o-1" });
    shop.post("/orders", as_line).key("whatever").await.repeats(&first);
    let before = shop.look(&STATE).await;
    for other in [order("alice", 4), order("bob", 3)] {
        shop.post("/orders", other).await.refused(409, "idempotency_key_reused").without("idempotency-replayed");
    }
    let mut priced = order("alice", 3);
    priced["unit_price"] = json!(1000);
    shop.post("/orders", priced).await.refused(409, "idempotency_key_reused");
    assert_eq!(shop.look(&STATE).await, before);
    shop.get("/mypages/bob").await.is(200).has("/items", json!([]));

    // It is answered as it was answered first, even though it is cancelled and the price has changed.
    shop.ask(Method::DELETE, "/orders/o-1").await.is(200).has("/status", "CANCELLED");
    shop.patch("/products/apple", json!({ "price": 2000 })).await.is(200);
    shop.post("/orders", order("alice", 3)).await.repeats(&first).has("/status", "CONFIRMED").has("/amount", 3000);
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (50_000, 100));

    // A refused order stays refused under its id.
    let dear = json!({ "id": "o-2", "user": "bob", "product": "apple", "quantity": 90 });
    let refused = shop.post("/orders", dear.clone()).await.refused(409, "insufficient_balance");
    shop.post("/wallets/bob/top-up", json!({ "amount": 1_000_000 })).await.is(200);
    shop.post("/orders", dear).await.repeats(&refused);
    assert_eq!((shop.balance("bob").await, shop.stock("apple").await), (1_050_000, 100));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_answered_as_it_was_first_whatever_it_would_cost_today() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 3 });
    let first = shop.post("/orders", order.clone()).await.is(201);
    shop.patch("/products/apple", json!({ "price": MAX })).await.is(200);
    shop.post("/orders", order).await.repeats(&first);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_without_an_id_leads_to_the_same_entity_again() {
    let shop = TestShop::open_with(2).await;
    let create = shop.post("/products", json!({ "name": "pear", "price": 10, "stock": 7 }));
    let product = create.clone().key("p").await.is(201);
    let pear = product.text("/id");
    create.clone().key("p").await.repeats(&product);
    assert_ne!(create.clone().key("q").await.is(201).text("/id"), pear);
    assert_ne!(create.clone().await.is(201).text("/id"), pear);
    let other = json!({ "name": "pear", "price": 10, "stock": 8 });
    shop.post("/products", other).key("p").await.refused(409, "idempotency_key_reused");

    let open = shop.ask(Method::POST, "/wallets");
    let wallet = open.clone().key("w").await.is(201).has("/balance", 0);
    open.clone().key("w").await.repeats(&wallet);
    let user = wallet.text("/id");
    shop.post("/wallets", json!({ "balance": 1 })).key("w").await.refused(409, "idempotency_key_reused");
    shop.post(format!("/wallets/{user}/top-up"), json!({ "amount": 100 })).await.is(200);

    let order = json!({ "user": user, "product": pear, "quantity": 2 });
    let placed = shop.post("/orders", order.clone()).key("o").await.is(201);
    shop.post("/orders", order.clone()).key("o").await.repeats(&placed);
    let other = json!({ "user": user, "product": pear, "quantity": 3 });
    shop.post("/orders", other).key("o").await.refused(409, "idempotency_key_reused");
    shop.get(format!("/mypages/{user}")).await.is(200).has("/items/0/id", &*placed.text("/id")).lacks("/items/1");
    assert_eq!((shop.balance(&user).await, shop.stock(&pear).await), (80, 5));
    // Without a key it is another order each time.
    assert_ne!(shop.post("/orders", order).await.is(201).text("/id"), placed.text("/id"));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_any_visible_characters_counts_once_with_and_without_quotation_marks() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let long = "~".repeat(255);
    let keys = [
        ("a.b:c/d,e", r#""a.b:c/d,e""#, "a.b:c/d,e"),
        ("k-1", r#""k-1""#, "k-1"),
        (r#"a"b\c"#, r#""a\"b\\c""#, r#"a"b\c"#),
        (&*long, &*format!("\"{long}\""), &*long),
    ];
    for (number, (bare, quoted, shown)) in keys.into_iter().enumerate() {
        let top_up = shop.post("/wallets/alice/top-up", json!({ "amount": 5 }));
        let first = top_up.clone().key(bare).await.is(200).has("/balance", 5 * (number + 1));
        for key in [bare, quoted] {
            top_up.clone().key(key).await.repeats(&first);
            let other = shop.post("/wallets/alice/top-up", json!({ "amount": 6 })).key(key).await;
            other.refused(409, "idempotency_key_reused").has("/reused", "key").has("/wallet", "alice");
        }
        shop.get("/wallets/alice/statement").await.is(200).has("/items/0/key", shown);
    }
    // One that has to be quoted on its way.
    let order = json!({ "amount": 1 });
    let first = shop.post("/wallets/alice/top-up", order.clone()).key(r#""\"x""#).await.is(200);
    shop.post("/wallets/alice/top-up", order).key(r#""\"x""#).await.repeats(&first);
    shop.get("/wallets/alice/statement").await.is(200).has("/items/0/key", "\"x");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_of_two_customers_makes_an_order_for_each() {
    let shop = TestShop::open_with(3).await;
    shop.product("apple", 1, 100).await;
    let mut placed = Vec::new();
    for user in ["alice", "bob"] {
        shop.wallet(user, 10).await;
        let order = shop.post("/orders", json!({ "user": user, "product": "apple", "quantity": 1 })).key("1");
        let first = order.clone().await.is(201).has("/user", user);
        order.await.repeats(&first);
        let id = first.text("/id");
        let other = shop.post("/orders", json!({ "user": user, "product": "apple", "quantity": 2 })).key("1").await;
        other.refused(409, "idempotency_key_reused").has("/reused", "key").has("/order", &*id);
        placed.push(id);
    }
    assert_ne!(placed[0], placed[1]);
    assert_eq!((shop.balance("alice").await, shop.balance("bob").await), (9, 9));
    let other = json!({ "id": placed[0], "user": "bob", "product": "apple", "quantity": 3 });
    shop.post("/orders", other).await.refused(409, "idempotency_key_reused").has("/reused", "id");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_wait_is_told_at_once_what_is_known() {
    let shop = TestShop::open().await;
    shop.product("apple", 1, 100).await;
    shop.wallet("alice", 50).await;
    let order = |quantity: u64| json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": quantity });
    shop.order("sent", "alice", "apple", 1).await;
    shop.ask(Method::POST, "/deliveries/sent/dispatch").await.is(200);
    let hurry = |ask: Ask| ask.prefer("respond-async");
    hurry(shop.post("/orders", order(1))).await.is(202).has("/status", "PENDING");
    let first = shop.post("/orders", order(1)).await.is(201);
    hurry(shop.post("/orders", order(1))).await.repeats(&first).without("preference-applied");
    hurry(shop.post("/orders", order(2))).await.refused(409, "idempotency_key_reused").has("/order", "o-1");
    hurry(shop.post("/orders/none/cancel", json!({}))).await.refused(404, "not_found");
    let late = hurry(shop.post("/orders/sent/cancel", json!({ "reason": "x" }))).await;
    late.refused(409, "not_cancellable").has("/delivery_status", "DISPATCHED");
    hurry(shop.post("/orders/o-1/cancel", json!({}))).await.is(202).has("/status", "CANCELLING");
    let cancelled = shop.post("/orders/o-1/cancel", json!({})).await.is(200);
    assert_eq!(hurry(shop.post("/orders/o-1/cancel", json!({}))).await.is(200).body, cancelled.body);
    hurry(shop.post("/wallets/none/top-up", json!({ "amount": 1 }))).await.refused(404, "not_found");
    hurry(shop.post("/wallets", json!({ "id": "alice" }))).await.refused(409, "already_exists");
    let top_up = shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).key("k");
    hurry(top_up.clone()).await.is(202).lacks("/status");
    let topped_up = top_up.clone().await.is(200);
    hurry(top_up).await.repeats(&topped_up);
    assert_eq!(shop.balance("alice").await, 50);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_who_place_the_same_order_are_all_told_that_it_is_confirmed() {
    let mut shop = TestShop::open().await;
    shop.product("apple", 1, 100).await;
    shop.wallet("alice", 50).await;
    shop.shop.stop_kind(shop_domain::kind::Kind::Wallet).await.unwrap();
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 1, "unit_price": 1 });
    shop.post("/orders", order.clone()).prefer("respond-async").await.is(202);
    let asks = (0..300).map(|_| shop.post("/orders", order.clone()).prefer("wait=20").into_future());
    let asks: Vec<_> = asks.collect();
    let (answers, started) = tokio::join!(join_all(asks), shop.shop.start_kind(shop_domain::kind::Kind::Wallet));
    started.unwrap();
    for answer in answers {
        answer.is(201).has("/status", "CONFIRMED");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_counts_for_one_entity() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    shop.wallet("bob", 0).await;
    let longest = "k".repeat(128);
    for user in ["alice", "bob"] {
        let top_up = shop.post(format!("/wallets/{user}/top-up"), json!({ "amount": 7 })).key(&longest).await.is(200);
        top_up.has("/id", user).has("/balance", 7).without("idempotency-replayed");
    }
    // The statement names it.
    shop.get("/wallets/bob/statement").await.is(200).has("/items/0/key", &*longest).has("/items/0/amount", 7);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_requests_at_once_with_the_same_key_are_carried_out_once() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    for (path, body) in [
        ("/wallets/alice/top-up", json!({ "amount": 5 })),
        ("/products/apple/restock", json!({ "quantity": 5 })),
        ("/products", json!({ "name": "pear", "price": 1, "stock": 1 })),
    ] {
        let answers = join_all((0..20).map(|_| shop.post(path, body.clone()).key("once").into_future())).await;
        let first: Vec<_> = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).collect();
        assert_eq!(first.len(), 1, "{}", answers[0]);
        assert!(answers.iter().all(|answer| answer.bytes == first[0].bytes), "{}", first[0]);
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (50_005, 105));
    assert_eq!(shop.get("/products").await.is(200).items().len(), 2);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_placed_ten_times_at_once_is_placed_once_and_everybody_is_told() {
    placed_and_cancelled_at_once(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_placed_thirty_times_at_once_is_placed_once_and_everybody_is_told() {
    placed_and_cancelled_at_once(30).await;
}

async fn placed_and_cancelled_at_once(times: usize) {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    let place = shop.post("/orders", json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 2 }));
    let cancel = shop.post("/orders/o-1/cancel", json!({ "reason": "x" })).key("once");
    for (ask, status) in [(place, 201), (cancel, 200)] {
        let answers = join_all((0..times).map(|_| ask.clone().into_future())).await;
        for answer in &answers {
            assert_eq!((answer.status, &answer.bytes), (status, &answers[0].bytes), "{answer} after {:?}", answer.took);
        }
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (50_000, 100));
    shop.close().await;
}
