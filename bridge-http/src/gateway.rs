//! HTTP in, a NATS request out, its answer back. No business rule, no state of its own.

use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::{Buf, Bytes};
use futures::{FutureExt, Stream};
use serde_json::{Value, json};
use shop_domain::{
    caller::Caller,
    id::Id,
    problem::{Code, Problem},
    text::quoted,
};
use shop_limits::turns::{Turn, Turns};
use shop_metrics::Numbers;
use shop_nats::{
    connection::Connection,
    request::{Reply, Request},
    subject,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use warp::{
    http::{HeaderMap, Method, header::ALLOW},
    path::FullPath,
    reply::Response,
};

use crate::{
    Config,
    auth::{Admission, Denial, Guard, Standing},
    body::{self, Arriving, Bodies},
    browser,
    cors::Cors,
    docs,
    doors::{Doors, Errand, Unanswered},
    entity::{self, New, OfKey},
    fate::{self, Heeded, Wait},
    head::Head,
    host::{Host, Hosts},
    limits::{Limit, Limits},
    metrics::Metrics,
    observe::{self, WithoutNats},
    orders::UnderWay,
    prefer::Prefer,
    query,
    reply::{self, Asked},
    routes::{self, About, Found, Input, PAGES, Page, ROUTES, Repeat, Route},
};

/// What came of an errand.
type Heard = Result<Reply, Unanswered>;

/// One HTTP request.
pub(crate) struct Call<S> {
    pub(crate) method: Method,
    pub(crate) path: FullPath,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) head: Head,
    pub(crate) body: S,
}

/// What all requests share.
pub(crate) struct Gateway {
    doors: Arc<Doors>,
    heeded: Heeded,
    limits: Arc<Limits>,
    permits: Arc<Semaphore>,
    bodies: Bodies,
    lists: Turns,
    metrics: Metrics,
    cors: Cors,
    hosts: Hosts,
    guard: Option<Arc<Guard>>,
    leaving: AtomicBool,
    without_nats: WithoutNats,
}

impl Gateway {
    /// For a bridge that listens there.
    pub(crate) fn new(connection: Connection, config: &Config, listening: Option<IpAddr>) -> Self {
        let (doors, limits) = (Arc::new(Doors::new(connection, config)), Arc::new(config.limits.clone()));
        let permits = Arc::new(Semaphore::new(limits.in_flight_max as usize));
        let (bodies, leaving) = (Bodies::new(Arc::clone(&limits)), AtomicBool::new(false));
        let without_nats = WithoutNats::default();
        let lists = Turns::new(limits.lists_max as usize, limits.list_wait());
        let (guard, heeded, metrics) = (config.guard.clone(), Heeded::default(), Metrics::new());
        let cors = Cors::new(config.cors_origins.clone(), guard.is_some());
        let hosts = Hosts::new(config.allow_hosts.clone(), listening);
        Self { doors, heeded, limits, permits, bodies, lists, metrics, cors, hosts, guard, leaving, without_nats }
    }

    /// From now on whoever asks is told to go to another bridge next time, and is served.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// From now on nobody waits for long.
    pub(crate) fn close(&self) {
        self.doors.close();
    }

    /// Waits until nothing is under way any more, and nothing promised.
    pub(crate) async fn finish(&self) {
        let _all = self.permits.acquire_many(self.limits.in_flight_max).await.expect("nobody closes the semaphore");
    }

    /// A request could not even be read.
    pub(crate) fn refused_unread(&self, code: Code) {
        self.metrics.refused_unread(code);
    }

    /// A limit was reached.
    pub(crate) fn strikes(&self, limit: Limit) {
        self.metrics.limits.strikes(limit);
    }

    /// Where it can be seen how many connections there are.
    pub(crate) fn count_connections(&self, connections: impl Fn() -> usize + Send + Sync + 'static) {
        self.metrics.limits.count_connections(connections);
    }

    /// Answers one request, whatever it is, and counts it.
    pub(crate) async fn answer<S, B, E>(&self, call: Call<S>) -> Response
    where
        S: Stream<Item = Result<B, E>> + Unpin + Send + 'static,
        B: Buf + 'static,
        E: 'static,
    {
        let started = Instant::now();
        let Call { method, path, query, headers, head, body } = call;
        let mut body = Arriving::new(body, &head);
        let found = routes::find(&method, path.as_str());
        let refusal = self.refusal(&found, &method, &headers, &head);
        let mut response = match (refusal, &found) {
            (Some(refusal), _) => reply::problem(&refusal),
            (None, Found::Route { number, id }) => {
                self.answer_route(&ROUTES[*number], id, &query, &headers, &head, &mut body).await
            }
            (None, Found::Page { number }) => self.page(PAGES[*number].1).await,
            (None, Found::OtherMethods { allow, .. }) if method == Method::OPTIONS => reply::options(allow),
            (None, Found::OtherMethods { allow, .. }) => reply::other_methods(allow),
            (None, Found::Nothing) => {
                let detail = format!("there is no path {}", quoted(path.as_str()));
                reply::problem(&Problem::new(Code::NOT_FOUND, detail))
            }
        };
        self.metrics.observe(&found, &method, response.status(), started.elapsed());
        let methods = response.headers().get(ALLOW).filter(|_| method == Method::OPTIONS).cloned();
        self.cors.sign(&headers, methods, &mut response);
        browser::tell(&found, &method, &mut response);
        body.discard().await;
        let is_over = body.is_over();
        if !is_over && head.is_http2 {
            tokio::spawn(body.outlast());
        }
        match (is_over && head.refusal.is_none(), self.leaving.load(Relaxed)) {
            (false, _) => reply::cut(response),
            (true, true) => reply::last(response),
            (true, false) => response,
        }
    }

    /// Whether the bridge can serve, and how every kind is.
    pub(crate) async fn readiness(&self) -> (bool, Value) {
        match self.leaving.load(Relaxed) {
            // Who chooses between bridges must choose another one, whatever this one can still do.
            true => (false, json!({ "status": "leaving" })),
            false => observe::readiness(&self.doors.connection(), self.doors.held_for()).await,
        }
    }

    /// Why balancers should choose another bridge, if they should.
    ///
    /// What is behind a bridge is no reason: it is behind every other bridge as well, and if balancers left out all of
    /// them together, clients would be refused a connection where each bridge would have waited for them.
    fn unready(&self) -> Option<&'static str> {
        if self.leaving.load(Relaxed) {
            return Some("leaving");
        }
        let connection = self.doors.connection();
        let (is_connected, connects) = (connection.is_connected(), *connection.connects().borrow());
        self.without_nats.outlasts_waits(is_connected, connects, Instant::now()).then_some("unavailable")
    }

    /// What it counts.
    pub(crate) fn numbers(&self) -> Numbers {
        self.metrics.limits.look(&self.bodies, &self.lists, &self.doors);
        if let Some(guard) = &self.guard {
            self.metrics.admissions.look(guard);
        }
        self.metrics.numbers(self.limits.in_flight_max as usize - self.permits.available_permits())
    }

    /// Why a request is refused for its head alone, whatever it asks for.
    fn refusal(&self, found: &Found<'_>, method: &Method, headers: &HeaderMap, head: &Head) -> Option<Arc<Problem>> {
        if let Some(refusal) = &head.refusal {
            return Some(Arc::clone(refusal));
        }
        let authority = head.authority.as_deref();
        // What probes ask for says nothing, and they name any host, or an address. HTTP/1.0 need not name one.
        let is_probe = matches!(found, Found::Page { number } if PAGES[*number].1.is_for_probes());
        if let Some(authority) = authority.filter(|_| !is_probe)
            && !self.hosts.has(&Host::of_authority(authority))
        {
            let detail = format!("the host {} is none of this bridge's (--allow-host names one)", quoted(authority));
            return Some(Arc::new(Problem::new(Code::MISDIRECTED, detail)));
        }
        browser::check(method, headers, authority, &self.cors).err().map(Arc::from)
    }

    /// Lets a request in and asks the door that it is for.
    async fn answer_route<S, B, E>(
        &self,
        route: &'static Route,
        id: &str,
        query: &str,
        headers: &HeaderMap,
        head: &Head,
        body: &mut Arriving<S>,
    ) -> Response
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        let (caller, standing) = self.admit(route, headers, head).await;
        let answer = match caller {
            Ok(caller) => self.ask_door(route, id, query, headers, head, caller, body).await,
            Err(denial) => Ok(reply::denied(denial)),
        };
        let mut response = answer.unwrap_or_else(|problem| reply::problem(&problem));
        standing.tell(&mut response);
        response
    }

    /// Who asks, if that is known, or why it is not let in.
    async fn admit(
        &self,
        route: &Route,
        headers: &HeaderMap,
        head: &Head,
    ) -> (Result<Option<Caller>, Denial>, Standing) {
        let Some(guard) = &self.guard else { return (Ok(None), Standing::default()) };
        let Admission { caller, standing } = guard.admit(route, headers, head.peer).await;
        let admissions = &self.metrics.admissions;
        let caller = caller.inspect(|(means, _)| admissions.admits(*means)).map(|(_, caller)| caller);
        (caller.inspect_err(|denial| admissions.refuses(denial.refusal)), standing)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a request, of which each is read in its own way")]
    async fn ask_door<S, B, E>(
        &self,
        route: &'static Route,
        id: &str,
        query: &str,
        headers: &HeaderMap,
        head: &Head,
        caller: Option<Caller>,
        body: &mut Arriving<S>,
    ) -> Result<Response, Box<Problem>>
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        let key = if route.is_write() { entity::idempotency_key(headers)? } else { None };
        let conditions = entity::conditions(headers)?;
        let with_key = key.is_some();
        // An order that was changed by what it is asked must know it again when it is asked once more.
        let is_repeated = route.is_write() && route.repeat == Repeat::Always && !route.places_order();
        let key = key.or_else(|| (is_repeated && !conditions.is_empty()).then(entity::new_key));
        let prefer = Prefer::of(headers);
        // What the head alone decides is said before a client is told to go on with the body.
        let existing = match route.about {
            About::Existing => Some(entity::existing(route.parameter_name(), id)?),
            About::New | About::Whole => None,
        };
        let arguments = match route.input {
            Input::Nothing => Bytes::new(),
            Input::Body => {
                body::check(headers, head)?;
                self.bodies.read(body).await.inspect_err(|problem| match problem.code {
                    Code::REQUEST_TIMEOUT => self.strikes(Limit::BodyTime),
                    Code::OVERLOADED => self.strikes(Limit::BodyBytes),
                    _ => {}
                })?
            }
            Input::Query(allowed) => query::to_json(query, allowed)?,
        };
        let _turn = if route.is_list() { Some(self.turn().await?) } else { None };
        // Only now: what is still arriving, or waits its turn, keeps nothing else out.
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| self.overloaded())?;
        let wait = Wait::begin(prefer.wait());
        let id = match route.about {
            About::Existing => existing,
            About::New => Some(match entity::new(route.kind, &arguments, key.as_ref(), caller.as_ref())? {
                New::Named(id) => id,
                New::OfKey(of_key) => self.order_of_key(route, of_key, caller.as_ref(), wait).await?,
            }),
            About::Whole => None,
        };
        let request = Request {
            subject: match &id {
                Some(id) => subject::door(route.kind, id.as_str(), route.verb),
                None => subject::door_of_kind(route.kind, route.verb),
            },
            caller,
            body: arguments,
            idempotency_key: key.map(|key| key.to_header()),
            traceparent: headers.get("traceparent").and_then(|context| context.to_str().ok()).map(str::to_owned),
            respond_async: route.is_write() && prefer.respond_async(),
            ticket: None,
            conditions,
        };
        let asked = Asked { route, id, prefer, with_key };
        let order = route.places_order().then(|| self.metrics.orders.begin());
        let answer = match &asked.id {
            Some(id) if route.repeat == Repeat::WithKey && request.idempotency_key.is_none() => {
                self.ask_once(request, id, &asked, wait).await
            }
            _ => self.ask(request, &asked, wait, permit, order.as_ref()).await,
        };
        if let (Some(order), Err(problem)) = (&order, &answer) {
            order.is_refused(problem.code);
        }
        answer
    }

    /// Asks a door for what must not be repeated. When its caller's wait ends, its fate is known; or else it is told
    /// when it will be.
    async fn ask_once(&self, request: Request, id: &Id, asked: &Asked, wait: Wait) -> Result<Response, Box<Problem>> {
        let Asked { route, prefer, .. } = asked;
        let ticket = wait.ticket();
        let void = fate::void(route.kind, id, ticket.clone(), &request);
        let request = Request { ticket: Some(ticket.clone()), ..request };
        let mut errand = Errand::new(route.kind, request, false, wait.left(), prefer.wait());
        let mut answer = pin!(self.doors.ask(&mut errand));
        let mut heard = timeout_at(wait.question, &mut answer).await.ok();
        if let None | Some(Err(Unanswered::Unknown)) = heard {
            let is_over = heard.is_some();
            let mut voided = pin!(self.doors.void(void, wait.end));
            heard = tokio::select! {
                biased;
                // That it was taken says no more whether the void was taken before it.
                late = &mut answer, if !is_over => match late {
                    Err(Unanswered::Unknown) => voided.await.map(Ok),
                    Ok(Reply { accepted: true, .. }) => voided.await.map(Ok),
                    heard => Some(heard),
                },
                reply = &mut voided => reply.map(Ok),
            };
        }
        match heard {
            Some(Ok(reply)) => {
                if reply.ticketed {
                    self.heeded.note(route.kind);
                }
                Ok(reply::of(reply, asked))
            }
            Some(Err(unanswered)) => refusal(unanswered, asked),
            None => Err(fate::unsettled(asked, self.heeded.look_after(route.kind, &ticket))),
        }
    }

    /// The order that a customer's key leads to: whether that depends on the customer is asked where the order would be
    /// that does not, so that the same key is always told the same.
    async fn order_of_key(
        &self,
        route: &Route,
        OfKey { user, shared, own }: OfKey,
        caller: Option<&Caller>,
        wait: Wait,
    ) -> Result<Id, Box<Problem>> {
        let subject = subject::door(route.kind, shared.as_str(), "key-scope");
        let question = Request::new(subject, json!({ "user": user.as_str() }).to_string());
        let request = Request { caller: caller.cloned(), ..question };
        let left = wait.question.saturating_duration_since(Instant::now().into());
        let mut errand = Errand::new(route.kind, request, true, left, left);
        let reply = self.doors.ask(&mut errand).await.map_err(|unanswered| match unanswered {
            Unanswered::Unknown => unanswered_read(route),
            Unanswered::Unreachable | Unanswered::Unserved | Unanswered::Refused(_) => unserved(route),
        })?;
        match reply.error {
            None => {
                let scope: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                Ok(if scope["by_user"] == true { own } else { shared })
            }
            // A host that does not know the question knows no such keys either.
            Some(Code::NOT_FOUND) => Ok(shared),
            Some(_) => Err(unanswered_read(route)),
        }
    }

    /// Asks a door; where it stays unknown whether a write was taken, says so, or promises it.
    async fn ask(
        &self,
        request: Request,
        asked: &Asked,
        wait: Wait,
        permit: OwnedSemaphorePermit,
        order: Option<&UnderWay>,
    ) -> Result<Response, Box<Problem>> {
        let Asked { route, id, prefer, .. } = asked;
        let answered = |reply: Reply| {
            if let Some(order) = order {
                order.is_answered(&reply);
            }
            reply::of(reply, asked)
        };
        let promised = |errand: Errand, id: &Id, permit| {
            if let Some(order) = order {
                order.is_accepted();
            }
            self.insist(errand, id.clone(), permit, order.cloned());
            reply::promised(asked)
        };
        let is_repeatable = route.repeat == Repeat::Always || request.idempotency_key.is_some();
        let mut errand = Errand::new(route.kind, request, is_repeatable, wait.left(), prefer.wait());
        let (heard, questioned) = if route.is_write() {
            self.ask_and_question(&mut errand, wait).await
        } else {
            (self.doors.ask(&mut errand).await, None)
        };
        let unanswered = match heard {
            Ok(reply) => return Ok(answered(reply)),
            Err(unanswered) => unanswered,
        };
        // What belongs to an order is held here until they open, if there is a place for it.
        if let Some(id) = id
            && route.repeat == Repeat::Always
            && self.doors.are_held(&unanswered)
            && self.doors.have_place(&mut errand)
        {
            return Ok(promised(errand, id, permit));
        }
        let is_known = match &unanswered {
            Unanswered::Unknown => !route.is_write(),
            // What too many wait for was taken; as what, the question tells.
            Unanswered::Refused(reply) => !reply.is_crowded(),
            Unanswered::Unreachable | Unanswered::Unserved => true,
        };
        match (questioned, id) {
            (_, _) if is_known => match unanswered {
                Unanswered::Refused(reply) => Ok(answered(reply)),
                Unanswered::Unreachable | Unanswered::Unserved | Unanswered::Unknown => refusal(unanswered, asked),
            },
            // There is no room for the question, which says nothing of what was asked first.
            (Some(Err(Unanswered::Refused(Reply { error: Some(Code::OVERLOADED), .. }))), _) => {
                Err(fate::unknown(asked))
            }
            (_, Some(id)) if route.repeat == Repeat::Always => Ok(promised(errand, id, permit)),
            (_, _) => Err(fate::unknown(asked)),
        }
    }

    /// Asks a door for a write that may be repeated, and before the wait ends also whether it was taken: that is
    /// returned beside it, if it was answered.
    async fn ask_and_question(&self, errand: &mut Errand, wait: Wait) -> (Heard, Option<Heard>) {
        let mut question = errand.was_it_taken(wait.left());
        let mut answer = pin!(self.doors.ask(errand));
        let heard = timeout_at(wait.question, &mut answer).await.ok();
        question.wait = wait.left();
        let mut questioned = pin!(self.doors.ask(&mut question));
        let (heard, questioned) = match heard {
            Some(Err(Unanswered::Unknown)) => (Err(Unanswered::Unknown), Some(questioned.await)),
            Some(Err(Unanswered::Refused(reply))) if reply.is_crowded() => {
                (Err(Unanswered::Refused(reply)), Some(questioned.await))
            }
            Some(heard) => return (heard, None),
            None => tokio::select! {
                biased;
                heard = &mut answer => match heard {
                    Ok(_) => return (heard, None),
                    Err(Unanswered::Unknown) => (heard, questioned.now_or_never()),
                    Err(_) => (heard, Some(questioned.await)),
                },
                heard = &mut questioned => match heard {
                    // It is taken, and may still be settled in time.
                    Ok(Reply { accepted: true, .. }) | Err(_) => (answer.await, Some(heard)),
                    Ok(_) => return (heard, None),
                },
            },
        };
        match (heard, questioned) {
            (Ok(reply), _) | (Err(_), Some(Ok(reply))) => (Ok(reply), None),
            // The question may have been taken, and with it what it asks about.
            (Err(_), None | Some(Err(Unanswered::Unknown))) => (Err(Unanswered::Unknown), None),
            (Err(unanswered), questioned) => (Err(unanswered), questioned),
        }
    }

    /// Hears whether the doors are held for as long as it is polled.
    pub(crate) async fn listen(&self) {
        self.doors.listen().await;
    }

    /// Goes on asking for an order that a caller was told is accepted, until the log has it. It takes
    /// one of the places for requests meanwhile.
    fn insist(&self, errand: Errand, order: Id, permit: OwnedSemaphorePermit, under_way: Option<UnderWay>) {
        let doors = Arc::clone(&self.doors);
        tokio::spawn(async move {
            match doors.insist(errand).await {
                Ok(_) => tracing::debug!("order {order} was taken in the end"),
                Err(_) => {
                    tracing::error!("nobody has taken order {order}, whose customer was told that it is accepted")
                }
            }
            drop((permit, under_way));
        });
    }

    async fn page(&self, page: Page) -> Response {
        match page {
            Page::Health => reply::page("application/json", observe::HEALTHY),
            Page::Ready => match self.unready() {
                None => reply::page("application/json", json!({ "status": "ready" }).to_string()),
                Some(why) => reply::unready(json!({ "status": why }).to_string()),
            },
            Page::Description => reply::page("application/json", observe::DESCRIPTION),
            Page::Docs => reply::page("text/html; charset=utf-8", docs::page()),
        }
    }

    async fn turn(&self) -> Result<Turn, Box<Problem>> {
        let turn = self.lists.take().await;
        turn.ok_or_else(|| {
            self.strikes(Limit::Lists);
            let at_a_time = self.lists.at_a_time();
            let detail = format!("{at_a_time} lists are being read, as many as one bridge reads at a time; try again");
            Box::new(Problem::new(Code::OVERLOADED, detail))
        })
    }

    fn overloaded(&self) -> Box<Problem> {
        self.strikes(Limit::InFlight);
        let in_flight_max = self.limits.in_flight_max;
        let detail = format!("{in_flight_max} requests are under way, as many as one bridge holds; try again");
        Box::new(Problem::new(Code::OVERLOADED, detail))
    }
}

fn unavailable(detail: String) -> Box<Problem> {
    Box::new(Problem::new(Code::UNAVAILABLE, detail))
}

fn unserved(route: &Route) -> Box<Problem> {
    unavailable(format!("no process serves {} right now; try again", route.collection()))
}

fn unanswered_read(route: &Route) -> Box<Problem> {
    unavailable(format!("the process that serves {} did not answer in time; try again", route.collection()))
}

/// What is told of what was not done, or only read in vain.
fn refusal(unanswered: Unanswered, asked: &Asked) -> Result<Response, Box<Problem>> {
    match unanswered {
        Unanswered::Unreachable => Err(unavailable("the shop cannot reach NATS; try again".to_owned())),
        Unanswered::Unserved => Err(unserved(asked.route)),
        Unanswered::Refused(reply) => Ok(reply::of(reply, asked)),
        Unanswered::Unknown => Err(unanswered_read(asked.route)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, path: &str) -> Asked {
        let Found::Route { number, .. } = routes::find(&method, path) else { panic!("no route for {path}") };
        Asked { route: &ROUTES[number], id: "x-1".parse().ok(), prefer: Prefer::of(&HeaderMap::new()), with_key: false }
    }

    #[test]
    fn a_kind_without_a_process_is_named() {
        let problem = unserved(asked(Method::GET, "/orders/x-1").route);
        assert_eq!(
            (problem.code, &*problem.detail),
            (Code::UNAVAILABLE, "no process serves orders right now; try again")
        );
    }
}
