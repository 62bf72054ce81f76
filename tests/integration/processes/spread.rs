//! More hosts than a partition needs: each holds the partitions that it owns, and those that it would own next.

use std::collections::{BTreeMap, BTreeSet};

use shop_domain::kind::Kind;
use shop_tests::{cluster::ALL_KINDS, parts::Part, wait::until};

use super::several::{ORDERS, Shop};

const HOSTS: [&str; 3] = ["first", "second", "third"];
const PARTITIONS: u16 = 6;
const ALL: usize = PARTITIONS as usize * Kind::ALL.len();

#[tokio::test]
async fn each_of_three_hosts_holds_its_part_and_any_of_them_can_be_asked_for_anything() {
    let mut shop = Shop::open(51, PARTITIONS, &HOSTS).await;
    is_spread(&mut shop, 3).await;
    let sent_twice = shop.sent_twice().await;
    let rush = shop.rush("order");
    // Reads every wallet, product, page and order, of which a host does not hold a third.
    shop.close(rush).await;
    assert_eq!(shop.sent_twice().await, sent_twice);

    let mut listed = Vec::new();
    let mut path = "/products?limit=2".to_owned();
    loop {
        let page = shop.client.read(&path).await.json(200);
        let ids = page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned());
        listed.extend(ids);
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/products?limit=2&after={next}");
    }
    assert!(listed.len() > 2 && listed.is_sorted(), "{listed:?}");
    let all = shop.client.read("/products?limit=1000").await.json(200);
    assert_eq!(all["items"].as_array().unwrap().len(), listed.len());
    shop.cluster.stop().await;
}

#[tokio::test]
async fn partitions_follow_the_hosts_that_come_and_go_in_the_rush() {
    let mut shop = Shop::open(52, PARTITIONS, &HOSTS[..1]).await;
    let mut rush = shop.rush("order");
    rush.has_answered(ORDERS / 8).await;
    for host in &HOSTS[1..] {
        shop.cluster.add_host(host, ALL_KINDS).await;
    }
    rush.has_answered(ORDERS / 4).await;
    is_spread(&mut shop, 3).await;
    rush.has_answered(ORDERS / 2).await;
    shop.cluster.take_host(HOSTS[0]).kill().await;
    rush.has_answered(ORDERS * 3 / 4).await;
    is_spread(&mut shop, 2).await;
    shop.cluster.take_host(HOSTS[1]).terminate().await;
    shop.close(rush).await;
    assert_eq!(shop.owners(1).await, [ALL]);
    shop.cluster.stop().await;
}

/// Waits until each partition has one owner and one standby among so many hosts, which all have a part.
async fn is_spread(shop: &mut Shop, hosts: usize) {
    until(&format!("all partitions are spread over {hosts} hosts"), async || {
        let parts = shop.parts(hosts).await;
        let mut holders: BTreeMap<_, Vec<Part>> = BTreeMap::new();
        for part in &parts {
            holders.entry(part.partition).or_default().push(part.clone());
        }
        let is_held = |parts: &Vec<Part>| parts.len() == 2 && parts.iter().filter(|part| part.is_owner).count() == 1;
        let have_parts: BTreeSet<_> = parts.iter().map(|part| &part.host).collect();
        (holders.len() == ALL && holders.values().all(is_held) && have_parts.len() == hosts).then_some(())
    })
    .await;
}
