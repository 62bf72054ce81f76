//! What is told of one order.

use hyper::Method;
use serde_json::{Value, json};

use super::{rejected_order, small_shop, tool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_shows_what_a_rejected_order_did_and_undid() {
    let shop = small_shop().await;
    rejected_order(&shop).await;
    let life = tool(&shop, "trace o-2 --json").await.exits(0).json();
    let names: Vec<String> = life
        .iter()
        .map(|moment| {
            let message = &moment["message"];
            let name = message.as_str().map(str::to_owned);
            let name = name.unwrap_or_else(|| message.as_object().unwrap().keys().next().unwrap().clone());
            format!("{} {} {name}", moment["log"].as_str().unwrap(), moment["entity"].as_str().unwrap())
        })
        .collect();
    let position =
        |name: &str| names.iter().position(|found| found == name).unwrap_or_else(|| panic!("no {name}: {names:#?}"));
    let saga = [
        "order o-2 place",
        "wallet alice charge",
        "order o-2 charged",
        "product pear take",
        "order o-2 take_refused",
        "wallet alice refund",
    ];
    assert!(saga.map(position).is_sorted(), "{names:#?}");
    assert!(position("product apple take") < position("order o-2 taken"), "{names:#?}");
    assert!(position("order o-2 taken") < position("product apple put_back"), "{names:#?}");
    assert!(!names.contains(&"product pear put_back".to_owned()), "{names:#?}");
    let refused = &life[position("product pear take")];
    assert_eq!(refused["refusal"]["facts"], json!({ "product": "pear", "stock": 1, "needed": 2 }));
    let taken = &life[position("order o-2 taken")];
    assert_eq!(
        (&taken["outcome"], &taken["refusal"]),
        (&json!("PENDING"), &Value::Null),
        "only the last answer decides"
    );
    let refund = &life[position("wallet alice refund")];
    assert_eq!((&refund["undo"], &refund["outcome"]), (&json!(true), &json!("220 given back, 980 there now")));

    tool(&shop, "trace o-2").await.exits(0).says(&[
        "charge order=o-2 amount=220  → 220 charged, 760 left",
        "undo: put_back order=o-2  → 2 put back, 5 there now",
        "✗ out_of_stock: the order wants 2 of \"pear\", 1 are left",
    ]);
    let unknown = tool(&shop, "trace o-3").await.exits(1);
    assert!(unknown.stderr.contains("no log knows of an order o-3"), "{}", unknown.stderr);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_names_the_facts_and_who_was_faster() {
    let shop = small_shop().await;
    rejected_order(&shop).await;
    // The takes of the pear: o-1 at sequence 3, after both products were created.
    tool(&shop, "why o-2").await.exits(0).says(&[
        "Order o-2 of alice is REJECTED with out_of_stock: the order wants 2 of \"pear\", 1 are left.",
        "The last to take pear before was order o-1, at sequence 3 of the product log",
        "What was done is undone: ",
        "wallet alice: 220 given back",
        "product apple: 2 put back",
    ]);
    let why = tool(&shop, "why o-2 --json").await.exits(0).json().remove(0);
    assert_eq!(why["refusal"]["won_by"]["order"], "o-1", "{why}");
    assert_eq!((&why["status"], &why["refusal"]["code"]), (&json!("REJECTED"), &json!("out_of_stock")), "{why}");

    let why = tool(&shop, "why o-1").await.exits(0);
    why.says(&["Order o-1 of alice is CONFIRMED: 20 were paid", " Its delivery is SCHEDULED, since sequence 1 of the"]);
    shop.post("/orders/o-1/cancel", json!({ "reason": "too many" })).await.is(200);
    tool(&shop, "why o-1").await.exits(0).says(&["is CANCELLED", "\"too many\"", "20 given back", "2 put back"]);

    shop.order("sent", "alice", "apple", 1).await;
    shop.ask(Method::POST, "/deliveries/sent/dispatch").await.is(200);
    let late = shop.post("/orders/sent/cancel", json!({ "reason": "too slow" })).await;
    late.refused(409, "not_cancellable");
    let kept = shop.get("/orders/sent").await.is(200).has("/status", "CONFIRMED").body;
    assert_eq!(
        (&kept["cancel_refused"]["reason"], &kept["cancel_refused"]["at"]),
        (&json!("too slow"), &kept["updated_at"])
    );
    assert_eq!(shop.on_page("alice", "sent").await["cancel_refused"], kept["cancel_refused"]);
    let sentence = "A cancel, which was asked for because \"too slow\", came too late: the delivery was DISPATCHED";
    tool(&shop, "why sent").await.exits(0).says(&["is CONFIRMED", sentence]);
    tool(&shop, "trace sent").await.exits(0).says(&["CONFIRMED: the cancel came too late, the delivery is DISPATCHED"]);
    shop.post("/products/apple/restock", json!({ "quantity": 1 })).await.is(200);

    shop.wallet("bob", 150).await;
    shop.order("o-4", "bob", "apple", 1).await;
    let order = json!({ "id": "o-5", "user": "bob", "product": "apple", "quantity": 1 });
    shop.post("/orders", order).await.refused(409, "insufficient_balance");
    tool(&shop, "why o-5").await.exits(0).says(&[
        "the order costs 100, the wallet holds 50",
        "The last to be paid from it before was order o-4",
        "Nothing had to be undone.",
    ]);
    // Refused by what the product was offered at: no money moves.
    let order = json!({ "id": "o-6", "user": "alice", "product": "apple", "quantity": 5 });
    shop.post("/orders", order).await.refused(409, "out_of_stock");
    tool(&shop, "why o-6").await.exits(0).says(&["4 are left", "The last to take apple before was order o-4"]);
    tool(&shop, "why o-7").await.exits(1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_does_not_blame_who_has_put_back_or_been_paid_back_what_was_missing() {
    let shop = small_shop().await;
    let refused = async |id: &str, user: &str, quantity: u64, code: &str| {
        let order = json!({ "id": id, "user": user, "product": "apple", "quantity": quantity });
        shop.post("/orders", order).await.refused(409, code);
        let why = tool(&shop, &format!("why {id} --json")).await.exits(0).json().remove(0);
        let text = why["why"].as_str().unwrap().to_owned();
        (why["refusal"]["won_by"]["order"].clone(), why["refusal"]["won_by_is_known"].clone(), text)
    };
    shop.order("o-1", "alice", "apple", 2).await;
    shop.post("/orders/o-1/cancel", json!({})).await.is(200);
    let (won_by, is_known, why) = refused("o-2", "alice", 6, "out_of_stock").await;
    assert_eq!((won_by, is_known), (Value::Null, json!(true)));
    assert!(why.contains("No other order had any of apple: all that there ever was was there."), "{why}");

    // Of two that took some, the first one still holds it.
    shop.order("o-3", "alice", "apple", 1).await;
    shop.order("o-4", "alice", "apple", 1).await;
    shop.post("/orders/o-4/cancel", json!({})).await.is(200);
    let (won_by, _, why) = refused("o-5", "alice", 5, "out_of_stock").await;
    assert_eq!(won_by, "o-3", "{why}");

    shop.wallet("bob", 150).await;
    shop.order("o-6", "bob", "apple", 1).await;
    shop.post("/orders/o-6/cancel", json!({})).await.is(200);
    let (won_by, is_known, why) = refused("o-7", "bob", 2, "insufficient_balance").await;
    assert_eq!((won_by, is_known), (Value::Null, json!(true)));
    assert!(why.contains("No other order was paid from it: all that was ever put in was there."), "{why}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_tells_how_far_the_delivery_of_an_order_is() {
    let shop = small_shop().await;
    shop.order("o-1", "alice", "apple", 1).await;
    for (sequence, step, status) in [(2, "dispatch", "DISPATCHED"), (3, "deliver", "DELIVERED")] {
        shop.post(format!("/deliveries/o-1/{step}"), json!({})).await.is(200);
        shop.post("/orders/o-1/cancel", json!({})).await.refused(409, "not_cancellable");
        let why = tool(&shop, "why o-1 --json").await.exits(0).json().remove(0);
        assert_eq!(why["delivery"]["status"], status, "{why}");
        let text = why["why"].as_str().unwrap();
        assert!(text.contains(&format!("Its delivery is {status}, since sequence ")), "{text}");
        assert!(why["delivery"]["sequence"].as_u64().unwrap() >= sequence, "{why}");
        assert_eq!(why["undone"], json!([]), "nothing was: {why}");
    }
    shop.close().await;
}
