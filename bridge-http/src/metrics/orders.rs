//! Orders in numbers, as far as one bridge knows: those that came to it, and what it could tell their customers.
//!
//! Orders that come in over NATS or another bridge are counted there or not at all, and what becomes of an order that
//! was accepted before its outcome was known is for its host to say.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use shop_domain::problem::Code;
use shop_nats::rpc::request::Reply;

use crate::metrics::SECONDS;

/// Orders by what became of them.
#[derive(Clone)]
pub(crate) struct Orders(Arc<Shared>);

struct Shared {
    answers: Family<Outcome, Counter>,
    seconds: Histogram,
    count: Gauge<u64, AtomicU64>,
    oldest: Gauge<f64, AtomicU64>,
    /// When those under way came, in their order.
    under_way: Mutex<BTreeMap<u64, Instant>>,
    next: AtomicU64,
}

/// An order whose outcome the bridge waits for, until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct UnderWay(Arc<Place>);

struct Place {
    orders: Orders,
    number: u64,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
    code: &'static str,
}

/// The outcomes of which there are most: their counters need no code.
const CONFIRMED: Outcome = Outcome { outcome: "confirmed", code: "" };
const CANCELLED: Outcome = Outcome { outcome: "cancelled", code: "" };
const ACCEPTED: Outcome = Outcome { outcome: "accepted", code: "" };

impl Orders {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let (answers, seconds) = (Family::default(), Histogram::new(SECONDS));
        let (count, oldest) = (Gauge::default(), Gauge::default());
        registry.register("orders", "Orders that were answered for the first time", Family::clone(&answers));
        let meaning = "Time from placing an order to its outcome, of those whose customers waited for it";
        registry.register("order_duration_seconds", meaning, seconds.clone());
        registry.register("orders_under_way", "Orders whose outcome the bridge waits for", Gauge::clone(&count));
        let meaning = "How long the bridge has waited for the oldest of these; 0 when there is none";
        registry.register("order_oldest_age_seconds", meaning, Gauge::clone(&oldest));
        let (under_way, next) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Shared { answers, seconds, count, oldest, under_way, next }))
    }

    /// One is asked for.
    pub(crate) fn begin(&self) -> UnderWay {
        let (number, since) = (self.0.next.fetch_add(1, Relaxed), Instant::now());
        self.under_way().insert(number, since);
        UnderWay(Arc::new(Place { orders: self.clone(), number, since }))
    }

    /// Brings what depends on the time up to date.
    pub(crate) fn look(&self) {
        let (count, oldest) = {
            let under_way = self.under_way();
            (under_way.len(), under_way.values().next().copied())
        };
        self.0.count.set(count as u64);
        self.0.oldest.set(oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.0.under_way.lock().expect("nobody panics while counting")
    }
}

impl UnderWay {
    /// A door or the order itself answered.
    pub(crate) fn is_answered(&self, reply: &Reply) {
        match reply.error {
            // It is the answer of an order that was counted before.
            _ if reply.replayed => {}
            Some(code) => self.is_refused(code),
            None if reply.accepted => self.is_accepted(),
            None => self.has_outcome(if is_cancelled(&reply.body) { CANCELLED } else { CONFIRMED }),
        }
    }

    /// The customer was told that it will be carried out.
    pub(crate) fn is_accepted(&self) {
        self.count(ACCEPTED);
    }

    /// It was refused.
    pub(crate) fn is_refused(&self, code: Code) {
        let outcome = Outcome { outcome: "refused", code: code.name };
        // That nobody could be asked is no outcome.
        if code.status < 500 { self.has_outcome(outcome) } else { self.count(outcome) }
    }

    fn has_outcome(&self, outcome: Outcome) {
        self.0.orders.0.seconds.observe(self.0.since.elapsed().as_secs_f64());
        self.count(outcome);
    }

    fn count(&self, outcome: Outcome) {
        self.0.orders.0.answers.get_or_create_owned(&outcome).inc();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.orders.under_way().remove(&self.number);
    }
}

/// Whether a cancel came before the outcome. The status stands before whatever people have written, in which quotation
/// marks are escaped.
fn is_cancelled(order: &[u8]) -> bool {
    const STATUS: &[u8] = br#""status":""#;
    let at = order.windows(STATUS.len()).position(|part| part == STATUS);
    at.is_some_and(|at| order[at + STATUS.len()..].starts_with(b"CANCELLED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str, error: Option<Code>) -> Reply {
        Reply { body: body.to_owned().into(), error, ..Reply::default() }
    }

    #[test]
    fn orders_are_counted_by_their_outcome_once() {
        let mut registry = Registry::default();
        let orders = Orders::new(&mut registry);
        let confirmed = || reply(r#"{"id":"o","status":"CONFIRMED"}"#, None);
        orders.begin().is_answered(&confirmed());
        orders.begin().is_answered(&Reply { replayed: true, ..confirmed() });
        orders.begin().is_answered(&reply(r#"{"id":"o","status":"CANCELLED","reason":"no"}"#, None));
        orders.begin().is_answered(&Reply { accepted: true, ..reply(r#"{"id":"o","status":"PENDING"}"#, None) });
        orders.begin().is_answered(&reply("{}", Some(Code::OUT_OF_STOCK)));
        orders.begin().is_refused(Code::UNAVAILABLE);
        let text = shop_metrics::Page::new(&["bridge"], &[shop_metrics::Numbers::of(&registry)], []).text;
        for line in [
            r#"orders_total{outcome="confirmed",code=""} 1"#,
            r#"orders_total{outcome="cancelled",code=""} 1"#,
            r#"orders_total{outcome="accepted",code=""} 1"#,
            r#"orders_total{outcome="refused",code="out_of_stock"} 1"#,
            r#"orders_total{outcome="refused",code="unavailable"} 1"#,
            // Neither that it was accepted nor that nobody could be asked is an outcome.
            "order_duration_seconds_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_order_is_under_way_until_nobody_waits_for_its_outcome() {
        let orders = Orders::new(&mut Registry::default());
        let seen = || {
            orders.look();
            (orders.0.count.get(), orders.0.oldest.get() > 0.0)
        };
        assert_eq!(seen(), (0, false));
        let first = orders.begin();
        let promised = first.clone();
        drop(orders.begin());
        drop(first);
        assert_eq!(seen(), (1, true));
        drop(promised);
        assert_eq!(seen(), (0, false));
    }
}
