//! What one customer was told. He does one thing after the other, and nobody else uses his wallet
//! or his orders: so between two things that he does, he knows exactly what every read must show.

use hyper::Method;
use serde_json::{Value, json};
use shop_tests::client::{Answer, Ask};

use crate::{
    counter::{Counter, Found, said, untrue},
    goods::Line,
};

/// How many items of a list are looked at in between.
const GLANCE: usize = 20;

/// All that a customer was told.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) user: String,
    pub(crate) balance: u64,
    /// In the order in which they were placed.
    pub(crate) orders: Vec<Order>,
    /// Keys and amounts.
    pub(crate) top_ups: Vec<(String, u64)>,
    /// Amounts that were put in without a key, in their order.
    pub(crate) top_ups_without_key: Vec<u64>,
    /// First answers, which last for ever.
    pub(crate) told: Vec<Told>,
}

/// An order whose outcome was told.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) lines: Vec<Line>,
    /// As it was shown last.
    pub(crate) view: Value,
    pub(crate) delivery: Option<Delivery>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Scheduled,
    Dispatched,
    Delivered,
    Cancelled,
}

/// A request that was answered.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) ask: Ask,
    pub(crate) answer: Answer,
}

impl Delivery {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Dispatched => "DISPATCHED",
            Self::Delivered => "DELIVERED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl Order {
    pub(crate) fn status(&self) -> &str {
        self.view["status"].as_str().unwrap_or_default()
    }

    pub(crate) fn amount(&self) -> u64 {
        self.view["amount"].as_u64().unwrap_or_default()
    }

    /// As its customer's page shows it.
    fn on_page(&self) -> Value {
        let mut item = self.view.clone();
        if let Some(delivery) = self.delivery {
            item["delivery_status"] = json!(delivery.name());
        }
        item
    }
}

impl Ledger {
    pub(crate) async fn wallet_is_true(&self, counter: &Counter) -> Found<()> {
        let wallet = read(counter, format!("/wallets/{}", self.user), 200).await?;
        agree(counter, &format!("the wallet of {}", self.user), &wallet["balance"], &json!(self.balance))
    }

    pub(crate) async fn order_is_true(&self, counter: &Counter, order: &Order) -> Found<()> {
        let view = read(counter, format!("/orders/{}", order.id), 200).await?;
        agree(counter, &format!("order {}", order.id), &view, &order.view)
    }

    pub(crate) async fn delivery_is_true(&self, counter: &Counter, order: &Order) -> Found<()> {
        let path = format!("/deliveries/{}", order.id);
        let Some(status) = order.delivery else {
            read(counter, path, 404).await?;
            return counter.read_was_true();
        };
        let delivery = read(counter, path, 200).await?;
        agree(counter, &format!("the delivery of {}", order.id), &delivery["status"], &json!(status.name()))
    }

    /// The newest orders on the customer's page are exactly these.
    pub(crate) async fn page_is_true(&self, counter: &Counter) -> Found<()> {
        let path = format!("/mypages/{}?limit={GLANCE}", self.user);
        let page = read(counter, path, 200).await?;
        let newest: Vec<Value> = self.orders.iter().rev().take(GLANCE).map(Order::on_page).collect();
        agree(counter, &format!("the page of {}", self.user), &page["items"], &json!(newest))
    }

    /// All pages of it list every order once, as it is.
    pub(crate) async fn all_pages_are_true(&self, counter: &Counter) -> Found<()> {
        let items = all(counter, &format!("/mypages/{}", self.user)).await?;
        if items.len() != self.orders.len() {
            return untrue(format!(
                "{} has placed {} orders, {} are listed",
                self.user,
                self.orders.len(),
                items.len()
            ));
        }
        for (item, order) in items.iter().zip(self.orders.iter().rev()) {
            agree(counter, &format!("order {} on its page", order.id), item, &order.on_page())?;
        }
        Ok(())
    }

    /// The newest entries of the statement lead to the balance.
    pub(crate) async fn statement_is_true(&self, counter: &Counter) -> Found<()> {
        let path = format!("/wallets/{}/statement?limit={GLANCE}", self.user);
        let statement = read(counter, path, 200).await?;
        let mut balance = Some(self.balance);
        for entry in statement["items"].as_array().into_iter().flatten() {
            if entry["balance"].as_u64() != balance {
                return untrue(format!("{} has {balance:?} after this entry: {entry} of {statement}", self.user));
            }
            balance = balance_before(entry);
        }
        counter.read_was_true()
    }

    /// A write that was answered is answered the same for ever.
    pub(crate) async fn is_told_again(&self, counter: &Counter, told: &Told) -> Found<()> {
        let again = counter.settled(&told.ask).await?;
        let is_same = (again.status, &again.bytes) == (told.answer.status, &told.answer.bytes);
        if !is_same || again.header("idempotency-replayed") != Some("true") {
            return untrue(format!("{}\n was: {}\n now: {}", told.ask, said(&told.answer), said(&again)));
        }
        counter.repeat_was_true()
    }
}

/// What the balance was before an entry; none when there is no such.
pub(crate) fn balance_before(entry: &Value) -> Option<u64> {
    let (balance, amount) = (entry["balance"].as_u64()?, entry["amount"].as_u64()?);
    match entry["kind"].as_str()? {
        "CHARGE" => balance.checked_add(amount),
        "TOP_UP" | "REFUND" => balance.checked_sub(amount),
        _ => None,
    }
}

/// A `GET`, which must be answered like this.
pub(crate) async fn read(counter: &Counter, path: String, status: u16) -> Found<Value> {
    let ask = Ask::new(Method::GET, path);
    let answer = counter.settled(&ask).await?;
    if answer.status != status {
        return untrue(format!("{ask}: {status} was expected, but it is {}", said(&answer)));
    }
    serde_json::from_slice(&answer.bytes).or_else(|error| untrue(format!("{ask}: {error}: {}", said(&answer))))
}

/// All items of a list, newest first.
pub(crate) async fn all(counter: &Counter, path: &str) -> Found<Vec<Value>> {
    let (mut items, mut from) = (Vec::new(), String::new());
    loop {
        let mut page = read(counter, format!("{path}?limit=1000{from}"), 200).await?;
        items.append(page["items"].as_array_mut().unwrap_or(&mut Vec::new()));
        match page["next"].as_str() {
            Some(next) => from = format!("&before={next}"),
            None => return Ok(items),
        }
    }
}

fn agree(counter: &Counter, what: &str, shown: &Value, told: &Value) -> Found<()> {
    if shown != told {
        return untrue(format!("{what}\n is shown as {shown}\n but was told {told}"));
    }
    counter.read_was_true()
}
