//! What holds not only at rest: for one entity at every position of its log, from one position to
//! the next, and between entities at every consistent cut, which is one that holds no message
//! without the one that it follows from.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::Violation;
use crate::{
    delivery::{self, Delivery},
    entity::State,
    id::{Id, OrderId},
    kind::Kind,
    message::{Envelope, Message},
    mypage::{self, Item},
    order::{Order, Phase, Placed},
    product::{self, OnSale, Product, Take},
    refusal::Refusal,
    rows::{RowKey, decode_row},
    ticket::TICKET_ROWS,
    wallet::{self, Charge, Entry, EntryKind, Open, Wallet},
};

/// An entity with its rows, as its log has made it so far.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Which one.
    pub id: &'a Id,
    /// Its state.
    pub state: &'a State,
    /// All its rows.
    pub rows: &'a BTreeMap<RowKey, Vec<u8>>,
}

/// Entities at a consistent cut.
pub trait Cut {
    /// An entity; none if no message has come to it.
    fn seen<'a>(&'a self, kind: Kind, id: &'a Id) -> Option<Seen<'a>>;
}

/// The order that a message is about, if it is about one.
pub fn order_of(envelope: &Envelope) -> Option<OrderId> {
    match &envelope.message {
        Message::Wallet(wallet::Message::Charge { order, .. } | wallet::Message::Refund { order })
        | Message::Product(product::Message::Take { order, .. } | product::Message::PutBack { order })
        | Message::Mypage(mypage::Message::DeliveryChanged { order, .. }) => Some(order.clone()),
        Message::Mypage(mypage::Message::OrderChanged { order, .. }) => Some(order.id.clone()),
        Message::Order(_) | Message::Delivery(_) => Some(envelope.to.clone().into()),
        Message::Wallet(wallet::Message::Open { .. } | wallet::Message::TopUp { .. })
        | Message::Product(
            product::Message::Create { .. } | product::Message::Restock { .. } | product::Message::Change { .. },
        )
        | Message::Void(_) => None,
    }
}

/// Checks what holds for one entity at every position of its log: a wallet's statement and charges
/// add up to its balance, a product's takes to what is taken, an order's phase goes with its marks,
/// and no undo has overtaken what it undoes.
pub fn check_entity(entity: Seen<'_>) -> Vec<Violation> {
    let mut found = Findings::new(entity.id);
    match entity.state {
        State::Wallet(Wallet::Open(open)) => found.wallet(open, entity),
        State::Product(Product::OnSale(on_sale)) => found.product(on_sale, entity),
        State::Order(Order::Placed(order)) => found.order(order),
        State::Wallet(Wallet::Absent) | State::Product(Product::Absent) => {
            let is_answer = |row: &RowKey| row.starts_with("answer/") || row.starts_with(TICKET_ROWS);
            found.unless(entity.rows.keys().all(is_answer), "is absent, but was undone");
        }
        State::Delivery(delivery) => found.unless(*delivery != Delivery::Void, "was cancelled before it was made"),
        State::Order(Order::Absent) | State::Mypage(_) => {}
    }
    found.violations
}

/// Checks what one message made of an entity: money and pieces only come in by the commands that
/// bring them, an order and a delivery only go forward, and what an order is about never changes.
pub fn check_step(id: &Id, before: &State, message: &Message, after: &State) -> Vec<Violation> {
    let mut found = Findings::new(id);
    match (before, after) {
        (State::Wallet(before), State::Wallet(after)) => {
            let came = match message {
                Message::Wallet(wallet::Message::Open { balance: amount } | wallet::Message::TopUp { amount }) => {
                    amount.get()
                }
                Message::Wallet(wallet::Message::Charge { .. } | wallet::Message::Refund { .. })
                | Message::Product(_)
                | Message::Order(_)
                | Message::Delivery(_)
                | Message::Mypage(_)
                | Message::Void(_) => 0,
            };
            found.came_in(put_in(before), came, put_in(after), message);
        }
        (State::Product(before), State::Product(after)) => {
            let came = match message {
                Message::Product(
                    product::Message::Create { stock: quantity, .. } | product::Message::Restock { quantity },
                ) => quantity.get(),
                Message::Product(
                    product::Message::Change { .. } | product::Message::Take { .. } | product::Message::PutBack { .. },
                )
                | Message::Wallet(_)
                | Message::Order(_)
                | Message::Delivery(_)
                | Message::Mypage(_)
                | Message::Void(_) => 0,
            };
            found.came_in(brought_in(before), came, brought_in(after), message);
        }
        (State::Order(Order::Placed(before)), State::Order(Order::Placed(after))) => {
            let about = |order: &Placed| (order.user.clone(), order.lines.clone(), order.amount, order.placed_at);
            found.unless(about(before) == about(after), "is about something else now");
            if !leads_to(&before.phase, &after.phase) {
                found.add(format!("went from {:?} to {:?}", before.phase, after.phase));
            }
        }
        (State::Delivery(before), State::Delivery(after)) => {
            if !advances(status(before), status(after)) {
                found.add(format!("went from {before:?} to {after:?}"));
            }
        }
        (State::Order(Order::Absent), State::Order(_)) | (State::Mypage(_), State::Mypage(_)) => {}
        (before, after) => found.add(format!("was {before:?} and is {after:?}")),
    }
    found.violations
}

/// Checks an order against its wallet, products, delivery and page at a consistent cut: what an
/// order counts on has happened, and what was undone is not counted on any more.
pub fn check_order(id: &OrderId, cut: &impl Cut) -> Vec<Violation> {
    let id = Id::from(id.clone());
    let mut found = Findings::new(&id);
    let delivery = match cut.seen(Kind::Delivery, &id).map(|seen| seen.state) {
        Some(State::Delivery(delivery)) => status(delivery),
        Some(State::Wallet(_) | State::Product(_) | State::Order(_) | State::Mypage(_)) | None => None,
    };
    match cut.seen(Kind::Order, &id).map(|seen| seen.state) {
        Some(State::Order(Order::Placed(order))) => {
            found.pay(&id, order, cut);
            found.takes(&id, order, cut);
            found.ship(order, delivery);
            let told = order.cancel_refused.as_ref().map(|refused| refused.delivery_status);
            found.unless(told.is_none() || delivery >= told, "was told more than its delivery says");
            found.page(&id, order, delivery, cut);
        }
        Some(_) | None => found.unless(delivery.is_none(), "was never placed, and has a delivery"),
    }
    found.violations
}

struct Findings<'a> {
    of: &'a Id,
    violations: Vec<Violation>,
}

impl<'a> Findings<'a> {
    const fn new(of: &'a Id) -> Self {
        Self { of, violations: Vec::new() }
    }

    fn add(&mut self, text: impl std::fmt::Display) {
        self.violations.push(Violation(format!("{}: {text}", self.of)));
    }

    fn unless(&mut self, holds: bool, text: &str) {
        if !holds {
            self.add(text);
        }
    }

    fn came_in(&mut self, before: u128, came: u64, after: u128, message: &Message) {
        // A command that is refused, or was answered before, brings nothing.
        if after != before && after != before + u128::from(came) {
            self.add(format!("holds {after} altogether, {before} before {message:?}"));
        }
    }

    fn wallet(&mut self, wallet: &Open, entity: Seen<'_>) {
        let mut balance: i128 = 0;
        let (mut put_in, mut entries) = (0, 0);
        for entry in rows::<Entry>(entity, wallet::ENTRY_ROWS) {
            let amount = i128::from(entry.amount.get());
            balance += if entry.kind == EntryKind::Charge { -amount } else { amount };
            put_in += if entry.kind == EntryKind::TopUp { u128::from(entry.amount.get()) } else { 0 };
            entries += 1;
            if balance != i128::from(entry.balance.get()) {
                self.add(format!("the statement says {} where it is {balance}", entry.balance));
            }
        }
        self.unless(entries == wallet.entries, "the statement lacks an entry");
        self.unless(balance == i128::from(wallet.balance.get()), "the balance is not the statement's last");
        let total = u128::from(wallet.balance.get()) + u128::from(wallet.charged.get());
        self.unless(total == put_in, "balance and open charges are not what was put in");
        let mut open = 0;
        for charge in rows::<Charge>(entity, wallet::CHARGE_ROWS) {
            match charge {
                Charge::Charged(amount) => open += u128::from(amount.get()),
                Charge::Refunded(_) => {}
                Charge::Void => self.add("a refund came before its charge"),
            }
        }
        self.unless(open == u128::from(wallet.charged.get()), "the open charges do not add up");
    }

    fn product(&mut self, product: &OnSale, entity: Seen<'_>) {
        let mut open = 0;
        for take in rows::<Take>(entity, product::TAKE_ROWS) {
            match take {
                Take::Taken(quantity) => open += u128::from(quantity.get()),
                Take::PutBack(_) => {}
                Take::Void => self.add("pieces came back before they were taken"),
            }
        }
        self.unless(open == u128::from(product.taken.get()), "the open takes do not add up");
    }

    fn order(&mut self, order: &Placed) {
        let (shipped, cancelling) = match &order.phase {
            Phase::Paying => (Some(false), None),
            Phase::Taking { answers } => {
                let asked = answers.keys().all(|product| order.lines.iter().any(|line| line.product == *product));
                self.unless(asked && answers.len() < order.lines.len(), "has answers that it does not wait for");
                (Some(false), None)
            }
            Phase::Confirmed => (Some(true), Some(false)),
            Phase::Stopping => (Some(true), Some(true)),
            Phase::Rejected(_) => (Some(false), Some(false)),
            Phase::Cancelled => (None, Some(true)),
        };
        self.unless(shipped.is_none_or(|shipped| order.shipped == shipped), "is shipped or not, against its phase");
        self.unless(cancelling.is_none_or(|it| order.cancelling == it), "is being cancelled or not, against its phase");
        let open = matches!(order.phase, Phase::Paying | Phase::Taking { .. });
        self.unless(open || order.placers.is_empty(), "is decided, and a caller still waits");
        let is_sent = matches!(order.phase, Phase::Confirmed | Phase::Stopping);
        self.unless(is_sent || order.cancel_refused.is_none(), "was dispatched, and is not confirmed any more");
        let stops = order.cancelling && order.phase != Phase::Cancelled;
        self.unless(stops || order.cancellers.is_empty(), "is not being cancelled, and a caller waits for it");
    }

    fn pay(&mut self, id: &Id, order: &Placed, cut: &impl Cut) {
        let user = Id::from(order.user.clone());
        let charge: Option<Charge> = row(cut.seen(Kind::Wallet, &user), &wallet::charge_row(&id.clone().into()));
        match charge {
            Some(Charge::Charged(amount)) => {
                let broke = matches!(order.phase, Phase::Rejected(Refusal::InsufficientBalance { .. }));
                self.unless(amount == order.amount && !broke, "was charged something else than it costs");
            }
            Some(Charge::Refunded(amount)) => {
                self.unless(amount == order.amount, "got back something else than it costs");
                self.unless(has_ended(&order.phase), "got its money back, and goes on");
            }
            Some(Charge::Void) | None => {
                let counts = matches!(order.phase, Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping);
                self.unless(!counts, "goes on unpaid");
            }
        }
    }

    fn takes(&mut self, id: &Id, order: &Placed, cut: &impl Cut) {
        for line in &order.lines {
            let product = Id::from(line.product.clone());
            let take: Option<Take> = row(cut.seen(Kind::Product, &product), &product::take_row(&id.clone().into()));
            match take {
                Some(Take::Taken(quantity)) => {
                    let too_early = order.phase == Phase::Paying;
                    self.unless(quantity == line.quantity && !too_early, "took pieces that it did not ask for");
                }
                Some(Take::PutBack(quantity)) => {
                    self.unless(quantity == line.quantity, "put back more or less than it took");
                    self.unless(has_ended(&order.phase), "put its pieces back, and goes on");
                }
                Some(Take::Void) | None => {
                    let counts = match &order.phase {
                        Phase::Taking { answers } => matches!(answers.get(&line.product), Some(None)),
                        Phase::Confirmed | Phase::Stopping => true,
                        Phase::Paying | Phase::Rejected(_) | Phase::Cancelled => false,
                    };
                    self.unless(!counts, "counts on pieces that it did not take");
                }
            }
        }
    }

    fn ship(&mut self, order: &Placed, delivery: Option<delivery::Status>) {
        use delivery::Status::{Cancelled, Delivered, Dispatched, Scheduled};
        let holds = match (&order.phase, delivery) {
            (Phase::Paying | Phase::Taking { .. } | Phase::Rejected(_), delivery) => delivery.is_none(),
            (Phase::Confirmed, delivery) => delivery != Some(Cancelled),
            (Phase::Stopping, None | Some(Scheduled | Dispatched | Delivered | Cancelled)) => true,
            (Phase::Cancelled, delivery) => delivery == order.shipped.then_some(Cancelled),
        };
        if !holds {
            self.add(format!("is {:?} with a delivery {delivery:?}", order.phase));
        }
    }

    fn page(&mut self, id: &Id, order: &Placed, delivery: Option<delivery::Status>, cut: &impl Cut) {
        let user = Id::from(order.user.clone());
        let key = mypage::order_row(order.placed_at, &id.clone().into());
        let Some(item) = row::<Item>(cut.seen(Kind::Mypage, &user), &key) else { return };
        if let Some(shown) = item.order {
            self.unless(shown.updated_at <= order.updated_at, "the page is ahead of the order");
            self.unless(shown.delivery.is_none() || order.shipped, "the page shows a delivery that was not asked for");
        }
        let known = match item.delivery_status {
            None => true,
            Some(delivery::Status::Scheduled) => order.shipped,
            told @ Some(delivery::Status::Dispatched | delivery::Status::Delivered | delivery::Status::Cancelled) => {
                delivery >= told
            }
        };
        self.unless(known, "the page is ahead of the delivery");
    }
}

fn put_in(wallet: &Wallet) -> u128 {
    match wallet {
        Wallet::Absent => 0,
        Wallet::Open(open) => u128::from(open.balance.get()) + u128::from(open.charged.get()),
    }
}

fn brought_in(product: &Product) -> u128 {
    match product {
        Product::Absent => 0,
        Product::OnSale(product) => u128::from(product.stock.get()) + u128::from(product.taken.get()),
    }
}

const fn has_ended(phase: &Phase) -> bool {
    matches!(phase, Phase::Rejected(_) | Phase::Cancelled)
}

fn leads_to(before: &Phase, after: &Phase) -> bool {
    match before {
        Phase::Paying => matches!(after, Phase::Paying | Phase::Taking { .. } | Phase::Rejected(_) | Phase::Cancelled),
        Phase::Taking { .. } => {
            matches!(after, Phase::Taking { .. } | Phase::Confirmed | Phase::Rejected(_) | Phase::Cancelled)
        }
        Phase::Confirmed => matches!(after, Phase::Confirmed | Phase::Stopping),
        Phase::Stopping => matches!(after, Phase::Stopping | Phase::Confirmed | Phase::Cancelled),
        Phase::Rejected(_) | Phase::Cancelled => before == after,
    }
}

fn status(delivery: &Delivery) -> Option<delivery::Status> {
    match delivery {
        Delivery::Absent | Delivery::Void => None,
        Delivery::Made(made) => Some(made.status),
    }
}

fn advances(before: Option<delivery::Status>, after: Option<delivery::Status>) -> bool {
    use delivery::Status::{Cancelled, Delivered, Dispatched, Scheduled};
    match (before, after) {
        (None, after) => matches!(after, None | Some(Scheduled)),
        (Some(Scheduled), after) => matches!(after, Some(Scheduled | Dispatched | Cancelled)),
        (Some(Dispatched), after) => matches!(after, Some(Dispatched | Delivered)),
        (Some(Delivered | Cancelled), after) => before == after,
    }
}

fn row<T: DeserializeOwned>(entity: Option<Seen<'_>>, key: &str) -> Option<T> {
    entity?.rows.get(key).map(|bytes| decode_row(bytes))
}

fn rows<'a, T: DeserializeOwned>(entity: Seen<'a>, prefix: &'static str) -> impl Iterator<Item = T> + 'a {
    entity.rows.iter().filter(move |(key, _)| key.starts_with(prefix)).map(|(_, bytes)| decode_row(bytes))
}
