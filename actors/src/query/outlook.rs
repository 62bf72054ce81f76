//! What would come of a command if it were handled now. Nothing is done, and nothing is promised: it is what
//! a caller who does not wait can be told at once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};
use shop_domain::{
    delivery,
    entity::{Effect, Reply, State},
    logic::Logic,
    message::{Envelope, Message},
    order::Status,
    problem::Code,
    rows::Rows,
    timestamp::Timestamp,
};

/// What would come of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outlook {
    /// The answer is known: it was given before, or it is a refusal, or there is nothing to do.
    Decided,
    /// It depends on whether the delivery of the order can still be stopped.
    UpToDelivery(Option<Status>),
    /// It would be carried out; an order would then have this status.
    Open(Option<Status>),
}

impl Outlook {
    /// Of a command to an entity with this state and these rows. A refusal is the same in all logic versions.
    pub fn of(mut envelope: Envelope, mut state: State, mut rows: Rows) -> Self {
        // Whether a ticket is still good is a matter of time, which stands still here.
        envelope.request.iter_mut().for_each(|request| request.ticket = None);
        // What a bug makes of a copy is no answer to anybody.
        let handle = AssertUnwindSafe(|| state.handle(envelope, Timestamp::default(), Logic::NEWEST, &mut rows));
        let Ok(effects) = catch_unwind(handle) else { return Self::Open(None) };
        let status = match &state {
            State::Order(shop_domain::order::Order::Placed(order)) => Some(order.status()),
            State::Order(_) | State::Wallet(_) | State::Product(_) | State::Delivery(_) | State::Mypage(_) => None,
        };
        let is_decided = |reply: &Reply| match reply.answer.code() {
            // Who does not wait takes nobody's place.
            Some(Code::OVERLOADED) => false,
            Some(_) => true,
            // What any other entity does it does at once, so that success is no news.
            None => reply.replayed || status.is_some(),
        };
        let asks_delivery = |effect: &Effect| match effect {
            Effect::Send(Envelope { message, .. }) => *message == Message::from(delivery::Message::Cancel),
            Effect::Reply(_) => false,
        };
        if effects.iter().any(|effect| matches!(effect, Effect::Reply(reply) if is_decided(reply))) {
            Self::Decided
        } else if effects.iter().any(asks_delivery) {
            Self::UpToDelivery(status)
        } else {
            Self::Open(status)
        }
    }
}
