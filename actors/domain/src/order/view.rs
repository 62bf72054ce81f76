//! An order as callers, and the customer's page, see it.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::Line;
use crate::{
    delivery,
    id::{OrderId, UserId},
    money::Money,
    refusal::Refusal,
    timestamp::Timestamp,
};

/// What callers are told about where an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Being carried out.
    Pending,
    /// Carried out.
    Confirmed,
    /// Refused and undone.
    Rejected,
    /// A cancel was accepted and is being carried out.
    Cancelling,
    /// Cancelled and undone.
    Cancelled,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::Rejected => "REJECTED",
            Self::Cancelling => "CANCELLING",
            Self::Cancelled => "CANCELLED",
        })
    }
}

/// What callers, and the customer's page, see of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The order's id.
    pub id: OrderId,
    /// Who pays.
    pub user: UserId,
    /// What is ordered.
    pub lines: Vec<Line>,
    /// What it costs altogether; nothing when a price is not known.
    pub amount: Money,
    /// Where it is.
    pub status: Status,
    /// The code of the refusal, or the customer's reason for the cancel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// Why the order was refused, with the facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Facts>,
    /// The last cancel that was accepted and came too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_refused: Option<CancelRefused>,
    /// The id of the delivery, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<OrderId>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A cancel that was accepted, and then lost to a dispatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRefused {
    /// Why it was asked for, in the customer's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// How far the delivery was.
    pub delivery_status: delivery::Status,
    /// When the order was told so.
    pub at: Timestamp,
}

/// A refusal that people read (JSON) as its code, a sentence and the facts, as in the answer that told
/// of it. In the log it is the refusal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Facts(pub Refusal);

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        let problem = self.0.problem();
        let mut members = serde_json::Map::new();
        members.insert("code".into(), problem.code.name.into());
        members.insert("detail".into(), problem.detail.into());
        members.extend(problem.facts);
        members.serialize(serializer)
    }
}
