//! Which host owns and which one holds what, as they say themselves.

use std::time::Duration;

use async_nats::Client;
use futures::StreamExt;
use serde_json::Value;
use shop_domain::kind::Kind;
use tokio::time::timeout;

/// How long hosts may take to answer a question that goes to all of them.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

/// What a host has to do with a partition.
#[derive(Clone, Debug)]
pub struct Part {
    /// What the host calls itself.
    pub host: String,
    /// Which partition.
    pub partition: (Kind, u64),
    /// Whether the host owns it, or stands by.
    pub is_owner: bool,
}

impl Part {
    /// What so many hosts hold, over all kinds, if they all answer in time.
    pub async fn all(nats: &Client, hosts: usize) -> Option<Vec<Self>> {
        let mut parts = Vec::new();
        for kind in Kind::ALL {
            let inbox = nats.new_inbox();
            let answers = nats.subscribe(inbox.clone()).await.ok()?;
            nats.publish_with_reply(format!("$SRV.STATS.shop-{kind}"), inbox, "".into()).await.ok()?;
            let answers = timeout(ANSWER_WAIT, answers.take(hosts).collect::<Vec<_>>()).await.ok()?;
            for answer in &answers {
                parts.extend(Self::of(kind, &serde_json::from_slice(&answer.payload).ok()?));
            }
        }
        Some(parts)
    }

    fn of(kind: Kind, stats: &Value) -> Vec<Self> {
        let host = stats["id"].as_str().unwrap_or_default();
        let partitions = stats["endpoints"][0]["data"]["partitions"].as_array().into_iter().flatten();
        let part = |partition: &Value| {
            let number = partition["partition"].as_u64()?;
            Some(Self { host: host.to_owned(), partition: (kind, number), is_owner: partition["role"] == "owner" })
        };
        partitions.filter_map(part).collect()
    }
}
