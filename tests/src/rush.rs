//! Many customers at once who do not give up: an order without an answer is sent again under
//! its id until there is one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::Method;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    client::{Answer, Ask, Client, WAIT},
    wait::Patience,
};

/// How many orders are under way at a time.
const CUSTOMERS: usize = 32;
/// How long a rush may take: a test that gets here hangs.
const RUSH_LIMIT: Duration = Duration::from_secs(120);

/// What became of every order: what was ordered, and what the customer was told.
pub type Told = BTreeMap<String, (Value, Answer)>;

/// Customers at work.
#[derive(Debug)]
pub struct Rush {
    customers: JoinSet<Told>,
    answered: watch::Receiver<usize>,
    errors: Arc<Mutex<Vec<String>>>,
}

/// How a customer behaves.
#[derive(Clone, Debug)]
struct Manner {
    /// Whom to ask; when one is gone, the next.
    bridges: Vec<Client>,
    /// What to prefer about waiting.
    prefer: &'static str,
}

impl Rush {
    /// Lets customers place these orders, all of which have ids.
    pub fn begin(client: &Client, orders: Vec<Value>) -> Self {
        Self::begin_in(Manner { bridges: vec![client.clone()], prefer: WAIT }, orders)
    }

    /// The same with customers who wait as long as one can, at several bridges: one that is gone is
    /// done without, as a balancer would.
    pub fn begin_patiently(bridges: &[Client], orders: Vec<Value>) -> Self {
        Self::begin_in(Manner { bridges: bridges.to_vec(), prefer: "wait=30" }, orders)
    }

    fn begin_in(manner: Manner, orders: Vec<Value>) -> Self {
        let (progress, answered) = watch::channel(0);
        let progress = Arc::new(progress);
        let orders = Arc::new(Mutex::new(VecDeque::from(orders)));
        let mut customers = JoinSet::new();
        let errors = Arc::default();
        for number in 0..CUSTOMERS {
            let (orders, progress, errors) = (Arc::clone(&orders), Arc::clone(&progress), Arc::clone(&errors));
            let mut manner = manner.clone();
            let first = number % manner.bridges.len();
            manner.bridges.rotate_left(first);
            customers.spawn(async move {
                let mut told = Told::new();
                while let Some(order) = next(&orders) {
                    let answer = manner.place(&order, &errors).await;
                    told.insert(id_of(&order), (order, answer));
                    progress.send_modify(|answered| *answered += 1);
                }
                told
            });
        }
        Self { customers, answered, errors }
    }

    /// Waits until so many orders are answered.
    pub async fn has_answered(&mut self, count: usize) {
        let wait = self.answered.wait_for(|answered| *answered >= count);
        let outcome = timeout(RUSH_LIMIT, wait).await.unwrap_or_else(|_| panic!("{count} orders were not answered"));
        outcome.unwrap_or_else(|_| panic!("there are fewer than {count} orders, or a customer panicked"));
    }

    /// How many orders are answered.
    pub fn answered(&self) -> usize {
        *self.answered.borrow()
    }

    /// Waits until every order is answered; also returns what answers there were that are none, 5xx.
    pub async fn finish_with_errors(self) -> (Told, Vec<String>) {
        let errors = Arc::clone(&self.errors);
        let told = self.finish().await;
        let errors = std::mem::take(&mut *errors.lock().expect("no customer panics while it complains"));
        (told, errors)
    }

    /// Waits until every order is answered.
    pub async fn finish(self) -> Told {
        let customers = timeout(RUSH_LIMIT, self.customers.join_all()).await;
        let customers = customers.unwrap_or_else(|_| panic!("only {} orders were answered", *self.answered.borrow()));
        customers.into_iter().flatten().collect()
    }
}

/// An order's own id.
pub fn id_of(order: &Value) -> String {
    order["id"].as_str().expect("an order in a rush has an id").to_owned()
}

impl Manner {
    /// Places an order until its outcome is known.
    async fn place(&mut self, order: &Value, errors: &Mutex<Vec<String>>) -> Answer {
        let patience = Patience::new();
        let ask = Ask { prefer: self.prefer, ..Ask::new(Method::POST, "/orders").body(order.clone()) };
        loop {
            match self.bridges[0].exchange(&ask).await {
                Ok(answer) if [201, 409].contains(&answer.status) => return answer,
                // Taken but not settled.
                Ok(answer) if answer.status == 202 => {}
                // Not known whether it was taken, or nobody there.
                Ok(answer) if answer.status == 503 => {
                    let problem = format!("{order}: {}", String::from_utf8_lossy(&answer.bytes));
                    errors.lock().expect("no customer panics while it complains").push(problem);
                }
                Ok(answer) => panic!("{order} was answered {}: {:?}", answer.status, answer.bytes),
                Err(_) => self.bridges.rotate_left(1),
            }
            patience.pause(&format!("{order} is answered")).await;
        }
    }
}

fn next(orders: &Mutex<VecDeque<Value>>) -> Option<Value> {
    orders.lock().expect("no customer panics between two orders").pop_front()
}
