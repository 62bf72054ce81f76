//! The door of a kind: lets requests in. Reads are answered; writes are checked, quoted where a
//! price is missing, and appended to the log. The answer to a write comes from the entity.

pub mod answers;
pub mod appender;
pub mod body;
pub mod command;
pub mod key;
pub mod link;
pub mod quotes;

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures::{FutureExt, future::select_all};
use shop_domain::{
    caller::{Caller, Owner},
    delivery,
    id::Id,
    kind::Kind,
    logic::Logic,
    message::{Envelope, Message, ReplyTo, Request},
    order,
    problem::{Code, Problem},
    refusal::Refusal,
    ticket::{self, Ticket},
    timestamp::Timestamp,
    version::{Current, Precondition, Verdict},
};
use shop_limits::turns::Turns;
use shop_nats::{
    log::SharedLog,
    rpc::{
        request::Request as NatsRequest,
        service::{Incoming, Listener, Response},
    },
    subject::{self, partition_of},
};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    answers::Answers,
    appender::{Acceptance, Appender, Pending},
    body::{format_of, invalid},
    command::Command,
    key::Named,
    link::Link,
    quotes::Quotes,
};
use crate::{
    admissions::Admissions,
    query::{Found, Outlook, Query, Reads},
};

/// Most requests that are being answered or quoted at a time: beyond it the door is overloaded.
const BUSY_MAX: usize = 8_192;

/// Lists that are put together at a time; each takes some milliseconds of a processor, which orders need as well.
const LISTS_MAX: usize = 8;
/// How long one waits its turn.
const LIST_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a look may take at what would come of a request whose caller does not want to wait.
const LOOK_WAIT: Duration = Duration::from_millis(250);

/// The door of one kind.
#[derive(Debug)]
pub struct Door {
    kind: Kind,
    reads: Reads,
    quotes: Quotes,
    answers: Answers,
    appenders: Vec<Appender>,
    /// What came in for the log, and is not known to be in it.
    waiting: Arc<AtomicUsize>,
    busy: Arc<Semaphore>,
    lists: Turns,
    /// Whether to let nothing in that changes something.
    held: watch::Receiver<bool>,
}

/// A request that was read and is worth an effort.
struct Admitted {
    command: Command,
    caller: Option<Caller>,
    /// Nobody waits for the answer when there is none.
    reply: Option<ReplyTo>,
    key: Option<Named>,
    ticket: Option<Ticket>,
    precondition: Option<Precondition>,
    trace: Option<String>,
    respond_async: bool,
    since: Instant,
}

impl Door {
    /// A door into the log of a kind with so many partitions.
    pub fn new(
        (kind, partitions): (Kind, u16),
        log: &SharedLog,
        admissions: &Arc<Admissions>,
        reads: Reads,
        answers: Answers,
        held: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let waiting = Arc::<AtomicUsize>::default();
        let appender = |partition| {
            let link = Link::new(kind, partition, Arc::clone(admissions));
            Appender::new(log.clone(), link, answers.clone(), Arc::clone(&waiting))
        };
        Arc::new(Self {
            kind,
            appenders: (0..partitions).map(appender).collect(),
            waiting,
            quotes: Quotes::new(answers.connection.clone()),
            reads,
            answers,
            busy: Arc::new(Semaphore::new(BUSY_MAX)),
            lists: Turns::new(LISTS_MAX, LIST_WAIT_MAX),
            held,
        })
    }

    /// How many requests came in for the log, and are not known to be in it.
    pub fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.waiting)
    }

    /// Lets requests in until `stop`; then finishes what came in, and waits until the log has it. Ends before it is
    /// stopped when a part of it is broken, or the connection is closed.
    pub async fn run(self: Arc<Self>, mut listener: Listener, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        {
            let mut broken = pin!(self.broken());
            loop {
                let incoming = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    incoming = listener.next() => incoming,
                    // Nothing that changes something would be let in, or get a price.
                    () = &mut broken => return,
                };
                match incoming {
                    Some(incoming) => self.admit(incoming, &tasks).await,
                    None => break,
                }
            }
        }
        listener.close().await;
        while let Some(incoming) = listener.next().await {
            self.admit(incoming, &tasks).await;
        }
        tasks.close();
        tasks.wait().await;
        if let Some(door) = Arc::into_inner(self) {
            futures::future::join_all(door.appenders.into_iter().map(Appender::finish)).await;
        }
    }

    /// Returns when a part of the door has ended that all requests need, because it has panicked.
    async fn broken(&self) {
        let appenders = self.appenders.iter().map(|appender| appender.ended().boxed());
        select_all(appenders.chain([self.quotes.ended().boxed()])).await;
        tracing::error!("the door of {} is broken: a part of it has ended", self.kind);
    }

    /// Sends a request on its way: plain writes at once and in their order, the rest beside it.
    async fn admit(self: &Arc<Self>, incoming: Incoming, tasks: &TaskTracker) {
        let since = Instant::now();
        let Incoming { target, caller, body, inbox, idempotency_keys, traceparent, respond_async, tickets, conditions } =
            incoming;
        let format = format_of(&body);
        let reply = inbox.map(|inbox| ReplyTo { inbox: inbox.into(), format });
        let read = command::read(self.kind, &target, &body).and_then(|command| {
            let key = key::read(&idempotency_keys)?;
            let ticket = command::ticket(&tickets, &command, key.is_some())?;
            let precondition = command::precondition(&conditions, &command)?;
            let caller = command::caller(caller)?;
            self.let_through(caller.as_ref(), &command)?;
            Ok((command, caller, key, ticket, precondition))
        });
        let (command, caller, key, ticket, precondition) = match read {
            Ok(read) => read,
            Err(problem) => {
                self.answers.stats.request(since.elapsed());
                return self.refuse(reply, &problem, traceparent).await;
            }
        };
        let trace = traceparent;
        let admitted = Admitted { command, caller, reply, key, ticket, precondition, trace, respond_async, since };
        if admitted.is_quick(self.reads.newest_logic()) {
            return self.serve(admitted).await;
        }
        match Arc::clone(&self.busy).try_acquire_owned() {
            Ok(permit) => {
                let door = Arc::clone(self);
                tasks.spawn(async move {
                    door.serve(admitted).await;
                    drop(permit);
                });
            }
            Err(_) => self.refuse(admitted.reply, &overloaded(), admitted.trace).await,
        }
    }

    async fn serve(&self, admitted: Admitted) {
        let Admitted { command, caller, reply, key, ticket, precondition, trace, respond_async, since } = admitted;
        match command {
            Command::Read(query) => match (self.read(query, caller, precondition).await, reply) {
                (Ok(response), Some(to)) => self.answers.send(to, Response { traceparent: trace, ..response }).await,
                (Ok(_), None) => {}
                (Err(problem), reply) => self.refuse(reply, &problem, trace).await,
            },
            Command::Write { to, message, how_much } => {
                let fingerprint = message.fingerprint();
                let checked = async {
                    self.check(&message, ticket.as_ref())?;
                    self.is_heeded(caller.as_ref(), &to).await?;
                    self.precondition(&to, &message, precondition).await
                };
                let precondition = match checked.await {
                    Ok(precondition) => precondition,
                    Err(problem) => {
                        self.refuse(reply, &problem, trace).await;
                        return self.answers.stats.request(since.elapsed());
                    }
                };
                match self.quote(&to, message, how_much, respond_async).await {
                    Ok(message) => {
                        let (key, key_as_given) = key.map(|Named { key, as_given }| (key, as_given)).unzip();
                        let key_as_given = key_as_given.flatten();
                        let request = Request { key, key_as_given, fingerprint, reply, ticket, precondition, caller };
                        let envelope = Envelope { to, message, request: Some(request), trace: trace.map(Into::into) };
                        let mut pending = Pending { envelope, tell_accepted: None, since };
                        if respond_async {
                            self.promise(&mut pending).await;
                        }
                        self.append(pending).await;
                    }
                    Err(problem) => self.refuse(reply, &problem, trace).await,
                }
            }
        }
        self.answers.stats.request(since.elapsed());
    }

    /// Refuses what a caller may not move, or see, as far as that is known before it is looked at. What is another's is
    /// not there for who may not see it.
    fn let_through(&self, caller: Option<&Caller>, command: &Command) -> Result<(), Problem> {
        let Some(caller) = caller else { return Ok(()) };
        let kind = self.kind;
        match command {
            Command::Write { to, message, .. } if !caller.may_move(&Owner::of(to, message)) => {
                Err(Refusal::Forbidden { kind, id: to.clone(), caller: caller.name.clone() }.problem())
            }
            Command::Read(query) if !caller.may_see(&query.owner(kind)) => Err(match query {
                Query::Of(id, _) | Query::KeyScope(id, _) => Refusal::NotFound { kind, id: id.clone() }.problem(),
                Query::Products(_) | Query::Quotes(_) | Query::Status => unreachable!("the shop's is on show"),
            }),
            Command::Write { .. } | Command::Read(_) => Ok(()),
        }
    }

    /// Whether the entity heeds who asks: before that it would let everybody move everything.
    async fn is_heeded(&self, caller: Option<&Caller>, to: &Id) -> Result<(), Problem> {
        if caller.is_none() || self.reads.goes_by(Logic::V5, to).await? {
            return Ok(());
        }
        let detail = "callers are not heeded here: the shop has to be upgraded to logic version 5 first";
        Err(Problem::new(Code::UNAVAILABLE, detail).retryable(false))
    }

    /// Answers a question, unless who asks has the answer already.
    async fn read(
        &self,
        query: Query,
        caller: Option<Caller>,
        precondition: Option<Precondition>,
    ) -> Result<Response, Problem> {
        let (entity, owner) = (query.entity().cloned(), query.owner(self.kind));
        let _turn = if query.is_list() { Some(self.lists.take().await.ok_or_else(too_many_lists)?) } else { None };
        let found = self.reads.answer(query).await?;
        if let (Some(caller), Some(id), Owner::Unknown) = (caller, &entity, owner)
            && !caller.may_see(&found.owner())
        {
            return Err(Refusal::NotFound { kind: self.kind, id: id.clone() }.problem());
        }
        let Found { json, current } = found;
        let version = if let Current::At(version) = current { Some(version) } else { None };
        let verdict = precondition.map_or(Verdict::Holds, |precondition| precondition.judge(current));
        match (verdict, entity) {
            (Verdict::Holds, _) => Ok(Response { body: json.into(), version, ..Response::default() }),
            (Verdict::IsKnown, _) => Ok(Response { not_modified: true, version, ..Response::default() }),
            (Verdict::Fails, Some(id)) => Err(Refusal::PreconditionFailed { kind: self.kind, id, current }.problem()),
            (Verdict::Fails, None) => {
                let detail = "what is asked for has no entity tag that If-Match could mean";
                Err(Problem::new(Code::PRECONDITION_FAILED, detail))
            }
        }
    }

    /// The precondition of a write that is to go into the log. Before versions are counted none does: a program from
    /// before them would overlook it. No entity has a tag there, so that whether it holds is known, and the write goes
    /// on without it: where it could do something the entity is there, or is not there yet.
    async fn precondition(
        &self,
        to: &Id,
        message: &Message,
        precondition: Option<Precondition>,
    ) -> Result<Option<Precondition>, Problem> {
        let Some(precondition) = precondition else { return Ok(None) };
        if self.reads.goes_by(Logic::V4, to).await? {
            return Ok(Some(precondition));
        }
        let current = if message.makes() { Current::Absent } else { Current::Untagged };
        match precondition.judge(current) {
            Verdict::Holds => Ok(None),
            Verdict::Fails | Verdict::IsKnown => {
                let (kind, id, current) = (self.kind, to.clone(), Current::Untagged);
                Err(Refusal::PreconditionFailed { kind, id, current }.problem())
            }
        }
    }

    /// Whether a ticket may be good, which its entity decides; and whether a void may go into the log, where a program
    /// from before tickets would take it for a dead letter: none is left once the shop is upgraded.
    fn check(&self, message: &Message, ticket: Option<&Ticket>) -> Result<(), Problem> {
        match (message, ticket) {
            (Message::Void(_), _) if self.reads.newest_logic() < Logic::V3.number() => Err(ticket::unknown()),
            (Message::Void(_), _) | (_, None) => Ok(()),
            (_, Some(ticket)) => ticket.check(now()),
        }
    }

    /// Lets a caller who does not want to wait be told that the log has the request, and what was seen of it; but
    /// leaves the answer to the entity where it is known already.
    async fn promise(&self, Pending { envelope, tell_accepted, .. }: &mut Pending) {
        if envelope.request.as_ref().is_none_or(|request| request.reply.is_none()) {
            return;
        }
        let outlook = timeout(LOOK_WAIT, self.outlook(envelope)).await.ok().flatten();
        let status = match outlook {
            Some(Outlook::Decided) => return,
            Some(Outlook::Open(status) | Outlook::UpToDelivery(status)) => status,
            None => None,
        };
        let reply = envelope.request.as_mut().and_then(|request| request.reply.take());
        *tell_accepted = reply.map(|to| Acceptance { to, status });
    }

    async fn outlook(&self, envelope: &Envelope) -> Option<Outlook> {
        match self.reads.outlook(envelope).await? {
            Outlook::UpToDelivery(_) if self.is_dispatched(&envelope.to).await => Some(Outlook::Decided),
            outlook @ (Outlook::Decided | Outlook::UpToDelivery(_) | Outlook::Open(_)) => Some(outlook),
        }
    }

    /// Whether the delivery of an order is known to be on its way, which it then stays.
    async fn is_dispatched(&self, order: &Id) -> bool {
        let subject = subject::door(Kind::Delivery, order.as_str(), "get");
        let question = NatsRequest::new(subject, Bytes::new());
        let Ok(reply) = self.answers.connection.request(question, LOOK_WAIT).await else { return false };
        let delivery: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let on_its_way = [delivery::Status::Dispatched, delivery::Status::Delivered];
        on_its_way.iter().any(|status| delivery["status"] == status.to_string())
    }

    /// Puts a quote on every line of an order that names no price.
    async fn quote(
        &self,
        order: &Id,
        message: Message,
        how_much: &str,
        respond_async: bool,
    ) -> Result<Message, Problem> {
        let Message::Order(order::Message::Place(mut place)) = message else { return Ok(message) };
        if place.lines.iter().all(|line| line.unit_price.is_some()) {
            return Ok(order::Message::Place(place).into());
        }
        // Who repeats an order to learn whether it was taken must not wait for the products.
        if respond_async && self.reads.exists(order).await {
            return Ok(order::Message::Place(place).into());
        }
        let problem = if self.quotes.fill(&mut place.lines).await {
            // Any other refusal is the order's to give, and stays readable.
            let is_too_much = order::price(&place.lines).is_err_and(|refusal| refusal.code() == Code::INVALID);
            is_too_much.then(|| invalid(how_much, "would make the order cost more than the shop can count"))
        } else {
            let detail = "nobody could be asked for the price; name a unit_price, or try again";
            Some(Problem::new(Code::UNAVAILABLE, detail))
        };
        match problem {
            // An order that exists answers for itself, whatever it would cost today.
            Some(problem) if !self.reads.exists(order).await => Err(problem),
            Some(_) | None => Ok(order::Message::Place(place).into()),
        }
    }

    async fn append(&self, pending: Pending) {
        if *self.held.borrow() {
            return self.give_back(pending, &held()).await;
        }
        let partition = self.partition_of(&pending.envelope.to);
        if let Err(pending) = self.appenders[partition].take(pending) {
            self.give_back(*pending, &overloaded()).await;
        }
    }

    async fn give_back(&self, Pending { envelope, tell_accepted, .. }: Pending, problem: &Problem) {
        let reply = envelope.request.and_then(|request| request.reply).or(tell_accepted.map(|told| told.to));
        self.refuse(reply, problem, envelope.trace.map(Into::into)).await;
    }

    fn partition_of(&self, id: &Id) -> usize {
        usize::from(partition_of(id, self.appenders.len() as u16))
    }

    async fn refuse(&self, reply: Option<ReplyTo>, problem: &Problem, trace: Option<String>) {
        match reply {
            Some(to) => self.answers.problem(to, problem, trace).await,
            None => tracing::debug!("a request to {} that nobody waits for was refused: {}", self.kind, problem.detail),
        }
    }
}

impl Admitted {
    /// Whether serving it waits for nobody, where this is the newest logic version in force.
    fn is_quick(&self, newest_logic: u32) -> bool {
        match &self.command {
            Command::Write { .. } if self.precondition.is_some() && newest_logic < Logic::V4.number() => false,
            Command::Write { .. } if self.caller.is_some() && newest_logic < Logic::V5.number() => false,
            Command::Write { .. } if self.respond_async && self.reply.is_some() => false,
            Command::Write { message: Message::Order(order::Message::Place(place)), .. } => {
                place.lines.iter().all(|line| line.unit_price.is_some())
            }
            Command::Write { .. } => true,
            Command::Read(_) => false,
        }
    }
}

/// By the clock of this machine.
fn now() -> Timestamp {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

fn overloaded() -> Problem {
    let detail = "more requests wait than the shop holds at a time; nothing was done, try again";
    Problem::new(Code::OVERLOADED, detail)
}

fn too_many_lists() -> Problem {
    let detail = "more lists are asked for than the shop puts together at a time; nothing was done, try again";
    Problem::new(Code::OVERLOADED, detail)
}

fn held() -> Problem {
    Problem::held("the shop is being cut into other partitions; nothing was done, try again")
}
