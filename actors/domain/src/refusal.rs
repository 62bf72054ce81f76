//! A business "no": a value with a stable code and the facts behind it.

mod former;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    id::{Id, OrderId, ProductId},
    kind::Kind,
    logic::Logic,
    money::{AMOUNT_MAX, Money, Quantity},
    problem::{Code, Problem, WAITING},
    text::quoted,
    version::Current,
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
    /// The price is not the one that the order was placed at.
    PriceChanged {
        /// Of which product.
        product: ProductId,
        /// The price now.
        price: Money,
        /// The price that the order was placed at.
        agreed: Money,
        /// Whether the customer named no price, so that this one was quoted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        was_quoted: bool,
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
    /// A sum would leave the range that the shop can count in.
    LimitExceeded {
        /// The member of the body that would take it there, as a JSON pointer (RFC 6901).
        pointer: Box<str>,
        /// What it would do.
        detail: Box<str>,
        /// How much of the range is in use.
        used: u64,
        /// How much more was asked for.
        needed: u64,
    },
    /// The entity is not as the request's precondition demands.
    PreconditionFailed {
        /// What the request is about.
        kind: Kind,
        /// Its id.
        id: Id,
        /// How it is.
        current: Current,
    },
    /// The caller may not move it.
    Forbidden {
        /// What the request is about.
        kind: Kind,
        /// Its id.
        id: Id,
        /// Who asked.
        caller: Id,
    },
    /// A number breaks a rule; before logic version 3 also a sum that leaves the range.
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
            Self::LimitExceeded { .. } => Code::LIMIT_EXCEEDED,
            Self::PreconditionFailed { .. } => Code::PRECONDITION_FAILED,
            Self::Forbidden { .. } => Code::FORBIDDEN,
            Self::Invalid { .. } => Code::INVALID,
        }
    }

    /// A sum would leave the range; before logic version 3 the number that would take it there was invalid.
    pub(crate) fn sum_out_of_range(pointer: &str, detail: String, used: u64, needed: u64, logic: Logic) -> Self {
        let (pointer, detail) = (pointer.into(), detail.into());
        if logic < Logic::V3 {
            Self::Invalid { pointer, detail }
        } else {
            Self::LimitExceeded { pointer, detail, used, needed }
        }
    }

    /// The same refusal to an order to which these products were quoted.
    pub(crate) fn of_an_order_that_was_quoted(mut self, products: &BTreeSet<ProductId>) -> Self {
        if let Self::PriceChanged { product, was_quoted, .. } = &mut self {
            *was_quoted = products.contains(product);
        }
        self
    }

    /// The refusal as an error answer, with its facts.
    pub fn problem(&self) -> Problem {
        let problem = |detail: String| Problem::new(self.code(), detail);
        match self {
            Self::NotFound { kind, id } => {
                about(problem(format!("there is no {kind} {}", quoted(id.as_str()))), *kind, id)
            }
            Self::AlreadyExists { kind, id } => {
                about(problem(format!("the {kind} {} exists already", quoted(id.as_str()))), *kind, id)
            }
            Self::InsufficientBalance { balance, needed } => {
                problem(format!("the order costs {needed}, the wallet holds {balance}"))
                    .fact("balance", balance.get())
                    .fact("needed", needed.get())
            }
            Self::OutOfStock { product, stock, needed } => {
                problem(format!("the order wants {needed} of {}, {stock} are left", quoted(product.as_str())))
                    .fact("product", product.as_str())
                    .fact("stock", stock.get())
                    .fact("needed", needed.get())
            }
            Self::PriceChanged { product, price, agreed, was_quoted } => {
                let before = if *was_quoted { "it was quoted at" } else { "the order agreed to" };
                problem(format!("{} costs {price} now, {before} {agreed}", quoted(product.as_str())))
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
                "this idempotency key was used before with another request to the {kind} {}; take a new one",
                quoted(id.as_str())
            ))
            .fact(REUSED, "key")
            .fact(kind.as_str(), id.as_str()),
            Self::OrderIdReused { order } => problem(format!(
                "the order id {} was used before with another request; take a new one",
                quoted(order.as_str())
            ))
            .fact(REUSED, "id")
            .fact("order", order.as_str()),
            Self::Overloaded { waiting } => {
                problem(format!("{waiting} callers wait for this order already, as many as it answers; ask again"))
                    .fact(WAITING, *waiting)
            }
            Self::LimitExceeded { pointer, detail, used, needed } => problem(format!("{pointer} {detail}"))
                .fact("limit", AMOUNT_MAX)
                .fact("used", *used)
                .fact("needed", *needed)
                .fact("errors", json!([{ "pointer": &**pointer, "detail": &**detail }])),
            Self::PreconditionFailed { kind, id, current } => precondition_failed(*kind, id, *current),
            Self::Forbidden { kind, id, caller } => {
                let (what, who) = (quoted(id.as_str()), quoted(caller.as_str()));
                about(problem(format!("the {kind} {what} is not for {who} to change")), *kind, id)
            }
            Self::Invalid { pointer, detail } => problem(format!("{pointer} {detail}"))
                .fact("errors", json!([{ "pointer": &**pointer, "detail": &**detail }])),
        }
    }

    /// The refusal as the bytes of an answer, about an order where there is one. The words are those of the
    /// logic version: an answer that was kept is told again byte for byte, whoever replays its log.
    pub(crate) fn answer(&self, logic: Logic, order: Option<&Id>) -> Vec<u8> {
        let with_order = |problem: Problem| match order {
            Some(order) => problem.fact("order", order.as_str()),
            None => problem,
        };
        if logic < Logic::V3 {
            with_order(former::problem(self)).to_former_json()
        } else {
            with_order(self.problem()).to_json()
        }
    }
}

fn about(problem: Problem, kind: Kind, id: &Id) -> Problem {
    problem.fact("kind", kind.as_str()).fact("id", id.as_str())
}

fn precondition_failed(kind: Kind, id: &Id, current: Current) -> Problem {
    let of = format!("the {kind} {}", quoted(id.as_str()));
    let detail = match current {
        Current::Absent => format!("{of} does not exist, and If-Match demands that it does"),
        Current::Untagged => format!("{of} has no entity tag that If-Match or If-None-Match could mean"),
        Current::At(version) => {
            format!("{of} has the entity tag {version}, and If-Match or If-None-Match demands otherwise")
        }
    };
    let problem = about(Problem::new(Code::PRECONDITION_FAILED, detail), kind, id);
    match current {
        Current::Absent | Current::Untagged => problem,
        Current::At(version) => problem.fact("etag", version.to_string()),
    }
}
