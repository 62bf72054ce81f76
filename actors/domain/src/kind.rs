//! The five kinds of entity, and the one place that spells their names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What an entity is. Its name is the same in subjects, streams, folders, flags and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A customer's prepaid balance; its id is the user's id.
    Wallet,
    /// Something on sale, with its price and its stock.
    Product,
    /// One order and the saga that carries it out.
    Order,
    /// What is sent to the customer; its id is the order's id.
    Delivery,
    /// One customer's page: all orders of that customer; its id is the user's id.
    Mypage,
}

impl Kind {
    /// Every kind, in the order in which people read about them.
    pub const ALL: [Self; 5] = [Self::Wallet, Self::Product, Self::Order, Self::Delivery, Self::Mypage];

    /// The kind's name, lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wallet => "wallet",
            Self::Product => "product",
            Self::Order => "order",
            Self::Delivery => "delivery",
            Self::Mypage => "mypage",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of the five.
#[derive(Debug, thiserror::Error)]
#[error("no such kind: {0:?} (expected wallet, product, order, delivery or mypage)")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| UnknownKind(name.to_owned()))
    }
}
