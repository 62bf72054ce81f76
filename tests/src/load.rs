//! Customers who order without a pause.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

use crate::client::{Ask, Client};

/// How many products there are to buy.
const PRODUCTS: usize = 100;
/// More than anybody can buy.
const ENOUGH: u64 = 1_000_000_000_000;

/// Customers at work, until it is ended.
#[derive(Debug)]
pub struct Load {
    customers: JoinSet<()>,
    stop: watch::Sender<bool>,
    watched: Arc<Mutex<Watched>>,
}

/// What was seen since one looked before.
#[derive(Debug, Default)]
pub struct Seen {
    /// Orders that were confirmed.
    pub orders: u64,
    /// The longest time without one.
    pub longest_pause: Duration,
    /// The longest that one took.
    pub slowest: Duration,
    /// Answers other than 201, and none.
    pub others: Vec<String>,
}

#[derive(Debug)]
struct Watched {
    seen: Seen,
    last: Instant,
}

impl Load {
    /// Opens wallets, offers products, and lets customers order.
    pub async fn begin(client: &Client, customers: usize) -> Self {
        for number in 0..customers {
            client.post("/wallets", &json!({ "id": format!("customer-{number}"), "balance": ENOUGH })).await.json(201);
        }
        for number in 0..PRODUCTS {
            let id = format!("product-{number}");
            client.post("/products", &json!({ "id": id, "name": id, "price": 1, "stock": ENOUGH })).await.json(201);
        }
        let watched = Arc::new(Mutex::new(Watched { seen: Seen::default(), last: Instant::now() }));
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for number in 0..customers {
            tasks.spawn(live(client.clone(), number, Arc::clone(&watched), stop.subscribe()));
        }
        Self { customers: tasks, stop, watched }
    }

    /// What was seen since the last look.
    pub fn look(&self) -> Seen {
        std::mem::take(&mut lock(&self.watched).seen)
    }

    /// Lets the customers finish; returns how many orders were confirmed since the last look.
    pub async fn end(self) -> u64 {
        self.stop.send_replace(true);
        self.customers.join_all().await;
        let mut watched = lock(&self.watched);
        std::mem::take(&mut watched.seen).orders
    }
}

async fn live(client: Client, customer: usize, watched: Arc<Mutex<Watched>>, stop: watch::Receiver<bool>) {
    for number in 0.. {
        if *stop.borrow() {
            return;
        }
        let (id, product) = (format!("o-{customer}-{number}"), format!("product-{}", (customer + number) % PRODUCTS));
        let order = json!({ "id": id, "user": format!("customer-{customer}"), "product": product, "quantity": 1 });
        let begin = Instant::now();
        let answer = client.exchange(&Ask::new(Method::POST, "/orders").body(order).patiently()).await;
        lock(&watched).note(begin, answer.map(|answer| (answer.status, answer.bytes)));
    }
}

impl Watched {
    fn note(&mut self, begin: Instant, answer: Result<(u16, bytes::Bytes), String>) {
        let now = Instant::now();
        self.seen.slowest = self.seen.slowest.max(now - begin);
        match answer {
            Ok((201, _)) => {
                self.seen.orders += 1;
                self.seen.longest_pause = self.seen.longest_pause.max(now - self.last);
                self.last = now;
            }
            Ok((status, bytes)) => self.seen.others.push(format!("{status}: {}", String::from_utf8_lossy(&bytes))),
            Err(error) => self.seen.others.push(error),
        }
    }
}

fn lock(watched: &Mutex<Watched>) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}
