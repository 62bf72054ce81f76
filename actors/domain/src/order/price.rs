//! What an order costs.

use std::collections::BTreeSet;

use super::{LINES_MAX, Wanted};
use crate::{kind::Kind, money::Money, product::Quote, refusal::Refusal};

/// What the lines cost altogether; refused when the quotes already say that it cannot work.
pub fn price(lines: &[Wanted]) -> Result<Money, Refusal> {
    let products: BTreeSet<_> = lines.iter().map(|line| &line.product).collect();
    if !(1..=LINES_MAX).contains(&lines.len()) || products.len() < lines.len() {
        let detail = format!("must be 1 to {LINES_MAX}, each product once");
        return Err(Refusal::Invalid { pointer: "/lines".into(), detail: detail.into() });
    }
    for line in lines {
        match line.quote {
            Some(Quote::NotFound) => {
                return Err(Refusal::NotFound { kind: Kind::Product, id: line.product.clone().into() });
            }
            Some(Quote::Offer { stock, .. }) if stock < line.quantity => {
                return Err(Refusal::OutOfStock { product: line.product.clone(), stock, needed: line.quantity });
            }
            Some(Quote::Offer { .. }) | None => {}
        }
    }
    sum(lines).ok_or_else(|| Refusal::Invalid {
        pointer: "/quantity".into(),
        detail: "makes the order cost more than the shop can count".into(),
    })
}

/// What the lines cost altogether, if every price is known and the sum can be counted.
pub(super) fn sum(lines: &[Wanted]) -> Option<Money> {
    lines.iter().try_fold(Money::ZERO, |sum, line| sum.checked_add(line.agreed_price()?.checked_mul(line.quantity)?))
}
