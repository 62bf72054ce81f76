//! A business "no": a value with a stable code and the facts behind it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    id::{Id, ProductId},
    kind::Kind,
    money::{Money, Quantity},
    problem::{Code, Problem},
};

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such entity.
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// Its id.
        id: Id,
    },
    /// The id is in use.
    AlreadyExists {
        /// What was to be made.
        kind: Kind,
        /// Its id.
        id: Id,
    },
    /// The wallet holds less than the order costs.
    InsufficientBalance {
        /// What it holds.
        balance: Money,
        /// What the order costs.
        needed: Money,
    },
    /// Fewer pieces are left than the order wants.
    OutOfStock {
        /// Of which product.
        product: ProductId,
        /// What is left.
        stock: Quantity,
        /// What the order wants.
        needed: Quantity,
    },
    /// The price is not the one that the customer agreed to.
    PriceChanged {
        /// Of which product.
        product: ProductId,
        /// The price now.
        price: Money,
        /// The price that the customer agreed to.
        agreed: Money,
    },
    /// The order cannot be cancelled any more.
    NotCancellable {
        /// The status, of the order or of its delivery, that forbids it.
        status: Box<str>,
    },
    /// The delivery is not waiting to be dispatched.
    NotDispatchable {
        /// Its status.
        status: Box<str>,
    },
    /// The delivery is not on its way.
    NotDeliverable {
        /// Its status.
        status: Box<str>,
    },
    /// The same key or order id came with another body before.
    IdempotencyKeyReused,
    /// A number leaves the range that the shop can count in.
    Invalid {
        /// The member of the body, as a JSON pointer (RFC 6901).
        pointer: Box<str>,
        /// What is wrong with it.
        detail: Box<str>,
    },
}

impl Refusal {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NOT_FOUND,
            Self::AlreadyExists { .. } => Code::ALREADY_EXISTS,
            Self::InsufficientBalance { .. } => Code::INSUFFICIENT_BALANCE,
            Self::OutOfStock { .. } => Code::OUT_OF_STOCK,
            Self::PriceChanged { .. } => Code::PRICE_CHANGED,
            Self::NotCancellable { .. } => Code::NOT_CANCELLABLE,
            Self::NotDispatchable { .. } => Code::NOT_DISPATCHABLE,
            Self::NotDeliverable { .. } => Code::NOT_DELIVERABLE,
            Self::IdempotencyKeyReused => Code::IDEMPOTENCY_KEY_REUSED,
            Self::Invalid { .. } => Code::INVALID,
        }
    }

    /// The refusal as an error answer, with its facts.
    pub fn problem(&self) -> Problem {
        let problem = |detail: String| Problem::new(self.code(), detail);
        match self {
            Self::NotFound { kind, id } => problem(format!("there is no {kind} {id}")),
            Self::AlreadyExists { kind, id } => problem(format!("the {kind} {id} exists already")),
            Self::InsufficientBalance { balance, needed } => {
                problem(format!("the order costs {needed}, the wallet holds {balance}"))
                    .fact("balance", balance.get())
                    .fact("needed", needed.get())
            }
            Self::OutOfStock { product, stock, needed } => {
                problem(format!("the order wants {needed} of {product}, {stock} are left"))
                    .fact("product", product.as_str())
                    .fact("stock", stock.get())
                    .fact("needed", needed.get())
            }
            Self::PriceChanged { product, price, agreed } => {
                problem(format!("{product} costs {price} now, the order agreed to {agreed}"))
                    .fact("product", product.as_str())
                    .fact("price", price.get())
                    .fact("agreed", agreed.get())
            }
            Self::NotCancellable { status } => {
                problem(format!("an order that is {status} cannot be cancelled")).fact("status", &**status)
            }
            Self::NotDispatchable { status } => {
                problem(format!("a delivery that is {status} cannot be dispatched")).fact("status", &**status)
            }
            Self::NotDeliverable { status } => {
                problem(format!("a delivery that is {status} cannot be delivered")).fact("status", &**status)
            }
            Self::IdempotencyKeyReused => {
                problem("this idempotency key or order id was used before with another request; take a new one".into())
            }
            Self::Invalid { pointer, detail } => problem(format!("{pointer} {detail}"))
                .fact("errors", json!([{ "pointer": &**pointer, "detail": &**detail }])),
        }
    }
}
