//! Makes a recording: a shop in which all that can happen to orders happens, first as an old shop
//! does it, then after its upgrade, with a host that is killed and garbage in its logs.

use std::{fs, sync::Arc};

use async_nats::jetstream;
use hyper::Method;
use serde_json::{Value, json};
use shop_actors::replay::merged_log::MergedLog;
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{Connection, access::Access},
    jetstream::JetStreamLog,
};
use shop_tests::{
    client::{Ask, Client},
    cluster::Cluster,
    market::Market,
    rush::{Rush, Told, id_of},
    seed::rng,
};

use super::{Recorded, RecordedLog, Recording, folder};
use crate::{
    operator::tool_at,
    upgrade::{host_of, logs_of_an_old_shop},
};

/// Orders in either half.
const ORDERS: usize = 120;

#[tokio::test]
#[ignore = "adds the recording that SHOP_GOLDEN_NAME names to tests/golden"]
async fn record() {
    let name = std::env::var("SHOP_GOLDEN_NAME").expect("SHOP_GOLDEN_NAME names the recording");
    let path = folder().join(name).with_extension("logs");
    assert!(!path.exists(), "{} is there already, and a recording is never made anew", path.display());

    let mut cluster = Cluster::without_processes(crate::upgrade::PARTITIONS).await;
    let url = cluster.nats().url();
    logs_of_an_old_shop(&url).await;
    let mut host = host_of(&cluster).await;
    cluster.start_bridge().await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(2), 2 * ORDERS).await;
    for half in ["old", "new"] {
        let orders = market.orders(half, ORDERS);
        let mut rush = Rush::begin(&client, orders.clone());
        rush.has_answered(ORDERS / 3).await;
        host.kill().await;
        host = host_of(&cluster).await;
        afterwards(&client, half, &rush.finish().await).await;
        callers(&url).await;
        garbage(&url).await;
        if half == "old" {
            tool_at(&url, "upgrade").await.exits(0);
        }
        // Who asks again is told what was told.
        for order in orders.iter().step_by(10) {
            client.post("/orders", order).await;
        }
    }
    tool_at(&url, "audit").await.exits(0);
    let recording = recording_of(&url).await;
    fs::write(&path, rmp_serde::to_vec(&recording).unwrap()).unwrap();
    fs::write(path.with_extension("digests"), recording.digests()).unwrap();
    host.terminate().await;
}

/// What comes after orders: cancels, deliveries, refusals, and changes of what is on sale.
async fn afterwards(client: &Client, half: &str, told: &Told) {
    let confirmed = told.iter().filter(|(_, (_, answer))| answer.status == 201).map(|(id, _)| id);
    for (place, id) in confirmed.enumerate() {
        match place % 4 {
            0 => drop(client.post(&format!("/orders/{id}/cancel"), &json!({ "reason": "too many" })).await.json(200)),
            1 => {
                client.post(&format!("/deliveries/{id}/dispatch"), &json!({})).await.json(200);
                client.post(&format!("/orders/{id}/cancel"), &json!({})).await.json(409);
                client.post(&format!("/deliveries/{id}/deliver"), &json!({})).await.json(200);
                client.post(&format!("/deliveries/{id}/dispatch"), &json!({})).await.json(409);
            }
            _ => {}
        }
    }
    let send = async |method: Method, path: &str, body: Value| {
        client.send(method, path, Some(&body)).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let order = |id: &str, user: &str, product: &str| {
        let line = json!({ "product": product, "quantity": 1, "unit_price": 1 });
        json!({ "id": format!("{half}-{id}"), "user": user, "lines": [line] })
    };
    let strangers = [order("nobody", "nobody", "product-0"), order("nothing", "customer-0", "nothing")];
    for order in strangers {
        send(Method::POST, "/orders", order).await.json(404);
    }
    // A cancel that overtakes its order, if it can.
    for n in 0..10 {
        let order = order(&format!("hasty-{n}"), "customer-1", "product-1");
        client.post_async("/orders", &order).await;
        send(Method::POST, &format!("/orders/{}/cancel", id_of(&order)), json!({})).await;
    }
    send(Method::POST, "/wallets", json!({ "id": "customer-0", "balance": 1 })).await.json(409);
    for amount in [0, 500] {
        send(Method::POST, "/wallets/customer-0/top-up", json!({ "amount": amount })).await.json(200);
        send(Method::POST, "/products/product-0/restock", json!({ "quantity": amount })).await.json(200);
    }
    // What an old shop has no entity tags for, and a new one judges where it stands in the log.
    let tag = client.read("/products/product-0").await.header("etag").unwrap_or("\"0\"").to_owned();
    for condition in [("if-match", "*"), ("if-match", &*tag), ("if-match", &*tag), ("if-none-match", "*")] {
        let restock = Ask::new(Method::POST, "/products/product-0/restock").body(json!({ "quantity": 3 }));
        client.exchange(&restock.header(condition.0, condition.1)).await.unwrap();
    }
    for change in [json!({}), json!({ "name": "product-0" }), json!({ "name": half, "price": 250 })] {
        send(Method::PATCH, "/products/product-0", change).await.json(200);
    }
}

/// What an old shop does for no caller, and a new one for those who may.
async fn callers(nats_url: &str) {
    let nats = async_nats::connect(nats_url).await.unwrap();
    for caller in ["by.customer-0", "by.customer-1", "staff.mary", "staff.mary", "staff.paul"] {
        for (target, body) in [
            ("wallet.customer-0.top-up", json!({ "amount": 5 })),
            ("order.new-hasty-0.cancel", json!({})),
            ("product.product-0.restock", json!({ "quantity": 1 })),
        ] {
            let headers = [("Idempotency-Key".parse().unwrap(), "of-a-caller".into())].into_iter().collect();
            let subject = format!("shop.{caller}.{target}");
            nats.request_with_headers(subject, headers, body.to_string().into()).await.unwrap();
        }
    }
}

/// Bytes that are no frame, in every log.
async fn garbage(nats_url: &str) {
    let jetstream = jetstream::new(async_nats::connect(nats_url).await.unwrap());
    for kind in Kind::ALL {
        jetstream.publish(format!("shop.log.{kind}.0"), "garbage".into()).await.unwrap().await.unwrap();
    }
}

async fn recording_of(nats_url: &str) -> Recording {
    let connection = Connection::connect(&Access::to(nats_url), "recorder").await.unwrap();
    let mut merged_log =
        MergedLog::open(Arc::new(JetStreamLog::open(&connection, &connection).await.unwrap()), &Kind::ALL)
            .await
            .unwrap();
    let log = |(kind, log): (Kind, shop_nats::log::Identity)| RecordedLog {
        kind,
        epoch: log.epoch,
        partitions: log.partitions,
        logic: log.logic,
    };
    let logs = merged_log.logs().into_iter().map(log).collect();
    let mut records = Vec::new();
    while let Some((kind, record)) = merged_log.next().await.unwrap() {
        let (sequence, partition, unix_ms) = (record.sequence, record.partition, record.time.unix_ms());
        records.push(Recorded { kind, sequence, partition, unix_ms, payload: record.payload.to_vec() });
    }
    Recording { logs, records }
}
