//! How the faults strike that need several hosts for the same kinds.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use shop_tests::{cluster::ALL_KINDS, process::Signal, proxy::Line};
use tokio::time::{sleep, timeout};

use super::{Stage, Survived};

/// Hosts that come and go.
const MORE_HOSTS: [&str; 2] = ["host-8", "host-9"];
/// Most partitions that the shop is cut into.
const MOST_PARTITIONS: u16 = 6;
/// How much longer than anything else the hosts are lied to: both that own a partition then are to meet often.
const LIES: u32 = 3;

impl Stage<'_> {
    /// The others go on without it.
    pub(super) async fn lose_host(&mut self) -> Survived {
        let name = self.some_host();
        self.cluster.take_host(name).kill().await;
        self.without(&[name]).await;
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn leave_host(&mut self) -> Survived {
        let name = self.some_host();
        self.cluster.take_host(name).terminate().await;
        self.without(&[name]).await;
        Survived::default()
    }

    pub(super) async fn lose_all_hosts_but_one(&mut self) -> Survived {
        let mut names = self.cluster.host_names();
        self.rng.shuffle(&mut names);
        names.pop();
        let killed: Vec<_> = names.iter().map(|name| self.cluster.take_host(name).kill()).collect();
        futures::future::join_all(killed).await;
        self.without(&names).await;
        Survived { kills: names.len() as u64, ..Survived::default() }
    }

    pub(super) async fn freeze_one_host(&mut self) -> Survived {
        let name = self.some_host();
        self.cluster.host(name).signal(Signal::STOP);
        sleep(self.hold).await;
        self.some_orders().await;
        self.cluster.host(name).signal(Signal::CONT);
        Survived::default()
    }

    /// It goes on with what it has, and does not hear that others do its work.
    pub(super) async fn cut_off_one_host(&mut self) -> Survived {
        let name = self.some_host();
        let bad = if self.rng.bool() { Line::Silent } else { Line::Closed };
        let line = &self.cluster.lines().of_hosts[name];
        line.set(bad);
        if bad == Line::Closed {
            line.cut();
        }
        sleep(self.hold).await;
        self.some_orders().await;
        self.cluster.lines().of_hosts[name].set(Line::Good);
        Survived::default()
    }

    /// Each hears of every other one that it leaves, right after that one has said that it is there: so it owns
    /// what others own as well. Or it hears that every other one is far ahead, which would let it forget what it keeps.
    pub(super) async fn lie_about_hosts(&mut self) -> Survived {
        // Who has the key of a host can say anything of other hosts.
        let nats = self.cluster.connect("host").await;
        let mut announced = nats.subscribe("shop.hosts.*").await.expect("the nats-server takes subscriptions");
        let lie = async {
            while let Some(message) = announced.next().await {
                let mut said: Value = serde_json::from_slice(&message.payload).expect("hosts announce JSON");
                if said["state"] == "ready" {
                    let is_ahead = self.rng.bool();
                    if is_ahead {
                        said["settled"] = (0..MOST_PARTITIONS).map(|number| (number.to_string(), u64::MAX)).collect();
                        said["receipts"] = said["settled"].clone();
                    } else {
                        (said["state"], said["settled"]) = (json!("leaving"), json!({}));
                    }
                    nats.publish(message.subject, said.to_string().into()).await.expect("the nats-server takes lies");
                }
            }
        };
        // The time ends it.
        let _end = timeout(self.hold * LIES, lie).await;
        Survived::default()
    }

    pub(super) async fn hosts_come_and_go(&mut self) -> Survived {
        for name in MORE_HOSTS {
            self.cluster.add_host(name, ALL_KINDS).await;
        }
        sleep(self.hold / 2).await;
        self.some_orders().await;
        let [left, killed] = MORE_HOSTS.map(|name| self.cluster.remove_host(name));
        left.terminate().await;
        self.some_orders().await;
        killed.kill().await;
        sleep(Duration::from_millis(self.rng.u64(..500))).await;
        Survived { kills: 1, ..Survived::default() }
    }

    /// What it had begun is of no use any more when it wakes up, and what it believes of the partitions is not so.
    pub(super) async fn repartition_behind_a_frozen_host(&mut self) -> Survived {
        let name = self.some_host();
        self.cluster.host(name).signal(Signal::STOP);
        self.some_orders().await;
        let now = self.cluster.partitions();
        let partitions = (2..=MOST_PARTITIONS).cycle().skip_while(|count| *count != now).nth(self.rng.usize(1..4));
        self.cluster.repartition(partitions.expect("it begins again and again")).await;
        self.cluster.host(name).signal(Signal::CONT);
        sleep(self.hold / 2).await;
        self.some_orders().await;
        Survived::default()
    }

    /// Lets the shop do without some hosts that have ended, and starts them again.
    async fn without(&mut self, names: &[&'static str]) {
        sleep(self.hold).await;
        self.some_orders().await;
        for name in names {
            self.cluster.start_host(name);
            self.cluster.wait_for_host(name).await;
        }
    }
}
