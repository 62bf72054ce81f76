//! The end of a customer's day: all that he was told is compared once more, as a whole.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    counter::{Counter, Found, untrue},
    ledger::{self, Ledger},
};

/// What an order, or a key, has in the statement: kinds and amounts, oldest first.
type Entries = Vec<(String, u64)>;

impl Ledger {
    /// Compares everything.
    pub(crate) async fn close(&self, counter: &Counter) -> Found<()> {
        self.wallet_is_true(counter).await?;
        self.all_pages_are_true(counter).await?;
        self.whole_statement_is_true(counter).await?;
        for order in &self.orders {
            self.order_is_true(counter, order).await?;
            self.delivery_is_true(counter, order).await?;
        }
        // As far back as anybody remembers, and no more than the test has time for.
        let step = (self.told.len() / 200).max(1);
        for told in self.told.iter().step_by(step) {
            self.is_told_again(counter, told).await?;
        }
        Ok(())
    }

    /// Every top-up is in it once, every order as it ended, and nothing else.
    async fn whole_statement_is_true(&self, counter: &Counter) -> Found<()> {
        let entries = ledger::all(counter, &format!("/wallets/{}/statement", self.user)).await?;
        let mut balance = Some(self.balance);
        let (mut of_orders, mut of_keys) = (BTreeMap::<String, Entries>::new(), BTreeMap::<String, Entries>::new());
        let mut without_key = Entries::new();
        for entry in &entries {
            if entry["balance"].as_u64() != balance {
                return untrue(format!("{} has {balance:?} after this entry: {entry}", self.user));
            }
            balance = ledger::balance_before(entry);
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let what = (text("kind").unwrap_or_default(), entry["amount"].as_u64().unwrap_or_default());
            match (text("order"), text("key")) {
                (Some(order), None) => of_orders.entry(order).or_default().insert(0, what),
                (None, Some(key)) => of_keys.entry(key).or_default().insert(0, what),
                (None, None) => without_key.insert(0, what),
                (Some(_), Some(_)) => return untrue(format!("{} has never heard of {entry}", self.user)),
            }
        }
        if balance != Some(0) {
            return untrue(format!("{} had {balance:?} before the first entry", self.user));
        }
        let expected: Entries = self.top_ups_without_key.iter().map(|amount| ("TOP_UP".to_owned(), *amount)).collect();
        if without_key != expected {
            let (user, told) = (&self.user, expected.len());
            return untrue(format!("{user} has put in {told} times without a key: {expected:?}, not {without_key:?}"));
        }
        self.top_ups_are(of_keys)?;
        self.charges_are(of_orders)?;
        counter.read_was_true()
    }

    fn top_ups_are(&self, mut entries: BTreeMap<String, Entries>) -> Found<()> {
        for (key, amount) in &self.top_ups {
            let found = entries.remove(key).unwrap_or_default();
            if found != [("TOP_UP".to_owned(), *amount)] {
                return untrue(format!("{amount} was put in under {key}, but the statement has {found:?}"));
            }
        }
        if entries.is_empty() { Ok(()) } else { untrue(format!("{} has not put in {entries:?}", self.user)) }
    }

    fn charges_are(&self, mut entries: BTreeMap<String, Entries>) -> Found<()> {
        for order in &self.orders {
            let found = entries.remove(&order.id).unwrap_or_default();
            let charge = ("CHARGE".to_owned(), order.amount());
            let refund = ("REFUND".to_owned(), order.amount());
            let is_right = match order.status() {
                "CONFIRMED" => found == [charge],
                "CANCELLED" if order.delivery.is_some() => found == [charge, refund],
                _ => found.is_empty() || found == [charge, refund],
            };
            if !is_right {
                return untrue(format!("for {} the statement has {found:?}", order.view));
            }
        }
        if entries.is_empty() { Ok(()) } else { untrue(format!("{} has never ordered {entries:?}", self.user)) }
    }
}

/// How the orders of some customers ended.
pub(crate) fn outcomes<'l>(ledgers: impl Iterator<Item = &'l Ledger>) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for order in ledgers.flat_map(|ledger| &ledger.orders) {
        *outcomes.entry(outcome(&order.view)).or_insert(0) += 1;
    }
    outcomes
}

/// The same as `shop audit` counts them.
pub(crate) fn by_status(outcomes: &BTreeMap<String, usize>) -> [(&'static str, usize); 4] {
    let count =
        |status: &str| outcomes.iter().filter(|(outcome, _)| outcome.starts_with(status)).map(|(_, count)| count).sum();
    [
        ("confirmed", count("CONFIRMED")),
        ("rejected", count("REJECTED")),
        ("cancelled", count("CANCELLED")),
        ("under_way", 0),
    ]
}

/// How an order ended, as it is shown.
pub(crate) fn outcome(view: &Value) -> String {
    let status = view["status"].as_str().unwrap_or_default();
    match view["reason"].as_str() {
        Some(code) if status == "REJECTED" => format!("{status} {code}"),
        Some(_) | None => status.to_owned(),
    }
}
