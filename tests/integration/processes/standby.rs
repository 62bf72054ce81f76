//! Several hosts for the same kinds: one of them owns each partition, the others know all that it
//! knows, and take over when it leaves, is killed or freezes.

use async_nats::Client as Nats;
use futures::StreamExt;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_tests::{
    client::Client,
    cluster::{ALL_KINDS, Cluster},
    market::{Market, Outcomes},
    process::{Process, Signal},
    programs::Program,
    rush::Rush,
    seed::rng,
    wait::until,
};
use tokio::time::{Duration, timeout};

const FIRST: &str = "first";
const SECOND: &str = "second";
const PARTITIONS: u16 = 4;
const ORDERS: usize = 400;
/// How long hosts may take to answer a question that goes to all of them.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn of_two_hosts_each_owns_some_partitions_and_nothing_is_sent_twice() {
    let mut shop = Shop::open(41).await;
    let owners = shop.owners(2).await;
    assert!(owners.iter().all(|owned| *owned > 0), "of 20 partitions they own {owners:?}");
    assert_eq!(owners.iter().sum::<usize>(), 20);
    let sent_twice = shop.sent_twice().await;
    let rush = shop.rush();
    shop.close(rush).await;
    assert_eq!(shop.sent_twice().await, sent_twice);
    shop.cluster.stop().await;
}

#[tokio::test]
async fn a_host_that_is_killed_in_the_rush_is_followed_by_its_standby_without_anybody_s_help() {
    let mut shop = Shop::open(42).await;
    let mut rush = shop.rush();
    rush.has_answered(ORDERS / 4).await;
    shop.cluster.take_host(FIRST).kill().await;
    rush.has_answered(ORDERS / 2).await;
    assert_eq!(shop.owners(1).await, [20]);
    shop.cluster.start_host(FIRST);
    rush.has_answered(ORDERS * 3 / 4).await;
    shop.cluster.take_host(SECOND).kill().await;
    shop.close(rush).await;
    shop.cluster.stop().await;
}

#[tokio::test]
async fn a_host_that_leaves_in_the_rush_hands_its_partitions_over_first() {
    let mut shop = Shop::open(43).await;
    let mut rush = shop.rush();
    for (moment, leaves) in [(ORDERS / 4, FIRST), (ORDERS / 2, SECOND)] {
        rush.has_answered(moment).await;
        shop.cluster.take_host(leaves).terminate().await;
        assert_eq!(shop.owners(1).await, [20]);
        shop.cluster.start_host(leaves);
        shop.cluster.wait_for_host(leaves).await;
    }
    shop.close(rush).await;
    let owners = shop.owners(2).await;
    assert!(owners.iter().all(|owned| *owned > 0), "of 20 partitions they own {owners:?}");
    shop.cluster.stop().await;
}

#[tokio::test]
async fn a_host_that_freezes_is_done_without_and_does_no_harm_when_it_goes_on() {
    let mut shop = Shop::open(44).await;
    let mut rush = shop.rush();
    rush.has_answered(ORDERS / 4).await;
    shop.cluster.host(FIRST).signal(Signal::STOP);
    rush.has_answered(ORDERS / 2).await;
    shop.cluster.host(FIRST).signal(Signal::CONT);
    shop.close(rush).await;
    shop.cluster.stop().await;
}

#[tokio::test]
async fn hosts_that_are_lied_to_about_each_other_do_everything_once_all_the_same() {
    let mut shop = Shop::open(45).await;
    let nats = shop.nats().await;
    let mut announced = nats.subscribe("shop.hosts.*").await.unwrap();
    // Each host hears of every other one that it leaves, right after that says that it is there.
    let liar = nats.clone();
    let lies = tokio::spawn(async move {
        while let Some(message) = announced.next().await {
            let mut said: Value = serde_json::from_slice(&message.payload).unwrap();
            if said["state"] == "ready" {
                said["state"] = json!("leaving");
                said["settled"] = json!({});
                liar.publish(message.subject, said.to_string().into()).await.unwrap();
            }
        }
    });
    let mut rush = shop.rush();
    rush.has_answered(ORDERS / 2).await;
    let owned: usize = shop.owners(2).await.iter().sum();
    assert!(owned > 20, "nobody believed it: of 20 partitions {owned} are owned");
    shop.close(rush).await;
    lies.abort();
    shop.cluster.stop().await;
}

/// A shop with two hosts that serve all kinds, and its market.
struct Shop {
    cluster: Cluster,
    client: Client,
    market: Market,
}

impl Shop {
    async fn open(seed: u64) -> Self {
        let mut cluster = Cluster::start(PARTITIONS, &[(FIRST, ALL_KINDS), (SECOND, ALL_KINDS)]).await;
        cluster.wait_for_host(FIRST).await;
        cluster.wait_for_host(SECOND).await;
        let client = cluster.client();
        let market = Market::open(&client, rng(seed), ORDERS).await;
        Self { cluster, client, market }
    }

    fn rush(&mut self) -> Rush {
        Rush::begin(&self.client, self.market.orders("order", ORDERS))
    }

    async fn nats(&mut self) -> Nats {
        async_nats::connect(self.cluster.servers().url()).await.unwrap()
    }

    /// How many partitions each of so many hosts owns, over all kinds, once they have all answered.
    async fn owners(&mut self, hosts: usize) -> Vec<usize> {
        let nats = self.nats().await;
        let mut owned = vec![0; hosts];
        for kind in Kind::ALL {
            let what = format!("{hosts} hosts say what they own of {kind}");
            let answers = until(&what, async || {
                let inbox = nats.new_inbox();
                let answers = nats.subscribe(inbox.clone()).await.unwrap();
                nats.publish_with_reply(format!("$SRV.STATS.shop-{kind}"), inbox, "".into()).await.unwrap();
                let answers = timeout(ANSWER_WAIT, answers.take(hosts).collect::<Vec<_>>()).await.ok()?;
                Some(answers)
            })
            .await;
            for (owned, answer) in owned.iter_mut().zip(answers) {
                let stats: Value = serde_json::from_slice(&answer.payload).unwrap();
                let partitions = stats["endpoints"][0]["data"]["partitions"].as_array().unwrap().clone();
                *owned += partitions.iter().filter(|partition| partition["role"] == "owner").count();
            }
        }
        owned
    }

    /// How many messages are in the logs more than once.
    async fn sent_twice(&mut self) -> u64 {
        let arguments =
            ["audit".to_owned(), "--json".to_owned(), "--nats-url".to_owned(), self.cluster.servers().url()];
        let mut audit = Process::spawn(Program::Actors, self.cluster.folder(), "audit", arguments);
        let status = audit.ends_within(Duration::from_secs(30)).await;
        assert!(status.success(), "{}{}", audit.stdout(), audit.stderr());
        let report: Value = serde_json::from_str(&audit.stdout()).unwrap();
        report["kinds"].as_object().unwrap().values().map(|kind| kind["duplicates"].as_u64().unwrap()).sum()
    }

    /// Lets the rush come to its end, and compares everything.
    async fn close(&mut self, rush: Rush) {
        let told = rush.finish().await;
        let Outcomes { confirmed, rejected, refunded } = self.market.audit(&self.client, &told).await;
        assert!(confirmed > 100 && rejected > 0 && refunded > 0, "{confirmed}, {rejected}, {refunded}");
        self.sent_twice().await;
    }
}
