//! How refusals were told before logic version 3. Answers in these words are kept beside entities, and
//! must come out of a replay as they are: nothing here ever changes.

use super::Refusal;
use crate::problem::Problem;

/// The refusal as an error answer in its former words.
pub(super) fn problem(refusal: &Refusal) -> Problem {
    let problem = |detail: String| Problem { detail, ..refusal.problem() };
    match refusal {
        Refusal::NotFound { kind, id } => Problem::new(refusal.code(), format!("there is no {kind} {id}")),
        Refusal::AlreadyExists { kind, id } => Problem::new(refusal.code(), format!("the {kind} {id} exists already")),
        Refusal::OutOfStock { product, stock, needed } => {
            problem(format!("the order wants {needed} of {product}, {stock} are left"))
        }
        Refusal::PriceChanged { product, price, agreed, .. } => {
            problem(format!("{product} costs {price} now, the order agreed to {agreed}"))
        }
        Refusal::InsufficientBalance { .. }
        | Refusal::NotCancellable { .. }
        | Refusal::NotDispatchable { .. }
        | Refusal::NotDeliverable { .. }
        | Refusal::IdempotencyKeyReused
        | Refusal::KeyReused { .. }
        | Refusal::OrderIdReused { .. }
        | Refusal::Overloaded { .. }
        | Refusal::LimitExceeded { .. }
        | Refusal::PreconditionFailed { .. }
        | Refusal::Forbidden { .. }
        | Refusal::Invalid { .. } => refusal.problem(),
    }
}
