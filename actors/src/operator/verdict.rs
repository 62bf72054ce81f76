//! What became of a message: what it changed, or why it was refused.

use std::fmt;

use serde_json::{Value, json};
use shop_domain::{
    entity::State,
    id::Id,
    message::Message,
    order::{self, Order, Phase},
    problem::Code,
    product::{self, Product, Take},
    refusal::Refusal,
    wallet::{self, Charge, Wallet},
};

use super::words;
use crate::replay::{Entity, Handled};

/// What became of a message that a link has let in.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// In words, what changed.
    pub(super) outcome: Option<String>,
    /// What its sender was told, or why its order is rejected.
    pub(super) refusal: Option<Refusal>,
    /// The code of an error answer that a caller got.
    answered: Option<Code>,
    /// Whether it waits, because its partition is parked.
    waits: bool,
}

impl Verdict {
    /// Of a message and the entity that has just handled it.
    pub(super) fn of(handled: &Handled, entity: Option<&Entity>) -> Self {
        if handled.waits {
            return Self { waits: true, ..Self::default() };
        }
        let envelope = &handled.arrival.envelope;
        let answered = handled.replies.iter().find_map(|reply| reply.answer.code());
        let (outcome, refusal) = match entity {
            Some(entity) => outcome(&envelope.message, &envelope.to, entity, answered.is_some()),
            None => (None, None),
        };
        match handled.sent.iter().find_map(|sent| words::refusal_in(&sent.envelope.message)) {
            Some(refusal) => Self { refusal: Some(refusal.clone()), answered, ..Self::default() },
            None => Self { outcome, refusal, answered, waits: false },
        }
    }

    /// Adds it to a message for programs.
    pub(super) fn add_to(&self, message: &mut Value) {
        let Self { outcome, refusal, answered, waits } = self;
        let refusal = refusal.as_ref().map(|refusal| {
            let problem = refusal.problem();
            json!({ "code": problem.code.name, "detail": problem.detail, "facts": problem.facts })
        });
        message["outcome"] = json!(outcome);
        message["refusal"] = json!(refusal);
        message["answered"] = json!(answered.map(|code| code.name));
        message["waits"] = json!(waits);
    }
}

/// Behind a message on its line: `  → 200 charged, 800 left`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.waits {
            return f.write_str("  ✗ waits: its partition is parked");
        }
        if let Some(outcome) = &self.outcome {
            write!(f, "  → {outcome}")?;
        }
        match (&self.refusal, self.answered) {
            (Some(refusal), _) => write!(f, "  ✗ {}: {}", refusal.code().name, refusal.problem().detail),
            (None, Some(code)) => write!(f, "  ✗ answered {}", code.name),
            (None, None) => Ok(()),
        }
    }
}

/// What a message has done, in words, and why its order is rejected.
fn outcome(message: &Message, id: &Id, entity: &Entity, is_refused: bool) -> (Option<String>, Option<Refusal>) {
    let text = match (message, &entity.state) {
        (
            Message::Wallet(wallet::Message::Charge { order, .. } | wallet::Message::Refund { order }),
            State::Wallet(Wallet::Open(wallet)),
        ) => entity.row(&wallet::charge_row(order)).map(|charge| match charge {
            Charge::Charged(amount) => format!("{amount} charged, {} left", wallet.balance),
            Charge::Refunded(amount) => format!("{amount} given back, {} there now", wallet.balance),
            Charge::Void => "nothing had been charged".to_owned(),
        }),
        (
            Message::Wallet(wallet::Message::Open { .. } | wallet::Message::TopUp { .. }),
            State::Wallet(Wallet::Open(wallet)),
        ) => (!is_refused).then(|| format!("{} there now", wallet.balance)),
        (
            Message::Product(product::Message::Take { order, .. } | product::Message::PutBack { order }),
            State::Product(Product::OnSale(product)),
        ) => entity.row(&product::take_row(order)).map(|take| match take {
            Take::Taken(quantity) => format!("{quantity} taken, {} left", product.stock),
            Take::PutBack(quantity) => format!("{quantity} put back, {} there now", product.stock),
            Take::Void => "nothing had been taken".to_owned(),
        }),
        (
            Message::Product(product::Message::Create { .. } | product::Message::Restock { .. }),
            State::Product(Product::OnSale(product)),
        ) => (!is_refused).then(|| format!("{} there now", product.stock)),
        (Message::Order(_), State::Order(Order::Placed(order))) => {
            let refusal = match &order.phase {
                Phase::Rejected(refusal) => Some(refusal.clone()),
                Phase::Paying | Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Cancelled => None,
            };
            let refusal = words::refusal_in(message).cloned().or(refusal);
            let late = match (message, &order.cancel_refused) {
                (Message::Order(order::Message::DeliveryKept { .. }), Some(late)) => {
                    format!(": the cancel came too late, the delivery is {}", late.delivery_status)
                }
                (_, Some(_) | None) => String::new(),
            };
            return (Some(format!("{}{late}", order.status())), refusal);
        }
        (Message::Delivery(_), State::Delivery(delivery)) => {
            let view = delivery.view(id).and_then(|view| serde_json::to_value(view).ok());
            view.and_then(|view| view["status"].as_str().map(str::to_owned))
        }
        (
            Message::Wallet(_)
            | Message::Product(_)
            | Message::Order(_)
            | Message::Delivery(_)
            | Message::Mypage(_)
            | Message::Void(_),
            _,
        ) => None,
    };
    (text, None)
}
