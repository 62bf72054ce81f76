//! A customer's page: every order of that customer, newest first. Told of every change, tells nobody.
//!
//! Rows: `order/<time of placing><order>`, one per order, so that they sort by time.

use serde::{Deserialize, Serialize};

use crate::{
    delivery,
    entity::{Context, Entity},
    id::OrderId,
    order,
    rows::RowKey,
    timestamp::Timestamp,
    version::Version,
};

/// What a page handles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// From an order: this is how it is now.
    OrderChanged {
        /// The order as callers see it.
        order: Box<order::View>,
        /// How far its delivery is, as far as the order knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delivery_status: Option<delivery::Status>,
    },
    /// From a delivery: this is how far it is now.
    DeliveryChanged {
        /// The order that is delivered.
        order: OrderId,
        /// When it was placed.
        placed_at: Timestamp,
        /// How far it is.
        status: delivery::Status,
    },
}

/// A customer's page. All that it shows is in its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mypage {
    /// How often callers have seen it change; see [`version`](crate::version).
    #[serde(default, skip_serializing_if = "Version::is_zero")]
    pub version: Version,
}

/// An order on the page, put together from what the order and its delivery tell. The two may
/// tell in any order: the order's part is only written by the order, and of two delivery
/// statuses the further one holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// What the order told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<order::View>,
    /// The furthest delivery status told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_status: Option<delivery::Status>,
}

/// The part of an [`Item`] that an order's news do not replace.
#[derive(Debug, Default, Deserialize)]
struct ToldByDelivery {
    #[serde(default)]
    delivery_status: Option<delivery::Status>,
}

/// What callers see of an order on the page.
#[derive(Debug, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    order: order::View,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_status: Option<delivery::Status>,
}

/// The prefix of the rows.
pub const ORDER_ROWS: &str = "order/";

impl Entity for Mypage {
    type Message = Message;

    fn rows(message: &Message) -> Vec<RowKey> {
        vec![match message {
            Message::OrderChanged { order, .. } => order_row(order.placed_at, &order.id),
            Message::DeliveryChanged { order, placed_at, .. } => order_row(*placed_at, order),
        }]
    }

    fn handle(&mut self, message: Message, ctx: &mut Context<'_>) {
        match message {
            Message::OrderChanged { order, delivery_status } => {
                let row = order_row(order.placed_at, &order.id);
                let told: ToldByDelivery = ctx.row(&row).unwrap_or_default();
                let delivery_status = told.delivery_status.max(delivery_status);
                if ctx.replace_row(row, &Item { order: Some(*order), delivery_status }) {
                    ctx.change();
                }
            }
            Message::DeliveryChanged { order, placed_at, status } => {
                let row = order_row(placed_at, &order);
                let mut item: Item = ctx.row(&row).unwrap_or_default();
                item.delivery_status = item.delivery_status.max(Some(status));
                // Until the order itself has told, it is not shown.
                if ctx.replace_row(row, &item) && item.order.is_some() {
                    ctx.change();
                }
            }
        }
    }
}

impl Item {
    /// What callers see; nothing until the order itself has told.
    pub fn summary(self) -> Option<Summary> {
        Some(Summary { order: self.order?, delivery_status: self.delivery_status })
    }
}

/// The row of an order: the time of placing in 13 digits or more, then the id.
pub(crate) fn order_row(placed_at: Timestamp, order: &OrderId) -> RowKey {
    format!("{ORDER_ROWS}{:016}-{order}", placed_at.unix_ms()).into()
}
