//! Who leads the streams of three nats-servers: asked, moved and waited for over NATS.

use std::{collections::BTreeMap, time::Duration};

use async_nats::Client;
use futures::future::join_all;
use serde_json::Value;
use shop_domain::kind::Kind;
use tokio::time::{Instant, timeout};

use crate::{cluster::Cluster, login::ADMINISTRATOR, wait::until};

/// How long a server may take for one answer before it is asked again; without a leader nobody answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long a follower that is back may take to have all that its leader has. nats-server 2.15.1 now and then tries
/// in vain for a minute ("Expected first catchup entry to be a snapshot and peerstate, will retry").
const CATCH_UP_LIMIT: Duration = Duration::from_secs(15);

/// The streams as the servers see them.
#[derive(Clone, Debug)]
pub struct Leaders {
    client: Client,
}

/// All streams of a shop.
pub fn streams() -> Vec<String> {
    Kind::ALL.iter().map(|kind| stream_of(*kind)).chain(["SHOP_DEAD".to_owned()]).collect()
}

/// The stream of a kind.
pub fn stream_of(kind: Kind) -> String {
    format!("SHOP_{}", kind.as_str().to_uppercase())
}

impl Leaders {
    /// Asks the servers of this shop.
    pub async fn at(cluster: &Cluster) -> Self {
        Self { client: cluster.connect(ADMINISTRATOR).await }
    }

    /// The name of the server that leads a stream, as soon as there is one.
    pub async fn of(&self, stream: &str) -> String {
        until(&format!("{stream} has a leader"), async || leader_in(&self.info(stream).await?)).await
    }

    /// Asks the leaders of all streams at once to step down; returns how many did. One may refuse, or
    /// not be there.
    pub async fn step_down_all(&self) -> u64 {
        let streams = streams();
        let answers = join_all(streams.iter().map(|stream| self.step_down(stream))).await;
        answers.into_iter().flatten().filter(|answer| answer["success"] == true).count() as u64
    }

    /// Waits until every stream has a leader whose followers are all there and have all that it has. Does what an
    /// operator would where one of them does not catch up: asks another server to lead.
    pub async fn wait_until_whole(&self) {
        for stream in streams() {
            let mut asked = Instant::now();
            let look = async || {
                if is_whole(&self.info(&stream).await?) {
                    return Some(());
                }
                if asked.elapsed() > CATCH_UP_LIMIT {
                    asked = Instant::now();
                    eprintln!(
                        "{stream}: a follower has not caught up in {CATCH_UP_LIMIT:?}; its leader shall step down"
                    );
                    self.step_down(&stream).await;
                }
                None
            };
            until(&format!("{stream} is whole"), look).await;
        }
    }

    /// How many copies and subjects each stream has.
    pub async fn shapes(&self) -> BTreeMap<String, (u64, usize)> {
        let mut shapes = BTreeMap::new();
        for stream in streams() {
            let info = until(&format!("{stream} is there"), async || self.info(&stream).await).await;
            let config = &info["config"];
            let copies = config["num_replicas"].as_u64().expect("a stream has copies");
            let subjects = config["subjects"].as_array().expect("a stream has subjects").len();
            shapes.insert(stream, (copies, subjects));
        }
        shapes
    }

    async fn info(&self, stream: &str) -> Option<Value> {
        let info = self.ask(format!("$JS.API.STREAM.INFO.{stream}")).await?;
        info["error"].is_null().then_some(info)
    }

    async fn step_down(&self, stream: &str) -> Option<Value> {
        self.ask(format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}")).await
    }

    async fn ask(&self, subject: String) -> Option<Value> {
        let answer = timeout(ANSWER_LIMIT, self.client.request(subject, "".into())).await.ok()?.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }
}

fn leader_in(info: &Value) -> Option<String> {
    info["cluster"]["leader"].as_str().filter(|leader| !leader.is_empty()).map(str::to_owned)
}

fn is_whole(info: &Value) -> bool {
    let followers = info["cluster"]["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_current = |follower: &Value| follower["current"] == true && follower["offline"] != true;
    leader_in(info).is_some() && followers.len() + 1 == crate::servers::SERVERS && followers.iter().all(is_current)
}
