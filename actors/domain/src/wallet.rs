//! A customer's prepaid balance.
//!
//! Rows: `charge/<order>`, what was charged for an order and whether it was given back;
//! `entry/<number>`, the statement.

use serde::{Deserialize, Serialize};

use crate::{
    entity::{Context, Entity},
    id::{Id, OrderId},
    kind::Kind,
    logic::Logic,
    money::{AMOUNT_MAX, Money},
    order,
    refusal::Refusal,
    rows::RowKey,
    timestamp::Timestamp,
    version::Version,
};

/// What a wallet handles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Command: make the wallet.
    Open {
        /// What it holds at first.
        balance: Money,
    },
    /// Command: put money in.
    TopUp {
        /// How much.
        amount: Money,
    },
    /// From an order: pay for it. Answered by `Charged` or `ChargeRefused`.
    Charge {
        /// The order.
        order: OrderId,
        /// What it costs.
        amount: Money,
    },
    /// From an order: give back what was charged for it. Cannot be refused, is not answered.
    Refund {
        /// The order.
        order: OrderId,
    },
}

/// A wallet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wallet {
    /// Nobody has opened it.
    #[default]
    Absent,
    /// In use.
    Open(Open),
}

/// What an open wallet knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// What can be spent.
    pub balance: Money,
    /// What was charged and not given back. `balance + charged` is all that was ever put in and
    /// stays within the range of [`Money`], so that a refund always fits.
    pub charged: Money,
    /// Entries in the statement.
    pub entries: u64,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How often callers have seen it change; see [`version`](crate::version).
    #[serde(default, skip_serializing_if = "Version::is_zero")]
    pub version: Version,
}

/// What became of an order's charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// Taken from the balance.
    Charged(Money),
    /// Taken and given back.
    Refunded(Money),
    /// A refund came first: a charge that comes late takes nothing.
    Void,
}

/// A line of the statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: EntryKind,
    /// How much.
    pub amount: Money,
    /// The balance after it.
    pub balance: Money,
    /// The order that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
    /// The idempotency key of a top-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Box<str>>,
}

/// What a line of the statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EntryKind {
    /// Money put in, also when the wallet was opened.
    TopUp,
    /// Money taken for an order.
    Charge,
    /// Money given back.
    Refund,
}

/// What callers see of a wallet.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    id: &'a Id,
    balance: Money,
    updated_at: Timestamp,
}

/// The prefix of the statement's rows.
pub const ENTRY_ROWS: &str = "entry/";
/// The prefix of the rows that tell what became of each order's charge.
pub const CHARGE_ROWS: &str = "charge/";

impl Entity for Wallet {
    type Message = Message;

    fn rows(message: &Message) -> Vec<RowKey> {
        match message {
            Message::Open { .. } | Message::TopUp { .. } => vec![],
            Message::Charge { order, .. } | Message::Refund { order } => vec![charge_row(order)],
        }
    }

    fn handle(&mut self, message: Message, ctx: &mut Context<'_>) {
        match (&mut *self, message) {
            (Self::Absent, Message::Open { balance }) => {
                let (charged, updated_at, version) = (Money::ZERO, ctx.change(), Version::ZERO);
                let mut open = Open { balance, charged, entries: 0, updated_at, version };
                if balance > Money::ZERO {
                    open.note(EntryKind::TopUp, balance, None, ctx);
                }
                ctx.show(&open.view(ctx.id));
                *self = Self::Open(open);
            }
            (Self::Open(_), Message::Open { .. }) => {
                ctx.refuse(&Refusal::AlreadyExists { kind: Kind::Wallet, id: ctx.id.clone() });
            }
            (Self::Absent, Message::TopUp { .. }) => ctx.refuse(&not_found(ctx.id)),
            (Self::Open(open), Message::TopUp { amount }) => match open.top_up(amount, ctx) {
                Ok(()) => ctx.show(&open.view(ctx.id)),
                Err(refusal) => ctx.refuse(&refusal),
            },
            (Self::Absent, Message::Charge { order, .. }) => {
                let refusal = not_found(ctx.id);
                ctx.send(order, order::Message::ChargeRefused { refusal });
            }
            (Self::Open(open), Message::Charge { order, amount }) => open.charge(order, amount, ctx),
            // Only a wallet that charged is asked to refund; an absent one never did.
            (Self::Absent, Message::Refund { order }) => ctx.put_row(charge_row(&order), &Charge::Void),
            (Self::Open(open), Message::Refund { order }) => open.refund(&order, ctx),
        }
    }
}

impl Wallet {
    /// What callers see, if the wallet exists.
    pub fn view<'a>(&self, id: &'a Id) -> Option<View<'a>> {
        match self {
            Self::Absent => None,
            Self::Open(open) => Some(open.view(id)),
        }
    }
}

impl Open {
    fn top_up(&mut self, amount: Money, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        let put_in = self.balance.checked_add(self.charged).and_then(|total| total.checked_add(amount));
        let (Some(_), Some(balance)) = (put_in, self.balance.checked_add(amount)) else {
            let detail = format!(
                "would bring the wallet beyond {AMOUNT_MAX}: it holds {} and may get back {}",
                self.balance, self.charged
            );
            let (used, needed) = (self.balance.get() + self.charged.get(), amount.get());
            return Err(Refusal::sum_out_of_range("/amount", detail, used, needed, ctx.logic));
        };
        if amount > Money::ZERO || ctx.logic < Logic::V2 {
            self.balance = balance;
            self.note(EntryKind::TopUp, amount, None, ctx);
        }
        Ok(())
    }

    fn charge(&mut self, order: OrderId, amount: Money, ctx: &mut Context<'_>) {
        match ctx.row(&charge_row(&order)) {
            // Answered again, charged once.
            Some(Charge::Charged(_)) => ctx.send(order, order::Message::Charged),
            // Whoever refunded the order has ended it and waits for nothing.
            Some(Charge::Refunded(_) | Charge::Void) => {}
            None => match (self.balance.checked_sub(amount), self.charged.checked_add(amount)) {
                (Some(balance), Some(charged)) => {
                    (self.balance, self.charged) = (balance, charged);
                    ctx.put_row(charge_row(&order), &Charge::Charged(amount));
                    self.note(EntryKind::Charge, amount, Some(order.clone()), ctx);
                    ctx.send(order, order::Message::Charged);
                }
                (None, _) | (_, None) => {
                    let refusal = Refusal::InsufficientBalance { balance: self.balance, needed: amount };
                    ctx.send(order, order::Message::ChargeRefused { refusal });
                }
            },
        }
    }

    fn refund(&mut self, order: &OrderId, ctx: &mut Context<'_>) {
        match ctx.row(&charge_row(order)) {
            Some(Charge::Charged(amount)) => {
                self.balance = self.balance.checked_add(amount).expect("balance + charged is within the range");
                self.charged = self.charged.checked_sub(amount).expect("charged includes every open charge");
                ctx.put_row(charge_row(order), &Charge::Refunded(amount));
                self.note(EntryKind::Refund, amount, Some(order.clone()), ctx);
            }
            Some(Charge::Refunded(_) | Charge::Void) => {}
            None => ctx.put_row(charge_row(order), &Charge::Void),
        }
    }

    fn note(&mut self, kind: EntryKind, amount: Money, order: Option<OrderId>, ctx: &mut Context<'_>) {
        let key = ctx.key().map(Into::into);
        let entry = Entry { at: ctx.now, kind, amount, balance: self.balance, order, key };
        ctx.put_row(entry_row(self.entries), &entry);
        self.entries += 1;
        self.updated_at = ctx.change();
    }

    fn view<'a>(&self, id: &'a Id) -> View<'a> {
        View { id, balance: self.balance, updated_at: self.updated_at }
    }
}

fn not_found(id: &Id) -> Refusal {
    Refusal::NotFound { kind: Kind::Wallet, id: id.clone() }
}

/// The row of an order's charge.
pub fn charge_row(order: &OrderId) -> RowKey {
    format!("{CHARGE_ROWS}{order}").into()
}

/// The row of the statement's entry with that number; numbers count from 0.
pub fn entry_row(number: u64) -> RowKey {
    format!("{ENTRY_ROWS}{number:020}").into()
}
