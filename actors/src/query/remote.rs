//! Reads of partitions that other hosts hold: one of those is asked, and answers as of a moment after that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use serde_json::{Map, Value};
use shop_domain::{
    encode,
    kind::Kind,
    problem::{Code, Problem},
};
use shop_nats::{
    connection::Connection,
    rpc::{
        holders::{Asking, Questions},
        request::RequestError,
    },
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Local, Question, Unread, local::READ_WAIT_MAX, unavailable};
use crate::joined::unless_cancelled;

/// How long another host may take: as long as a read waits there, for its log and for its partition.
const ANSWER_WAIT: Duration = READ_WAIT_MAX.saturating_mul(2);
/// Questions of other hosts about one kind that are being answered at a time: as many as its door answers. They wait
/// for the log, which takes some milliseconds; where it takes longer, more of them would only take longer still.
const QUESTIONS_MAX: usize = 8_192;

/// The hosts that hold what this one does not.
#[derive(Clone, Debug)]
pub struct Holders {
    kind: Kind,
    /// Of the layout that partitions are numbered under: those who hold one of that number under another are not asked.
    generation: u32,
    others: Arc<dyn Asking>,
    /// Places for the questions of others.
    busy: Arc<Semaphore>,
}

/// A problem on its way from host to host.
#[derive(Debug, Serialize, Deserialize)]
struct Refused {
    code: String,
    detail: String,
    facts: Map<String, Value>,
}

impl Holders {
    /// Asks there those who serve under the layout of that generation.
    pub fn new(kind: Kind, generation: u32, others: Arc<dyn Asking>) -> Self {
        Self { kind, generation, others, busy: Arc::new(Semaphore::new(QUESTIONS_MAX)) }
    }

    /// Asks one of those who hold a partition.
    pub(super) async fn ask<T: DeserializeOwned>(&self, number: u16, question: &Question) -> Result<T, Problem> {
        let question = rmp_serde::to_vec(question).expect("a question always encodes");
        let answer = self.ask_in_bytes(number, question.into()).await?;
        match encode::decode(&answer) {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Refused { code, detail, facts })) => {
                let code = Code::named(&code).unwrap_or(Code::UNAVAILABLE);
                Err(Problem { code, detail, facts })
            }
            Err(error) => {
                tracing::warn!("an answer of another host is not known here: {error}");
                Err(self.unavailable("another host answers in a way that is not known here"))
            }
        }
    }

    async fn ask_in_bytes(&self, number: u16, question: Bytes) -> Result<Bytes, Problem> {
        let asked = self.others.ask_holder(self.kind, self.generation, number, question, ANSWER_WAIT).await;
        asked.map_err(|error| match error {
            RequestError::NoResponders { .. } => {
                self.unavailable(&format!("no host runs partition {number} right now"))
            }
            RequestError::TimedOut { .. } | RequestError::Failed { .. } => {
                tracing::debug!("{error}");
                self.unavailable("another host did not answer in time")
            }
        })
    }

    /// Answers the other hosts of the kind over that connection, about the partitions that `local` holds at the time,
    /// until `stop`.
    pub async fn serve(self, connection: Connection, local: Local, stop: CancellationToken) {
        let (mut view, mut ready) = (local.view.clone(), local.ready.clone());
        let mut serving: BTreeMap<u16, CancellationToken> = BTreeMap::new();
        // A panic of one of them goes on here: this host would be asked on, and answer nothing.
        let mut tasks = JoinSet::new();
        loop {
            view.mark_unchanged();
            ready.mark_unchanged();
            let held = local.readable();
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
                match connection.hold(self.kind, self.generation, number).await {
                    Ok(questions) => {
                        let released = stop.child_token();
                        serving.insert(number, released.clone());
                        let answering =
                            self.clone().answer_all(connection.clone(), questions, number, local.clone(), released);
                        tasks.spawn(answering);
                    }
                    Err(error) => tracing::warn!("{error}"),
                }
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() { break },
                Ok(()) = ready.changed() => {}
                Some(ended) = tasks.join_next() => drop(unless_cancelled(ended)),
                () = stop.cancelled() => break,
            }
        }
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            unless_cancelled(ended);
        }
    }

    /// Answers questions about a partition until it is released, and then those that were asked before.
    async fn answer_all(
        self,
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
            let Ok(place) = Arc::clone(&self.busy).try_acquire_owned() else {
                let detail = "more hosts ask for it than one answers at a time; try again";
                let answer = encode::<()>(Err(Problem::new(Code::OVERLOADED, detail)));
                connection.answer(inbox, answer.into()).await;
                continue;
            };
            let (this, connection, local) = (self.clone(), connection.clone(), local.clone());
            tasks.spawn(async move {
                let answer = this.answer(&local, number, question).await;
                connection.answer(inbox, answer).await;
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    /// The answer to a question: of another host, if the partition has just gone there.
    pub async fn answer(&self, local: &Local, number: u16, question: Bytes) -> Bytes {
        let answer = match encode::decode(&question) {
            Ok(Question::Of(id, about)) => {
                local.of(number, &id, &about).await.map(|found| encode(Ok(ByteBuf::from(found.json))))
            }
            Ok(Question::Tagged(id, about)) => local.of(number, &id, &about).await.map(|found| encode(Ok(found))),
            Ok(Question::Logic(id)) => local.logic(number, &id).await.map(|logic| encode(Ok(logic))),
            Ok(Question::Products(after, limit)) => {
                local.products(number, after.as_ref(), limit).await.map(|states| encode(Ok(states)))
            }
            Ok(Question::Quotes(products)) => local.quotes(number, &products).await.map(|quotes| encode(Ok(quotes))),
            Ok(Question::KeyScope(order, user)) => {
                local.key_scope(number, &order, &user).await.map(|scope| encode(Ok(scope)))
            }
            Ok(Question::Outlook(envelope)) => match encode::decode(&envelope) {
                Ok(envelope) => local.outlook(number, &envelope).await.map(|outlook| encode(Ok(outlook))),
                Err(error) => {
                    tracing::warn!("a command that another host asks about is not known here: {error}");
                    Err(self.unavailable("the command that another host asks about is not known here").into())
                }
            },
            Err(error) => {
                tracing::warn!("a question of another host is not known here: {error}");
                Err(self.unavailable("the question of another host is not known here").into())
            }
        };
        let answer = match answer {
            Err(Unread::NotHere) => self.ask_in_bytes(number, question).await,
            Err(Unread::Refused(problem)) => Err(problem),
            Ok(answer) => Ok(answer.into()),
        };
        answer.unwrap_or_else(|problem| encode::<()>(Err(problem)).into())
    }

    fn unavailable(&self, why: &str) -> Problem {
        unavailable(self.kind, why)
    }
}

fn encode<T: Serialize>(answer: Result<T, Problem>) -> Vec<u8> {
    let answer =
        answer.map_err(|Problem { code, detail, facts }| Refused { code: code.name.to_owned(), detail, facts });
    rmp_serde::to_vec(&answer).expect("an answer always encodes")
}
