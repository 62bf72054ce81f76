//! Stopped and started again: with everything kept, and with what may be lost lost. The log
//! gives every answer again, byte for byte.

use std::{fs, path::Path};

use shop_domain::kind::Kind;
use shop_tests::{
    client::Client,
    cluster::{ALL_KINDS, Cluster, delete},
    market::Market,
    rush::{Rush, Told},
    seed::rng,
};

const HOST: &str = "host";
const ORDERS: usize = 150;

#[tokio::test]
async fn a_shop_that_was_stopped_goes_on_where_it_was() {
    let (mut cluster, client, mut market, mut told) = shop_with_history(1, 11).await;
    let before = market.picture(&client, &told).await;
    cluster.stop().await;
    cluster.start_again().await;
    assert_eq!(market.picture(&client, &told).await, before);
    told.extend(Rush::begin(&client, market.orders("later", 50)).finish().await);
    market.audit(&client, &told).await;
}

#[tokio::test]
async fn a_host_that_is_stopped_in_the_rush_finishes_what_it_has_begun() {
    let (mut cluster, client, mut market, mut told) = shop_with_history(2, 12).await;
    let mut rush = Rush::begin(&client, market.orders("rush", 200));
    for moment in [40, 120] {
        rush.has_answered(moment).await;
        cluster.take_host(HOST).terminate().await;
        cluster.start_host(HOST);
    }
    told.extend(rush.finish().await);
    market.audit(&client, &told).await;
}

#[tokio::test]
async fn checkpoints_that_were_deleted_are_built_again_from_the_log() {
    let (mut cluster, client, market, told) = shop_with_history(2, 13).await;
    let before = market.picture(&client, &told).await;
    cluster.stop().await;
    delete(&cluster.data_dir(HOST));
    cluster.start_again().await;
    assert_eq!(market.picture(&client, &told).await, before);
    market.audit(&client, &told).await;

    // Those of one kind only: the others are ahead of it, and hear everything once more.
    for kind in Kind::ALL {
        cluster.take_host(HOST).terminate().await;
        delete(&cluster.data_dir(HOST).join(kind.as_str()));
        cluster.start_host(HOST);
        assert_eq!(market.picture(&client, &told).await, before, "without the checkpoints of {kind}");
    }
    market.audit(&client, &told).await;
}

#[tokio::test]
async fn checkpoints_that_cannot_be_read_are_set_aside_and_built_again() {
    let (mut cluster, client, market, told) = shop_with_history(1, 14).await;
    let before = market.picture(&client, &told).await;
    for (kind, file) in [("wallet", "conf"), ("order", "db"), ("mypage", "")] {
        cluster.take_host(HOST).terminate().await;
        let folder = cluster.data_dir(HOST).join(kind);
        overwrite(&folder.join("sled"), file);
        cluster.start_host(HOST);
        assert_eq!(market.picture(&client, &told).await, before, "with garbage in {kind}/sled/{file}");
        let names = names_in(&folder);
        assert!(names.iter().any(|name| name.starts_with("sled-unreadable-")), "{kind}/sled/{file}: {names:?}");
        cluster.host(HOST).says("what was set aside", |log| log.contains("set aside as").then_some(())).await;
    }
    // Of a run in a file of its own, only that partition is built again.
    cluster.take_host(HOST).terminate().await;
    let runs = cluster.data_dir(HOST).join("delivery/runs/0");
    names_in(&runs).iter().for_each(|run| overwrite(&runs, run));
    cluster.start_host(HOST);
    assert_eq!(market.picture(&client, &told).await, before, "with garbage in {}", runs.display());
    cluster.host(HOST).says("what is deleted", |log| log.contains("the checkpoint of delivery/0").then_some(())).await;
    market.audit(&client, &told).await;
}

/// A shop with one host that has seen some orders.
async fn shop_with_history(partitions: u16, seed: u64) -> (Cluster, Client, Market, Told) {
    let cluster = Cluster::start(partitions, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(seed), ORDERS).await;
    let told = Rush::begin(&client, market.orders("order", ORDERS)).finish().await;
    market.audit(&client, &told).await;
    (cluster, client, market, told)
}

/// Puts garbage in place of a file in a folder, or of the folder itself.
fn overwrite(folder: &Path, file: &str) {
    let garbage = b"\0\xffnot what you have written\n".repeat(1_000);
    if file.is_empty() {
        delete(folder);
        return fs::write(folder, garbage).unwrap();
    }
    assert!(folder.join(file).is_file(), "there is no {file} in {}: {:?}", folder.display(), names_in(folder));
    fs::write(folder.join(file), garbage).unwrap();
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
