//! What the hosts say of every entity, held against the replay.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use shop_domain::{id::Id, kind::Kind, problem::Code, version::Version};
use shop_nats::{
    connection::Connection,
    rpc::request::{Reply, Request},
    subject,
};

use super::Differences;
use crate::{
    operator::{Progress, words},
    replay::{Content, Handled, Replay, Step},
};

/// How many entities are asked for at a time.
const QUESTIONS: usize = 32;
/// How long one answer may take: a host waits up to 3 s for its own log.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How often a host that cannot answer is asked again, and the pause before.
const RETRIES: usize = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Orders asked for of a page, the newest ones: the books compare all of them with the orders.
const PAGE_ITEMS: usize = 20;

/// What came of asking.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    served: BTreeSet<Kind>,
    /// How many entities are as their hosts say.
    pub(super) agreed: usize,
    /// How many entities of a kind could not be compared, and why.
    pub(super) unanswered: BTreeMap<Kind, (usize, String)>,
    /// Answers that were not that of the cut.
    open: BTreeMap<(Kind, Id), Option<Said>>,
}

/// What a host says of an entity that is there.
#[derive(Debug)]
struct Said {
    view: Value,
    /// The same as 0 where versions are not counted yet.
    version: Version,
}

impl Hosts {
    /// Asks for every entity of the replay, which is at the cut.
    pub(super) async fn ask(connection: &Connection, replay: &Replay) -> Self {
        let mut hosts = Self::default();
        let entities: usize = Kind::ALL.map(|kind| replay.entities(kind).count()).iter().sum();
        let mut progress = Progress::new("asking the hosts", entities as u64);
        for kind in Kind::ALL {
            let ids: Vec<Id> = replay.entities(kind).map(|(_, id, _)| id.clone()).collect();
            match status(connection, kind).await {
                Ok(()) => drop(hosts.served.insert(kind)),
                Err(why) => {
                    hosts.unanswered.insert(kind, (ids.len(), why));
                    continue;
                }
            }
            let asked = ids.into_iter().map(|id| async move {
                let answer = get(connection, kind, &id).await;
                (id, answer)
            });
            let mut answers = stream::iter(asked).buffer_unordered(QUESTIONS);
            while let Some((id, answer)) = answers.next().await {
                match answer {
                    Ok(answer) if agrees(replay, kind, &id, answer.as_ref()) => hosts.agreed += 1,
                    Ok(answer) => drop(hosts.open.insert((kind, id), answer)),
                    Err(why) => hosts.unanswered.entry(kind).or_insert((0, why)).0 += 1,
                }
                progress.step();
            }
        }
        hosts
    }

    /// Whether a kind is served.
    pub(super) fn serve(&self, kind: Kind) -> bool {
        self.served.contains(&kind)
    }

    /// Compares the open answers with what their entities have become in the tail.
    pub(super) fn compare(&mut self, step: &Step<Handled>, replay: &Replay) {
        let Content::Frame { messages, .. } = &step.content else { return };
        for Handled { arrival, .. } in messages {
            let entity = (step.kind, arrival.envelope.to.clone());
            if self.open.get(&entity).is_some_and(|answer| agrees(replay, entity.0, &entity.1, answer.as_ref())) {
                self.open.remove(&entity);
                self.agreed += 1;
            }
        }
    }

    /// Names what a host says and the log does not.
    pub(super) fn name(&self, differences: &mut Differences) {
        for ((kind, id), answer) in &self.open {
            differences.name(|| match answer {
                Some(Said { view, version }) => {
                    format!("{kind} {id} is not what its host says: {view} with the version {}", version.number())
                }
                None => format!("{kind} {id} is there, but its host says that it is not"),
            });
        }
    }
}

/// Whether an entity is what a host says of it, as far as the host says it.
fn agrees(replay: &Replay, kind: Kind, id: &Id, said: Option<&Said>) -> bool {
    let entity = replay.entity(kind, id);
    let version = entity.and_then(|entity| entity.state.version()).unwrap_or_default();
    let answer = said.map(|said| &said.view);
    // Of a page, one more than the host says: enough to see whether that is all.
    let shown = answer.and_then(|answer| answer["items"].as_array()).map_or(0, Vec::len);
    let view = words::view(kind, id, entity, shown + 1);
    let (Some(answer), Some(view)) = (answer, view.as_ref()) else { return answer == view.as_ref() };
    if said.is_some_and(|said| said.version != version) {
        return false;
    }
    match kind {
        Kind::Wallet | Kind::Product | Kind::Order | Kind::Delivery => answer == view,
        Kind::Mypage => match (answer["items"].as_array(), view["items"].as_array()) {
            (Some(said), Some(all)) => {
                all.starts_with(said) && (said.len() == all.len() || !answer["next"].is_null() && !said.is_empty())
            }
            (_, _) => false,
        },
    }
}

async fn status(connection: &Connection, kind: Kind) -> Result<(), String> {
    let reply = request(connection, subject::door_of_kind(kind, "status"), Bytes::new()).await?;
    let status: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    match status["status"].as_str() {
        Some("ready") => Ok(()),
        Some(status) => Err(format!("its host is {status}")),
        None => Err("its host does not say that it is ready".to_owned()),
    }
}

/// What a host says of an entity; nothing when it says that there is none.
async fn get(connection: &Connection, kind: Kind, id: &Id) -> Result<Option<Said>, String> {
    let body = match kind {
        Kind::Wallet | Kind::Product | Kind::Order | Kind::Delivery => Bytes::new(),
        Kind::Mypage => json!({ "limit": PAGE_ITEMS }).to_string().into(),
    };
    let subject = subject::door(kind, id.as_str(), "get");
    for _ in 0..RETRIES {
        let reply = request(connection, subject.clone(), body.clone()).await?;
        match reply.error {
            Some(Code::NOT_FOUND) => return Ok(None),
            Some(Code::UNAVAILABLE | Code::OVERLOADED) => tokio::time::sleep(RETRY_PAUSE).await,
            Some(_) | None => {
                let view = serde_json::from_slice(&reply.body).unwrap_or_default();
                return Ok(Some(Said { view, version: reply.version.unwrap_or_default() }));
            }
        }
    }
    Err("its host cannot answer".to_owned())
}

async fn request(connection: &Connection, subject: String, body: Bytes) -> Result<Reply, String> {
    let request = Request::new(subject, body);
    connection.request(request, ANSWER_WAIT).await.map_err(|error| error.to_string())
}
