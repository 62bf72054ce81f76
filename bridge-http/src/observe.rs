//! What the bridge says about itself: alive, ready, its metrics, its description.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use serde_json::{Map, Value, json};
use shop_domain::kind::Kind;
use shop_nats::{connection::Connection, request::Request, subject};
use warp::{http::StatusCode, reply::Response};

use crate::{
    reply,
    routes::{PAGES, ROUTES},
};

/// The OpenAPI document: the API with every shape, limit and error.
pub(crate) const DESCRIPTION: &str = include_str!("../openapi.json");
/// What a living process says.
pub(crate) const HEALTHY: &str = r#"{"status":"ok"}"#;
/// The content type of what [`Metrics::encode`] writes.
pub(crate) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a kind may take to say how it is: longer is as good as not at all.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// Bounds of the latency histogram, in seconds: a read takes under a millisecond, an order a few,
/// and the longest wait is 30 s.
const LATENCY_SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// Every status that `reply.rs` picks.
const STATUSES: [u16; 11] = [200, 201, 202, 400, 404, 405, 409, 413, 415, 422, 503];

/// Ready when NATS is connected and any kind is served. One that is down is told (`degraded`) but does
/// not make the bridge unready: my page must stay within reach when orders are down.
pub(crate) async fn ready(connection: &Connection) -> Response {
    if !connection.is_connected() {
        return reply::unready(json!({ "status": "unavailable", "nats": "disconnected" }).to_string());
    }
    let statuses = future::join_all(Kind::ALL.map(|kind| status_of(kind, connection))).await;
    let ready = statuses.iter().filter(|status| *status == "ready").count();
    let kinds: Map<String, Value> = Kind::ALL.iter().map(Kind::to_string).zip(statuses).collect();
    let status = match ready {
        0 => "unavailable",
        ready if ready < Kind::ALL.len() => "degraded",
        _ => "ready",
    };
    let body = json!({ "status": status, "nats": "connected", "kinds": kinds }).to_string();
    if ready == 0 { reply::unready(body) } else { reply::page("application/json", body) }
}

/// The bridge is about to stop: whoever chooses between bridges must choose another one, whatever this
/// one can still do.
pub(crate) fn leaving() -> Response {
    reply::unready(json!({ "status": "leaving" }).to_string())
}

async fn status_of(kind: Kind, connection: &Connection) -> Value {
    let request = Request {
        subject: subject::door_of_kind(kind, "status"),
        body: Bytes::new(),
        idempotency_key: None,
        traceparent: None,
        respond_async: false,
        ticket: None,
    };
    let reply = connection.request(request, STATUS_WAIT).await.ok().filter(|reply| reply.error.is_none());
    let answer: Option<Value> = reply.and_then(|reply| serde_json::from_slice(&reply.body).ok());
    answer.and_then(|answer| answer.get("status").cloned()).unwrap_or_else(|| "unavailable".into())
}

/// Requests by route: how many with which status, and how long they took.
pub(crate) struct Metrics {
    registry: Registry,
    in_flight: Gauge<u64, AtomicU64>,
    /// One per route, then one per page, then one for all that is neither.
    series: Vec<Series>,
}

/// The metrics of one route, found by its place so that counting looks nothing up.
pub(crate) struct Series {
    labels: RouteLabels,
    requests: Family<RequestLabels, Counter>,
    by_status: [OnceLock<Counter>; STATUSES.len()],
    seconds: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let requests = Family::default();
        let seconds: Family<RouteLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(LATENCY_SECONDS));
        let in_flight = Gauge::default();
        let mut registry = Registry::with_prefix("shop_http");
        registry.register("requests", "HTTP requests answered", requests.clone());
        registry.register("request_duration_seconds", "Time to the answer", seconds.clone());
        registry.register("requests_in_flight", "Requests under way to a door", in_flight.clone());

        let routes = ROUTES.iter().map(|route| RouteLabels { method: route.method.as_str(), route: route.path });
        let pages = PAGES.iter().map(|(path, _)| RouteLabels { method: "GET", route: path });
        let unmatched = RouteLabels { method: "other", route: "unmatched" };
        let series = routes.chain(pages).chain([unmatched]).map(|labels| Series {
            labels,
            requests: requests.clone(),
            by_status: Default::default(),
            seconds: seconds.get_or_create_owned(&labels),
        });
        Self { registry, in_flight, series: series.collect() }
    }

    /// The metrics of the route at this place in the table.
    pub(crate) fn route(&self, number: usize) -> &Series {
        &self.series[number]
    }

    /// The metrics of the page at this place in the table.
    pub(crate) fn page(&self, number: usize) -> &Series {
        &self.series[ROUTES.len() + number]
    }

    /// The metrics of requests that no row fits.
    pub(crate) fn unmatched(&self) -> &Series {
        &self.series[ROUTES.len() + PAGES.len()]
    }

    /// All of it in the text format of OpenMetrics, which Prometheus reads.
    pub(crate) fn encode(&self, in_flight: usize) -> String {
        self.in_flight.inner().store(in_flight as u64, Relaxed);
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

impl Series {
    /// Counts one answer.
    pub(crate) fn observe(&self, status: StatusCode, took: Duration) {
        if let Some(place) = STATUSES.iter().position(|known| *known == status.as_u16()) {
            self.by_status[place].get_or_init(|| self.counter(status.as_u16())).inc();
        }
        self.seconds.observe(took.as_secs_f64());
    }

    /// Made with the first answer of that status, so that no series stands at zero for ever.
    fn counter(&self, status: u16) -> Counter {
        let RouteLabels { method, route } = self.labels;
        self.requests.get_or_create_owned(&RequestLabels { method, route, status })
    }
}

#[cfg(test)]
mod tests {
    use shop_domain::problem::Code;

    use super::*;

    #[test]
    fn every_status_that_can_be_answered_is_counted() {
        let codes = Code::ALL.iter().map(|code| code.status);
        for status in codes.chain(ROUTES.iter().map(|route| route.success)).chain([202]) {
            assert!(STATUSES.contains(&status), "{status}");
        }
    }

    #[test]
    fn an_answer_is_counted_under_its_route_and_status() {
        let metrics = Metrics::new();
        metrics.route(0).observe(StatusCode::CREATED, Duration::from_millis(2));
        metrics.route(0).observe(StatusCode::CREATED, Duration::from_millis(2));
        metrics.page(1).observe(StatusCode::OK, Duration::from_millis(2));
        metrics.unmatched().observe(StatusCode::NOT_FOUND, Duration::from_millis(2));
        let text = metrics.encode(3);
        for line in [
            r#"shop_http_requests_total{method="POST",route="/products",status="201"} 2"#,
            r#"shop_http_requests_total{method="GET",route="/readyz",status="200"} 1"#,
            r#"shop_http_requests_total{method="other",route="unmatched",status="404"} 1"#,
            r#"shop_http_request_duration_seconds_bucket{le="0.0025",method="POST",route="/products"} 2"#,
            "shop_http_requests_in_flight 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
