//! What a host says about itself, also when one of its partitions is parked.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};
use shop_actors::store::{
    Checkpoint, Store,
    delta::{Changed, Delta},
    sled::SledStore,
};
use shop_domain::{kind::Kind, wallet};
use shop_tests::{client::Client, cluster::Cluster, process::Process, wait::until};

use super::tool_at;

/// Starts a host that can be looked at.
async fn host(cluster: &mut Cluster, name: &str, kinds: &str) -> (Process, Client) {
    let (nats_url, data_dir) = (cluster.nats().url(), cluster.data_dir("host"));
    let options = ["serve", "--kinds", kinds, "--nats-url", &nats_url, "--observe-addr", "127.0.0.1:0", "--data-dir"];
    let options = options.into_iter().chain(data_dir.to_str());
    let mut host = Process::spawn(cluster.folder(), name, options);
    let address = host.says("where it can be looked at", address_in).await;
    (host, Client::new(address))
}

fn address_in(log: &str) -> Option<SocketAddr> {
    log.split("can be seen on http://").nth(1)?.split('/').next()?.parse().ok()
}

/// Waits until `/readyz` is answered with this status, and returns what it says.
async fn ready_with(looking: &Client, status: u16) -> Value {
    let what = format!("/readyz is answered with {status}");
    until(&what, async || Some(looking.get("/readyz").await).filter(|answer| answer.status == status))
        .await
        .json(status)
}

async fn metrics(looking: &Client) -> String {
    let answer = looking.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_host_says_that_it_is_ready_and_what_it_has_done() {
    let mut cluster = Cluster::without_processes(1).await;
    let (host, looking) = host(&mut cluster, "all", "wallet,product,order,delivery,mypage").await;
    let ready = ready_with(&looking, 200).await;
    assert_eq!(
        (&ready["status"], &ready["nats"], &ready["dead_letters"]),
        (&json!("ready"), &json!("connected"), &json!(0))
    );
    assert_eq!(looking.get("/healthz").await.json(200), json!({ "status": "ok" }));
    assert_eq!(looking.get("/").await.status, 404);
    assert_eq!(looking.post("/readyz", &json!({})).await.status, 405);

    cluster.start_bridge().await;
    let client = cluster.client();
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 10, "stock": 10 })).await.json(201);
    client.post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    client.post("/orders", &json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 2 })).await.json(201);
    let log = async_nats::jetstream::new(async_nats::connect(cluster.nats().url()).await.unwrap());
    log.publish("shop.log.wallet.0", "hello".into()).await.unwrap().await.unwrap();
    until("the dead letter is counted", async || {
        metrics(&looking).await.contains("shop_host_dead_letters 1\n").then_some(())
    })
    .await;
    let text = metrics(&looking).await;
    has(
        &text,
        &[
            r#"shop_host_messages_accepted_total{kind="wallet"} 2"#,
            r#"shop_host_records_applied_total{kind="product"} 2"#,
            r#"shop_host_records_dead_total{kind="wallet"} 1"#,
            r#"shop_host_messages_duplicate_total{kind="wallet"} 0"#,
            r#"shop_host_panics_total{kind="wallet"} 0"#,
            r#"shop_host_partitions_running{kind="order"} 1"#,
            r#"shop_host_partitions_parked{kind="order"} 0"#,
            r#"shop_host_partition_cursor_sequence{kind="wallet",partition="0"} 3"#,
            r#"shop_host_partition_entities_active{kind="wallet",partition="0"} 1"#,
            r#"shop_host_log_last_sequence{kind="wallet"} 3"#,
            r#"shop_host_log_read_sequence{kind="wallet"} 3"#,
            r#"shop_host_nats_connects_total{connection="reader"} 1"#,
        ],
    );
    until("a checkpoint is counted", async || {
        metrics(&looking)
            .await
            .contains("shop_host_partition_checkpoint_sequence{kind=\"wallet\",partition=\"0\"} 3\n")
            .then_some(())
    })
    .await;
    assert!(metrics(&looking).await.contains("shop_host_checkpointing_seconds_total{kind=\"wallet\"} 0.0"), "{text}");

    // A host without NATS is not ready, and says so.
    cluster.nats().stop().await;
    let lost = ready_with(&looking, 503).await;
    assert_eq!((&lost["status"], &lost["nats"]), (&json!("unavailable"), &json!("disconnected")));
    cluster.nats().start_again().await.unwrap();
    ready_with(&looking, 200).await;
    host.terminate().await;
}

#[tokio::test]
async fn a_partition_that_is_parked_is_seen_wherever_one_looks() {
    let mut cluster = Cluster::without_processes(1).await;
    let (first, looking) = host(&mut cluster, "first", "wallet,product,order,delivery,mypage").await;
    ready_with(&looking, 200).await;
    cluster.start_bridge().await;
    let client = cluster.client();
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 10, "stock": 10 })).await.json(201);
    client.post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    client.post("/orders", &json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 2 })).await.json(201);
    first.terminate().await;
    spoil_the_charge_of("o-1", &cluster.data_dir("host"));
    let (second, looking) = host(&mut cluster, "second", "wallet,product,order,delivery,mypage").await;
    ready_with(&looking, 200).await;

    // The refund of o-1 is the third record of the wallets.
    client.post("/orders/o-1/cancel", &json!({})).await.json(200);
    let ready = ready_with(&looking, 503).await;
    assert_eq!(ready["kinds"]["order"]["status"], "ready", "{ready}");
    let parked = json!({
        "kind": "wallet",
        "status": "parked",
        "partitions": [{ "partition": 0, "parked_at": 3, "reason": "wallet alice panicked 3 times" }],
    });
    assert_eq!(ready["kinds"]["wallet"], parked, "{ready}");
    let text = metrics(&looking).await;
    has(
        &text,
        &[
            r#"shop_host_partitions_parked{kind="wallet"} 1"#,
            r#"shop_host_partitions_running{kind="wallet"} 0"#,
            r#"shop_host_panics_total{kind="wallet"} 3"#,
            r#"shop_host_partitions_parked{kind="product"} 0"#,
        ],
    );
    assert!(second.stderr().contains("wallet/0 is parked at sequence 3: wallet alice panicked 3 times"));
    let nats = async_nats::connect(cluster.nats().url()).await.unwrap();
    let ask = async |subject: &'static str| -> Value {
        serde_json::from_slice(&nats.request(subject, "".into()).await.unwrap().payload).unwrap()
    };
    assert_eq!(ask("shop.wallet.status").await, parked);
    assert_eq!(ask("$SRV.STATS.shop-wallet").await["endpoints"][0]["data"], parked);
    cluster.wait_until_kinds_are("parked", &[Kind::Wallet]).await;
    // The others go on, and who replays the log is not in the same trouble.
    client.get("/mypages/alice").await.json(200);
    let url = cluster.nats().url();
    tool_at(&url, "audit").await.exits(0).says(&["of wallet could not be compared: its host is parked"]);
    // The log builds again what was spoilt.
    second.terminate().await;
    shop_tests::cluster::delete(&cluster.data_dir("host").join("wallet"));
    let (third, looking) = host(&mut cluster, "third", "wallet,product,order,delivery,mypage").await;
    ready_with(&looking, 200).await;
    assert_eq!(client.read("/wallets/alice").await.json(200)["balance"], 100);
    third.terminate().await;
}

/// Puts into the checkpoint what no wallet has written.
fn spoil_the_charge_of(order: &str, data_dir: &Path) {
    let store = SledStore::open(data_dir, Kind::Wallet).unwrap();
    let partition_store = store.partition(0).unwrap();
    let meta = partition_store.meta().unwrap().expect("the host has written a last checkpoint");
    let rows = vec![(wallet::charge_row(&order.parse().unwrap()), b"\xc1"[..].into())];
    let changes = Delta::from_iter([Changed { id: "alice".parse().unwrap(), state: None, rows }]);
    partition_store.write(&Checkpoint { meta, changes: changes.into() }).unwrap();
    store.flush().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let mut cluster = Cluster::without_processes(1).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, nats_url) = (taken.local_addr().unwrap().to_string(), cluster.nats().url());
    let options = ["serve", "--nats-url", &nats_url, "--observe-addr", &address];
    let words = Process::spawn(cluster.folder(), "refused", options).refuses().await;
    for part in [&format!("cannot answer whoever looks at this host on {address}"), "--observe-addr"] {
        assert!(words.contains(part), "{part:?} is missing: {words}");
    }
}
