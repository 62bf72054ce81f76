//! A business "no": a value with a stable code and the facts behind it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    id::{Id, OrderId, ProductId},
    kind::Kind,
    money::{Money, Quantity},
    problem::{Code, Problem, WAITING},
};

/// The fact that says what was used before: `key` or `id`.
const REUSED: &str = "reused";

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
        /// Whose status forbids it: the order's, or its delivery's.
        kind: Kind,
        /// That status.
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
    /// The same key or order id came with another body before, as the first two logic versions say it.
    IdempotencyKeyReused,
    /// The same key came to the same entity with another body before.
    KeyReused {
        /// What it came to.
        kind: Kind,
        /// Its id.
        id: Id,
    },
    /// The order's id came with another body before.
    OrderIdReused {
        /// The id.
        order: OrderId,
    },
    /// As many callers wait for an order already as it answers.
    Overloaded {
        /// How many.
        waiting: u64,
    },
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
            Self::IdempotencyKeyReused | Self::KeyReused { .. } | Self::OrderIdReused { .. } => {
                Code::IDEMPOTENCY_KEY_REUSED
            }
            Self::Overloaded { .. } => Code::OVERLOADED,
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
            // A problem's own `status` is the HTTP status, so the fact says whose status it is.
            Self::NotCancellable { kind, status } => {
                problem(format!("the {kind} is {status}, so the order cannot be cancelled"))
                    .fact(&format!("{kind}_status"), &**status)
            }
            Self::NotDispatchable { status } => {
                problem(format!("a delivery that is {status} cannot be dispatched")).fact("delivery_status", &**status)
            }
            Self::NotDeliverable { status } => {
                problem(format!("a delivery that is {status} cannot be delivered")).fact("delivery_status", &**status)
            }
            Self::IdempotencyKeyReused => {
                problem("this idempotency key or order id was used before with another request; take a new one".into())
            }
            Self::KeyReused { kind, id } => problem(format!(
                "this idempotency key was used before with another request to the {kind} {id}; take a new one"
            ))
            .fact(REUSED, "key")
            .fact(kind.as_str(), id.as_str()),
            Self::OrderIdReused { order } => {
                problem(format!("the order id {order} was used before with another request; take a new one"))
                    .fact(REUSED, "id")
                    .fact("order", order.as_str())
            }
            Self::Overloaded { waiting } => {
                problem(format!("{waiting} callers wait for this order already, as many as it answers; ask again"))
                    .fact(WAITING, *waiting)
            }
            Self::Invalid { pointer, detail } => problem(format!("{pointer} {detail}"))
                .fact("errors", json!([{ "pointer": &**pointer, "detail": &**detail }])),
        }
    }
}
