//! A shop whose kinds are served by several hosts each, for the tests of how they share the work.

use std::collections::BTreeMap;

use async_nats::Client as Nats;
use serde_json::Value;
use shop_tests::{
    client::Client,
    cluster::{ALL_KINDS, Cluster},
    market::{Market, Outcomes},
    parts::Part,
    process::Process,
    rush::Rush,
    seed::rng,
    wait::until,
};
use tokio::time::Duration;

/// Orders of one rush.
pub(super) const ORDERS: usize = 400;

/// A shop with several hosts that serve all kinds, and its market.
pub(super) struct Shop {
    pub(super) cluster: Cluster,
    pub(super) client: Client,
    market: Market,
}

impl Shop {
    pub(super) async fn open(seed: u64, partitions: u16, hosts: &[&'static str]) -> Self {
        let processes: Vec<_> = hosts.iter().map(|host| (*host, ALL_KINDS)).collect();
        let mut cluster = Cluster::start(partitions, &processes).await;
        for host in hosts {
            cluster.wait_for_host(host).await;
        }
        let client = cluster.client();
        let market = Market::open(&client, rng(seed), ORDERS).await;
        Self { cluster, client, market }
    }

    pub(super) fn rush(&mut self, prefix: &str) -> Rush {
        Rush::begin(&self.client, self.market.orders(prefix, ORDERS))
    }

    pub(super) async fn nats(&mut self) -> Nats {
        async_nats::connect(self.cluster.servers().url()).await.unwrap()
    }

    /// What so many hosts hold, over all kinds, once they have all answered.
    pub(super) async fn parts(&mut self, hosts: usize) -> Vec<Part> {
        let nats = self.nats().await;
        until(&format!("{hosts} hosts say what they hold"), async || Part::all(&nats, hosts).await).await
    }

    /// How many partitions each of so many hosts owns, over all kinds; in whatever order the hosts answer.
    pub(super) async fn owners(&mut self, hosts: usize) -> Vec<usize> {
        let parts = self.parts(hosts).await;
        let mut owned = BTreeMap::new();
        for part in parts {
            *owned.entry(part.host).or_default() += usize::from(part.is_owner);
        }
        owned.into_values().collect()
    }

    /// How many messages are in the logs more than once.
    pub(super) async fn sent_twice(&mut self) -> u64 {
        let arguments =
            ["audit".to_owned(), "--json".to_owned(), "--nats-url".to_owned(), self.cluster.servers().url()];
        let mut audit = Process::spawn(self.cluster.folder(), "audit", arguments);
        let status = audit.ends_within(Duration::from_secs(30)).await;
        assert!(status.success(), "{}{}", audit.stdout(), audit.stderr());
        let report: Value = serde_json::from_str(&audit.stdout()).unwrap();
        report["kinds"].as_object().unwrap().values().map(|kind| kind["duplicates"].as_u64().unwrap()).sum()
    }

    /// Lets the rush come to its end, and compares everything.
    pub(super) async fn close(&mut self, rush: Rush) {
        let told = rush.finish().await;
        let Outcomes { confirmed, rejected, refunded } = self.market.audit(&self.client, &told).await;
        assert!(confirmed > 100 && rejected > 0 && refunded > 0, "{confirmed}, {rejected}, {refunded}");
        self.sent_twice().await;
    }
}
