//! What a host says about itself, or several in one process about themselves: whether it lives, whether it
//! serves, and in numbers what it does.
//!
//! Owns looking. What is seen is read where it is anyway; nothing here is waited for by the host.

mod metrics;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use shop_domain::kind::Kind;
use shop_metrics::{Numbers, Observable};
use shop_nats::{connection::Connection, log::SharedLog};
use tokio::{sync::watch, time::timeout};

use crate::kind_host::{View, readiness::Ready};

/// How long NATS may take to answer while somebody looks: longer is as good as not at all.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// What there is to see of a host.
#[derive(Debug)]
pub struct Observed {
    kinds: Vec<Kind>,
    connected: Mutex<Option<Arc<Connected>>>,
    served: Mutex<BTreeMap<Kind, Served>>,
    /// Why kinds have stopped that are tried again.
    stopped: Mutex<BTreeMap<Kind, String>>,
    /// Since when its doors hold, if they do.
    held_since: Mutex<Option<Instant>>,
    pauses_run_out: AtomicU64,
}

/// Hosts in one process, which are looked at together.
#[derive(Debug)]
pub struct Hosts(pub Vec<Arc<Observed>>);

/// How a host is connected.
#[derive(Debug)]
pub struct Connected {
    /// The logs.
    pub log: SharedLog,
    /// Each connection, with what it is for.
    pub connections: [(&'static str, Connection); 3],
}

/// What there is to see of a kind.
#[derive(Clone, Debug)]
struct Served {
    view: watch::Receiver<Arc<View>>,
    ready: watch::Receiver<Ready>,
    is_open: Arc<AtomicBool>,
}

impl Observed {
    /// A host that is to serve these kinds, and has not begun.
    pub fn new(kinds: &[Kind]) -> Arc<Self> {
        let (connected, served, stopped, held_since, pauses_run_out) = Default::default();
        Arc::new(Self { kinds: kinds.to_vec(), connected, served, stopped, held_since, pauses_run_out })
    }

    /// Whether its doors hold from now on.
    pub fn holds(&self, hold: bool) {
        *self.held_since() = hold.then(Instant::now);
    }

    /// A pause of its doors was not renewed, and is over though it is still said.
    pub fn pause_ran_out(&self) {
        self.pauses_run_out.fetch_add(1, Ordering::Relaxed);
    }

    /// It is connected.
    pub fn connected(&self, connected: Connected) {
        *self.connections() = Some(Arc::new(connected));
    }

    /// It has begun with a kind. What it returns says whether the kind's door is open.
    pub fn begins(
        &self,
        kind: Kind,
        view: watch::Receiver<Arc<View>>,
        ready: watch::Receiver<Ready>,
    ) -> Arc<AtomicBool> {
        let is_open = Arc::new(AtomicBool::new(false));
        self.served().insert(kind, Served { view, ready, is_open: Arc::clone(&is_open) });
        is_open
    }

    /// A kind has stopped, and is tried again. Says so once.
    pub fn stopped(&self, kind: Kind, why: &str) {
        let before = self.stops().insert(kind, why.to_owned());
        if before.as_deref() != Some(why) {
            tracing::error!(
                "{kind} is not served any more: {why}. Should no program of this shop have written that, an operator \
                 can let it be skipped (shop dead skip); it is tried again now and then"
            );
        }
    }

    /// Whether a kind has stopped, and is tried again.
    pub fn is_stopped(&self, kind: Kind) -> bool {
        self.stops().contains_key(&kind)
    }

    /// A kind is served again.
    pub fn goes_on(&self, kind: Kind) {
        self.stops().remove(&kind);
    }

    fn status(&self, kind: Kind) -> Value {
        if let Some(why) = self.stops().get(&kind) {
            return json!({ "kind": kind, "status": "stopped", "reason": why });
        }
        let Some(Served { view, ready, is_open }) = self.served().get(&kind).cloned() else {
            return json!({ "kind": kind, "status": "starting" });
        };
        let mut status = view.borrow().describe(kind);
        if !is_open.load(Ordering::Relaxed) {
            status["status"] = json!("closed");
        } else if ready.borrow().is_none() {
            status["status"] = json!("catching_up");
        }
        status
    }

    fn is_connected(&self) -> bool {
        let connected = self.connections().clone();
        connected.is_some_and(|connected| connected.connections.iter().all(|(_, one)| one.is_connected()))
    }

    /// How many dead letters there are, of all hosts; none if nobody says.
    async fn dead_letters(&self) -> Option<u64> {
        let connected = self.connections().clone()?;
        let (_, connection) = connected.connections.first()?;
        let letters = timeout(ANSWER_WAIT, connection.dead_letters()).await.ok()?;
        letters.inspect_err(|error| tracing::warn!("{error}")).ok().map(|letters| letters.count)
    }

    /// Those that it has now: it connects anew when the shop is repartitioned.
    fn connections(&self) -> MutexGuard<'_, Option<Arc<Connected>>> {
        self.connected.lock().expect("nobody panics while changing it")
    }

    fn stops(&self) -> MutexGuard<'_, BTreeMap<Kind, String>> {
        self.stopped.lock().expect("nobody panics while changing it")
    }

    fn held_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.held_since.lock().expect("nothing panics while it is changed")
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<Kind, Served>> {
        self.served.lock().expect("nobody panics while changing it")
    }
}

impl Observable for Hosts {
    fn part(&self) -> &'static str {
        "host"
    }

    fn ready(&self) -> BoxFuture<'_, (bool, Value)> {
        Box::pin(ready(&self.0))
    }

    fn numbers(&self) -> BoxFuture<'_, Numbers> {
        Box::pin(async { Numbers::of(&metrics::numbers(&self.0).await) })
    }
}

/// Whether all of these hosts are connected and serve every kind in all of its partitions, and how each is.
async fn ready(hosts: &[Arc<Observed>]) -> (bool, Value) {
    let is_connected = hosts.iter().all(|host| host.is_connected());
    let dead_letters = if is_connected { dead_letters(hosts).await } else { None };
    let (mut is_ready, mut kinds) = (is_connected, Map::new());
    for (host, kind) in hosts.iter().flat_map(|host| host.kinds.iter().map(move |kind| (host, *kind))) {
        let status = host.status(kind);
        is_ready &= status["status"] == "ready";
        kinds.insert(kind.to_string(), status);
    }
    let nats = if is_connected { "connected" } else { "disconnected" };
    let status = if is_ready { "ready" } else { "unavailable" };
    let mut all = json!({ "status": status, "nats": nats, "dead_letters": dead_letters, "kinds": kinds });
    if let Some(held) = held(hosts) {
        all["held_seconds"] = held.as_secs().into();
    }
    (is_ready, all)
}

/// For how long the doors of any of these hold already, if they do.
fn held(hosts: &[Arc<Observed>]) -> Option<Duration> {
    hosts.iter().filter_map(|host| *host.held_since()).map(|since| since.elapsed()).max()
}

/// How many dead letters there are, of all hosts that there are; any of these can say.
async fn dead_letters(hosts: &[Arc<Observed>]) -> Option<u64> {
    hosts.first()?.dead_letters().await
}
