//! An order over NATS: `cargo run -p shop-tests --example order`. NATS_URL says where the shop is.

use std::{env, error::Error, time::Duration, time::UNIX_EPOCH};

use serde_json::{Value, json};

/// Repeats a request until its answer is definite. An order's id is its key: it is carried out once.
async fn ask(nats: &async_nats::Client, subject: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
    loop {
        if let Ok(answer) = nats.request(subject.to_owned(), body.to_string().into()).await {
            let answer: Value = serde_json::from_slice(&answer.payload)?;
            if answer["status"] != 429 && answer["status"] != 503 {
                return Ok(answer);
            }
        }
        eprintln!("not known yet, asking again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let nats = async_nats::connect(env::var("NATS_URL").unwrap_or("nats://localhost:4222".to_owned())).await?;
    // If they are there, that is fine.
    ask(&nats, "shop.product.plum.create", &json!({ "name": "Plum", "price": 1, "stock": 1_000_000 })).await?;
    ask(&nats, "shop.wallet.zoe.open", &json!({ "balance": 1_000_000 })).await?;

    let id = format!("rs-{}", UNIX_EPOCH.elapsed()?.as_nanos());
    let plums = |quantity: u32| json!({ "user": "zoe", "product": "plum", "quantity": quantity });
    println!("{id}: {}", ask(&nats, &format!("shop.order.{id}.place"), &plums(3)).await?["status"]);
    let refusal = ask(&nats, &format!("shop.order.{id}-more.place"), &plums(2_000_000)).await?;
    if refusal["code"] == "out_of_stock" {
        println!("{id}-more: refused, {} wanted, {} left", refusal["needed"], refusal["stock"]);
    }
    let mut query = json!({ "limit": 2 });
    while !query.is_null() {
        let page = ask(&nats, "shop.mypage.zoe.get", &query).await?;
        page["items"].as_array().into_iter().flatten().for_each(|order| println!("on the page: {}", order["id"]));
        query = page["next"].as_str().map(|next| json!({ "limit": 2, "before": next })).into();
    }
    Ok(())
}
