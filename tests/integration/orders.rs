//! What becomes of orders: carried out, refused, cancelled, sent.

use futures::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use shop_domain::kind::Kind;

use crate::shop::{Answer, TestShop, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_order_says_why_stays_readable_and_leaves_everything_as_it_was() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("rich", 1_000_000).await;
    shop.wallet("poor", 500).await;
    let cases = [
        ("dear", "poor", "apple", 1, Some(1000), 409, "insufficient_balance", json!({"balance": 500, "needed": 1000})),
        ("dear-quoted", "poor", "apple", 1, None, 409, "insufficient_balance", json!({"balance": 500, "needed": 1000})),
        (
            "many",
            "rich",
            "apple",
            11,
            Some(1000),
            409,
            "out_of_stock",
            json!({"product": "apple", "stock": 10, "needed": 11}),
        ),
        (
            "many-quoted",
            "rich",
            "apple",
            11,
            None,
            409,
            "out_of_stock",
            json!({"product": "apple", "stock": 10, "needed": 11}),
        ),
        (
            "old-price",
            "rich",
            "apple",
            1,
            Some(999),
            409,
            "price_changed",
            json!({"product": "apple", "price": 1000, "agreed": 999}),
        ),
        (
            "high-price",
            "rich",
            "apple",
            1,
            Some(1001),
            409,
            "price_changed",
            json!({"product": "apple", "price": 1000, "agreed": 1001}),
        ),
        ("no-product", "rich", "pear", 1, Some(1), 404, "not_found", json!({})),
        ("no-wallet", "nobody", "apple", 1, Some(1000), 404, "not_found", json!({})),
        ("no-wallet-quoted", "nobody", "apple", 1, None, 404, "not_found", json!({})),
    ];
    for (id, user, product, quantity, unit_price, status, code, facts) in cases {
        let mut order = json!({ "id": id, "user": user, "product": product, "quantity": quantity });
        if let Some(price) = unit_price {
            order["unit_price"] = json!(price);
        }
        let refusal = shop.post("/orders", order).await.refused(status, code).has("/order", id).without("location");
        for (fact, value) in facts.as_object().unwrap() {
            assert_eq!(&refusal.body[fact], value, "{refusal}");
        }
        let kept = shop.get(format!("/orders/{id}")).await.is(200).has("/status", "REJECTED").has("/reason", code);
        kept.has("/user", user).lacks("/delivery").has("/lines/0/quantity", quantity);
        shop.get(format!("/deliveries/{id}")).await.refused(404, "not_found");
        let item = shop.on_page(user, id).await;
        assert_eq!((&item["status"], &item["reason"]), (&json!("REJECTED"), &json!(code)), "{id}");
        assert_eq!(item.get("delivery_status"), None, "{id}");
        assert_eq!((shop.balance("rich").await, shop.balance("poor").await), (1_000_000, 500), "{id}");
        assert_eq!(shop.stock("apple").await, 10, "{id}");
        shop.get("/wallets/nobody").await.refused(404, "not_found");
        shop.get("/products/pear").await.refused(404, "not_found");
    }
    // What a quote already refuses moves no money at all, not even there and back.
    let statement = shop.get("/wallets/rich/statement").await.is(200);
    let moved: Vec<_> = statement.items().iter().filter_map(|entry| entry["order"].as_str()).collect();
    assert!(moved.contains(&"many") && !moved.contains(&"many-quoted"), "{statement}");
    assert!(moved.contains(&"no-product"), "{statement}");
    shop.get("/wallets/poor/statement").await.is(200).lacks("/items/1");

    // An order without an id of its own is refused under the one that it was given.
    let refusal = shop.post("/orders", json!({ "user": "poor", "product": "apple", "quantity": 1 })).await;
    let id = refusal.refused(409, "insufficient_balance").text("/order");
    assert_eq!(shop.order_status(&id).await, "REJECTED");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_of_what_does_not_exist_is_kept_as_the_document_describes_it() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("rich", 1_000_000).await;
    let before = shop.look(&["/wallets/rich", "/wallets/rich/statement", "/products"]).await;
    let pear = json!({ "product": "pear", "quantity": 1 });
    let apple = json!({ "product": "apple", "quantity": 1 });
    for (id, lines) in [("alone", json!([pear])), ("first", json!([pear, apple])), ("last", json!([apple, pear]))] {
        let order = json!({ "id": id, "user": "rich", "lines": lines });
        shop.post("/orders", order).await.refused(404, "not_found").has("/order", id);
        shop.get(format!("/orders/{id}")).await.is(200).has("/status", "REJECTED").has("/reason", "not_found");
        assert_eq!(shop.on_page("rich", id).await["status"], "REJECTED");
        assert_eq!(shop.look(&["/wallets/rich", "/wallets/rich/statement", "/products"]).await, before, "{id}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_order_says_what_it_would_have_cost() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("rich", 1_000_000).await;
    for (id, unit_price) in [("agreed", json!(1000)), ("quoted", json!(null))] {
        let order = json!({ "id": id, "user": "rich", "product": "apple", "quantity": 11, "unit_price": unit_price });
        shop.post("/orders", order).await.refused(409, "out_of_stock");
        shop.get(format!("/orders/{id}")).await.is(200).has("/lines/0/unit_price", 1000).has("/amount", 11_000);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_of_several_lines_is_taken_as_a_whole_or_not_at_all() {
    let shop = TestShop::open_with(3).await;
    let products: Vec<String> = (0..50).map(|number| format!("p-{number}")).collect();
    join_all(products.iter().map(|id| shop.product(id, 10, 4))).await;
    shop.wallet("alice", 100_000).await;
    let line = |product: &str, quantity: u64| json!({ "product": product, "quantity": quantity });

    // Two lines, then fifty.
    let two = json!({ "id": "two", "user": "alice", "lines": [line("p-0", 1), line("p-1", 2)] });
    shop.post("/orders", two).await.is(201).has("/amount", 30).has("/lines/1/product", "p-1");
    let lines: Vec<_> = products.iter().map(|id| line(id, 1)).collect();
    let fifty = shop.post("/orders", json!({ "id": "fifty", "user": "alice", "lines": lines })).await.is(201);
    fifty.has("/amount", 500).has("/lines/49/product", "p-49").has("/lines/49/unit_price", 10);
    shop.get("/deliveries/fifty").await.is(200).has("/lines/49/quantity", 1);
    let stocks = async || join_all(products.iter().map(|id| shop.stock(id))).await;
    let mut expected = vec![3; 50];
    (expected[0], expected[1]) = (2, 1);
    assert_eq!((shop.balance("alice").await, stocks().await), (100_000 - 530, expected.clone()));

    // One line that is refused, wherever it stands and however it is refused, brings all back.
    let agreed = |product: &str, quantity: u64, price: u64| json!({ "product": product, "quantity": quantity, "unit_price": price });
    for (id, bad, status, code) in [
        ("short", agreed("p-1", 2, 10), 409, "out_of_stock"),
        ("short-quoted", line("p-1", 2), 409, "out_of_stock"),
        ("dearer", agreed("p-1", 1, 9), 409, "price_changed"),
        ("unknown", agreed("pear", 1, 10), 404, "not_found"),
    ] {
        for place in [0, 1, 3] {
            let mut lines: Vec<_> = ["p-7", "p-8", "p-9"].map(|id| agreed(id, 3, 10)).to_vec();
            lines.insert(place, bad.clone());
            let order = json!({ "id": format!("{id}-{place}"), "user": "alice", "lines": lines });
            shop.post("/orders", order).await.refused(status, code);
            assert_eq!((shop.balance("alice").await, stocks().await), (100_000 - 530, expected.clone()), "{id}");
        }
    }

    // A mix of agreed and asked prices, and a cancel that brings fifty lines back.
    let mixed = json!({ "user": "alice", "lines": [agreed("p-2", 1, 10), line("p-3", 1)] });
    shop.post("/orders", mixed).await.is(201).has("/lines/0/unit_price", 10).has("/lines/1/unit_price", 10);
    shop.ask(Method::DELETE, "/orders/fifty").await.is(200).has("/status", "CANCELLED");
    let mut expected = vec![4; 50];
    (expected[0], expected[1], expected[2], expected[3]) = (3, 2, 3, 3);
    assert_eq!((shop.balance("alice").await, stocks().await), (100_000 - 50, expected));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_piece_and_the_last_won_can_be_spent() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 3).await;
    shop.product("leaflet", 0, 2).await;
    shop.wallet("alice", 3000).await;
    shop.wallet("penniless", 0).await;
    shop.order("o-1", "alice", "apple", 2).await;
    shop.order("o-2", "alice", "apple", 1).await;
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (0, 0));
    let more = |product: &str, user: &str| json!({ "user": user, "product": product, "quantity": 1 });
    shop.post("/orders", more("apple", "alice")).await.refused(409, "out_of_stock").has("/stock", 0);

    // What costs nothing can be had for nothing, as long as there is some.
    shop.order("o-3", "penniless", "leaflet", 2).await.has("/amount", 0).has("/lines/0/unit_price", 0);
    shop.post("/orders", more("leaflet", "penniless")).await.refused(409, "out_of_stock");
    shop.ask(Method::DELETE, "/orders/o-3").await.is(200);
    assert_eq!((shop.balance("penniless").await, shop.stock("leaflet").await), (0, 2));

    // All that a wallet and a partition_store can hold, in one order.
    shop.product("gold", crate::shop::MAX, 1).await;
    shop.wallet("croesus", crate::shop::MAX).await;
    shop.order("o-4", "croesus", "gold", 1).await.has("/amount", crate::shop::MAX);
    assert_eq!((shop.balance("croesus").await, shop.stock("gold").await), (0, 0));
    shop.ask(Method::DELETE, "/orders/o-4").await.is(200);
    assert_eq!((shop.balance("croesus").await, shop.stock("gold").await), (crate::shop::MAX, 1));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agreed_price_is_the_price_of_the_order() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("alice", 10_000).await;
    shop.order("o-1", "alice", "apple", 1).await.has("/amount", 1000);
    shop.patch("/products/apple", json!({ "price": 1200 })).await.is(200).has("/price", 1200).has("/name", "apple");
    shop.order("o-2", "alice", "apple", 1).await.has("/amount", 1200);
    // The refund is what was paid, not what it would cost today.
    shop.ask(Method::DELETE, "/orders/o-1").await.is(200).has("/amount", 1000);
    assert_eq!(shop.balance("alice").await, 10_000 - 1200);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_is_possible_until_it_is_not() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("alice", 5000).await;

    // By POST, with a reason or without, and by DELETE; once more changes nothing.
    for (id, ask, reason) in [
        ("reason", shop.post("/orders/reason/cancel", json!({ "reason": "too many 🍎" })), Some("too many 🍎")),
        ("none", shop.ask(Method::POST, "/orders/none/cancel"), None),
        ("empty", shop.post("/orders/empty/cancel", json!({})), None),
        ("delete", shop.ask(Method::DELETE, "/orders/delete"), None),
        ("delete-reason", shop.ask(Method::DELETE, "/orders/delete-reason").json(&json!({"reason": "x"})), Some("x")),
    ] {
        shop.order(id, "alice", "apple", 2).await;
        let cancelled = ask.clone().await.is(200).has("/id", id).has("/status", "CANCELLED").has("/amount", 2000);
        assert_eq!(cancelled.body.get("reason").and_then(Value::as_str), reason, "{cancelled}");
        let paths = [&*format!("/orders/{id}"), &format!("/deliveries/{id}"), "/mypages/alice", "/wallets/alice"];
        let before = shop.look(&paths).await;
        assert_eq!(shop.get(paths[0]).await.is(200).body, cancelled.body);
        assert_eq!(shop.on_page("alice", id).await["delivery_status"], "CANCELLED");
        assert_eq!(ask.await.is(200).bytes, cancelled.bytes);
        let again = shop.post(format!("/orders/{id}/cancel"), json!({ "reason": "another" })).await.is(200);
        assert_eq!(again.bytes, cancelled.bytes, "the order stays as it is");
        assert_eq!(shop.look(&paths).await, before);
        assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (5000, 10));
    }

    // A rejected order was never in force, and an unknown one does not exist.
    let too_many = json!({ "id": "rejected", "user": "alice", "product": "apple", "quantity": 11 });
    shop.post("/orders", too_many).await.refused(409, "out_of_stock");
    for ask in [shop.post("/orders/rejected/cancel", json!({})), shop.ask(Method::DELETE, "/orders/rejected")] {
        ask.await.refused(409, "not_cancellable").has("/order_status", "REJECTED");
    }
    for ask in [shop.post("/orders/unknown/cancel", json!({})), shop.ask(Method::DELETE, "/orders/unknown")] {
        ask.await.refused(404, "not_found");
    }
    shop.get("/orders/unknown").await.refused(404, "not_found");
    shop.get("/deliveries/unknown").await.refused(404, "not_found");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_goes_out_once_and_arrives_once() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("alice", 5000).await;
    shop.order("o-1", "alice", "apple", 2).await;
    shop.order("o-2", "alice", "apple", 1).await;
    let dispatch = async |id: &str| shop.ask(Method::POST, format!("/deliveries/{id}/dispatch")).await;
    let deliver = async |id: &str| shop.ask(Method::POST, format!("/deliveries/{id}/deliver")).await;
    let cancel = async |id: &str| shop.post(format!("/orders/{id}/cancel"), json!({ "reason": "late" })).await;
    let wrong = |answer: Answer, code: &str, status: &str| {
        answer.refused(409, code).has("/delivery_status", status);
    };

    wrong(deliver("o-1").await, "not_deliverable", "SCHEDULED");
    dispatch("o-1").await.is(200).has("/status", "DISPATCHED").has("/id", "o-1").has("/order", "o-1");
    wrong(dispatch("o-1").await, "not_dispatchable", "DISPATCHED");
    assert_eq!(shop.on_page("alice", "o-1").await["delivery_status"], "DISPATCHED");

    // What is on its way cannot be cancelled, and trying changes nothing.
    let paths = ["/wallets/alice", "/wallets/alice/statement", "/products/apple", "/deliveries/o-1"];
    let before = shop.look(&paths).await;
    wrong(cancel("o-1").await, "not_cancellable", "DISPATCHED");
    wrong(shop.ask(Method::DELETE, "/orders/o-1").await, "not_cancellable", "DISPATCHED");
    assert_eq!(shop.look(&paths).await, before);
    shop.get("/orders/o-1").await.is(200).has("/status", "CONFIRMED").lacks("/reason");
    let item = shop.on_page("alice", "o-1").await;
    assert_eq!((&item["status"], &item["delivery_status"]), (&json!("CONFIRMED"), &json!("DISPATCHED")));

    deliver("o-1").await.is(200).has("/status", "DELIVERED").has("/lines/0/quantity", 2);
    assert_eq!(shop.on_page("alice", "o-1").await["delivery_status"], "DELIVERED");
    wrong(deliver("o-1").await, "not_deliverable", "DELIVERED");
    wrong(dispatch("o-1").await, "not_dispatchable", "DELIVERED");
    wrong(cancel("o-1").await, "not_cancellable", "DELIVERED");

    // What was cancelled does not go out.
    cancel("o-2").await.is(200);
    wrong(dispatch("o-2").await, "not_dispatchable", "CANCELLED");
    wrong(deliver("o-2").await, "not_deliverable", "CANCELLED");
    assert_eq!(shop.on_page("alice", "o-2").await["delivery_status"], "CANCELLED");
    for id in ["unknown", "rejected"] {
        dispatch(id).await.refused(404, "not_found");
        deliver(id).await.refused(404, "not_found");
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (3000, 8));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_cancelled_while_it_is_pending_gives_back_exactly_what_was_taken() {
    let mut shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.wallet("alice", 5000).await;
    for (stopped, pending_balance) in [(Kind::Wallet, None), (Kind::Product, Some(3000))] {
        let id = format!("while-{stopped}");
        shop.shop.stop_kind(stopped).await.unwrap();
        let order = json!({ "id": id, "user": "alice", "product": "apple", "quantity": 2, "unit_price": 1000 });
        let placed = shop.post("/orders", order.clone()).prefer("wait=1").await.is(202);
        placed.with("location", &format!("/orders/{id}")).with("preference-applied", "wait=1").has("/id", &*id);
        shop.get(format!("/orders/{id}")).await.is(200).has("/status", "PENDING").lacks("/delivery");
        assert_eq!(shop.on_page("alice", &id).await["status"], "PENDING");
        if let Some(balance) = pending_balance {
            assert_eq!(shop.balance("alice").await, balance);
        }
        let cancelled = shop.post(format!("/orders/{id}/cancel"), json!({ "reason": "x" })).prefer("wait=1").await;
        cancelled.is(202).with("location", &format!("/orders/{id}")).with("preference-applied", "wait=1");
        shop.get(format!("/orders/{id}")).await.is(200).has("/status", "CANCELLING").has("/reason", "x");
        assert_eq!(shop.on_page("alice", &id).await["status"], "CANCELLING");

        shop.shop.start_kind(stopped).await.unwrap();
        let status = || shop.order_status(&id);
        eventually("the cancel", status, |status| status == "CANCELLED").await;
        assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (5000, 10));
        shop.get(format!("/deliveries/{id}")).await.refused(404, "not_found");
        let item = shop.on_page("alice", &id).await;
        assert_eq!((&item["status"], item.get("delivery_status")), (&json!("CANCELLED"), None));
        shop.post(format!("/orders/{id}/cancel"), json!({})).await.is(200).has("/status", "CANCELLED");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_order_goes_on_to_tell_which_of_its_lines_was_refused() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 10).await;
    shop.product("pear", 10, 2).await;
    shop.wallet("rich", 1_000_000).await;
    shop.wallet("poor", 5).await;
    let line = |product: &str, quantity: u64, price: u64| json!({ "product": product, "quantity": quantity, "unit_price": price });
    for (id, user, lines, facts) in [
        ("short", "rich", json!([line("apple", 1, 1000), line("pear", 3, 10)]), "product stock needed"),
        ("dear", "rich", json!([line("apple", 1, 1000), line("pear", 1, 9)]), "product price agreed"),
        ("unpaid", "poor", json!([line("apple", 1, 1000)]), "balance needed"),
        ("unknown", "rich", json!([line("plum", 1, 1000)]), "kind id"),
    ] {
        let told = shop.post("/orders", json!({ "id": id, "user": user, "lines": lines })).await;
        let order = shop.get(format!("/orders/{id}")).await.is(200).has("/status", "REJECTED");
        let order = order.members("/refusal", &format!("code detail {facts}"));
        for fact in facts.split(' ').chain(["code", "detail"]) {
            let fact = format!("/{fact}");
            assert_eq!(order.value(&format!("/refusal{fact}")), told.value(&fact), "{order}\nafter {told}");
        }
    }
    shop.order("fine", "rich", "apple", 1).await;
    shop.get("/orders/fine").await.is(200).lacks("/refusal");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_null_is_what_is_not_given() {
    let shop = TestShop::open().await;
    shop.post("/products", json!({ "id": "apple", "name": "apple", "price": 10, "stock": 10 })).await.is(201);
    shop.post("/wallets", json!({ "id": "alice", "balance": null })).await.is(201).has("/balance", 0);
    shop.post("/wallets/alice/top-up", json!({ "amount": 100 })).await.is(200);
    shop.patch("/products/apple", json!({ "name": null, "price": null })).await.is(200).has("/name", "apple");
    for order in [
        json!({ "id": null, "user": "alice", "product": "apple", "quantity": 1, "unit_price": null, "lines": null }),
        json!({ "user": "alice", "lines": [{ "product": "apple", "quantity": 1, "unit_price": null }], "product": null }),
    ] {
        shop.post("/orders", order).await.is(201).has("/amount", 10);
    }
    shop.order("o-1", "alice", "apple", 1).await;
    shop.post("/orders/o-1/cancel", json!({ "reason": null })).await.is(200).lacks("/reason");
    shop.post("/wallets/alice/top-up", json!({ "amount": null })).await.invalid(&["/amount"]);
    shop.close().await;
}
