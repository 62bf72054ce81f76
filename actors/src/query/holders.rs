//! Reads of partitions that other hosts hold: one of those is asked, and answers as of a moment after that.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use serde_json::{Map, Value};
use shop_domain::{
    kind::Kind,
    problem::{Code, Problem},
};
use shop_nats::{connection::Connection, holders::Questions, request::RequestError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Local, Question, local::READ_WAIT_MAX, unavailable};

/// How long another host may take: as long as a read waits there, for its log, its partition and what it has seen.
const ANSWER_WAIT: Duration = READ_WAIT_MAX.saturating_mul(3);

/// The hosts that hold what this one does not.
#[derive(Clone, Debug)]
pub struct Holders {
    kind: Kind,
    connection: Connection,
}

/// A problem on its way from host to host.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    code: String,
    detail: String,
    facts: Map<String, Value>,
}

impl Holders {
    /// Asks over this connection.
    pub fn new(kind: Kind, connection: Connection) -> Self {
        Self { kind, connection }
    }

    /// Asks one of those who hold a partition.
    pub(super) async fn ask<T: DeserializeOwned>(&self, number: u16, question: &Question) -> Result<T, Problem> {
        let question = rmp_serde::to_vec(question).expect("a question always encodes");
        let answer = match self.connection.ask_holder(self.kind, number, question.into(), ANSWER_WAIT).await {
            Ok(answer) => answer,
            Err(RequestError::NoResponders { .. }) => {
                return Err(self.unavailable(&format!("no host holds partition {number} right now")));
            }
            Err(error @ (RequestError::TimedOut { .. } | RequestError::Failed { .. })) => {
                return Err(self.unavailable(&error.to_string()));
            }
        };
        match rmp_serde::from_slice(&answer) {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Refused { code, detail, facts })) => {
                let code = Code::named(&code).unwrap_or(Code::UNAVAILABLE);
                Err(Problem { code, detail, facts })
            }
            Err(error) => {
                Err(self.unavailable(&format!("another host answers in a way that is not known here: {error}")))
            }
        }
    }

    /// Answers the other hosts of the kind, about the partitions that `local` holds at the time, until `stop`.
    pub async fn serve(self, local: Local, stop: CancellationToken) {
        let mut view = local.view.clone();
        let mut serving: BTreeMap<u16, CancellationToken> = BTreeMap::new();
        let tasks = TaskTracker::new();
        loop {
            let held: Vec<u16> = view.borrow_and_update().partitions.keys().copied().collect();
            serving.retain(|number, released| {
                let is_held = held.contains(number);
                if !is_held {
                    released.cancel();
                }
                is_held
            });
            for number in held {
                if serving.contains_key(&number) {
                    continue;
                }
                match self.connection.hold(self.kind, number).await {
                    Ok(questions) => {
                        let released = stop.child_token();
                        serving.insert(number, released.clone());
                        tasks.spawn(answer_all(self.connection.clone(), questions, number, local.clone(), released));
                    }
                    Err(error) => tracing::warn!("{error}"),
                }
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    fn unavailable(&self, why: &str) -> Problem {
        unavailable(self.kind, why)
    }
}

/// Answers questions about a partition until it is released, and then those that were asked before.
async fn answer_all(
    connection: Connection,
    mut questions: Questions,
    number: u16,
    local: Local,
    released: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut is_released = false;
    loop {
        let question = tokio::select! {
            question = questions.next() => question,
            () = released.cancelled(), if !is_released => {
                is_released = true;
                questions.close().await;
                continue;
            }
        };
        let Some((question, inbox)) = question else { break };
        let (connection, local) = (connection.clone(), local.clone());
        tasks.spawn(async move {
            let answer = answer(&local, number, &question).await;
            connection.answer(inbox, answer.into()).await;
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn answer(local: &Local, number: u16, question: &[u8]) -> Vec<u8> {
    match rmp_serde::from_slice(question) {
        Ok(Question::Of(id, about)) => encode(local.of(number, id, about).await.map(ByteBuf::from)),
        Ok(Question::Products(after, limit)) => encode(local.products(number, after.as_ref(), limit).await),
        Ok(Question::Quotes(products)) => encode(local.quotes(number, &products).await),
        Err(error) => encode::<()>(Err(Problem::new(Code::UNAVAILABLE, format!("it is not understood: {error}")))),
    }
}

fn encode<T: Serialize>(answer: Result<T, Problem>) -> Vec<u8> {
    let answer =
        answer.map_err(|Problem { code, detail, facts }| Refused { code: code.name.to_owned(), detail, facts });
    rmp_serde::to_vec(&answer).expect("an answer always encodes")
}
