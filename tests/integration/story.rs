//! The story that the shop was built for, with its numbers.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_local::demo::{self, Telling};

use crate::shop::TestShop;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_holds_in_a_shop_of_one_partition() {
    the_story(TestShop::open_with(1).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_holds_in_a_shop_of_several_partitions() {
    the_story(TestShop::open_with(3).await).await;
}

async fn the_story(mut shop: TestShop) {
    let apples = |quantity: u64| json!({ "user": "alice", "product": "apple", "quantity": quantity });
    let apple = json!({ "id": "apple", "name": "apple", "price": 1000, "stock": 1000 });
    let created = shop.post("/products", apple).await.is(201).with("location", "/products/apple");
    created.has("/stock", 1000).members("", "id name price stock updated_at");
    let opened = shop.post("/wallets", json!({ "id": "alice", "balance": 999_999 })).await.is(201);
    opened.with("location", "/wallets/alice").has("/balance", 999_999).members("", "id balance updated_at");

    // She orders ten.
    let placed = shop.post("/orders", apples(10)).await.is(201).has("/status", "CONFIRMED").has("/amount", 10_000);
    let first = placed.text("/id");
    let placed = placed.with("location", &format!("/orders/{first}"));
    let placed = placed.members("", "id user lines amount status delivery placed_at updated_at");
    let placed = placed.members("/lines/0", "product quantity unit_price").has("/lines/0/unit_price", 1000);
    placed.has("/delivery", first.as_str()).has("/user", "alice");
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (989_999, 990));
    let delivery = shop.get(format!("/deliveries/{first}")).await.is(200).has("/status", "SCHEDULED");
    let delivery = delivery.members("", "id order user lines status updated_at").has("/order", first.as_str());
    delivery.members("/lines/0", "product quantity").has("/lines/0/quantity", 10).has("/user", "alice");
    let page = shop.get("/mypages/alice").await.is(200).has("/user", "alice").has("/next", Value::Null);
    let page = page.has("/items/0/id", first.as_str()).has("/items/0/status", "CONFIRMED").lacks("/items/1");
    page.members("/items/0", "id user lines amount status delivery placed_at updated_at delivery_status")
        .has("/items/0/delivery_status", "SCHEDULED");

    // She changes her mind.
    let cancelled = shop.post(format!("/orders/{first}/cancel"), json!({ "reason": "changed my mind" })).await;
    cancelled.is(200).has("/status", "CANCELLED").has("/reason", "changed my mind");
    assert_eq!(shop.delivery_status(&first).await, "CANCELLED");
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (999_999, 1000));
    assert_eq!(shop.order_status(&first).await, "CANCELLED");
    let item = shop.on_page("alice", &first).await;
    assert_eq!((&item["status"], &item["delivery_status"]), (&json!("CANCELLED"), &json!("CANCELLED")));
    let statement = shop.get("/wallets/alice/statement").await.is(200).has("/next", Value::Null).lacks("/items/3");
    for (entry, kind, amount, balance) in
        [(0, "REFUND", 10_000, 999_999), (1, "CHARGE", 10_000, 989_999), (2, "TOP_UP", 999_999, 999_999)]
    {
        let at = format!("/items/{entry}");
        let members = if kind == "TOP_UP" { "at kind amount balance" } else { "at kind amount balance order" };
        let statement = statement.clone().members(&at, members).has(&format!("{at}/kind"), kind);
        statement.has(&format!("{at}/amount"), amount).has(&format!("{at}/balance"), balance);
    }
    statement.has("/items/0/order", first.as_str()).has("/items/1/order", first.as_str());

    // She orders twice more; then nobody serves orders, and her page still answers.
    let second = shop.post("/orders", apples(1)).await.is(201).text("/id");
    let third = shop.post("/orders", apples(2)).await.is(201).text("/id");
    shop.shop.stop_kind(Kind::Order).await.unwrap();
    let refusal = shop.post("/orders", apples(1)).prefer("wait=0").await.refused(503, "unavailable");
    assert!(refusal.took < Duration::from_secs(1), "after {:?}: {refusal}", refusal.took);
    assert!(refusal.header("retry-after").is_some(), "{refusal}");
    let kinds = &shop.readiness().await["bridge"]["kinds"];
    assert_eq!((&kinds["order"], &kinds["mypage"]), (&json!("unavailable"), &json!("ready")));
    let page = shop.get("/mypages/alice").await.is(200).lacks("/items/3");
    page.has("/items/0/id", third.as_str()).has("/items/1/id", second.as_str()).has("/items/2/id", first.as_str());
    shop.shop.start_kind(Kind::Order).await.unwrap();
    let fourth = shop.post("/orders", apples(1)).await.is(201).has("/status", "CONFIRMED").text("/id");
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (995_999, 996));

    // All of it is still there after a night.
    let paths = [
        "/products",
        "/products/apple",
        "/wallets/alice",
        "/wallets/alice/statement",
        "/mypages/alice",
        &format!("/orders/{first}"),
        &format!("/orders/{fourth}"),
        &format!("/deliveries/{first}"),
        &format!("/deliveries/{fourth}"),
    ];
    let evening = shop.look(&paths).await;
    let shop = shop.reopen(|_| {}).await;
    assert_eq!(shop.look(&paths).await, evening);
    shop.ask(Method::DELETE, format!("/orders/{fourth}")).await.is(200).has("/status", "CANCELLED");
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (996_999, 997));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_plays_twice_in_the_same_shop() {
    let mut shop = TestShop::open().await;
    demo::play(&mut shop.shop, Telling::Short).await.unwrap();
    demo::play(&mut shop.shop, Telling::Short).await.unwrap();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_are_listed_by_id_across_partitions() {
    let shop = TestShop::open_with(4).await;
    let mut ids: Vec<String> = (0..23).map(|n| format!("{}-{n}", ["b", "A", "_", "9", "z"][n % 5])).collect();
    for id in &ids {
        shop.product(id, 1, 1).await;
    }
    ids.sort();
    for limit in [1, 4, 22, 23, 24, 1000] {
        let listed = shop.all("/products", limit, "after").await;
        assert_eq!(listed.iter().map(|item| item["id"].as_str().unwrap()).collect::<Vec<_>>(), ids, "by {limit}");
    }
    shop.close().await;
}
