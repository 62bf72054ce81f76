//! Conservation: what must add up over all entities, however they came to be what they are.

pub mod always;
pub mod versions;

use std::{collections::BTreeMap, fmt};

use crate::{
    delivery::{self, Delivery},
    entity::State,
    id::Id,
    order::{Order, Phase},
    product::Product,
    wallet::Wallet,
};

/// What the shop holds altogether. Sums are wider than single amounts so that they cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Balances and open charges: all the money that was ever put in.
    pub money: u128,
    /// Stocks and open takes: all the pieces that ever came in.
    pub pieces: u128,
}

/// Something that does not add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks all entities of a shop in which nothing is under way: every order is settled, every
/// open charge and take belongs to a confirmed order, and exactly the confirmed orders have a
/// delivery that is not cancelled. Returns what the shop holds, and what does not add up.
pub fn check_at_rest<'a>(entities: impl IntoIterator<Item = (&'a Id, &'a State)>) -> (Totals, Vec<Violation>) {
    let mut books = Books::default();
    for (id, state) in entities {
        books.enter(id, state);
    }
    books.balance()
}

#[derive(Default)]
struct Books<'a> {
    totals: Totals,
    /// By user: what the wallet says is charged, less what confirmed orders say.
    charged: BTreeMap<&'a str, i128>,
    /// By product: what the product says is taken, less what confirmed orders say.
    taken: BTreeMap<&'a str, i128>,
    confirmed: BTreeMap<&'a Id, bool>,
    delivered: BTreeMap<&'a Id, bool>,
    violations: Vec<Violation>,
}

impl<'a> Books<'a> {
    fn enter(&mut self, id: &'a Id, state: &'a State) {
        match state {
            State::Wallet(Wallet::Open(wallet)) => {
                self.totals.money += u128::from(wallet.balance.get()) + u128::from(wallet.charged.get());
                *self.charged.entry(id.as_str()).or_default() += i128::from(wallet.charged.get());
            }
            State::Product(Product::OnSale(product)) => {
                self.totals.pieces += u128::from(product.stock.get()) + u128::from(product.taken.get());
                *self.taken.entry(id.as_str()).or_default() += i128::from(product.taken.get());
            }
            State::Order(Order::Placed(order)) => {
                let confirmed = match order.phase {
                    Phase::Confirmed => true,
                    Phase::Rejected(_) | Phase::Cancelled => false,
                    Phase::Paying | Phase::Taking { .. } | Phase::Stopping => {
                        return self.violations.push(Violation(format!("order {id} is not settled")));
                    }
                };
                self.confirmed.insert(id, confirmed);
                if confirmed {
                    *self.charged.entry(order.user.as_str()).or_default() -= i128::from(order.amount.get());
                    for line in &order.lines {
                        *self.taken.entry(line.product.as_str()).or_default() -= i128::from(line.quantity.get());
                    }
                }
            }
            State::Delivery(Delivery::Made(delivery)) => {
                self.delivered.insert(id, delivery.status != delivery::Status::Cancelled);
            }
            State::Wallet(Wallet::Absent)
            | State::Product(Product::Absent)
            | State::Order(Order::Absent)
            | State::Delivery(Delivery::Absent | Delivery::Void)
            | State::Mypage(_) => {}
        }
    }

    fn balance(mut self) -> (Totals, Vec<Violation>) {
        for (user, difference) in self.charged.into_iter().filter(|(_, difference)| *difference != 0) {
            let text = format!("wallet {user}: open charges exceed the confirmed orders by {difference}");
            self.violations.push(Violation(text));
        }
        for (product, difference) in self.taken.into_iter().filter(|(_, difference)| *difference != 0) {
            let text = format!("product {product}: open takes exceed the confirmed orders by {difference}");
            self.violations.push(Violation(text));
        }
        for (order, confirmed) in &self.confirmed {
            if self.delivered.get(order).copied().unwrap_or(false) != *confirmed {
                let text = format!("order {order}: confirmed is {confirmed}, but its delivery says otherwise");
                self.violations.push(Violation(text));
            }
        }
        for order in self.delivered.keys().filter(|order| !self.confirmed.contains_key(*order)) {
            self.violations.push(Violation(format!("delivery {order} has no order")));
        }
        (self.totals, self.violations)
    }
}
