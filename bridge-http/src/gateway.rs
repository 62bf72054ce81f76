//! HTTP in, a NATS request out, its answer back. No business rule, no state of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures::Stream;
use shop_domain::{
    id::Id,
    problem::{Code, Problem},
};
use shop_nats::{
    connection::Connection,
    request::{Reply, Request},
    subject,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::{
    http::{
        HeaderMap, Method,
        header::{ACCEPT, ALLOW},
    },
    path::FullPath,
    reply::Response,
};

use crate::{
    Config,
    body::{self, Arriving},
    cors::Cors,
    docs,
    doors::{Doors, Errand, Unanswered},
    entity,
    head::Head,
    metrics::Metrics,
    observe,
    orders::UnderWay,
    prefer::Prefer,
    query,
    reply::{self, Asked},
    routes::{self, About, Found, Input, PAGES, Page, ROUTES, Repeat, Route},
};

/// How long a door may take to say that the log has taken a request. Nobody waits for less.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);

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
    connection: Connection,
    doors: Arc<Doors>,
    permits: Arc<Semaphore>,
    in_flight_max: usize,
    metrics: Metrics,
    cors: Cors,
    leaving: AtomicBool,
}

impl Gateway {
    pub(crate) fn new(connection: Connection, config: &Config) -> Self {
        let (doors, in_flight_max) = (Arc::new(Doors::new(connection.clone(), config)), config.in_flight_max);
        let (permits, leaving) = (Arc::new(Semaphore::new(in_flight_max)), AtomicBool::new(false));
        let cors = Cors::new(config.cors_origins.clone());
        Self { connection, doors, permits, in_flight_max, metrics: Metrics::new(), cors, leaving }
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
        let all = u32::try_from(self.in_flight_max).expect("a bridge holds fewer requests than that");
        let _all = self.permits.acquire_many(all).await.expect("nobody closes the semaphore");
    }

    /// A request could not even be read.
    pub(crate) fn refused_unread(&self, code: Code) {
        self.metrics.refused_unread(code);
    }

    /// Answers one request, whatever it is, and counts it.
    pub(crate) async fn answer<S, B, E>(&self, call: Call<S>) -> Response
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        let started = Instant::now();
        let Call { method, path, query, headers, head, body } = call;
        let mut body = Arriving::new(body, &head);
        let found = routes::find(&method, path.as_str());
        let mut response = match (&head.refusal, &found) {
            (Some(refusal), _) => reply::problem(refusal),
            (None, Found::Route { number, id }) => {
                let answer = self.ask_door(&ROUTES[*number], id, &query, &headers, &head, &mut body).await;
                answer.unwrap_or_else(|problem| reply::problem(&problem))
            }
            (None, Found::Page { number }) => self.page(PAGES[*number].1, &headers).await,
            (None, Found::OtherMethods { allow, .. }) if method == Method::OPTIONS => reply::options(allow),
            (None, Found::OtherMethods { allow, .. }) => reply::other_methods(allow),
            (None, Found::Nothing) => {
                reply::problem(&Problem::new(Code::NOT_FOUND, format!("there is no {}", path.as_str())))
            }
        };
        self.metrics.observe(&found, &method, response.status(), started.elapsed());
        let methods = response.headers().get(ALLOW).filter(|_| method == Method::OPTIONS).cloned();
        self.cors.sign(&headers, methods, &mut response);
        body.discard().await;
        match (body.is_over() && head.refusal.is_none(), self.leaving.load(Relaxed)) {
            (false, _) => reply::cut(response),
            (true, true) => reply::last(response),
            (true, false) => response,
        }
    }

    async fn ask_door<S, B, E>(
        &self,
        route: &'static Route,
        id: &str,
        query: &str,
        headers: &HeaderMap,
        head: &Head,
        body: &mut Arriving<S>,
    ) -> Result<Response, Box<Problem>>
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| self.overloaded())?;
        let key = if route.is_write() { entity::idempotency_key(headers)? } else { None };
        // What the head alone decides is said before a client is told to go on with the body.
        let existing = match route.about {
            About::Existing => Some(entity::existing(route.parameter_name(), id)?),
            About::New | About::Whole => None,
        };
        let arguments = match route.input {
            Input::Nothing => Bytes::new(),
            Input::Body => {
                body::check(headers, head)?;
                body::read(body).await?
            }
            Input::Query(allowed) => query::to_json(query, allowed)?,
        };
        let id = match route.about {
            About::Existing => existing,
            About::New => Some(entity::new(route.kind, &arguments, key.as_ref())?),
            About::Whole => None,
        };
        let prefer = Prefer::of(headers);
        let request = Request {
            subject: match &id {
                Some(id) => subject::door(route.kind, id.as_str(), route.verb),
                None => subject::door_of_kind(route.kind, route.verb),
            },
            body: arguments,
            idempotency_key: key.map(|key| key.as_str().to_owned()),
            traceparent: headers.get("traceparent").and_then(|context| context.to_str().ok()).map(str::to_owned),
            respond_async: route.is_write() && prefer.respond_async(),
        };
        let asked = Asked { route, id, prefer };
        let order = route.places_order().then(|| self.metrics.orders.begin());
        let answer = self.ask(request, &asked, permit, order.as_ref()).await;
        if let (Some(order), Err(problem)) = (&order, &answer) {
            order.is_refused(problem.code);
        }
        answer
    }

    /// Asks a door; where it stays unknown whether a write was taken, says so, or promises it.
    async fn ask(
        &self,
        request: Request,
        asked: &Asked,
        permit: OwnedSemaphorePermit,
        order: Option<&UnderWay>,
    ) -> Result<Response, Box<Problem>> {
        let Asked { route, id, prefer } = asked;
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
        let with_key = request.idempotency_key.is_some();
        let is_repeatable = route.repeat == Repeat::Always || with_key;
        let mut errand = Errand::new(route.kind, request, is_repeatable, prefer.wait().max(ACCEPT_WAIT), prefer.wait());
        let unanswered = match self.doors.ask(&mut errand).await {
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
        match unanswered {
            Unanswered::Unreachable => Err(unavailable("the shop cannot reach NATS; try again".to_owned())),
            Unanswered::Unserved => Err(unserved(route)),
            Unanswered::Refused(reply) => Ok(answered(reply)),
            Unanswered::Unknown if !route.is_write() => Err(unanswered_read(route)),
            Unanswered::Unknown if !is_repeatable => Err(unknown_fate(asked, with_key)),
            Unanswered::Unknown => {
                let mut question = errand.was_it_taken(ACCEPT_WAIT);
                match (self.doors.ask(&mut question).await, id) {
                    (Ok(reply), _) => Ok(answered(reply)),
                    // There is no room for the question, which says nothing of what was asked first.
                    (Err(Unanswered::Refused(Reply { error: Some(Code::OVERLOADED), .. })), _) => {
                        Err(unknown_fate(asked, with_key))
                    }
                    (Err(_), Some(id)) if route.repeat == Repeat::Always => Ok(promised(question, id, permit)),
                    (Err(_), _) => Err(unknown_fate(asked, with_key)),
                }
            }
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

    async fn page(&self, page: Page, headers: &HeaderMap) -> Response {
        match page {
            Page::Health => reply::page("application/json", observe::HEALTHY),
            Page::Ready if self.leaving.load(Relaxed) => observe::leaving(),
            Page::Ready => observe::ready(&self.connection).await,
            Page::Metrics => {
                let in_flight = self.in_flight_max - self.permits.available_permits();
                let accept = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
                let shop_metrics::Page { content_type, text } = self.metrics.page(in_flight, accept);
                reply::page(content_type, text)
            }
            Page::Description => reply::page("application/json", observe::DESCRIPTION),
            Page::Docs => reply::page("text/html; charset=utf-8", docs::page()),
        }
    }

    fn overloaded(&self) -> Box<Problem> {
        let detail = format!("{} requests are under way, as many as one bridge holds; try again", self.in_flight_max);
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

/// Says honestly that nobody knows, which entity it is about, and how to repeat it without harm.
fn unknown_fate(asked: &Asked, with_key: bool) -> Box<Problem> {
    let Asked { route, id, .. } = asked;
    let id = id.as_ref().map_or_else(String::new, ToString::to_string);
    let advice = match route.repeat {
        _ if with_key => "repeating it with the same Idempotency-Key is safe".to_owned(),
        Repeat::Always => format!("repeating it with the id {id} is safe"),
        Repeat::WithKey => format!(
            "look at /{}/{id} before you repeat it; with an Idempotency-Key repeating would be safe",
            route.collection()
        ),
    };
    let problem = unavailable(format!("it is not known whether the request was taken: {advice}"));
    Box::new(problem.fact(route.kind.as_str(), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, path: &str) -> Asked {
        let Found::Route { number, .. } = routes::find(&method, path) else { panic!("no route for {path}") };
        Asked { route: &ROUTES[number], id: "x-1".parse().ok(), prefer: Prefer::of(&HeaderMap::new()) }
    }

    #[test]
    fn who_does_not_learn_the_fate_of_a_write_learns_how_to_repeat_it() {
        let order = unknown_fate(&asked(Method::POST, "/orders"), false);
        assert!(order.detail.ends_with("repeating it with the id x-1 is safe"), "{}", order.detail);
        assert_eq!(order.facts["order"], "x-1");
        let with_key = unknown_fate(&asked(Method::POST, "/wallets/x-1/top-up"), true);
        assert!(with_key.detail.ends_with("with the same Idempotency-Key is safe"), "{}", with_key.detail);
        let without_key = unknown_fate(&asked(Method::POST, "/wallets/x-1/top-up"), false);
        assert!(without_key.detail.contains("look at /wallets/x-1 before you repeat it"), "{}", without_key.detail);
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
