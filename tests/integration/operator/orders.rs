//! What is told of one order.

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

    tool(&shop, "why o-1").await.exits(0).says(&["Order o-1 of alice is CONFIRMED: 20 were paid"]);
    shop.post("/orders/o-1/cancel", json!({ "reason": "too many" })).await.is(200);
    tool(&shop, "why o-1").await.exits(0).says(&["is CANCELLED", "\"too many\"", "20 given back", "2 put back"]);

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
