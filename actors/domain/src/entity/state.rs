//! The state of an entity, and how it is kept.

use crate::{
    delivery::Delivery,
    encode::{self, encode},
    kind::Kind,
    logic::Logic,
    mypage::Mypage,
    order::Order,
    product::Product,
    version::{Current, Version},
    wallet::Wallet,
};

/// The state of an entity of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Of a wallet.
    Wallet(Wallet),
    /// Of a product.
    Product(Product),
    /// Of an order.
    Order(Order),
    /// Of a delivery.
    Delivery(Delivery),
    /// Of a customer's page.
    Mypage(Mypage),
}

impl State {
    /// The state of an entity that nobody has written to yet.
    pub fn absent(kind: Kind) -> Self {
        match kind {
            Kind::Wallet => Self::Wallet(Wallet::default()),
            Kind::Product => Self::Product(Product::default()),
            Kind::Order => Self::Order(Order::default()),
            Kind::Delivery => Self::Delivery(Delivery::default()),
            Kind::Mypage => Self::Mypage(Mypage::default()),
        }
    }

    /// The state as it is stored: MessagePack with field names.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Wallet(state) => encode(state),
            Self::Product(state) => encode(state),
            Self::Order(state) => encode(state),
            Self::Delivery(state) => encode(state),
            Self::Mypage(state) => encode(state),
        }
    }

    /// Reads a stored state.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        Ok(match kind {
            Kind::Wallet => Self::Wallet(encode::decode(bytes)?),
            Kind::Product => Self::Product(encode::decode(bytes)?),
            Kind::Order => Self::Order(encode::decode(bytes)?),
            Kind::Delivery => Self::Delivery(encode::decode(bytes)?),
            Kind::Mypage => Self::Mypage(encode::decode(bytes)?),
        })
    }

    /// How callers see it.
    pub fn current(&self, logic: Logic) -> Current {
        match self.version() {
            None => Current::Absent,
            Some(version) if logic >= Logic::V4 => Current::At(version),
            Some(_) => Current::Untagged,
        }
    }

    /// Its version, if callers see it; they see every customer's page.
    pub const fn version(&self) -> Option<Version> {
        match self {
            Self::Wallet(Wallet::Open(open)) => Some(open.version),
            Self::Product(Product::OnSale(on_sale)) => Some(on_sale.version),
            Self::Order(Order::Placed(order)) => Some(order.version),
            Self::Delivery(Delivery::Made(made)) => Some(made.version),
            Self::Mypage(page) => Some(page.version),
            Self::Wallet(Wallet::Absent)
            | Self::Product(Product::Absent)
            | Self::Order(Order::Absent)
            | Self::Delivery(Delivery::Absent | Delivery::Void) => None,
        }
    }

    pub(super) fn set_version(&mut self, version: Version) {
        match self {
            Self::Wallet(Wallet::Open(open)) => open.version = version,
            Self::Product(Product::OnSale(on_sale)) => on_sale.version = version,
            Self::Order(Order::Placed(order)) => order.version = version,
            Self::Delivery(Delivery::Made(made)) => made.version = version,
            Self::Mypage(page) => page.version = version,
            Self::Wallet(Wallet::Absent)
            | Self::Product(Product::Absent)
            | Self::Order(Order::Absent)
            | Self::Delivery(Delivery::Absent | Delivery::Void) => panic!("{self:?} has changed, and is not seen"),
        }
    }
}
