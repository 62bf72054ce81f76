//! An upgrade to a version that no program knows.

use std::future::IntoFuture;

use async_nats::jetstream;
use serde_json::{Value, json};
use shop_domain::{kind::Kind, logic::Logic};
use shop_nats::log::frame::Upgrade;
use shop_tests::cluster::{ALL_KINDS, Cluster, delete};

use super::append;
use crate::{
    backup::Elsewhere,
    operator::{Said, tool, tool_at},
    shop::{Answer, TestShop, eventually},
};

const PARTITIONS: u16 = 1;
/// As somebody forges it: a dozen bytes.
const FORGED: &[u8] = b"\x01\x81\xa7upgrade\xcd\x27\x0f";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_upgrade_stops_one_kind_until_an_operator_lets_it_be_skipped() {
    let shop = TestShop::open().await;
    shop.product("pear", 10, 100).await;
    shop.wallet("alice", 1_000).await;
    shop.order("o-1", "alice", "pear", 1).await;
    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    let at = append(&log, Kind::Wallet, FORGED.into()).await;
    let skip = format!("dead skip wallet/{at}");

    let kinds = async || shop.readiness().await["bridge"]["kinds"].clone();
    let stopped = eventually("that wallets stop", kinds, |kinds: &Value| kinds["wallet"] != "ready").await;
    assert_eq!((&stopped["wallet"], &stopped["order"]), (&json!("unavailable"), &json!("ready")));
    // The others go on: an order waits for its wallet.
    let order = json!({ "id": "o-2", "user": "alice", "product": "pear", "quantity": 2 });
    shop.post("/orders", order).prefer("respond-async").await.is(202);
    shop.get("/products/pear").await.is(200);
    shop.get("/orders/o-2").await.is(200).has("/status", "PENDING");
    // After a start as well.
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    shop.get("/products/pear").await.is(200);
    let kinds = async || shop.readiness().await["bridge"]["kinds"].clone();
    let begun = kinds().await;
    assert_eq!((&begun["wallet"], &begun["product"]), (&json!("unavailable"), &json!("ready")));
    let said = tool(&shop, "audit").await.exits(2);
    assert!(said.stderr.contains("logic version 9999 is needed"), "{said:?}");
    assert!(said.stderr.contains(&format!("shop {skip}")), "{said:?}");

    // It says what it would do, and does nothing that it is not told to.
    let plan = format!("wallet/{at}, of ");
    let said =
        tool(&shop, &format!("{skip} --dry-run")).await.exits(0).says(&[&plan, "wallet/0 goes on as it behaved"]);
    assert!(said.stderr.contains("nothing was written"), "{said:?}");
    let said = tool(&shop, &skip).await.exits(1).says(&[&plan]);
    assert!(said.stderr.contains("say --yes"), "{said:?}");
    tool(&shop, "dead list").await.exits(0).says(&["no dead letters"]);
    for (other, why) in
        [("wallet/1", "holds messages"), ("wallet/99", "does not hold"), ("product/1", "holds messages")]
    {
        let said = tool(&shop, &format!("dead skip {other} --yes")).await.exits(1);
        assert!(said.stderr.contains(why), "{said:?}");
    }
    tool(&shop, "dead skip nothing --yes").await.exits(2);

    tool(&shop, &format!("{skip} --yes")).await.exits(0).says(&["is skipped from now on"]);
    let status = || shop.get("/orders/o-2").into_future();
    eventually("the order", status, |answer: &Answer| answer.body["status"] == "CONFIRMED").await;
    eventually("readiness", kinds, |kinds: &Value| kinds["wallet"] == "ready").await;
    let said = tool(&shop, &format!("{skip} --yes")).await.exits(0);
    assert!(said.stderr.contains("is skipped already"), "{said:?}");
    let is_told = async |shop: &TestShop| {
        tool(shop, "audit").await.exits(0).says(&["no differences"]);
        let skipped = "[dead: 13 bytes, an operator has let it be skipped]";
        tool(shop, "log wallet").await.exits(0).says(&[skipped, "charge order=o-2"]);
        let letters = tool(shop, "dead list").await.exits(0).says(&[&format!("from wallet/{at}"), "13 bytes"]);
        assert_eq!(letters.stdout.lines().count(), 1, "{letters:?}");
    };
    is_told(&shop).await;

    // For good: in a replay, in what is restored, and when the shop is cut anew.
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.balance("alice").await, 970);
    let place = tempfile::tempdir().unwrap();
    tool(&shop, &format!("backup --to {}", place.path().display())).await.exits(0);
    let there = Elsewhere::new().await;
    there.restore(place.path()).await.exits(0);
    let restored = there.open().await;
    restored.order("o-3", "alice", "pear", 1).await;
    is_told(&restored).await;
    restored.close().await;
    tool(&shop, "repartition --to 2").await.exits(0);
    shop.order("o-4", "alice", "pear", 1).await;
    is_told(&shop).await;
    shop.close().await;
}

#[tokio::test]
async fn a_host_serves_the_other_kinds_beside_one_whose_log_needs_a_newer_program_and_says_so() {
    let mut cluster = Cluster::without_processes(PARTITIONS).await;
    let url = cluster.nats().url();
    let mut host = cluster.spawn_host("host", ALL_KINDS, &cluster.data_dir("host"), PARTITIONS);
    host.says("that all is served", |log| (log.matches(" is served").count() == 5).then_some(())).await;
    let log = jetstream::new(async_nats::connect(&*url).await.unwrap());
    append(&log, Kind::Wallet, Upgrade { logic: 99 }.encode()).await;
    let help = format!(
        "wallet/0 is upgraded at sequence 1: logic version 99 is needed, and this program knows only those up to {}",
        Logic::NEWEST
    );
    host.says("why wallets stop", |log| log.contains(&help).then_some(())).await;
    cluster.start_bridge().await;
    let client = cluster.client();
    let pear = json!({ "id": "pear", "name": "pear", "price": 5, "stock": 1 });
    client.post("/products", &pear).await.json(201);
    // After a restart as well, with and without checkpoints.
    host.kill().await;
    delete(&cluster.data_dir("host"));
    let mut again = cluster.spawn_host("again", ALL_KINDS, &cluster.data_dir("host"), PARTITIONS);
    again.says("why wallets stop", |log| log.contains(&help).then_some(())).await;
    client.read("/products/pear").await.json(200);
    let audit = tool_at(&url, "audit").await.exits(2);
    assert!(audit.stderr.contains("logic version 99 is needed"), "{}", audit.stderr);
    let said: Said = tool_at(&url, "dead skip wallet/1 --yes").await.exits(0);
    said.says(&["is skipped from now on"]);
    again.says("that wallets are served", |log| log.contains("wallet is served").then_some(())).await;
    again.terminate().await;
}
