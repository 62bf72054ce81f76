//! The bridge in numbers. `METRICS.md` beside this crate's sources lists them; a test compares.
//!
//! Labels have few values, whatever clients send: paths are those of the tables, and methods that HTTP has no name for
//! are `other`.

pub(crate) mod orders;
pub(crate) mod struck;

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use shop_domain::problem::Code;
use shop_metrics::Numbers;
use warp::http::{Method, StatusCode};

use self::{orders::Orders, struck::Struck};
use crate::{
    auth::numbers::Admissions,
    routes::{Found, PAGES, ROUTES},
};

/// Bounds of histograms, in seconds: a read takes under a millisecond, an order a few, and the longest wait is 30 s.
pub(crate) const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// The statuses that are answered again and again: their counters are found by their place.
const STATUSES: [u16; 14] = [200, 201, 202, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503];

/// The route of requests that lead nowhere, or cannot be read.
const UNMATCHED: &str = "unmatched";
/// The method of requests whose own HTTP has no name for, or that cannot be read.
const OTHER: &str = "other";

/// Requests by route: how many with which status, and how long they took.
pub(crate) struct Metrics {
    /// Orders by what became of them.
    pub(crate) orders: Orders,
    /// The limits that have struck, and how near the others are.
    pub(crate) limits: Struck,
    /// Who was let in, and who was not.
    pub(crate) admissions: Admissions,
    registry: Registry,
    in_flight: Gauge<u64, AtomicU64>,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// One per route, then one per page, with the method that they are for.
    series: Vec<Series>,
}

/// The metrics of one route, found by its place so that counting looks nothing up.
struct Series {
    labels: RouteLabels,
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
            Family::new_with_constructor(|| Histogram::new(SECONDS));
        let in_flight = Gauge::default();
        let mut registry = Registry::with_prefix("shop_http");
        registry.register("requests", "HTTP requests that were answered", requests.clone());
        registry.register("request_duration_seconds", "Time from the head of a request to its answer", seconds.clone());
        registry.register("requests_in_flight", "Requests under way to a door", in_flight.clone());
        let (orders, limits) = (Orders::new(&mut registry), Struck::new(&mut registry));
        let admissions = Admissions::new(&mut registry);

        let routes = ROUTES.iter().map(|route| RouteLabels { method: route.method.as_str(), route: route.path });
        let pages = PAGES.iter().map(|(path, _)| RouteLabels { method: "GET", route: path });
        let series = routes.chain(pages).map(|labels| Series {
            labels,
            by_status: Default::default(),
            seconds: seconds.get_or_create_owned(&labels),
        });
        let series = series.collect();
        Self { orders, limits, admissions, registry, in_flight, requests, seconds, series }
    }

    /// Counts one answer.
    pub(crate) fn observe(&self, found: &Found<'_>, method: &Method, status: StatusCode, took: Duration) {
        let (place, route) = match found {
            Found::Route { number, .. } => (Some(*number), ROUTES[*number].path),
            Found::Page { number } => (Some(ROUTES.len() + number), PAGES[*number].0),
            Found::OtherMethods { path, .. } => (None, *path),
            Found::Nothing => (None, UNMATCHED),
        };
        let method = name_of(method);
        match place.map(|place| &self.series[place]).filter(|series| series.labels.method == method) {
            Some(series) => {
                self.counter(series, status.as_u16()).inc();
                series.seconds.observe(took.as_secs_f64());
            }
            None => self.look_up(RouteLabels { method, route }, status.as_u16(), took),
        }
    }

    /// Counts a request that could not even be read.
    pub(crate) fn refused_unread(&self, code: Code) {
        self.look_up(RouteLabels { method: OTHER, route: UNMATCHED }, code.status, Duration::ZERO);
    }

    /// All of it.
    pub(crate) fn numbers(&self, in_flight: usize) -> Numbers {
        self.in_flight.inner().store(in_flight as u64, Relaxed);
        self.orders.look();
        Numbers::of(&self.registry)
    }

    /// A counter is made with the first answer of its status, so that no series stands at zero for ever.
    fn counter(&self, series: &Series, status: u16) -> Counter {
        let RouteLabels { method, route } = series.labels;
        let make = || self.requests.get_or_create_owned(&RequestLabels { method, route, status });
        match STATUSES.iter().position(|known| *known == status) {
            Some(place) => series.by_status[place].get_or_init(make).clone(),
            None => make(),
        }
    }

    fn look_up(&self, labels: RouteLabels, status: u16, took: Duration) {
        let RouteLabels { method, route } = labels;
        self.requests.get_or_create_owned(&RequestLabels { method, route, status }).inc();
        self.seconds.get_or_create_owned(&labels).observe(took.as_secs_f64());
    }
}

fn name_of(method: &Method) -> &'static str {
    const NAMES: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    NAMES.into_iter().find(|name| *name == method.as_str()).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use shop_metrics::Page;
    use shop_nats::rpc::request::Reply;

    use super::*;
    use crate::routes;

    fn text(metrics: &Metrics) -> String {
        Page::new(&["bridge"], &[metrics.numbers(3)], []).text
    }

    fn count(metrics: &Metrics, method: &str, path: &str, status: u16) {
        let method = method.parse().unwrap();
        let took = Duration::from_millis(2);
        metrics.observe(&routes::find(&method, path), &method, StatusCode::from_u16(status).unwrap(), took);
    }

    #[test]
    fn an_answer_is_counted_under_its_method_its_route_and_its_status() {
        let metrics = Metrics::new();
        count(&metrics, "POST", "/products", 201);
        count(&metrics, "POST", "/products", 201);
        count(&metrics, "POST", "/products", 418);
        count(&metrics, "GET", "/readyz", 200);
        count(&metrics, "HEAD", "/wallets/alice", 200);
        count(&metrics, "PUT", "/wallets/alice", 405);
        metrics.refused_unread(Code::HEADERS_TOO_LARGE);
        let text = text(&metrics);
        for line in [
            r#"shop_http_requests_total{method="POST",route="/products",status="201"} 2"#,
            r#"shop_http_requests_total{method="POST",route="/products",status="418"} 1"#,
            r#"shop_http_requests_total{method="GET",route="/readyz",status="200"} 1"#,
            r#"shop_http_requests_total{method="HEAD",route="/wallets/{id}",status="200"} 1"#,
            r#"shop_http_requests_total{method="PUT",route="/wallets/{id}",status="405"} 1"#,
            r#"shop_http_requests_total{method="other",route="unmatched",status="431"} 1"#,
            r#"shop_http_request_duration_seconds_bucket{le="0.0025",method="POST",route="/products"} 3"#,
            "shop_http_requests_in_flight 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn labels_have_few_values_whatever_clients_send() {
        let metrics = Metrics::new();
        for n in 0..100 {
            for method in ["GET", "PUT", &format!("M{n}"), &format!("{}X", "Y".repeat(n))] {
                count(&metrics, method, &format!("/nothing/{n}"), 404);
            }
        }
        let text = text(&metrics);
        let lines = text.lines().filter(|line| line.starts_with("shop_http_requests_total{"));
        let lines: BTreeSet<&str> = lines.collect();
        let expected = [
            r#"shop_http_requests_total{method="GET",route="unmatched",status="404"} 100"#,
            r#"shop_http_requests_total{method="PUT",route="unmatched",status="404"} 100"#,
            r#"shop_http_requests_total{method="other",route="unmatched",status="404"} 200"#,
        ];
        assert_eq!(lines, expected.into());
    }

    #[test]
    fn the_table_of_metrics_is_complete_and_has_their_types_and_labels() {
        let metrics = Metrics::new();
        count(&metrics, "GET", "/nothing", 404);
        let order = metrics.orders.begin();
        order.is_answered(&Reply { body: br#"{"status":"CONFIRMED"}"#.as_slice().into(), ..Reply::default() });
        let text = text(&metrics);
        let mut exposed = BTreeSet::new();
        for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
            let sample = text.lines().find(|line| !line.starts_with('#') && line.starts_with(name)).unwrap();
            let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
            let labels: BTreeSet<&str> = labels.filter(|label| *label != "le").collect();
            exposed.insert((name.to_owned(), kind.to_owned(), labels.into_iter().collect::<Vec<_>>().join(", ")));
        }
        let table = include_str!("../METRICS.md").lines().filter_map(|line| line.strip_prefix("| `"));
        let documented = table.map(|row| {
            let mut cells = row.trim_end_matches(" |").split(" | ").map(|cell| cell.trim_end_matches('`').to_owned());
            let mut cell = || cells.next().unwrap();
            (cell(), cell(), cell())
        });
        let documented: BTreeSet<_> = documented.collect();
        assert_eq!(documented, exposed);
    }
}
