//! HTTP in, a NATS request out, its answer back. No business rule, no state of its own.

mod asking;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Buf;
use futures::Stream;
use serde_json::{Value, json};
use shop_domain::{
    caller::Caller,
    problem::{Code, Problem},
    text::quoted,
};
use shop_limits::turns::Turns;
use shop_metrics::Numbers;
use shop_nats::connection::Connection;
use tokio::sync::Semaphore;
use warp::{
    http::{HeaderMap, Method, header::ALLOW},
    path::FullPath,
    reply::Response,
};

use crate::{
    Config,
    auth::{Admission, Denial, Guard, Standing},
    body::{Arriving, Bodies},
    browser,
    cors::Cors,
    docs,
    doors::Doors,
    fate::Heeded,
    head::Head,
    host::{Host, Hosts},
    limits::{Limit, Limits},
    metrics::Metrics,
    readiness::{self, WithoutNats},
    reply,
    routes::{self, Found, PAGES, Page, ROUTES, Route},
};

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
            false => readiness::of(&self.doors.connection(), self.doors.held_for()).await,
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

    /// Hears whether the doors are held for as long as it is polled.
    pub(crate) async fn listen(&self) {
        self.doors.listen().await;
    }

    async fn page(&self, page: Page) -> Response {
        match page {
            Page::Health => reply::page("application/json", readiness::HEALTHY),
            Page::Ready => match self.unready() {
                None => reply::page("application/json", json!({ "status": "ready" }).to_string()),
                Some(why) => reply::unready(json!({ "status": why }).to_string()),
            },
            Page::Description => reply::page("application/json", docs::DESCRIPTION),
            Page::Docs => reply::page("text/html; charset=utf-8", docs::page()),
        }
    }
}
