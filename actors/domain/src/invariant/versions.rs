//! Versions go up by one with what callers see, and with nothing else.

use serde::Serialize;

use super::Violation;
use crate::{
    entity::{Entity, State},
    id::Id,
    logic::Logic,
    message::Message,
    mypage::{Item, Mypage},
    rows::{RowKey, decode_row},
    version::Version,
    wallet::Wallet,
};

/// What callers see of an entity, as far as one message can change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    version: Option<Version>,
    json: Option<String>,
    /// Of a wallet's statement, which may show more than the wallet: a charge of nothing.
    entries: u64,
}

/// The row of a page that a message may change.
pub fn row_of_page(message: &Message) -> Option<RowKey> {
    match message {
        Message::Mypage(message) => Mypage::rows(message).pop(),
        Message::Wallet(_) | Message::Product(_) | Message::Order(_) | Message::Delivery(_) | Message::Void(_) => None,
    }
}

impl Sight {
    /// Of an entity with this state; of a page, one of its orders with this row.
    pub fn of(id: &Id, state: &State, row: Option<&[u8]>) -> Self {
        let json = match state {
            State::Wallet(wallet) => wallet.view(id).map(|view| to_json(&view)),
            State::Product(product) => product.view(id).map(|view| to_json(&view)),
            State::Order(order) => order.view(id).map(|view| to_json(&view)),
            State::Delivery(delivery) => delivery.view(id).map(|view| to_json(&view)),
            State::Mypage(_) => row.and_then(|row| decode_row::<Item>(row).summary()).map(|item| to_json(&item)),
        };
        let entries = if let State::Wallet(Wallet::Open(open)) = state { open.entries } else { 0 };
        Self { version: state.version(), json, entries }
    }

    /// As callers get it: none when there is nothing.
    pub fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }

    /// The version, if callers see the entity.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }
}

/// Checks that a message has raised the version by one if callers see something else behind it, and else has left it;
/// before the fourth logic version it stays as it is in any case.
pub fn check_version(id: &Id, logic: Logic, before: &Sight, after: &Sight) -> Vec<Violation> {
    let is_other = (&before.json, before.entries) != (&after.json, after.entries);
    let was = before.version.unwrap_or_default();
    let expected = if is_other && logic >= Logic::V4 { was.next() } else { was };
    let is = after.version.unwrap_or_default();
    if is == expected {
        return vec![];
    }
    let change = if is_other { "a change" } else { "no change" };
    vec![Violation(format!("{id}: has the version {is} after {change} of {was}: {before:?}, {after:?}"))]
}

fn to_json(view: &impl Serialize) -> String {
    serde_json::to_string(view).expect("a view always encodes")
}
