//! What is sent to the customer for one order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    entity::{Context, Entity},
    id::{Id, ProductId, UserId},
    kind::Kind,
    money::Quantity,
    mypage, order,
    refusal::Refusal,
    rows::RowKey,
    timestamp::Timestamp,
    version::Version,
};

/// What a delivery handles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// From the order: make the delivery. Cannot be refused, is not answered.
    Schedule {
        /// The customer.
        user: UserId,
        /// What is sent.
        lines: Vec<Line>,
        /// When the order was placed, which is where the customer's page keeps it.
        placed_at: Timestamp,
    },
    /// From the order: do not send it. Answered by `DeliveryCancelled` or `DeliveryKept`.
    Cancel,
    /// Command: it left the house.
    Dispatch,
    /// Command: it reached the customer.
    Deliver,
}

/// What is sent of one product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub product: ProductId,
    /// How many.
    pub quantity: Quantity,
}

/// A delivery.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// No order has asked for it.
    #[default]
    Absent,
    /// It was cancelled before it was scheduled: it is never sent.
    Void,
    /// Scheduled at least.
    Made(Made),
}

/// What a delivery knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The customer.
    pub user: UserId,
    /// What is sent.
    pub lines: Vec<Line>,
    /// When the order was placed.
    pub placed_at: Timestamp,
    /// How far it is.
    pub status: Status,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How often callers have seen it change; see [`version`](crate::version).
    #[serde(default, skip_serializing_if = "Version::is_zero")]
    pub version: Version,
}

/// How far a delivery is. A status only ever changes into one further down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// To be sent.
    Scheduled,
    /// On its way.
    Dispatched,
    /// With the customer.
    Delivered,
    /// Will not be sent.
    Cancelled,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduled => "SCHEDULED",
            Self::Dispatched => "DISPATCHED",
            Self::Delivered => "DELIVERED",
            Self::Cancelled => "CANCELLED",
        })
    }
}

/// What callers see of a delivery.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    id: &'a Id,
    order: &'a Id,
    user: &'a UserId,
    lines: &'a [Line],
    status: Status,
    updated_at: Timestamp,
}

impl Entity for Delivery {
    type Message = Message;

    fn rows(_: &Message) -> Vec<RowKey> {
        vec![]
    }

    fn handle(&mut self, message: Message, ctx: &mut Context<'_>) {
        match (&mut *self, message) {
            (Self::Absent, Message::Schedule { user, lines, placed_at }) => {
                let (status, updated_at, version) = (Status::Scheduled, ctx.change(), Version::ZERO);
                *self = Self::Made(Made { user, lines, placed_at, status, updated_at, version });
            }
            (Self::Void | Self::Made(_), Message::Schedule { .. }) => {}
            (Self::Absent | Self::Void, Message::Cancel) => {
                *self = Self::Void;
                ctx.send(ctx.id.clone(), order::Message::DeliveryCancelled);
            }
            (Self::Made(delivery), Message::Cancel) => delivery.cancel(ctx),
            (Self::Absent | Self::Void, Message::Dispatch | Message::Deliver) => {
                ctx.refuse(&Refusal::NotFound { kind: Kind::Delivery, id: ctx.id.clone() });
            }
            (Self::Made(delivery), Message::Dispatch) => match delivery.status {
                Status::Scheduled => delivery.advance(Status::Dispatched, ctx),
                status @ (Status::Dispatched | Status::Delivered | Status::Cancelled) => {
                    ctx.refuse(&Refusal::NotDispatchable { status: status.to_string().into() });
                }
            },
            (Self::Made(delivery), Message::Deliver) => match delivery.status {
                Status::Dispatched => delivery.advance(Status::Delivered, ctx),
                status @ (Status::Scheduled | Status::Delivered | Status::Cancelled) => {
                    ctx.refuse(&Refusal::NotDeliverable { status: status.to_string().into() });
                }
            },
        }
    }
}

impl Delivery {
    /// What callers see, if the delivery exists.
    pub fn view<'a>(&'a self, id: &'a Id) -> Option<View<'a>> {
        match self {
            Self::Absent | Self::Void => None,
            Self::Made(delivery) => Some(delivery.view(id)),
        }
    }
}

impl Made {
    fn cancel(&mut self, ctx: &mut Context<'_>) {
        match self.status {
            Status::Scheduled => {
                self.advance(Status::Cancelled, ctx);
                ctx.send(ctx.id.clone(), order::Message::DeliveryCancelled);
            }
            Status::Cancelled => ctx.send(ctx.id.clone(), order::Message::DeliveryCancelled),
            status @ (Status::Dispatched | Status::Delivered) => {
                ctx.send(ctx.id.clone(), order::Message::DeliveryKept { status });
            }
        }
    }

    fn advance(&mut self, status: Status, ctx: &mut Context<'_>) {
        self.status = status;
        self.updated_at = ctx.change();
        let (order, placed_at) = (ctx.id.clone().into(), self.placed_at);
        ctx.send(self.user.clone(), mypage::Message::DeliveryChanged { order, placed_at, status });
        ctx.show(&self.view(ctx.id));
    }

    fn view<'a>(&'a self, id: &'a Id) -> View<'a> {
        let Self { user, lines, status, updated_at, .. } = self;
        View { id, order: id, user, lines, status: *status, updated_at: *updated_at }
    }
}
