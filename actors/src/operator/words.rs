//! How messages are written for people and for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shop_domain::{
    caller::{Caller, Reach},
    delivery,
    entity::State,
    id::Id,
    kind::Kind,
    message::{Envelope, Message},
    mypage::{self, Item, Summary},
    order::{self, CancelRefused, Placed},
    product, wallet,
};
use shop_nats::log::{
    PartitionId,
    frame::{Origin, Source},
};

use super::begin::{Gap, Why};
use crate::replay::{Entity, Fate, Parked};

/// Who sent a frame: `door` or `order/0`.
pub(super) fn source(source: Source) -> String {
    match source.origin {
        Origin::Door => "door".to_owned(),
        Origin::Partition(kind, partition) => format!("{kind}/{partition}"),
    }
}

/// A partition: `order/0`.
pub(super) fn place((kind, partition): PartitionId) -> String {
    format!("{kind}/{partition}")
}

/// What of which logs cannot be read, if anything cannot.
pub(super) fn gaps(gaps: &BTreeMap<Kind, Gap>) -> Option<String> {
    let begins = |(kind, gap): (&Kind, &Gap)| format!("that of {kind} begins at sequence {}", gap.first);
    let because = |why: Why, words: &str| {
        let logs: Vec<_> = gaps.iter().filter(|(_, gap)| gap.why == why).map(begins).collect();
        (!logs.is_empty()).then(|| format!("{words}, {}", logs.join(", ")))
    };
    let trimmed = because(Why::Trimmed, "logs were cut");
    let unknown =
        because(Why::CutByAnOlderVersion, "how the logs were cut before an older version cut them anew is not known");
    let both: Vec<_> = trimmed.into_iter().chain(unknown).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

/// The name of what became of a message, for programs.
pub(super) const fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Accepted => "accepted",
        Fate::Duplicate => "duplicate",
        Fate::BeyondHole => "beyond_hole",
    }
}

/// Where and why a partition stands still.
pub(super) fn parked((kind, partition): PartitionId, Parked { sequence, id, panic }: &Parked) -> String {
    format!("{kind}/{partition} is parked at sequence {sequence}: {kind} {id} panics there: {panic}")
}

/// For whom a message was asked, if it came from outside and that is known.
pub(super) fn caller(envelope: &Envelope) -> Option<&Caller> {
    envelope.request.as_ref()?.caller.as_ref()
}

/// The same at the end of a line.
pub(super) fn by(caller: Option<&Caller>) -> String {
    match caller {
        Some(Caller { name, reach: Reach::Own }) => format!("  by {name}"),
        Some(Caller { name, reach: Reach::Any }) => format!("  by staff {name}"),
        None => String::new(),
    }
}

/// A message in JSON, without the kind that it is for: `{"charge":{"order":"o-1","amount":10}}`.
pub(super) fn json_of(message: &Message) -> Value {
    let value = match message {
        Message::Wallet(message) => serde_json::to_value(message),
        Message::Product(message) => serde_json::to_value(message),
        Message::Order(message) => serde_json::to_value(message),
        Message::Delivery(message) => serde_json::to_value(message),
        Message::Mypage(message) => serde_json::to_value(message),
        Message::Void(_) => Ok("void".into()),
    };
    value.expect("a message always encodes")
}

/// A message on one line: `charge order=o-1 amount=10`.
pub(super) fn line_of(message: &Message) -> String {
    match json_of(message) {
        Value::String(name) => name,
        Value::Object(variant) => variant.iter().map(|(name, fields)| format!("{name}{}", fields_of(fields))).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => other.to_string(),
    }
}

fn fields_of(fields: &Value) -> String {
    let Some(fields) = fields.as_object() else { return format!(" {fields}") };
    let field = |(name, value): (&String, &Value)| match value {
        Value::String(text) if !text.contains(' ') => format!(" {name}={text}"),
        // An order as its customer's page is told of it: which, and how it is.
        Value::Object(members) if members.contains_key("id") && members.contains_key("status") => {
            let text = |member: &str| members[member].as_str().unwrap_or_default().to_owned();
            format!(" {name}={} status={}", text("id"), text("status"))
        }
        // The lines of an order.
        Value::Array(lines) if lines.iter().all(|line| line["product"].is_string()) => {
            let line = |line: &Value| format!("{} {}", line["quantity"], line["product"].as_str().unwrap_or_default());
            format!(" {name}=[{}]", lines.iter().map(line).collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            format!(" {name}={value}")
        }
    };
    fields.iter().map(field).collect()
}

/// What became of a cancel that was accepted and came too late, if there was one.
pub(super) fn too_late(order: &Placed) -> String {
    let sentence = |CancelRefused { reason, delivery_status, at }: &CancelRefused| {
        let reason =
            reason.as_ref().map(|reason| format!(", which was asked for because \"{reason}\",")).unwrap_or_default();
        format!(" A cancel{reason} came too late: the delivery was {delivery_status} when it was asked ({at}).")
    };
    order.cancel_refused.as_ref().map(sentence).unwrap_or_default()
}

/// The order that a message belongs to, if it belongs to one.
pub(super) fn order_of(envelope: &Envelope) -> Option<&str> {
    match &envelope.message {
        Message::Order(_) | Message::Delivery(_) => Some(envelope.to.as_str()),
        Message::Wallet(wallet::Message::Charge { order, .. } | wallet::Message::Refund { order })
        | Message::Product(product::Message::Take { order, .. } | product::Message::PutBack { order })
        | Message::Mypage(mypage::Message::DeliveryChanged { order, .. }) => Some(order.as_str()),
        Message::Mypage(mypage::Message::OrderChanged { order, .. }) => Some(order.id.as_str()),
        Message::Wallet(wallet::Message::Open { .. } | wallet::Message::TopUp { .. })
        | Message::Product(
            product::Message::Create { .. } | product::Message::Restock { .. } | product::Message::Change { .. },
        )
        | Message::Void(_) => None,
    }
}

/// Whether a message undoes a step of an order.
pub(super) const fn is_undo(message: &Message) -> bool {
    matches!(
        message,
        Message::Wallet(wallet::Message::Refund { .. })
            | Message::Product(product::Message::PutBack { .. })
            | Message::Delivery(delivery::Message::Cancel)
    )
}

/// The refusal that a message brings to its order.
pub(super) fn refusal_in(message: &Message) -> Option<&shop_domain::refusal::Refusal> {
    match message {
        Message::Order(order::Message::ChargeRefused { refusal } | order::Message::TakeRefused { refusal, .. }) => {
            Some(refusal)
        }
        Message::Order(
            order::Message::Place(_)
            | order::Message::Cancel { .. }
            | order::Message::Charged
            | order::Message::Taken { .. }
            | order::Message::DeliveryCancelled
            | order::Message::DeliveryKept { .. },
        )
        | Message::Wallet(_)
        | Message::Product(_)
        | Message::Delivery(_)
        | Message::Mypage(_)
        | Message::Void(_) => None,
    }
}

/// An entity as callers see it, if they see it; of a page, the newest `items_max` orders.
pub(super) fn view(kind: Kind, id: &Id, entity: Option<&Entity>, items_max: usize) -> Option<Value> {
    let value = |json: serde_json::Result<Value>| json.expect("a view always encodes");
    match entity.map(|entity| &entity.state) {
        Some(State::Wallet(wallet)) => wallet.view(id).map(|view| value(serde_json::to_value(view))),
        Some(State::Product(product)) => product.view(id).map(|view| value(serde_json::to_value(view))),
        Some(State::Order(order)) => order.view(id).map(|view| value(serde_json::to_value(view))),
        Some(State::Delivery(delivery)) => delivery.view(id).map(|view| value(serde_json::to_value(view))),
        Some(State::Mypage(_)) => {
            let items = entity.into_iter().flat_map(|entity| entity.rows::<Item>(mypage::ORDER_ROWS).rev());
            let items: Vec<Summary> = items.filter_map(|(_, item)| item.summary()).take(items_max).collect();
            Some(json!({ "user": id, "items": items }))
        }
        // A customer without an order has an empty page.
        None if kind == Kind::Mypage => Some(json!({ "user": id, "items": [] })),
        None => None,
    }
}
