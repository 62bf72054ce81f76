//! Callers: for whom a request is made, where that is known, and what they may move.
//!
//! Who a caller is has been found out before: by the bridge, from a token or a key, or by the nats-server, from the key
//! of a client that may only speak on its own subjects. Here it is decided what is theirs. A customer's name is the id
//! of the wallet and of the page; an order, and its delivery, is whose the order says. What belongs to no customer, the
//! catalog and the way of a delivery, is the shop's, and moved by those who may move everything.
//!
//! From the fifth logic version on the caller stands in the log with what was asked, and the entity decides: so it
//! cannot matter through which door a request came, and the log shows who did what. An idempotency key is its caller's
//! own from then on.

use serde::{Deserialize, Serialize};

use crate::{
    delivery,
    entity::State,
    id::Id,
    kind::Kind,
    message::Message,
    order::{self, Order},
    wallet,
};

/// For whom a request is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The name: of a customer, the user's id.
    pub name: Id,
    /// What this caller sees and moves.
    #[serde(default, skip_serializing_if = "Reach::is_own")]
    pub reach: Reach,
}

/// What a caller sees and moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// What is the caller's own.
    #[default]
    Own,
    /// Everybody's, and what is the shop's.
    Any,
}

impl Reach {
    const fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }
}

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A customer's.
    Customer(Id),
    /// The shop's.
    Shop,
    /// It is not there, or it is not said here.
    Unknown,
}

impl Caller {
    /// Whether this caller may move what is that owner's.
    pub fn may_move(&self, owner: &Owner) -> bool {
        match (self.reach, owner) {
            (Reach::Any, _) | (_, Owner::Unknown) => true,
            (Reach::Own, Owner::Customer(customer)) => self.name == *customer,
            (Reach::Own, Owner::Shop) => false,
        }
    }

    /// Whether this caller may see what is that owner's: what is the shop's is on show.
    pub fn may_see(&self, owner: &Owner) -> bool {
        *owner == Owner::Shop || self.may_move(owner)
    }
}

impl Owner {
    /// Whose the thing is that a command is about, as far as the command itself says.
    pub fn of(to: &Id, message: &Message) -> Self {
        match message {
            Message::Wallet(
                wallet::Message::Open { .. }
                | wallet::Message::TopUp { .. }
                | wallet::Message::Charge { .. }
                | wallet::Message::Refund { .. },
            )
            | Message::Mypage(_)
            | Message::Void(Kind::Wallet | Kind::Mypage) => Self::Customer(to.clone()),
            Message::Order(order::Message::Place(place)) => Self::Customer(place.user.clone().into()),
            Message::Order(_) | Message::Void(Kind::Order) => Self::Unknown,
            Message::Product(_)
            | Message::Delivery(
                delivery::Message::Dispatch
                | delivery::Message::Deliver
                | delivery::Message::Schedule { .. }
                | delivery::Message::Cancel,
            )
            | Message::Void(Kind::Product | Kind::Delivery) => Self::Shop,
        }
    }

    /// Whose the thing is that a command is about, which is in this state.
    pub(crate) fn in_state(to: &Id, message: &Message, state: &State) -> Self {
        match (message, state) {
            // Whoever uses an order's id for an order of their own is told that it is in use.
            (Message::Order(order::Message::Place(_)), _) => Self::of(to, message),
            (Message::Order(_), State::Order(Order::Placed(placed))) => Self::Customer(placed.user.clone().into()),
            (_, _) => Self::of(to, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> Id {
        id.parse().unwrap()
    }

    #[test]
    fn a_customer_moves_what_is_his_own_and_staff_moves_everything() {
        let owners = [Owner::Customer(id("alice")), Owner::Customer(id("bob")), Owner::Shop, Owner::Unknown];
        let may = |reach, what: fn(&Caller, &Owner) -> bool| {
            let alice = Caller { name: id("alice"), reach };
            owners.clone().map(|owner| what(&alice, &owner))
        };
        assert_eq!(may(Reach::Own, Caller::may_move), [true, false, false, true]);
        assert_eq!(may(Reach::Own, Caller::may_see), [true, false, true, true]);
        assert_eq!(may(Reach::Any, Caller::may_move), [true; 4]);
        assert_eq!(may(Reach::Any, Caller::may_see), [true; 4]);
    }
}
