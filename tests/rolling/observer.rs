//! Places an order every few milliseconds, and keeps what it was told.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use shop_tests::client::{Answer, Ask, Caller, Client};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::shop::{CUSTOMERS, PRODUCTS, customer};

/// How often an order is placed.
const INTERVAL: Duration = Duration::from_millis(20);
/// Orders that may be under way: more than are placed in the longest time that is promised.
const UNDER_WAY_MAX: usize = 256;
/// How long an order is placed again and again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause before it is.
const PAUSE: Duration = Duration::from_millis(10);

/// At work, until it is ended.
#[derive(Debug)]
pub(crate) struct Observer {
    placing: JoinHandle<Observed>,
    stop: oneshot::Sender<()>,
}

/// What it has seen.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Orders that were confirmed, and in which words.
    pub(crate) told: Vec<(String, Bytes)>,
    /// Answers that were none, or promises only, after which the order was placed again.
    pub(crate) again: Vec<String>,
    /// Answers that are wrong.
    pub(crate) wrong: Vec<String>,
    /// The longest time without a confirmed order.
    pub(crate) longest_pause: Duration,
    /// The longest that an order took.
    pub(crate) slowest: Duration,
    last: Instant,
}

impl Observer {
    /// Places orders whose ids begin so, for one customer after the other, each as itself where there is a login.
    pub(crate) fn begin(client: Client, customers: Vec<Option<Caller>>, prefix: String) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { placing: tokio::spawn(place_all(client, customers, prefix, stopped)), stop }
    }

    /// Places no more, and waits until all that were placed are answered.
    pub(crate) async fn end(self) -> Observed {
        drop(self.stop);
        self.placing.await.expect("the observer does not panic")
    }
}

async fn place_all(
    client: Client,
    customers: Vec<Option<Caller>>,
    prefix: String,
    mut stopped: oneshot::Receiver<()>,
) -> Observed {
    let (told, again, wrong, last) = (vec![], vec![], vec![], Instant::now());
    let seen = Observed { told, again, wrong, longest_pause: Duration::ZERO, slowest: Duration::ZERO, last };
    let seen = Arc::new(Mutex::new(seen));
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way = JoinSet::new();
    for number in 0.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stopped => break,
        }
        while under_way.try_join_next().is_some() {}
        if under_way.len() < UNDER_WAY_MAX {
            let client = client.by(customers[number % CUSTOMERS].clone());
            under_way.spawn(place(client, format!("{prefix}-{number}"), number, Arc::clone(&seen)));
        }
    }
    under_way.join_all().await;
    Arc::into_inner(seen).and_then(|seen| seen.into_inner().ok()).expect("all who saw something are done")
}

/// Places one order until it is confirmed; every customer can pay, and there is enough of everything.
async fn place(client: Client, id: String, number: usize, seen: Arc<Mutex<Observed>>) {
    let start = Instant::now();
    let (user, product) = (customer(number % CUSTOMERS), format!("product-{}", number % PRODUCTS));
    let order = json!({ "id": id, "user": user, "product": product, "quantity": 1 });
    let ask = Ask::new(Method::POST, "/orders").body(order).key(id.clone()).patiently();
    while start.elapsed() < PATIENCE {
        match client.exchange(&ask).await {
            Ok(Answer { status: 201, bytes, .. }) => return lock(&seen).is_confirmed(id, bytes, start.elapsed()),
            Ok(Answer { status: 202 | 500.., bytes, .. }) => {
                lock(&seen).again.push(format!("{id}: {}", String::from_utf8_lossy(&bytes)));
            }
            Ok(Answer { status, bytes, .. }) => {
                let words = String::from_utf8_lossy(&bytes).into_owned();
                return lock(&seen).wrong.push(format!("{id} was answered {status}: {words}"));
            }
            Err(error) => lock(&seen).again.push(format!("{id}: {error}")),
        }
        sleep(PAUSE).await;
    }
    lock(&seen).wrong.push(format!("{id} was not confirmed within {PATIENCE:?}"));
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { told, again, longest_pause, slowest, .. } = self;
        let (pause, slowest) = (longest_pause.as_secs_f64(), slowest.as_secs_f64());
        let (confirmed, again) = (told.len(), again.len());
        write!(
            f,
            "an observer placed {confirmed} orders meanwhile, {again} of them more than once; the slowest was confirmed \
             after {slowest:.2} s, the longest time without a confirmed order was {pause:.2} s"
        )
    }
}

impl Observed {
    fn is_confirmed(&mut self, id: String, words: Bytes, took: Duration) {
        let order: Value = serde_json::from_slice(&words).unwrap_or_default();
        if order["id"] != id || order["status"] != "CONFIRMED" {
            return self.wrong.push(format!("{id} was answered {}", String::from_utf8_lossy(&words)));
        }
        let now = Instant::now();
        self.longest_pause = self.longest_pause.max(now - self.last);
        self.slowest = self.slowest.max(took);
        self.last = now;
        self.told.push((id, words));
    }
}

fn lock(seen: &Mutex<Observed>) -> MutexGuard<'_, Observed> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
