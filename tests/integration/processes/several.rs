//! A shop whose kinds are served by several hosts each, for the tests of how they share the work.

use async_nats::Client as Nats;
use futures::StreamExt;
use serde_json::Value;
use shop_domain::kind::Kind;
use shop_tests::{
    client::Client,
    cluster::{ALL_KINDS, Cluster},
    market::{Market, Outcomes},
    process::Process,
    programs::Program,
    rush::Rush,
    seed::rng,
    wait::until,
};
use tokio::time::{Duration, timeout};

/// Orders of one rush.
pub(super) const ORDERS: usize = 400;
/// How long hosts may take to answer a question that goes to all of them.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

/// A shop with several hosts that serve all kinds, and its market.
pub(super) struct Shop {
    pub(super) cluster: Cluster,
    pub(super) client: Client,
    market: Market,
}

/// What a host has to do with a partition, as it says itself.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) host: usize,
    pub(super) partition: (Kind, u64),
    pub(super) is_owner: bool,
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
        let mut parts = Vec::new();
        for kind in Kind::ALL {
            let what = format!("{hosts} hosts say what they hold of {kind}");
            let answers = until(&what, async || {
                let inbox = nats.new_inbox();
                let answers = nats.subscribe(inbox.clone()).await.unwrap();
                nats.publish_with_reply(format!("$SRV.STATS.shop-{kind}"), inbox, "".into()).await.unwrap();
                let answers = timeout(ANSWER_WAIT, answers.take(hosts).collect::<Vec<_>>()).await.ok()?;
                Some(answers)
            })
            .await;
            for (host, answer) in answers.iter().enumerate() {
                let stats: Value = serde_json::from_slice(&answer.payload).unwrap();
                let partitions = stats["endpoints"][0]["data"]["partitions"].as_array().unwrap().clone();
                parts.extend(partitions.iter().map(|partition| Part {
                    host,
                    partition: (kind, partition["partition"].as_u64().unwrap()),
                    is_owner: partition["role"] == "owner",
                }));
            }
        }
        parts
    }

    /// How many partitions each of so many hosts owns, over all kinds; in whatever order the hosts answer.
    pub(super) async fn owners(&mut self, hosts: usize) -> Vec<usize> {
        let parts = self.parts(hosts).await;
        (0..hosts).map(|host| parts.iter().filter(|part| part.host == host && part.is_owner).count()).collect()
    }

    /// How many messages are in the logs more than once.
    pub(super) async fn sent_twice(&mut self) -> u64 {
        let arguments =
            ["audit".to_owned(), "--json".to_owned(), "--nats-url".to_owned(), self.cluster.servers().url()];
        let mut audit = Process::spawn(Program::Actors, self.cluster.folder(), "audit", arguments);
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
