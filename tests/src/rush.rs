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
    client::{Answer, Client},
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
}

impl Rush {
    /// Lets customers place these orders, all of which have ids.
    pub fn begin(client: &Client, orders: Vec<Value>) -> Self {
        let (progress, answered) = watch::channel(0);
        let progress = Arc::new(progress);
        let orders = Arc::new(Mutex::new(VecDeque::from(orders)));
        let mut customers = JoinSet::new();
        for _ in 0..CUSTOMERS {
            let (client, orders, progress) = (client.clone(), Arc::clone(&orders), Arc::clone(&progress));
            customers.spawn(async move {
                let mut told = Told::new();
                while let Some(order) = next(&orders) {
                    let answer = place(&client, &order).await;
                    told.insert(id_of(&order), (order, answer));
                    progress.send_modify(|answered| *answered += 1);
                }
                told
            });
        }
        Self { customers, answered }
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

/// Places an order until its outcome is known.
async fn place(client: &Client, order: &Value) -> Answer {
    let patience = Patience::new();
    loop {
        match client.send(Method::POST, "/orders", Some(order)).await {
            Ok(answer) if [201, 409].contains(&answer.status) => return answer,
            // Taken but not settled, not known whether it was taken, or nobody there.
            Ok(answer) if [202, 503].contains(&answer.status) => {}
            Ok(answer) => panic!("{order} was answered {}: {:?}", answer.status, answer.bytes),
            Err(_) => {}
        }
        patience.pause(&format!("{order} is answered")).await;
    }
}

fn next(orders: &Mutex<VecDeque<Value>>) -> Option<Value> {
    orders.lock().expect("no customer panics between two orders").pop_front()
}
