//! Many at once: nothing is sold twice, nothing is lost, and the books balance.

use futures::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::shop::{Answer, TestShop};

fn count(answers: &[Answer], status: u16, code: Option<&str>) -> usize {
    let fits = |answer: &&Answer| answer.status == status && answer.body.get("code").and_then(Value::as_str) == code;
    answers.iter().filter(fits).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_who_want_the_last_ten_exactly_ten_get_one() {
    let shop = TestShop::open().await;
    for (product, unit_price) in [("apple", Some(100)), ("pear", None)] {
        shop.product(product, 100, 10).await;
        let users: Vec<_> = (0..100).map(|number| format!("{product}-{number}")).collect();
        join_all(users.iter().map(|user| shop.wallet(user, 1000))).await;
        let answers = join_all(users.iter().map(|user| {
            let order = json!({ "user": user, "product": product, "quantity": 1, "unit_price": unit_price });
            shop.post("/orders", order).into_future()
        }))
        .await;
        assert_eq!(
            (count(&answers, 201, None), count(&answers, 409, Some("out_of_stock"))),
            (10, 90),
            "{}",
            answers[0]
        );
        assert_eq!(shop.stock(product).await, 0);
        let balances = join_all(users.iter().map(|user| shop.balance(user))).await;
        for (answer, balance) in answers.iter().zip(balances) {
            assert_eq!(balance, if answer.status == 201 { 900 } else { 1000 }, "{answer}");
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_can_pay_three_orders_pays_three_of_ten() {
    let shop = TestShop::open().await;
    shop.product("apple", 100, 50).await;
    shop.wallet("alice", 399).await;
    let order = json!({ "user": "alice", "product": "apple", "quantity": 1 });
    let answers = join_all((0..10).map(|_| shop.post("/orders", order.clone()).into_future())).await;
    assert_eq!(count(&answers, 201, None), 3, "{}", answers[0]);
    assert_eq!(count(&answers, 409, Some("insufficient_balance")), 7, "{}", answers[0]);
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (99, 47));
    let page = shop.get("/mypages/alice").await.is(200);
    assert_eq!(page.items().iter().filter(|item| item["status"] == "CONFIRMED").count(), 3, "{page}");
    assert_eq!(page.items().len(), 10, "{page}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_piece_is_sold_once_among_two_hundred_and_refunded_once_among_sixteen() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 100, 1).await;
    shop.wallet("alice", 100_000).await;
    let order = json!({ "user": "alice", "product": "apple", "quantity": 1, "unit_price": 100 });
    let answers = join_all((0..200).map(|_| shop.post("/orders", order.clone()).into_future())).await;
    assert_eq!((count(&answers, 201, None), count(&answers, 409, Some("out_of_stock"))), (1, 199), "{}", answers[0]);
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (99_900, 0));

    let sold = answers.iter().find(|answer| answer.status == 201).unwrap().text("/id");
    let cancel = |number: u32| match number % 2 {
        0 => shop.ask(Method::DELETE, format!("/orders/{sold}")).into_future(),
        _ => shop.post(format!("/orders/{sold}/cancel"), json!({})).into_future(),
    };
    // As many as an order tells; each is told the same.
    let answers = join_all((0..16).map(cancel)).await;
    assert_eq!(count(&answers, 200, None), 16, "{}", answers[0]);
    assert!(answers.iter().all(|answer| answer.body["status"] == "CANCELLED"));
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (100_000, 1));
    let statement = shop.all("/wallets/alice/statement", 1000, "before").await;
    let of_it = statement.iter().filter(|entry| entry["order"] == *sold).map(|entry| entry["kind"].clone());
    assert_eq!(of_it.collect::<Vec<_>>(), ["REFUND", "CHARGE"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_use_the_same_id_or_key_at_once_for_different_things_one_gets_it() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 100, 50).await;
    let users: Vec<_> = (0..10).map(|number| format!("user-{number}")).collect();
    join_all(users.iter().map(|user| shop.wallet(user, 1000))).await;
    let answers = join_all(users.iter().map(|user| {
        let order = json!({ "id": "o-1", "user": user, "product": "apple", "quantity": 1 });
        shop.post("/orders", order).into_future()
    }))
    .await;
    assert_eq!(count(&answers, 201, None), 1, "{}", answers[0]);
    assert_eq!(count(&answers, 409, Some("idempotency_key_reused")), 9, "{}", answers[0]);
    let winner = shop.get("/orders/o-1").await.is(200).text("/user");
    for user in &users {
        assert_eq!(shop.balance(user).await, if *user == winner { 900 } else { 1000 }, "{user}");
        let page = shop.get(format!("/mypages/{user}")).await.is(200);
        assert_eq!(page.items().len(), usize::from(*user == winner), "{page}");
    }
    assert_eq!(shop.stock("apple").await, 49);

    let top_up = |amount: u64| shop.post("/wallets/user-0/top-up", json!({ "amount": amount })).key("k").into_future();
    let before = shop.balance("user-0").await;
    let answers = join_all((1..=10).map(top_up)).await;
    assert_eq!(count(&answers, 200, None), 1, "{}", answers[0]);
    assert_eq!(count(&answers, 409, Some("idempotency_key_reused")), 9, "{}", answers[0]);
    let amount = 1 + answers.iter().position(|answer| answer.status == 200).unwrap() as u64;
    assert_eq!(shop.balance("user-0").await, before + amount);

    let new = |stock: u64| json!({ "id": "pear", "name": "pear", "price": 1, "stock": stock });
    let answers = join_all((1..=10).map(|stock| shop.post("/products", new(stock)).into_future())).await;
    assert_eq!((count(&answers, 201, None), count(&answers, 409, Some("already_exists"))), (1, 9), "{}", answers[0]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_and_a_dispatch_at_once_do_not_both_win() {
    let shop = TestShop::open().await;
    shop.product("apple", 100, 50).await;
    shop.wallet("alice", 5000).await;
    let ids: Vec<String> = (0..20).map(|number| format!("o-{number}")).collect();
    join_all(ids.iter().map(|id| shop.order(id, "alice", "apple", 1))).await;
    let races = ids.iter().map(|id| {
        let cancel = shop.ask(Method::DELETE, format!("/orders/{id}")).into_future();
        let dispatch = shop.ask(Method::POST, format!("/deliveries/{id}/dispatch")).into_future();
        async { tokio::join!(cancel, dispatch) }
    });
    let mut kept = 0;
    for (id, (cancel, dispatch)) in ids.iter().zip(join_all(races).await) {
        match (cancel.status, dispatch.status) {
            (200, 409) => assert_eq!(shop.delivery_status(id).await, "CANCELLED"),
            (409, 200) => {
                kept += 1;
                assert_eq!(
                    (&*shop.delivery_status(id).await, &*shop.order_status(id).await),
                    ("DISPATCHED", "CONFIRMED")
                );
            }
            (_, _) => panic!("{cancel}\nand {dispatch}"),
        }
    }
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (5000 - kept * 100, 50 - kept));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_all_money_and_all_pieces_are_accounted_for() {
    const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
    const PRODUCTS: [&str; 3] = ["apple", "pear", "plum"];
    let shop = TestShop::open_with(3).await;
    for user in USERS {
        shop.wallet(user, 3000).await;
    }
    for product in PRODUCTS {
        shop.product(product, 100, 60).await;
    }
    let customers = (0..12).map(|customer| storm(&shop, customer, &USERS, &PRODUCTS));
    let (mut put_in, mut restocked) = (4 * 3000, 3 * 60);
    for (money, pieces) in join_all(customers).await {
        put_in += money;
        restocked += pieces;
    }

    let (mut balances, mut stock, mut charged, mut taken) = (0, 0, 0, 0);
    let mut orders = 0;
    for user in USERS {
        balances += shop.balance(user).await;
        for item in shop.all(&format!("/mypages/{user}"), 100, "before").await {
            orders += 1;
            let order = shop.get(format!("/orders/{}", item["id"].as_str().unwrap())).await.is(200);
            assert_eq!(order.body["status"], item["status"], "{order}");
            match &*order.text("/status") {
                "CONFIRMED" => {
                    charged += order.number("/amount");
                    let lines = order.body["lines"].as_array().unwrap();
                    taken += lines.iter().map(|line| line["quantity"].as_u64().unwrap()).sum::<u64>();
                }
                status => assert!(matches!(status, "CANCELLED" | "REJECTED"), "{order}"),
            }
        }
    }
    for product in PRODUCTS {
        stock += shop.stock(product).await;
    }
    assert!(orders > 100, "only {orders} orders");
    assert_eq!((balances + charged, stock + taken), (put_in, restocked), "{orders} orders");
    shop.close().await;
}

/// What one of the many does, one thing after the other. Returns the money and pieces put in.
async fn storm(shop: &TestShop, customer: u64, users: &[&str], products: &[&str]) -> (u64, u64) {
    let mut random = fastrand::Rng::with_seed(customer);
    let (mut money, mut pieces) = (0, 0);
    let mut mine: Vec<String> = Vec::new();
    for step in 0..25 {
        let user = *random.choice(users).unwrap();
        let product = *random.choice(products).unwrap();
        let amount = random.u64(1..5);
        let answer = match random.u32(0..12) {
            0 => {
                money += amount;
                shop.post(format!("/wallets/{user}/top-up"), json!({ "amount": amount })).await.is(200)
            }
            1 => {
                pieces += amount;
                shop.post(format!("/products/{product}/restock"), json!({ "quantity": amount })).await.is(200)
            }
            2 => shop.patch(format!("/products/{product}"), json!({ "price": 98 + amount })).await.is(200),
            3..5 if !mine.is_empty() => {
                let order = random.choice(&mine).unwrap();
                shop.ask(Method::DELETE, format!("/orders/{order}")).await
            }
            5 if !mine.is_empty() => {
                let order = random.choice(&mine).unwrap();
                shop.ask(Method::POST, format!("/deliveries/{order}/dispatch")).await
            }
            _ => {
                let id = format!("o-{customer}-{step}");
                let mut lines = vec![json!({ "product": product, "quantity": amount })];
                if let Some(other) = products.iter().find(|other| **other != product).filter(|_| random.bool()) {
                    lines.push(json!({ "product": other, "quantity": 1, "unit_price": 100 }));
                }
                let order = shop.post("/orders", json!({ "id": id, "user": user, "lines": lines }));
                mine.push(id);
                // Some change their mind before they are answered.
                if random.u32(0..4) == 0 {
                    let (placed, _) =
                        tokio::join!(order.into_future(), cancel_once_it_is_there(shop, mine.last().unwrap()));
                    placed
                } else {
                    order.await
                }
            }
        };
        assert!(matches!(answer.status, 200 | 201 | 404 | 409), "{answer}");
    }
    (money, pieces)
}

async fn cancel_once_it_is_there(shop: &TestShop, order: &str) -> Answer {
    loop {
        let answer = shop.ask(Method::DELETE, format!("/orders/{order}")).await;
        if answer.status != 404 {
            return answer;
        }
    }
}
