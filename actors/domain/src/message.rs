//! What entities handle: every message of every kind, and the envelope that it travels in.

use std::hash::Hasher;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::{
    caller::Caller,
    delivery,
    encode::encode,
    id::{Id, Key},
    kind::Kind,
    mypage, order, product,
    ticket::Ticket,
    version::Precondition,
    wallet,
};

/// A message to an entity of any kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// To a wallet.
    Wallet(wallet::Message),
    /// To a product.
    Product(product::Message),
    /// To an order.
    Order(order::Message),
    /// To a delivery.
    Delivery(delivery::Message),
    /// To a customer's page.
    Mypage(mypage::Message),
    /// Command to an entity of that kind: a write with the request's ticket is to be refused, unless it was handled.
    Void(Kind),
}

impl Message {
    /// The kind of entity that handles this message.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Wallet(_) => Kind::Wallet,
            Self::Product(_) => Kind::Product,
            Self::Order(_) => Kind::Order,
            Self::Delivery(_) => Kind::Delivery,
            Self::Mypage(_) => Kind::Mypage,
            Self::Void(kind) => *kind,
        }
    }

    /// Whether it is a command that makes what is not there yet.
    pub const fn makes(&self) -> bool {
        matches!(
            self,
            Self::Wallet(wallet::Message::Open { .. })
                | Self::Product(product::Message::Create { .. })
                | Self::Order(order::Message::Place(_))
        )
    }

    /// What tells this command from another one under the same idempotency key: FNV-1a (64 bit)
    /// of its bytes in the log. Taken before a quote is added, which the caller did not send.
    pub fn fingerprint(&self) -> u64 {
        let bytes = encode(self);
        let mut hasher = FnvHasher::default();
        hasher.write(&bytes);
        hasher.finish()
    }
}

macro_rules! message_from {
    ($($kind:ident: $module:ident),*) => {$(
        impl From<$module::Message> for Message {
            fn from(message: $module::Message) -> Self {
                Self::$kind(message)
            }
        }
    )*};
}
message_from!(Wallet: wallet, Product: product, Order: order, Delivery: delivery, Mypage: mypage);

/// A message on its way: to whom, and for a command from outside, who asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The entity that handles the message.
    pub to: Id,
    /// The message; its kind is the entity's kind.
    pub message: Message,
    /// Present on commands from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// The W3C trace context of the request that all this follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Box<str>>,
}

/// What a command from outside brings along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The caller's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The key in the caller's words, where `key` only stands for it: see [`CallerKey`](crate::id::CallerKey).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_as_given: Option<Box<str>>,
    /// See [`Message::fingerprint`].
    pub fingerprint: u64,
    /// Where the answer goes; nobody waits when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyTo>,
    /// What lets a write without a key in once at most, or what is to be voided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// What the request demands of the entity. It is no part of the fingerprint: who repeats a request with what the
    /// entity has become meanwhile is told the first answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<Precondition>,
    /// For whom it is made, where that is known; heeded from the fifth logic version on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
}

/// Where an answer goes, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The NATS subject on which the caller waits.
    pub inbox: Box<str>,
    /// The format of the question, which is that of the answer.
    #[serde(default)]
    pub format: Format,
}

/// How a request is written, and so its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON, RFC 8259.
    #[default]
    Json,
    /// MessagePack.
    Msgpack,
}
