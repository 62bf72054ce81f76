//! Bad input: refused with the place of every mistake, and nothing happens.

use hyper::Method;
use serde_json::{Value, json};

use crate::shop::{Ask, MAX, TestShop};

/// All that there is in [`furnished`]; nothing bad may change it.
pub(crate) const STATE: [&str; 6] =
    ["/products", "/wallets/alice", "/wallets/alice/statement", "/mypages/alice", "/orders/o-1", "/deliveries/o-1"];

/// A shop in which each thing is that a request may be about.
pub(crate) async fn furnished() -> TestShop {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 100).await;
    shop.wallet("alice", 50_000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    shop
}

/// Every request with a body: its path, a body that is right, and where its integers stand.
fn requests() -> Vec<(Method, &'static str, Value, Vec<&'static str>)> {
    let line = json!({ "product": "apple", "quantity": 1, "unit_price": 1000 });
    vec![
        (Method::POST, "/products", json!({ "name": "pear", "price": 1, "stock": 1 }), vec!["/price", "/stock"]),
        (Method::PATCH, "/products/apple", json!({ "price": 1000 }), vec!["/price"]),
        (Method::POST, "/products/apple/restock", json!({ "quantity": 1 }), vec!["/quantity"]),
        (Method::POST, "/wallets", json!({ "balance": 1 }), vec!["/balance"]),
        (Method::POST, "/wallets/alice/top-up", json!({ "amount": 1 }), vec!["/amount"]),
        (
            Method::POST,
            "/orders",
            json!({ "user": "alice", "product": "apple", "quantity": 1, "unit_price": 1000 }),
            vec!["/quantity", "/unit_price"],
        ),
        (
            Method::POST,
            "/orders",
            json!({ "user": "alice", "lines": [{ "product": "x", "quantity": 1 }, line] }),
            vec!["/lines/1/quantity", "/lines/1/unit_price"],
        ),
        (Method::POST, "/orders/o-1/cancel", json!({ "reason": "x" }), vec![]),
        (Method::DELETE, "/orders/o-1", json!({ "reason": "x" }), vec![]),
        (Method::POST, "/deliveries/o-1/dispatch", json!({}), vec![]),
        (Method::POST, "/deliveries/o-1/deliver", json!({}), vec![]),
    ]
}

/// The same body with one value in another place, written as it is given.
fn with(body: &Value, pointer: &str, raw: &str) -> String {
    let mut body = body.clone();
    *body.pointer_mut(pointer).unwrap() = json!("@@");
    body.to_string().replace("\"@@\"", raw)
}

fn send(shop: &TestShop, method: &Method, path: &str, body: impl Into<String>) -> Ask {
    shop.ask(method.clone(), path).body(body.into()).header("content-type", "application/json")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_integer_in_the_range_is_refused_wherever_one_is_expected() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    let bad = [
        "-1",
        "-0.5",
        "1.5",
        "1.0",
        "9007199254740992",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999",
        "-9007199254740993",
        "true",
        "false",
        "[]",
        "[1]",
        "{}",
        r#""""#,
        r#""one""#,
        r#""-1""#,
        r#""+1""#,
        r#""1.0""#,
        r#"" 1""#,
        r#""1 ""#,
        r#""0x10""#,
        r#""9007199254740992""#,
        r#""١""#,
        r#""99999999999999999999""#,
        "1e300",
    ];
    for (method, path, body, integers) in requests() {
        for pointer in integers {
            for value in bad {
                send(&shop, &method, path, with(&body, pointer, value)).await.invalid(&[pointer]);
            }
            if pointer.ends_with("quantity") && path == "/orders" {
                send(&shop, &method, path, with(&body, pointer, "0")).await.invalid(&[pointer]);
                send(&shop, &method, path, with(&body, pointer, "\"0\"")).await.invalid(&[pointer]);
            }
        }
    }
    assert_eq!(shop.look(&STATE).await, before);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_beyond_all_bounds_is_a_bad_number_and_not_bad_json() {
    let shop = furnished().await;
    for (method, path, body, integers) in requests() {
        for pointer in integers {
            for value in ["1e400", "-1e400"] {
                send(&shop, &method, path, with(&body, pointer, value)).await.invalid(&[""]);
            }
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_integer_may_come_as_a_text_of_digits() {
    let shop = TestShop::open().await;
    let apple = json!({ "id": "apple", "name": "apple", "price": "1000", "stock": "100" });
    shop.post("/products", apple).await.is(201).has("/price", 1000).has("/stock", 100);
    shop.patch("/products/apple", json!({ "price": "1100" })).await.is(200).has("/price", 1100);
    shop.post("/products/apple/restock", json!({ "quantity": "5" })).await.is(200).has("/stock", 105);
    shop.post("/wallets", json!({ "id": "alice", "balance": "9007199254740990" }))
        .await
        .is(201)
        .has("/balance", MAX - 1);
    shop.post("/wallets/alice/top-up", json!({ "amount": "1" })).await.is(200).has("/balance", MAX);
    let order = json!({ "user": "alice", "product": "apple", "quantity": "2", "unit_price": "1100" });
    shop.post("/orders", order).await.is(201).has("/amount", 2200).has("/lines/0/quantity", 2);
    // Nothing is an amount like any other.
    shop.post("/wallets/alice/top-up", json!({ "amount": 0 })).await.is(200).has("/balance", MAX - 2200);
    shop.post("/products/apple/restock", json!({ "quantity": "0" })).await.is(200).has("/stock", 103);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_id_is_refused_wherever_one_is_expected() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    let long = format!("\"{}\"", "x".repeat(65));
    let texts = [
        r#""a.b""#,
        r#""a b""#,
        r#"" a""#,
        r#""*""#,
        r#"">""#,
        r#""a/b""#,
        r#""🍎""#,
        r#""é""#,
        r#""""#,
        r#""a\u0000""#,
    ];
    let others = ["1", "true", "[]", "{}", "1.5"];
    let line = json!({ "product": "apple", "quantity": 1 });
    for (path, body, pointers) in [
        ("/products", json!({ "id": "p", "name": "pear", "price": 1, "stock": 1 }), &["/id"][..]),
        ("/wallets", json!({ "id": "w" }), &["/id"]),
        (
            "/orders",
            json!({ "id": "o", "user": "alice", "product": "apple", "quantity": 1 }),
            &["/id", "/user", "/product"],
        ),
        ("/orders", json!({ "user": "alice", "lines": [line] }), &["/user", "/lines/0/product"]),
    ] {
        for pointer in pointers {
            for value in texts.iter().chain(&others).copied().chain([&*long]) {
                send(&shop, &Method::POST, path, with(&body, pointer, value)).await.invalid(&[pointer]);
            }
        }
    }
    let encoded = ["a.b", "a%20b", "%2A", "%3E", "a%2Fb", "%F0%9F%8D%8E", "%C3%A9", "%FF", "%00", "a%", &long[1..66]];
    for id in encoded {
        for (method, path, pointer) in [
            (Method::GET, format!("/products/{id}"), "/id"),
            (Method::PATCH, format!("/products/{id}"), "/id"),
            (Method::POST, format!("/products/{id}/restock"), "/id"),
            (Method::GET, format!("/wallets/{id}"), "/id"),
            (Method::GET, format!("/wallets/{id}/statement"), "/id"),
            (Method::POST, format!("/wallets/{id}/top-up"), "/id"),
            (Method::GET, format!("/orders/{id}"), "/id"),
            (Method::POST, format!("/orders/{id}/cancel"), "/id"),
            (Method::DELETE, format!("/orders/{id}"), "/id"),
            (Method::GET, format!("/deliveries/{id}"), "/id"),
            (Method::POST, format!("/deliveries/{id}/dispatch"), "/id"),
            (Method::GET, format!("/mypages/{id}"), "/user"),
        ] {
            shop.ask(method, path).await.invalid(&[pointer]);
        }
    }
    for key in ["", "a b", "schlüssel", "\"k", "\"a\\b\"", &*"k".repeat(256)] {
        shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).key(key).await.invalid(&["/Idempotency-Key"]);
    }
    let twice = shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).key("a").key("b");
    twice.await.invalid(&["/Idempotency-Key"]);
    assert_eq!(shop.look(&STATE).await, before);

    // The longest id, and the names of verbs, are ids like any other.
    for id in [&"x".repeat(64), "get", "list", "status", "create", "0", "-", "_"] {
        shop.wallet(id, 10).await.with("location", &format!("/wallets/{id}"));
        shop.product(id, 1, 10).await;
        shop.order(id, id, id, 1).await.has("/id", id);
        assert_eq!((shop.balance(id).await, shop.stock(id).await), (9, 9));
        assert_eq!(shop.on_page(id, id).await["delivery_status"], "SCHEDULED");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_has_to_be_an_object_with_the_known_members_and_no_others() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    for (method, path, body, integers) in requests() {
        let body_with = |name: &str, value: Value| {
            let mut body = body.clone();
            body[name] = value;
            body.to_string()
        };
        for raw in ["[]", "[1]", "1", "\"text\"", "null", "true", "[{}]"] {
            send(&shop, &method, path, raw).await.invalid(&[""]);
        }
        for raw in ["{", "}", "nonsense", "{\"a\":}", "{'a':1}", "{}x", "{\"a\":\"\\ud800\"}", "a=1"] {
            let problem = send(&shop, &method, path, raw).await.refused(400, "malformed").has("/line", 1);
            assert!(problem.number("/column") > 0, "{problem}");
        }
        for (raw, says) in [
            (&b"\xef\xbb\xbf{}"[..], "byte order mark"),
            (b"\x1f\x8b\x08\0\0\0", "compressed"),
            (b"\x28\xb5\x2f\xfd\x04", "compressed"),
            (b"\x0b\x02\x80{}\x03", "compressed"),
            (b"\x8b\x02\x80{}\x03", "compressed"),
            (b"\x80", "MessagePack"),
            (b"{\"reason\":\"\xff\"}", "not proper Unicode"),
            (b"{\"reason\":\n\n 1 2}", "line 3, column 4"),
        ] {
            let ask = shop.ask(method.clone(), path).body(raw).header("content-type", "application/json");
            let problem = ask.await.refused(400, "malformed");
            assert!(problem.text("/detail").contains(says), "{problem}");
            assert!(problem.value("/line").is_u64() && problem.value("/column").is_u64(), "{problem}");
        }
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(send(&shop, &method, path, deep).await.status, 400 | 422));
        send(&shop, &method, path, body_with("colour", json!("red"))).await.invalid(&["/colour"]);
        send(&shop, &method, path, body_with("a/b~c", json!(null))).await.invalid(&["/a~1b~0c"]);
        send(&shop, &method, path, body_with("Quantity", json!(1))).await.invalid(&["/Quantity"]);
        send(&shop, &method, path, body_with("", json!(2))).await.invalid(&["/"]);
        for pointer in integers.iter().filter(|pointer| pointer.matches('/').count() == 1) {
            let twice = format!("{{\"{}\":1,{}", &pointer[1..], &body.to_string()[1..]);
            send(&shop, &method, path, twice).await.invalid(&[pointer]);
        }
    }
    for twice in [r#"{"id":"a","id":"b"}"#, r#"{"id":null,"id":"b"}"#, r#"{"id":"a","id":"a"}"#] {
        send(&shop, &Method::POST, "/wallets", twice).await.invalid(&["/id"]);
    }
    assert_eq!(shop.look(&STATE).await, before);
    // A change of nothing is allowed.
    shop.patch("/products/apple", json!({})).await.is(200).has("/price", 1000).has("/name", "apple");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_mistakes_are_told_at_once() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    let nothing = |path: &'static str| [shop.ask(Method::POST, path), send(&shop, &Method::POST, path, " \n")];
    for ask in nothing("/products").into_iter().chain([shop.post("/products", json!({}))]) {
        ask.await.invalid(&["/name", "/price", "/stock"]);
    }
    for ask in nothing("/orders") {
        ask.await.invalid(&["/user", "/product", "/quantity"]);
    }
    shop.post("/orders", json!({ "product": null, "quantity": null })).await.invalid(&[
        "/user",
        "/product",
        "/quantity",
    ]);
    shop.ask(Method::POST, "/wallets/alice/top-up").await.invalid(&["/amount"]);
    shop.ask(Method::POST, "/products/apple/restock").await.invalid(&["/quantity"]);
    let lines =
        json!([{ "product": "a b" }, 7, { "product": "apple", "quantity": 1, "colour": "red" }, { "quantity": 0 }]);
    shop.post("/orders", json!({ "lines": lines, "colour": "red" })).await.invalid(&[
        "/user",
        "/lines/0/product",
        "/lines/0/quantity",
        "/lines/1",
        "/lines/1/product",
        "/lines/1/quantity",
        "/lines/2/colour",
        "/lines/3/product",
        "/lines/3/quantity",
        "/colour",
    ]);
    let bad = json!({ "id": "x", "name": 1, "price": -1, "stock": "many", "colour": "red" });
    shop.post("/products", bad).await.invalid(&["/name", "/price", "/stock", "/colour"]);
    shop.get("/products/x").await.refused(404, "not_found");

    // Names and reasons are for people: of any letters, but not empty, endless or unprintable.
    let long = "ü".repeat(201);
    let harm =
        ["\n", "\0", "\u{85}", "\u{2028}", "\u{2029}", "\u{202d}", "\u{202e}", "\u{2067}", "\u{2069}", "\u{ffff}"];
    let blank = [" ", "\u{a0}", "\u{200b}", "\u{200d}", "\u{feff}", "\u{3000}", "\u{3164}", "\u{2800}", "\u{e0001}"];
    let bad = || harm.iter().map(|harm| format!("a{harm}b")).chain(blank.map(|blank| blank.repeat(2))).map(Value::from);
    for name in [json!(""), json!(long), json!(7), json!([]), json!({})].into_iter().chain(bad()) {
        let product = json!({ "name": name, "price": 1, "stock": 1 });
        shop.post("/products", product).await.invalid(&["/name"]);
        shop.patch("/products/apple", json!({ "name": name })).await.invalid(&["/name"]);
    }
    for reason in [json!(""), json!("x".repeat(501)), json!("a\u{7}b"), json!(7), json!(["x"])].into_iter().chain(bad())
    {
        shop.post("/orders/o-1/cancel", json!({ "reason": reason })).await.invalid(&["/reason"]);
        shop.ask(Method::DELETE, "/orders/o-1").json(&json!({ "reason": reason })).await.invalid(&["/reason"]);
    }
    assert_eq!(shop.look(&STATE).await, before);
    for name in
        ["🍎", "사과", &"ü".repeat(200), "\"<a>\\", "👨\u{200d}👩\u{200d}👧", "\u{2068}עברית\u{2069} ", "❤\u{fe0f}"]
    {
        shop.patch("/products/apple", json!({ "name": name })).await.is(200).has("/name", name);
        shop.get("/products/apple").await.is(200).has("/name", name);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_has_one_to_fifty_lines_with_each_product_once() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    let line = |product: &str| json!({ "product": product, "quantity": 1, "unit_price": 1 });
    let lines = |count: usize| (0..count).map(|n| line(&format!("p-{n}"))).collect::<Vec<_>>();
    for bad in [json!([]), json!(lines(51)), json!({}), json!("apple"), json!([line("a"), line("b"), line("a")])] {
        let order = json!({ "id": "bad", "user": "alice", "lines": bad });
        shop.post("/orders", order).await.invalid(&["/lines"]);
    }
    let both = json!({ "user": "alice", "lines": lines(1), "product": "apple", "quantity": 1 });
    shop.post("/orders", both).await.invalid(&["/lines"]);
    shop.get("/orders/bad").await.refused(404, "not_found");
    assert_eq!(shop.look(&STATE).await, before);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_leaves_the_range_is_refused_and_never_wrapped() {
    let shop = TestShop::open().await;
    shop.wallet("full", MAX).await;
    shop.wallet("alice", MAX - 5).await;
    shop.product("apple", 10, MAX - 5).await;
    shop.product("gold", MAX, 10).await;
    let paths = ["/products", "/wallets/full", "/wallets/alice", "/wallets/alice/statement", "/mypages/alice"];
    let before = shop.look(&paths).await;
    for (path, body, pointer) in [
        ("/wallets/full/top-up", json!({ "amount": 1 }), "/amount"),
        ("/wallets/alice/top-up", json!({ "amount": 6 }), "/amount"),
        ("/wallets/alice/top-up", json!({ "amount": MAX }), "/amount"),
        ("/products/apple/restock", json!({ "quantity": 6 }), "/quantity"),
        ("/products/apple/restock", json!({ "quantity": MAX }), "/quantity"),
    ] {
        let refusal = shop.post(path, body).await.refused(409, "limit_exceeded").has("/limit", MAX);
        let sum = refusal.number("/used") + refusal.number("/needed");
        assert!(sum > MAX && refusal.value("/errors/0/pointer") == pointer, "{refusal}");
    }
    let gold = json!({ "product": "gold", "quantity": 1, "unit_price": MAX });
    let penny = json!({ "product": "apple", "quantity": 1, "unit_price": 10 });
    for (order, pointer) in [
        (json!({ "product": "gold", "quantity": 2, "unit_price": MAX }), "/quantity"),
        (json!({ "product": "gold", "quantity": MAX, "unit_price": MAX }), "/quantity"),
        (json!({ "product": "gold", "quantity": 2 }), "/quantity"),
        (json!({ "lines": [gold, penny] }), "/lines"),
        (json!({ "lines": [{ "product": "gold", "quantity": 2, "unit_price": MAX }] }), "/lines"),
        (json!({ "lines": [{ "product": "gold", "quantity": 2 }] }), "/lines"),
        (json!({ "lines": [{ "product": "gold", "quantity": 1 }, { "product": "apple", "quantity": 1 }] }), "/lines"),
        (json!({ "lines": [gold, { "product": "apple", "quantity": 1 }] }), "/lines"),
    ] {
        let mut order = order;
        (order["id"], order["user"]) = (json!("too-much"), json!("alice"));
        shop.post("/orders", order).await.invalid(&[pointer]);
        shop.get("/orders/too-much").await.refused(404, "not_found");
    }
    assert_eq!(shop.look(&paths).await, before);

    // What was spent may come back, so that it still counts; and then it does come back.
    shop.order("o-1", "alice", "apple", 1000).await;
    shop.post("/wallets/alice/top-up", json!({ "amount": 6 })).await.refused(409, "limit_exceeded");
    shop.post("/products/apple/restock", json!({ "quantity": 6 })).await.refused(409, "limit_exceeded");
    shop.post("/wallets/alice/top-up", json!({ "amount": 5 })).await.is(200).has("/balance", MAX - 10_000);
    shop.post("/products/apple/restock", json!({ "quantity": 5 })).await.is(200).has("/stock", MAX - 1000);
    shop.ask(Method::DELETE, "/orders/o-1").await.is(200).has("/status", "CANCELLED");
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (MAX, MAX));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_string_is_read_strictly() {
    let shop = furnished().await;
    for (path, from) in [("/products", "after"), ("/wallets/alice/statement", "before"), ("/mypages/alice", "before")] {
        let values =
            ["=0", "=1001", "=", "=-1", "=1.5", "=1e1", "=ten", "=%2B1", "=+1", "=99999999999999999999", "=%00", ""];
        for value in values {
            shop.get(format!("{path}?limit{value}")).await.invalid(&["/limit"]);
        }
        shop.get(format!("{path}?limit=0&{from}=")).await.invalid(&[&format!("/{from}"), "/limit"]);
        for query in [
            "limit=1&limit=2",
            "colour=red",
            "limit=1&colour=red",
            "=",
            "&",
            &format!("{from}=%"),
            &format!("{from}=%zz"),
            &format!("{from}=%ff"),
            &format!("{from}=a&{from}=b"),
        ] {
            shop.get(format!("{path}?{query}")).await.refused(400, "malformed");
        }
        shop.get(format!("{path}?limit=1000")).await.is(200);
        shop.get(format!("{path}?limit=1")).await.is(200).lacks("/items/1");
    }
    // Only lists read it.
    shop.get("/orders/o-1?colour=red&limit=0").await.is(200);
    shop.get("/mypages/alice?after=x").await.refused(400, "malformed");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_no_page_gave_is_still_answered_as_the_document_describes() {
    let shop = furnished().await;
    for (path, from) in [("/products", "after"), ("/wallets/alice/statement", "before"), ("/mypages/alice", "before")] {
        for place in ["", "a.b", "🍎", "%00", "*", &"x".repeat(65), &"x".repeat(200), "zzz", "0"] {
            let answer = shop.get(format!("{path}?{from}={}", place.replace('🍎', "%F0%9F%8D%8E"))).await;
            if answer.status != 200 {
                answer.invalid(&[&format!("/{from}")]);
            }
        }
    }
    shop.close().await;
}
