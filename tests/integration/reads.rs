//! Lists in their order, page by page; every read as of a moment after it was asked; and answers
//! before the outcome.

use std::collections::BTreeMap;

use futures::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::shop::{TestShop, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_are_listed_by_id_page_by_page() {
    let shop = TestShop::open_with(2).await;
    shop.get("/products").await.is(200).has("/items", json!([])).has("/next", Value::Null);
    for id in ["m", "a", "Z", "b-2", "b-10", "_", "0"] {
        shop.product(id, 1, 1).await;
    }
    let ids = |page: &[Value]| page.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let sorted = ["0", "Z", "_", "a", "b-10", "b-2", "m"];
    let all = shop.get("/products").await.is(200).has("/next", Value::Null);
    assert_eq!(ids(all.items()), sorted);
    for item in all.items() {
        let one = shop.get(format!("/products/{}", item["id"].as_str().unwrap())).await.is(200);
        assert_eq!(&one.body, item);
    }
    for limit in 1..=8 {
        assert_eq!(ids(&shop.all("/products", limit, "after").await), sorted, "by {limit}");
    }
    // `next` is there exactly when there is more.
    shop.get("/products?limit=7").await.is(200).has("/next", Value::Null);
    let page = shop.get("/products?limit=6").await.is(200);
    assert!(page.body["next"].is_string(), "{page}");
    // After an id that does not exist comes what would come after it.
    assert_eq!(ids(shop.get("/products?after=b").await.is(200).items()), ["b-10", "b-2", "m"]);
    assert_eq!(
        ids(shop.get("/products?after=m").await.is(200).has("/next", Value::Null).items()),
        Vec::<String>::new()
    );
    assert_eq!(ids(shop.get("/products?limit=2&after=Z").await.is(200).items()), ["_", "a"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_read_newest_first_without_gaps_or_repeats() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    shop.get("/wallets/alice/statement").await.is(200).has("/items", json!([])).has("/next", Value::Null);
    for amount in 1..=30 {
        let top_up = json!({ "amount": amount });
        shop.post("/wallets/alice/top-up", top_up).key(&format!("k-{amount}")).await.is(200);
    }
    let all = shop.all("/wallets/alice/statement", 1000, "before").await;
    let seen = |name: &str| all.iter().map(|entry| entry[name].clone()).collect::<Vec<_>>();
    assert_eq!(seen("amount"), (1..=30u64).rev().map(Value::from).collect::<Vec<_>>());
    assert_eq!(seen("balance"), (1..=30u64).rev().map(|n| json!(n * (n + 1) / 2)).collect::<Vec<_>>());
    assert_eq!(seen("key"), (1..=30).rev().map(|n| json!(format!("k-{n}"))).collect::<Vec<_>>());
    assert!(all.is_sorted_by(|newer, older| newer["at"].as_str() >= older["at"].as_str()));
    for limit in [1, 7, 29, 30, 31] {
        assert_eq!(shop.all("/wallets/alice/statement", limit, "before").await, all, "by {limit}");
    }
    // What happens meanwhile does not shift the pages that follow.
    let page = shop.get("/wallets/alice/statement?limit=10").await.is(200);
    shop.post("/wallets/alice/top-up", json!({ "amount": 99 })).await.is(200);
    let next = format!("/wallets/alice/statement?limit=20&before={}", page.text("/next"));
    let rest = shop.get(next).await.is(200).has("/next", Value::Null);
    assert_eq!([page.items(), rest.items()].concat(), all);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_lists_all_orders_of_its_user_newest_first() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 1, 20).await;
    shop.wallet("alice", 1000).await;
    shop.wallet("bob", 1000).await;
    let mut placed = Vec::new();
    for number in 0..12 {
        let id = format!("o-{}", (number * 7) % 12);
        shop.order(&id, "alice", "apple", 1).await;
        placed.insert(0, id);
        if number % 3 == 0 {
            shop.order(&format!("bob-{number}"), "bob", "apple", 1).await;
        }
    }
    let refused = json!({ "id": "refused", "user": "alice", "product": "apple", "quantity": 99 });
    shop.post("/orders", refused).await.refused(409, "out_of_stock");
    placed.insert(0, "refused".to_owned());
    shop.ask(Method::DELETE, "/orders/o-3").await.is(200);

    let all = shop.all("/mypages/alice", 1000, "before").await;
    assert_eq!(all.iter().map(|item| item["id"].as_str().unwrap()).collect::<Vec<_>>(), placed);
    for limit in [1, 5, 12, 13, 14] {
        assert_eq!(shop.all("/mypages/alice", limit, "before").await, all, "by {limit}");
    }
    // An item is the order's own fields and how its delivery is.
    for item in all {
        let mut item = item;
        let delivery_status = item.as_object_mut().unwrap().remove("delivery_status");
        let id = item["id"].as_str().unwrap().to_owned();
        assert_eq!(shop.get(format!("/orders/{id}")).await.is(200).body, item);
        match delivery_status {
            Some(status) => assert_eq!(shop.delivery_status(&id).await, status, "{id}"),
            None => drop(shop.get(format!("/deliveries/{id}")).await.refused(404, "not_found")),
        }
    }
    shop.get("/mypages/nobody").await.is(200).has("/user", "nobody").has("/items", json!([])).has("/next", Value::Null);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_does_not_fit_into_one_answer_is_cut_and_leads_on() {
    let shop = TestShop::open_with(2).await;
    let ids: Vec<String> = (0..800).map(|number| format!("{number:064}")).collect();
    let name = "🍎".repeat(200);
    let create =
        |id: &String| shop.post("/products", json!({ "id": id, "name": name, "price": 1, "stock": 9 })).into_future();
    for answer in join_all(ids.iter().map(create)).await {
        answer.is(201);
    }
    let page = shop.get("/products?limit=1000").await.is(200);
    assert!(page.items().len() < 800 && page.bytes.len() < 1_000_000, "{} items", page.items().len());
    let all = shop.all("/products", 1000, "after").await;
    assert_eq!(all.iter().map(|item| item["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);

    // Orders of fifty lines each, all of them to be quoted at once, twenty times over.
    shop.wallet("alice", 1_000_000).await;
    let order = |number: usize| {
        let products = ids.iter().skip(number % 16 * 50).take(50);
        let lines: Vec<_> = products.map(|id| json!({ "product": id, "quantity": 1 })).collect();
        shop.post("/orders", json!({ "id": format!("o-{number}"), "user": "alice", "lines": lines })).into_future()
    };
    for answer in join_all((0..20).map(order)).await {
        answer.is(201).has("/amount", 50);
    }
    // What cannot be paid is on the page as well, and costs no time.
    let order = |number: usize| {
        let products = ids.iter().take(50);
        let lines: Vec<_> = products.map(|id| json!({ "product": id, "quantity": 1, "unit_price": 1 })).collect();
        shop.post("/orders", json!({ "id": format!("n-{number}"), "user": "nobody", "lines": lines })).into_future()
    };
    for answer in join_all((0..120).map(order)).await {
        answer.refused(404, "not_found");
    }
    let page = shop.get("/mypages/nobody?limit=1000").await.is(200);
    assert!(page.items().len() < 120 && page.bytes.len() < 1_000_000, "{} items", page.items().len());
    let all = shop.all("/mypages/nobody", 1000, "before").await;
    let mut found: Vec<_> = all.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert!(all.is_sorted_by(|newer, older| newer["placed_at"].as_str() >= older["placed_at"].as_str()));
    found.sort_unstable();
    found.dedup();
    assert_eq!((found.len(), all.len()), (120, 120));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_seen_by_every_read_that_follows() {
    let shop = TestShop::open_with(3).await;
    let mut model = Model::default();
    for user in ["alice", "bob", "carol"] {
        shop.wallet(user, 20_000).await;
        model.balances.insert(user, 20_000);
    }
    for product in ["apple", "pear", "plum"] {
        shop.product(product, 100, 40).await;
        model.products.insert(product, (100, 40));
    }
    let mut random = fastrand::Rng::with_seed(11);
    for step in 0..300 {
        model.step(&shop, &mut random, step).await;
    }
    assert!(model.orders.len() > 80, "the steps should place orders");
    shop.close().await;
}

/// What the shop should hold.
#[derive(Default)]
struct Model {
    balances: BTreeMap<&'static str, u64>,
    /// Price and stock.
    products: BTreeMap<&'static str, (u64, u64)>,
    orders: Vec<Placed>,
}

struct Placed {
    id: String,
    user: &'static str,
    lines: Vec<(&'static str, u64)>,
    amount: u64,
    status: &'static str,
    delivery: Option<&'static str>,
}

impl Model {
    /// One random request, its answer, and every read that is about what it touched.
    async fn step(&mut self, shop: &TestShop, random: &mut fastrand::Rng, step: usize) {
        let user = *random.choice(["alice", "bob", "carol"].iter()).unwrap();
        let product = *random.choice(["apple", "pear", "plum"].iter()).unwrap();
        match random.u32(0..20) {
            0..2 => {
                let amount = random.u64(0..500);
                let top_up = json!({ "amount": amount });
                let balance = self.balances.get_mut(user).unwrap();
                *balance += amount;
                shop.post(format!("/wallets/{user}/top-up"), top_up).await.is(200).has("/balance", *balance);
                let statement = shop.get(format!("/wallets/{user}/statement?limit=1")).await.is(200);
                statement.has("/items/0/kind", "TOP_UP").has("/items/0/amount", amount);
                self.check(shop, user, &[]).await;
            }
            2..4 => {
                let quantity = random.u64(0..10);
                let restock = json!({ "quantity": quantity });
                self.products.get_mut(product).unwrap().1 += quantity;
                shop.post(format!("/products/{product}/restock"), restock).await.is(200);
                self.check(shop, user, &[product]).await;
            }
            4 => {
                let price = random.u64(50..150);
                self.products.get_mut(product).unwrap().0 = price;
                shop.patch(format!("/products/{product}"), json!({ "price": price })).await.is(200);
                self.check(shop, user, &[product]).await;
            }
            5..14 => self.place(shop, random, user, product, step).await,
            action => {
                let Some(number) = (!self.orders.is_empty()).then(|| random.usize(0..self.orders.len())) else {
                    return;
                };
                self.change(shop, number, action).await;
            }
        }
    }

    async fn place(
        &mut self,
        shop: &TestShop,
        random: &mut fastrand::Rng,
        user: &'static str,
        first: &'static str,
        step: usize,
    ) {
        let mut lines = vec![(first, random.u64(1..8))];
        let other = *random.choice(["apple", "pear", "plum"].iter()).unwrap();
        if other != first {
            lines.push((other, random.u64(1..8)));
        }
        let amount: u64 = lines.iter().map(|(product, quantity)| self.products[product].0 * quantity).sum();
        let short = lines.iter().any(|(product, quantity)| self.products[product].1 < *quantity);
        let id = format!("o-{step}");
        let priced = random.bool();
        let json_lines: Vec<_> = lines
            .iter()
            .map(|(product, quantity)| {
                let price = if priced { json!(self.products[product].0) } else { Value::Null };
                json!({ "product": product, "quantity": quantity, "unit_price": price })
            })
            .collect();
        let answer = shop.post("/orders", json!({ "id": id, "user": user, "lines": json_lines })).await;
        let (status, delivery) = if self.balances[user] >= amount && !short {
            answer.is(201).has("/amount", amount);
            *self.balances.get_mut(user).unwrap() -= amount;
            for (product, quantity) in &lines {
                self.products.get_mut(product).unwrap().1 -= quantity;
            }
            ("CONFIRMED", Some("SCHEDULED"))
        } else {
            let code = answer.text("/code");
            assert!(matches!(&*code, "out_of_stock" | "insufficient_balance"), "{answer}");
            ("REJECTED", None)
        };
        let products: Vec<_> = lines.iter().map(|(product, _)| *product).collect();
        self.orders.push(Placed { id, user, lines, amount, status, delivery });
        let order = self.orders.last().unwrap();
        let newest = shop.get(format!("/mypages/{user}?limit=1")).await.is(200);
        newest.has("/items/0/id", &*order.id);
        self.check_order(shop, order).await;
        self.check(shop, user, &products).await;
    }

    /// Cancels, dispatches or delivers an order.
    async fn change(&mut self, shop: &TestShop, number: usize, action: u32) {
        let order = &mut self.orders[number];
        let id = &order.id;
        match (action, order.status, order.delivery) {
            (14..17, "CONFIRMED", Some("SCHEDULED")) => {
                shop.ask(Method::DELETE, format!("/orders/{id}")).await.is(200).has("/status", "CANCELLED");
                (order.status, order.delivery) = ("CANCELLED", Some("CANCELLED"));
                *self.balances.get_mut(order.user).unwrap() += order.amount;
                for (product, quantity) in &order.lines {
                    self.products.get_mut(product).unwrap().1 += quantity;
                }
            }
            (14..17, "CANCELLED", _) => drop(shop.ask(Method::DELETE, format!("/orders/{id}")).await.is(200)),
            (14..17, _, _) => {
                shop.ask(Method::DELETE, format!("/orders/{id}")).await.refused(409, "not_cancellable");
            }
            (17.., "REJECTED", _) => {
                shop.ask(Method::POST, format!("/deliveries/{id}/dispatch")).await.refused(404, "not_found");
            }
            (17.., _, Some("SCHEDULED")) => {
                shop.ask(Method::POST, format!("/deliveries/{id}/dispatch")).await.is(200);
                order.delivery = Some("DISPATCHED");
            }
            (17.., _, Some("DISPATCHED")) => {
                shop.ask(Method::POST, format!("/deliveries/{id}/deliver")).await.is(200);
                order.delivery = Some("DELIVERED");
            }
            (_, _, _) => {
                shop.ask(Method::POST, format!("/deliveries/{id}/dispatch")).await.refused(409, "not_dispatchable");
            }
        }
        let order = &self.orders[number];
        self.check_order(shop, order).await;
        let products: Vec<_> = order.lines.iter().map(|(product, _)| *product).collect();
        self.check(shop, order.user, &products).await;
    }

    async fn check(&self, shop: &TestShop, user: &str, products: &[&str]) {
        assert_eq!(shop.balance(user).await, self.balances[user], "{user}");
        let statement = shop.get(format!("/wallets/{user}/statement?limit=1")).await.is(200);
        statement.has("/items/0/balance", self.balances[user]);
        for id in products {
            let product = shop.get(format!("/products/{id}")).await.is(200);
            product.has("/price", self.products[id].0).has("/stock", self.products[id].1);
        }
    }

    async fn check_order(&self, shop: &TestShop, order: &Placed) {
        let Placed { id, user, status, delivery, .. } = order;
        assert_eq!(shop.order_status(id).await, *status, "{id}");
        let item = shop.on_page(user, id).await;
        assert_eq!((&item["status"], item.get("delivery_status").and_then(Value::as_str)), (&json!(status), *delivery));
        match delivery {
            Some(delivery) => assert_eq!(shop.delivery_status(id).await, *delivery, "{id}"),
            None => drop(shop.get(format!("/deliveries/{id}")).await.refused(404, "not_found")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_wait_is_answered_at_once_and_the_work_is_done_all_the_same() {
    let shop = TestShop::open().await;
    let preference = "respond-async";
    let [apple, alice, order, sent] = ["apple", "alice", "o", "sent"].map(str::to_owned);
    let accepted = async |method: Method, path: String, body: Value, location: String| {
        let answer = shop.ask(method, path).json(&body).prefer(preference).await.is(202);
        answer.with("location", &location).with("preference-applied", preference);
    };
    let shows = async |path: String, pointer: &str, value: Value| {
        let get = || shop.get(&*path).into_future();
        eventually(&format!("{value} at {pointer} of {path}"), get, |answer| {
            answer.body.pointer(pointer) == Some(&value)
        })
        .await;
    };
    let post = Method::POST;
    let (product, wallet) = (format!("/products/{apple}"), format!("/wallets/{alice}"));
    let new = json!({ "id": apple, "name": "apple", "price": 10, "stock": 10 });
    accepted(post.clone(), "/products".into(), new, product.clone()).await;
    shows(product.clone(), "/stock", json!(10)).await;
    accepted(post.clone(), format!("{product}/restock"), json!({ "quantity": 5 }), product.clone()).await;
    shows(product.clone(), "/stock", json!(15)).await;
    accepted(Method::PATCH, product.clone(), json!({ "price": 11 }), product.clone()).await;
    shows(product.clone(), "/price", json!(11)).await;
    accepted(post.clone(), "/wallets".into(), json!({ "id": alice, "balance": 100 }), wallet.clone()).await;
    shows(wallet.clone(), "/balance", json!(100)).await;
    accepted(post.clone(), format!("{wallet}/top-up"), json!({ "amount": 1 }), wallet.clone()).await;
    shows(wallet.clone(), "/balance", json!(101)).await;
    for id in [&order, &sent] {
        let body = json!({ "id": id, "user": alice, "product": apple, "quantity": 2 });
        accepted(post.clone(), "/orders".into(), body, format!("/orders/{id}")).await;
        shows(format!("/orders/{id}"), "/status", json!("CONFIRMED")).await;
    }
    accepted(post.clone(), format!("/orders/{order}/cancel"), json!({}), format!("/orders/{order}")).await;
    shows(format!("/orders/{order}"), "/status", json!("CANCELLED")).await;
    let delivery = format!("/deliveries/{sent}");
    accepted(post.clone(), format!("{delivery}/dispatch"), json!({}), delivery.clone()).await;
    shows(delivery.clone(), "/status", json!("DISPATCHED")).await;
    accepted(post.clone(), format!("{delivery}/deliver"), json!({}), delivery.clone()).await;
    shows(delivery, "/status", json!("DELIVERED")).await;
    assert_eq!((shop.balance(&alice).await, shop.stock(&apple).await), (79, 13));

    // The outcome of a request under a key is told to whoever asks again.
    let top_up = shop.post(format!("{wallet}/top-up"), json!({ "amount": 1 })).key("later");
    top_up.clone().prefer(preference).await.is(202);
    top_up.await.is(200).has("/balance", 80).with("idempotency-replayed", "true");
    // What breaks a rule is refused all the same, and reads are not affected.
    shop.post(format!("{wallet}/top-up"), json!({})).prefer(preference).await.invalid(&["/amount"]);
    shop.get(&*wallet).prefer(preference).await.is(200).without("preference-applied");
    // Who does not wait at all is told so of an order, however busy everybody is.
    let order = json!({ "id": "at-once", "user": "alice", "product": "apple", "quantity": 1 });
    shop.post("/orders", order).prefer("wait=0").await.is(202).with("preference-applied", "wait=0");
    // Who would wait is answered when there is something to say.
    let quick = shop.post("/wallets", json!({ "id": "quick" })).prefer("wait=30").await.is(201);
    quick.without("preference-applied");
    shop.post("/wallets", json!({ "id": "odd" })).prefer("wait=soon, dance").await.is(201);
    shop.close().await;
}
