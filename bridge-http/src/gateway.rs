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
    text::quoted,
};
use shop_nats::{
    connection::Connection,
    request::{Reply, Request},
    subject,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::{
    http::{HeaderMap, Method},
    path::FullPath,
    reply::Response,
};

use crate::{
    Config, body,
    doors::{Doors, Errand, Unanswered},
    entity,
    observe::{self, Metrics},
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
    pub(crate) body: S,
}

/// What all requests share.
pub(crate) struct Gateway {
    connection: Connection,
    doors: Arc<Doors>,
    permits: Arc<Semaphore>,
    in_flight_max: usize,
    metrics: Metrics,
    leaving: AtomicBool,
}

impl Gateway {
    pub(crate) fn new(connection: Connection, config: &Config) -> Self {
        let (doors, in_flight_max) = (Arc::new(Doors::new(connection.clone(), config)), config.in_flight_max);
        let (permits, leaving) = (Arc::new(Semaphore::new(in_flight_max)), AtomicBool::new(false));
        Self { connection, doors, permits, in_flight_max, metrics: Metrics::new(), leaving }
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

    /// Answers one request, whatever it is, and counts it.
    pub(crate) async fn answer<S, B, E>(&self, call: Call<S>) -> Response
    where
        S: Stream<Item = Result<B, E>>,
        B: Buf,
    {
        let started = Instant::now();
        let Call { method, path, query, headers, body } = call;
        let (series, response) = match routes::find(&method, path.as_str()) {
            Found::Route { number, id } => {
                let answer = self.ask_door(&ROUTES[number], id, &query, &headers, body).await;
                (self.metrics.route(number), answer.unwrap_or_else(|problem| reply::problem(&problem)))
            }
            Found::Page { number } => (self.metrics.page(number), self.page(PAGES[number].1).await),
            Found::OtherMethods(methods) => (self.metrics.unmatched(), reply::other_methods(&methods)),
            Found::Nothing => {
                let problem = Problem::new(Code::NOT_FOUND, format!("there is no path {}", quoted(path.as_str())));
                (self.metrics.unmatched(), reply::problem(&problem))
            }
        };
        series.observe(response.status(), started.elapsed());
        if self.leaving.load(Relaxed) { reply::last(response) } else { response }
    }

    async fn ask_door<S, B, E>(
        &self,
        route: &'static Route,
        id: &str,
        query: &str,
        headers: &HeaderMap,
        body: S,
    ) -> Result<Response, Box<Problem>>
    where
        S: Stream<Item = Result<B, E>>,
        B: Buf,
    {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| self.overloaded())?;
        let key = if route.is_write() { entity::idempotency_key(headers)? } else { None };
        let arguments = match route.input {
            Input::Nothing => Bytes::new(),
            Input::Body => body::read(headers, body).await?,
            Input::Query(allowed) => query::to_json(query, allowed)?,
        };
        let id = match route.about {
            About::Existing => Some(entity::existing(route.parameter_name(), id)?),
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
        self.ask(request, &asked, permit).await
    }

    /// Asks a door; where it stays unknown whether a write was taken, says so, or promises it.
    async fn ask(
        &self,
        request: Request,
        asked: &Asked,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, Box<Problem>> {
        let Asked { route, id, prefer } = asked;
        let with_key = request.idempotency_key.is_some();
        let is_repeatable = route.repeat == Repeat::Always || with_key;
        let mut errand = Errand::new(route.kind, request, is_repeatable, prefer.wait().max(ACCEPT_WAIT), prefer.wait());
        let unanswered = match self.doors.ask(&mut errand).await {
            Ok(reply) => return Ok(reply::of(reply, asked)),
            Err(unanswered) => unanswered,
        };
        // What belongs to an order is held here until they open, if there is a place for it.
        if let Some(id) = id
            && route.repeat == Repeat::Always
            && self.doors.are_held(&unanswered)
            && self.doors.have_place(&mut errand)
        {
            self.insist(errand, id.clone(), permit);
            return Ok(reply::promised(asked));
        }
        match unanswered {
            Unanswered::Unreachable => Err(unavailable("the shop cannot reach NATS; try again".to_owned())),
            Unanswered::Unserved => Err(unserved(route)),
            Unanswered::Refused(reply) => Ok(reply::of(reply, asked)),
            Unanswered::Unknown if !route.is_write() => Err(unanswered_read(route)),
            Unanswered::Unknown if !is_repeatable => Err(unknown_fate(asked, with_key)),
            Unanswered::Unknown => {
                let mut question = errand.was_it_taken(ACCEPT_WAIT);
                match (self.doors.ask(&mut question).await, id) {
                    (Ok(reply), _) => Ok(reply::of(reply, asked)),
                    // There is no room for the question, which says nothing of what was asked first.
                    (Err(Unanswered::Refused(Reply { error: Some(Code::OVERLOADED), .. })), _) => {
                        Err(unknown_fate(asked, with_key))
                    }
                    (Err(_), Some(id)) if route.repeat == Repeat::Always => {
                        self.insist(question, id.clone(), permit);
                        Ok(reply::promised(asked))
                    }
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
    fn insist(&self, errand: Errand, order: Id, permit: OwnedSemaphorePermit) {
        let doors = Arc::clone(&self.doors);
        tokio::spawn(async move {
            match doors.insist(errand).await {
                Ok(_) => tracing::debug!("order {order} was taken in the end"),
                Err(_) => {
                    tracing::error!("nobody has taken order {order}, whose customer was told that it is accepted")
                }
            }
            drop(permit);
        });
    }

    async fn page(&self, page: Page) -> Response {
        match page {
            Page::Health => reply::page("application/json", observe::HEALTHY),
            Page::Ready if self.leaving.load(Relaxed) => observe::leaving(),
            Page::Ready => observe::ready(&self.connection).await,
            Page::Metrics => {
                let in_flight = self.in_flight_max - self.permits.available_permits();
                reply::page(observe::METRICS_TYPE, self.metrics.encode(in_flight))
            }
            Page::Description => reply::page("application/json", observe::DESCRIPTION),
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
        Repeat::Always => format!("repeating it with the id {} is safe", quoted(&id)),
        Repeat::WithKey => format!(
            "look at /{}/{id} before you repeat it; with an Idempotency-Key repeating would be safe",
            route.collection()
        ),
    };
    let problem = unavailable(format!("it is not known whether the request was taken: {advice}"));
    let is_harmless = with_key || route.repeat == Repeat::Always;
    Box::new(problem.retryable(is_harmless).fact(route.kind.as_str(), id))
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
        assert!(order.detail.ends_with("repeating it with the id \"x-1\" is safe"), "{}", order.detail);
        assert_eq!((&order.facts["order"], &order.facts["retryable"]), (&"x-1".into(), &true.into()));
        let with_key = unknown_fate(&asked(Method::POST, "/wallets/x-1/top-up"), true);
        assert!(with_key.detail.ends_with("with the same Idempotency-Key is safe"), "{}", with_key.detail);
        assert_eq!(with_key.facts["retryable"], true);
        let without_key = unknown_fate(&asked(Method::POST, "/wallets/x-1/top-up"), false);
        assert!(without_key.detail.contains("look at /wallets/x-1 before you repeat it"), "{}", without_key.detail);
        assert_eq!(without_key.facts["retryable"], false);
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
