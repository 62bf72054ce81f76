//! What customers know of each other, and what came of their trying what is not theirs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use fastrand::Rng;

use crate::{
    counter::{Counter, Found},
    ledger::read,
};

/// How many orders are known: the newest.
const KNOWN_MAX: usize = 200;
/// How customers have to be refused at least once before a run has shown much.
const STATUSES: [u16; 4] = [401, 403, 404, 409];
/// And how often in all.
const REFUSALS: u64 = 30;

/// What customers know of each other.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Whose they are, and their ids.
    orders: Mutex<VecDeque<(String, String)>>,
    /// Paths at which nothing may ever be found.
    never: Mutex<Vec<String>>,
    /// How often customers were refused what is not theirs, by status.
    refusals: Mutex<BTreeMap<u16, u64>>,
}

impl Others {
    /// An order is there.
    pub(crate) fn learn(&self, user: &str, order: &str) {
        let mut orders = self.orders.lock().expect("nobody panics while learning");
        orders.push_front((user.to_owned(), order.to_owned()));
        orders.truncate(KNOWN_MAX);
    }

    /// Some order of another customer, and whose it is.
    pub(crate) fn some_order(&self, of_others_than: &str, rng: &mut Rng) -> Option<(String, String)> {
        let orders = self.orders.lock().expect("nobody panics while learning");
        let others: Vec<_> = orders.iter().filter(|(user, _)| user != of_others_than).collect();
        rng.choice(others).cloned()
    }

    /// Somebody tried to make something that may never be there.
    pub(crate) fn may_never_be(&self, path: String) {
        self.never.lock().expect("nobody panics while learning").push(path);
    }

    /// Somebody was refused.
    pub(crate) fn is_refused(&self, status: u16) {
        *self.refusals.lock().expect("nobody panics while counting").entry(status).or_default() += 1;
    }

    /// How often, by status.
    pub(crate) fn refusals(&self) -> BTreeMap<u16, u64> {
        self.refusals.lock().expect("nobody panics while counting").clone()
    }

    pub(crate) fn has_refused_much(&self) -> bool {
        let refusals = self.refusals();
        STATUSES.iter().all(|status| refusals.contains_key(status)) && refusals.values().sum::<u64>() >= REFUSALS
    }

    /// What may never be there is not there. `counter` is that of who sees everything.
    pub(crate) async fn are_unharmed(&self, counter: &Counter) -> Found<()> {
        let never = self.never.lock().expect("nobody panics while learning").clone();
        for path in never {
            read(counter, path, 404).await?;
            counter.read_was_true()?;
        }
        Ok(())
    }
}
