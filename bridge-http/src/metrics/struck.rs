//! Limits in numbers: how often each has struck, and how near it is.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use shop_limits::turns::Turns;

use crate::{body::Bodies, doors::Doors, limits::Limit};

type Number = Gauge<u64, AtomicU64>;

/// How often each limit has struck, and what there is at the moment of which there is a most.
pub(crate) struct Struck {
    /// By limit.
    times: [Counter; Limit::ALL.len()],
    open: Number,
    bodies: Number,
    lists: Number,
    held: Gauge<f64, AtomicU64>,
    connections: OnceLock<Box<dyn Fn() -> usize + Send + Sync>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLimit {
    limit: &'static str,
}

impl Struck {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let family = Family::<OfLimit, Counter>::default();
        // Each is there from the beginning, so that the first time shows as a rise.
        let times = Limit::ALL.map(|limit| family.get_or_create_owned(&OfLimit { limit: limit.name() }));
        let [open, bodies, lists] = [(); 3].map(|()| Number::default());
        let held = Gauge::default();
        registry.register("limit_reached", "Times that a limit struck", family);
        registry.register("connections", "Connections that are open", open.clone());
        registry.register_with_unit("bodies", "Bytes of bodies that are arriving", Unit::Bytes, bodies.clone());
        registry.register("lists_under_way", "Lists that are being read", lists.clone());
        let meaning = "For how long doors are held, as far as the bridge has heard; 0 when they are not";
        registry.register_with_unit("doors_held", meaning, Unit::Seconds, held.clone());
        Self { times, open, bodies, lists, held, connections: OnceLock::new() }
    }

    /// A limit was reached.
    pub(crate) fn strikes(&self, limit: Limit) {
        self.times[limit as usize].inc();
    }

    /// Where it can be seen how many connections there are.
    pub(crate) fn count_connections(&self, connections: impl Fn() -> usize + Send + Sync + 'static) {
        let _is_new = self.connections.set(Box::new(connections));
    }

    /// Looks how near they are.
    pub(crate) fn look(&self, bodies: &Bodies, lists: &Turns, doors: &Doors) {
        let set = |gauge: &Number, number: usize| gauge.inner().store(number as u64, Relaxed);
        set(&self.open, self.connections.get().map_or(0, |connections| connections()));
        set(&self.bodies, bodies.bytes());
        set(&self.lists, lists.under_way());
        self.held.set(doors.held_for().unwrap_or_default().as_secs_f64());
        self.times[Limit::Pause as usize].inner().store(doors.pauses_run_out(), Relaxed);
    }
}
