//! Every kind in a process of its own, and what is left when one of them is gone.

use std::time::Duration;

use futures::StreamExt;
use hyper::Method;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_tests::{
    client::{Ask, Client},
    cluster::{A_PROCESS_PER_KIND, Cluster},
};
use tokio::time::timeout;

/// How soon a question for a price that nobody has answered is asked again.
const AGAIN_WITHIN: Duration = Duration::from_secs(2);
/// How soon a customer who waits a second hears that nobody serves orders.
const UNAVAILABLE_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn five_processes_play_the_story_and_my_page_outlives_the_order_process() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    let first = story(&client).await;

    let second = client.post("/orders", &apples(5)).await.json(201);
    let page = client.get("/mypages/alice").await.json(200);
    assert_eq!(ids(&page), [&second["id"], &first["id"]]);

    cluster.take_host("orders").kill().await;
    nobody_serves_orders(&mut cluster, &page).await;
    cluster.start_host("orders");
    cluster.wait_until_ready().await;
    client.post("/orders", &apples(1)).await.json(201);

    let page = client.get("/mypages/alice").await.json(200);
    cluster.take_host("orders").terminate().await;
    nobody_serves_orders(&mut cluster, &page).await;
    cluster.start_host("orders");
    cluster.wait_until_ready().await;
    let fourth = client.post("/orders", &apples(1)).await.json(201);

    let page = client.get("/mypages/alice").await.json(200);
    assert_eq!((ids(&page).len(), ids(&page)[0]), (4, &fourth["id"]));
    assert_eq!(client.get("/wallets/alice").await.json(200)["balance"], 999_999 - 7_000);
    assert_eq!(client.get("/products/apple").await.json(200)["stock"], 1000 - 7);
}

/// Apples, Alice, an order of hers, and its cancellation.
async fn story(client: &Client) -> Value {
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 1000, "stock": 1000 })).await.json(201);
    client.post("/wallets", &json!({ "id": "alice", "balance": 999_999 })).await.json(201);
    let order = client.post("/orders", &apples(10)).await.json(201);
    assert_eq!((&order["status"], &order["amount"]), (&json!("CONFIRMED"), &json!(10_000)));
    assert_eq!(client.get("/wallets/alice").await.json(200)["balance"], 989_999);
    assert_eq!(client.get("/products/apple").await.json(200)["stock"], 990);

    let id = order["id"].as_str().unwrap();
    let cancelled = client.post(&format!("/orders/{id}/cancel"), &json!({})).await.json(200);
    assert_eq!(cancelled["status"], "CANCELLED");
    assert_eq!(client.get(&format!("/deliveries/{id}")).await.json(200)["status"], "CANCELLED");
    assert_eq!(client.get("/wallets/alice").await.json(200)["balance"], 999_999);
    assert_eq!(client.get("/products/apple").await.json(200)["stock"], 1000);
    let page = client.get("/mypages/alice").await.json(200);
    assert_eq!(page["items"][0]["status"], "CANCELLED");
    assert_eq!(page["items"][0]["delivery_status"], "CANCELLED");
    cancelled
}

#[tokio::test]
async fn a_question_for_a_price_that_dies_with_a_host_of_products_is_asked_again_soon() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    client.post("/wallets", &json!({ "id": "alice", "balance": 999_999 })).await.json(201);
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 7, "stock": 9 })).await.json(201);
    cluster.take_host("products").terminate().await;
    // In their place, somebody who hears what is asked and says nothing until he is asked once more.
    let nats = async_nats::connect(cluster.nats().url()).await.unwrap();
    let mut questions = nats.subscribe("shop.product.quote").await.unwrap();
    nats.flush().await.unwrap();
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 1 });
    let answers = async {
        questions.next().await.unwrap();
        let second = timeout(AGAIN_WITHIN, questions.next()).await.expect("it is asked again").unwrap();
        let quote = json!([{ "offer": { "price": 7, "stock": 9 } }]).to_string();
        nats.publish(second.reply.unwrap(), quote.into()).await.unwrap();
        nats.flush().await.unwrap();
        cluster.start_host("products");
    };
    let ask = Ask::new(Method::POST, "/orders").body(order).patiently();
    let (placed, ()) = tokio::join!(client.exchange(&ask), answers);
    assert_eq!(placed.unwrap().json(201)["amount"], 7);
}

async fn nobody_serves_orders(cluster: &mut Cluster, page: &Value) {
    cluster.wait_until_kinds_are("unavailable", &[Kind::Order]).await;
    let client = cluster.client();
    let answer = client.post("/orders", &apples(1)).await;
    assert_eq!(answer.json(503)["code"], "unavailable");
    assert!(answer.took < UNAVAILABLE_WITHIN, "it took {:?} to say so", answer.took);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(client.get("/mypages/alice").await.json(200), *page);
}

fn apples(quantity: u64) -> Value {
    json!({ "user": "alice", "product": "apple", "quantity": quantity })
}

fn ids(page: &Value) -> Vec<&Value> {
    page["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect()
}
