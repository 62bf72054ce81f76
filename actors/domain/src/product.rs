//! Something on sale, its price and its stock.
//!
//! Rows: `take/<order>`, what an order took and whether it was put back.

use serde::{Deserialize, Serialize};

use crate::{
    entity::{Context, Entity},
    id::{Id, OrderId, ProductId},
    kind::Kind,
    logic::Logic,
    money::{AMOUNT_MAX, Money, Quantity},
    order,
    refusal::Refusal,
    rows::RowKey,
    timestamp::Timestamp,
    version::Version,
};

/// What a product handles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Command: put the product on sale.
    Create {
        /// What people call it.
        name: Box<str>,
        /// The price of one piece.
        price: Money,
        /// The pieces on hand at first.
        stock: Quantity,
    },
    /// Command: more pieces came in.
    Restock {
        /// How many.
        quantity: Quantity,
    },
    /// Command: change what is given, keep the rest.
    Change {
        /// A new name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Box<str>>,
        /// A new price.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        price: Option<Money>,
    },
    /// From an order: take pieces at the agreed price. Answered by `Taken` or `TakeRefused`.
    Take {
        /// The order.
        order: OrderId,
        /// How many.
        quantity: Quantity,
        /// The price of one piece that the customer agreed to.
        unit_price: Money,
    },
    /// From an order: put back what it took. Cannot be refused, is not answered.
    PutBack {
        /// The order.
        order: OrderId,
    },
}

/// A product.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// Nobody has created it.
    #[default]
    Absent,
    /// On sale.
    OnSale(OnSale),
}

/// What a product on sale knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OnSale {
    /// What people call it.
    pub name: Box<str>,
    /// The price of one piece.
    pub price: Money,
    /// Pieces on hand.
    pub stock: Quantity,
    /// Pieces taken and not put back. `stock + taken` is all that ever came in and stays within
    /// the range of [`Quantity`], so that pieces can always be put back.
    pub taken: Quantity,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How often callers have seen it change; see [`version`](crate::version).
    #[serde(default, skip_serializing_if = "Version::is_zero")]
    pub version: Version,
}

/// What became of the pieces that an order took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// Taken from the stock.
    Taken(Quantity),
    /// Taken and put back.
    PutBack(Quantity),
    /// They were to be put back before they were taken: a take that comes late takes nothing.
    Void,
}

/// What callers see of a product.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    id: &'a Id,
    name: &'a str,
    price: Money,
    stock: Quantity,
    updated_at: Timestamp,
}

/// What an order without an agreed price goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quote {
    /// The product is on sale.
    Offer {
        /// The price of one piece.
        price: Money,
        /// Pieces on hand.
        stock: Quantity,
    },
    /// There is no such product.
    NotFound,
}

/// The prefix of the rows that tell what became of the pieces that each order took.
pub const TAKE_ROWS: &str = "take/";

impl Entity for Product {
    type Message = Message;

    fn rows(message: &Message) -> Vec<RowKey> {
        match message {
            Message::Create { .. } | Message::Restock { .. } | Message::Change { .. } => vec![],
            Message::Take { order, .. } | Message::PutBack { order } => vec![take_row(order)],
        }
    }

    fn handle(&mut self, message: Message, ctx: &mut Context<'_>) {
        match (&mut *self, message) {
            (Self::Absent, Message::Create { name, price, stock }) => {
                let (taken, updated_at, version) = (Quantity::ZERO, ctx.change(), Version::ZERO);
                let product = OnSale { name, price, stock, taken, updated_at, version };
                ctx.show(&product.view(ctx.id));
                *self = Self::OnSale(product);
            }
            (Self::OnSale(_), Message::Create { .. }) => {
                ctx.refuse(&Refusal::AlreadyExists { kind: Kind::Product, id: ctx.id.clone() });
            }
            (Self::Absent, Message::Restock { .. } | Message::Change { .. }) => ctx.refuse(&not_found(ctx.id)),
            (Self::OnSale(product), Message::Restock { quantity }) => match product.restock(quantity, ctx) {
                Ok(()) => ctx.show(&product.view(ctx.id)),
                Err(refusal) => ctx.refuse(&refusal),
            },
            (Self::OnSale(product), Message::Change { name, price }) => {
                product.change(name, price, ctx);
                ctx.show(&product.view(ctx.id));
            }
            (Self::Absent, Message::Take { order, .. }) => {
                let (product, refusal) = (ctx.id.clone().into(), not_found(ctx.id));
                ctx.send(order, order::Message::TakeRefused { product, refusal });
            }
            (Self::OnSale(product), Message::Take { order, quantity, unit_price }) => {
                product.take(order, quantity, unit_price, ctx);
            }
            // Only a product that was taken from is asked to put back; an absent one never was.
            (Self::Absent, Message::PutBack { order }) => ctx.put_row(take_row(&order), &Take::Void),
            (Self::OnSale(product), Message::PutBack { order }) => product.put_back(&order, ctx),
        }
    }
}

impl Product {
    /// What callers see, if the product exists.
    pub fn view<'a>(&'a self, id: &'a Id) -> Option<View<'a>> {
        match self {
            Self::Absent => None,
            Self::OnSale(product) => Some(product.view(id)),
        }
    }

    /// What an order without an agreed price goes by.
    pub const fn quote(&self) -> Quote {
        match self {
            Self::Absent => Quote::NotFound,
            Self::OnSale(product) => Quote::Offer { price: product.price, stock: product.stock },
        }
    }
}

impl OnSale {
    fn restock(&mut self, quantity: Quantity, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        let came_in = self.stock.checked_add(self.taken).and_then(|total| total.checked_add(quantity));
        let (Some(_), Some(stock)) = (came_in, self.stock.checked_add(quantity)) else {
            let detail = format!(
                "would bring the stock beyond {AMOUNT_MAX}: {} are on hand and {} may come back",
                self.stock, self.taken
            );
            let (used, needed) = (self.stock.get() + self.taken.get(), quantity.get());
            return Err(Refusal::sum_out_of_range("/quantity", detail, used, needed, ctx.logic));
        };
        if quantity > Quantity::ZERO || ctx.logic < Logic::V2 {
            self.stock = stock;
            self.updated_at = ctx.change();
        }
        Ok(())
    }

    fn change(&mut self, name: Option<Box<str>>, price: Option<Money>, ctx: &mut Context<'_>) {
        let (name, price) = (name.unwrap_or_else(|| self.name.clone()), price.unwrap_or(self.price));
        if (&name, price) != (&self.name, self.price) || ctx.logic < Logic::V2 {
            (self.name, self.price) = (name, price);
            self.updated_at = ctx.change();
        }
    }

    fn take(&mut self, order: OrderId, quantity: Quantity, unit_price: Money, ctx: &mut Context<'_>) {
        let product: ProductId = ctx.id.clone().into();
        match ctx.row(&take_row(&order)) {
            // Answered again, taken once.
            Some(Take::Taken(_)) => ctx.send(order, order::Message::Taken { product }),
            // Whoever put the pieces back has ended the order and waits for nothing.
            Some(Take::PutBack(_) | Take::Void) => {}
            None => match self.take_now(&product, quantity, unit_price) {
                Ok(()) => {
                    self.updated_at = ctx.change();
                    ctx.put_row(take_row(&order), &Take::Taken(quantity));
                    ctx.send(order, order::Message::Taken { product });
                }
                Err(refusal) => ctx.send(order, order::Message::TakeRefused { product, refusal }),
            },
        }
    }

    fn take_now(&mut self, product: &ProductId, quantity: Quantity, unit_price: Money) -> Result<(), Refusal> {
        let (Some(stock), Some(taken)) = (self.stock.checked_sub(quantity), self.taken.checked_add(quantity)) else {
            return Err(Refusal::OutOfStock { product: product.clone(), stock: self.stock, needed: quantity });
        };
        if unit_price != self.price {
            return Err(Refusal::PriceChanged {
                product: product.clone(),
                price: self.price,
                agreed: unit_price,
                was_quoted: false,
            });
        }
        (self.stock, self.taken) = (stock, taken);
        Ok(())
    }

    fn put_back(&mut self, order: &OrderId, ctx: &mut Context<'_>) {
        match ctx.row(&take_row(order)) {
            Some(Take::Taken(quantity)) => {
                self.stock = self.stock.checked_add(quantity).expect("stock + taken is within the range");
                self.taken = self.taken.checked_sub(quantity).expect("taken includes every open take");
                self.updated_at = ctx.change();
                ctx.put_row(take_row(order), &Take::PutBack(quantity));
            }
            Some(Take::PutBack(_) | Take::Void) => {}
            None => ctx.put_row(take_row(order), &Take::Void),
        }
    }

    fn view<'a>(&'a self, id: &'a Id) -> View<'a> {
        View { id, name: &self.name, price: self.price, stock: self.stock, updated_at: self.updated_at }
    }
}

fn not_found(id: &Id) -> Refusal {
    Refusal::NotFound { kind: Kind::Product, id: id.clone() }
}

/// The row of what an order took.
pub fn take_row(order: &OrderId) -> RowKey {
    format!("{TAKE_ROWS}{order}").into()
}
