//! The books: all money and all pieces belong to somebody, and orders say to whom.
//!
//! Unlike [`shop_domain::invariant`], which looks at a shop at rest, these are made up order by
//! order from the rows of wallets and products, so that orders under way can be left out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shop_domain::{
    delivery::{self, Delivery},
    entity::State,
    id::Id,
    kind::Kind,
    mypage::{self, Item},
    order::{Order, Phase, Placed, View},
    product::{self, Product, Take},
    wallet::{self, Charge, Entry, EntryKind, Wallet},
};

use super::Differences;
use crate::replay::{Entity, Replay};

/// The sums. Wider than single amounts, so that they cannot overflow.
#[derive(Debug, Default, Serialize)]
pub(super) struct Books {
    /// All money that was ever put into wallets.
    pub(super) put_in: u128,
    pub(super) balances: u128,
    /// Charged and not given back.
    pub(super) charged: u128,
    pub(super) stock: u128,
    /// Taken and not put back.
    pub(super) taken: u128,
    pub(super) orders: Orders,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Orders {
    pub(super) confirmed: usize,
    pub(super) rejected: usize,
    pub(super) cancelled: usize,
    /// Not settled, or with a message on its way.
    pub(super) under_way: usize,
}

/// Who looks into the books.
struct Auditor<'a> {
    replay: &'a Replay,
    /// Orders with a message on its way.
    under_way: &'a BTreeSet<Id>,
    /// Orders as pages show them.
    shown: BTreeMap<Id, View>,
    books: Books,
    differences: &'a mut Differences,
}

impl Books {
    /// Makes up the books, and names what does not add up.
    pub(super) fn make_up(replay: &Replay, under_way: &BTreeSet<Id>, differences: &mut Differences) -> Self {
        let pages = replay.entities(Kind::Mypage).flat_map(|(_, _, page)| page.rows::<Item>(mypage::ORDER_ROWS));
        let views = pages.filter_map(|(_, item)| item.order);
        let shown = views.map(|view| (view.id.clone().into(), view)).collect();
        let mut auditor = Auditor { replay, under_way, shown, books: Self::default(), differences };
        for kind in Kind::ALL {
            replay.entities(kind).for_each(|(_, id, entity)| auditor.enter(id, entity));
        }
        auditor.books
    }
}

impl Auditor<'_> {
    fn enter(&mut self, id: &Id, entity: &Entity) {
        match &entity.state {
            State::Wallet(Wallet::Open(wallet)) => self.wallet(id, wallet, entity),
            State::Product(Product::OnSale(product)) => {
                self.books.stock += u128::from(product.stock.get());
                self.books.taken += u128::from(product.taken.get());
                self.product(id, product.taken.get(), entity);
            }
            State::Order(Order::Placed(order)) => self.order(id, order),
            State::Delivery(Delivery::Made(_)) => {
                if self.replay.entity(Kind::Order, id).is_none() && !self.under_way.contains(id) {
                    self.differences.name(|| format!("delivery {id} has no order"));
                }
            }
            State::Wallet(Wallet::Absent)
            | State::Product(Product::Absent)
            | State::Order(Order::Absent)
            | State::Delivery(Delivery::Absent | Delivery::Void)
            | State::Mypage(_) => {}
        }
    }

    fn wallet(&mut self, id: &Id, wallet: &wallet::Open, entity: &Entity) {
        let (balance, charged) = (wallet.balance.get(), wallet.charged.get());
        self.books.balances += u128::from(balance);
        self.books.charged += u128::from(charged);
        let entries = entity.rows::<Entry>(wallet::ENTRY_ROWS).filter(|(_, entry)| entry.kind == EntryKind::TopUp);
        let put_in: u128 = entries.map(|(_, entry)| u128::from(entry.amount.get())).sum();
        self.books.put_in += put_in;
        if put_in != u128::from(balance) + u128::from(charged) {
            self.differences.name(|| format!("wallet {id}: {put_in} was put in, but {balance} + {charged} is there"));
        }
        let mut open = 0;
        for (order, charge) in entity.rows::<Charge>(wallet::CHARGE_ROWS) {
            let Charge::Charged(amount) = charge else { continue };
            open += u128::from(amount.get());
            let is_right = |placed: &Placed| placed.user.as_str() == id.as_str() && placed.amount == amount;
            self.belongs_to_order(order, is_right, || format!("wallet {id} is charged {amount} for order {order}"));
        }
        if open != u128::from(charged) {
            self.differences.name(|| format!("wallet {id}: {charged} is charged, but its orders were charged {open}"));
        }
    }

    fn product(&mut self, id: &Id, taken: u64, entity: &Entity) {
        let mut open = 0;
        for (order, take) in entity.rows::<Take>(product::TAKE_ROWS) {
            let Take::Taken(quantity) = take else { continue };
            open += u128::from(quantity.get());
            let is_right = |placed: &Placed| {
                placed.lines.iter().any(|line| line.product.as_str() == id.as_str() && line.quantity == quantity)
            };
            self.belongs_to_order(order, is_right, || {
                format!("{quantity} of product {id} are taken for order {order}")
            });
        }
        if open != u128::from(taken) {
            self.differences.name(|| format!("product {id}: {taken} are taken, but its orders took {open}"));
        }
    }

    /// What is charged or taken must be so for a confirmed order that says the same.
    fn belongs_to_order(&mut self, order: &str, is_right: impl Fn(&Placed) -> bool, what: impl Fn() -> String) {
        let Ok(id) = order.parse::<Id>() else { return };
        if self.under_way.contains(&id) {
            return;
        }
        match self.placed(&id) {
            None => self.differences.name(|| format!("{}, which there is not", what())),
            Some(placed) => match placed.phase {
                Phase::Paying | Phase::Taking { .. } | Phase::Stopping => {}
                Phase::Confirmed if is_right(placed) => {}
                Phase::Confirmed => self.differences.name(|| format!("{}, which says otherwise", what())),
                Phase::Rejected(_) | Phase::Cancelled => {
                    let status = placed.status();
                    self.differences.name(|| format!("{}, which is {status}", what()));
                }
            },
        }
    }

    fn order(&mut self, id: &Id, order: &Placed) {
        let orders = &mut self.books.orders;
        let is_confirmed = match order.phase {
            _ if self.under_way.contains(id) => return orders.under_way += 1,
            Phase::Paying | Phase::Taking { .. } | Phase::Stopping => return orders.under_way += 1,
            Phase::Confirmed => {
                orders.confirmed += 1;
                true
            }
            Phase::Rejected(_) => {
                orders.rejected += 1;
                false
            }
            Phase::Cancelled => {
                orders.cancelled += 1;
                false
            }
        };
        let status = order.status();
        if is_confirmed {
            self.confirmed(id, order);
        }
        let delivery = self.replay.entity(Kind::Delivery, id).map(|entity| &entity.state);
        let is_sent = matches!(delivery, Some(State::Delivery(Delivery::Made(made))) if made.status != delivery::Status::Cancelled);
        if is_sent != is_confirmed {
            let what = if is_sent { "but it is being delivered" } else { "but nothing is delivered" };
            self.differences.name(|| format!("order {id} is {status}, {what}"));
        }
        let own = self.replay.entity(Kind::Order, id).and_then(|entity| view(entity, id));
        let is_shown = match (self.shown.get(id), own) {
            // What a page was told before the third logic version has no facts of a refusal.
            (Some(shown), Some(own)) => *shown == own || *shown == View { refusal: None, ..own },
            (shown, own) => shown == own.as_ref(),
        };
        if !is_shown {
            let user = &order.user;
            self.differences.name(|| format!("order {id} is {status}, but the page of {user} shows it otherwise"));
        }
    }

    /// A confirmed order has been paid, and all its lines taken.
    fn confirmed(&mut self, id: &Id, order: &Placed) {
        let by_order = id.clone().into();
        let entity = |kind: Kind, of: &Id| self.replay.entity(kind, of);
        let wallet = entity(Kind::Wallet, &order.user.clone().into());
        let charge: Option<Charge> = wallet.and_then(|wallet| wallet.row(&wallet::charge_row(&by_order)));
        let is_paid = matches!(charge, Some(Charge::Charged(amount)) if amount == order.amount);
        let untaken: Vec<_> = order
            .lines
            .iter()
            .filter(|line| {
                let product = entity(Kind::Product, &line.product.clone().into());
                let take: Option<Take> = product.and_then(|product| product.row(&product::take_row(&by_order)));
                !matches!(take, Some(Take::Taken(quantity)) if quantity == line.quantity)
            })
            .collect();
        if !is_paid {
            let (amount, user) = (order.amount, &order.user);
            self.differences
                .name(|| format!("order {id} is CONFIRMED, but wallet {user} is not charged {amount} for it"));
        }
        for line in untaken {
            let (quantity, product) = (line.quantity, &line.product);
            self.differences
                .name(|| format!("order {id} is CONFIRMED, but {quantity} of product {product} are not taken for it"));
        }
    }

    fn placed(&self, id: &Id) -> Option<&Placed> {
        match &self.replay.entity(Kind::Order, id)?.state {
            State::Order(Order::Placed(placed)) => Some(placed),
            State::Order(Order::Absent)
            | State::Wallet(_)
            | State::Product(_)
            | State::Delivery(_)
            | State::Mypage(_) => None,
        }
    }
}

fn view(entity: &Entity, id: &Id) -> Option<View> {
    match &entity.state {
        State::Order(order) => order.view(id),
        State::Wallet(_) | State::Product(_) | State::Delivery(_) | State::Mypage(_) => None,
    }
}
