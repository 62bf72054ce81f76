//! One order: the only orchestrator. It walks the steps of its [`saga`] forward when it is
//! placed, and back when a step is refused or the order is cancelled.

mod callers;
mod price;
pub mod saga;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::price::price;
pub use self::view::{CancelRefused, Facts, Status, View};
use crate::{
    delivery,
    entity::{Answer, Asker, Context, Entity},
    id::{Id, ProductId, UserId},
    kind::Kind,
    logic::Logic,
    money::{Money, Quantity},
    mypage,
    product::Quote,
    refusal::Refusal,
    rows::RowKey,
    timestamp::Timestamp,
    version::Version,
};

/// Most lines of one order: keeps an order, and every message about it, within a few kilobytes.
pub const LINES_MAX: usize = 50;

/// What an order handles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Command: make the order and carry it out.
    Place(Place),
    /// Command: undo the order.
    Cancel {
        /// Why, in the customer's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Box<str>>,
    },
    /// From the wallet: the order is paid.
    Charged,
    /// From the wallet: the order cannot be paid.
    ChargeRefused {
        /// Why.
        refusal: Refusal,
    },
    /// From a product: the pieces are taken.
    Taken {
        /// Which product.
        product: ProductId,
    },
    /// From a product: no pieces were taken.
    TakeRefused {
        /// Which product.
        product: ProductId,
        /// Why.
        refusal: Refusal,
    },
    /// From the delivery: it will not be sent.
    DeliveryCancelled,
    /// From the delivery: it cannot be stopped any more.
    DeliveryKept {
        /// How far it is.
        status: delivery::Status,
    },
}

/// What a customer orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Who pays.
    pub user: UserId,
    /// What is ordered: 1 to [`LINES_MAX`] lines, each product once.
    pub lines: Vec<Wanted>,
}

/// What a customer orders of one product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The product.
    pub product: ProductId,
    /// How many pieces, at least one.
    pub quantity: Quantity,
    /// The price of one piece that the customer agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Money>,
    /// Where the customer named no price: what the product was offered at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
}

/// An order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Nobody has placed it.
    #[default]
    Absent,
    /// Placed at least.
    Placed(Box<Placed>),
}

/// What an order knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// Who pays.
    pub user: UserId,
    /// What is ordered.
    pub lines: Vec<Line>,
    /// What it costs altogether; nothing when a price is not known.
    pub amount: Money,
    /// Where it is in its life.
    pub phase: Phase,
    /// Set once the delivery was asked for.
    pub shipped: bool,
    /// Set when a cancel was accepted and is not carried out yet.
    pub cancelling: bool,
    /// Why the order was cancelled, in the customer's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<Box<str>>,
    /// The last cancel that was accepted and came too late; kept from the third logic version on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_refused: Option<CancelRefused>,
    /// The products whose price was quoted because the customer named none, until they have answered; from the
    /// third logic version on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub quoted: BTreeSet<ProductId>,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// How often callers have seen it change; see [`version`](crate::version).
    #[serde(default, skip_serializing_if = "Version::is_zero")]
    pub version: Version,
    /// Who waits for the outcome of placing it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placers: Vec<Asker>,
    /// Who waits for the outcome of cancelling it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cancellers: Vec<Asker>,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub product: ProductId,
    /// How many pieces.
    pub quantity: Quantity,
    /// The agreed price of one piece; none when there was no product to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Money>,
}

/// Where an order is in its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The wallet was asked.
    Paying,
    /// The products were asked.
    Taking {
        /// What they answered: nothing for "taken", or why not.
        answers: BTreeMap<ProductId, Option<Refusal>>,
    },
    /// Paid, taken, and being shipped.
    Confirmed,
    /// The delivery was asked whether it can be stopped.
    Stopping,
    /// Refused, and all that was done is undone.
    Rejected(Refusal),
    /// Cancelled, and all that was done is undone.
    Cancelled,
}

impl Entity for Order {
    type Message = Message;

    fn rows(_: &Message) -> Vec<RowKey> {
        vec![]
    }

    fn handle(&mut self, message: Message, ctx: &mut Context<'_>) {
        match (&mut *self, message) {
            (Self::Absent, Message::Place(place)) => *self = Self::Placed(Box::new(Placed::place(place, ctx))),
            (Self::Placed(order), Message::Place(_)) => order.place_again(ctx),
            (Self::Absent, Message::Cancel { .. }) => {
                ctx.refuse(&Refusal::NotFound { kind: Kind::Order, id: ctx.id.clone() });
            }
            (Self::Placed(order), Message::Cancel { reason }) => order.cancel(reason, ctx),
            (Self::Placed(order), Message::Charged) => order.charged(ctx),
            (Self::Placed(order), Message::ChargeRefused { refusal }) => order.charge_refused(refusal, ctx),
            (Self::Placed(order), Message::Taken { product }) => order.take_answered(product, None, ctx),
            (Self::Placed(order), Message::TakeRefused { product, refusal }) => {
                order.take_answered(product, Some(refusal), ctx);
            }
            (Self::Placed(order), Message::DeliveryCancelled) => order.delivery_cancelled(ctx),
            (Self::Placed(order), Message::DeliveryKept { status }) => order.delivery_kept(status, ctx),
            // Nobody answers an order that never asked.
            (
                Self::Absent,
                Message::Charged
                | Message::ChargeRefused { .. }
                | Message::Taken { .. }
                | Message::TakeRefused { .. }
                | Message::DeliveryCancelled
                | Message::DeliveryKept { .. },
            ) => {}
        }
    }
}

impl Order {
    /// What callers see, if the order exists.
    pub fn view(&self, id: &Id) -> Option<View> {
        match self {
            Self::Absent => None,
            Self::Placed(order) => Some(order.view(id)),
        }
    }

    /// Whether a command repeats one that has come before and is not answered yet, so that nothing new is asked of
    /// the order. Of one that was answered the answer is kept.
    pub(crate) fn is_asked_already(&self, message: &Message, caller: &Asker) -> bool {
        let is_same = |other: &Asker| caller.answer_row.is_some() && other.answer_row == caller.answer_row;
        match (self, message) {
            // The order's id is the key of placing it.
            (Self::Placed(_), Message::Place(_)) => true,
            (Self::Placed(order), Message::Cancel { .. }) => order.cancellers.iter().any(is_same),
            (
                Self::Absent | Self::Placed(_),
                Message::Place(_)
                | Message::Cancel { .. }
                | Message::Charged
                | Message::ChargeRefused { .. }
                | Message::Taken { .. }
                | Message::TakeRefused { .. }
                | Message::DeliveryCancelled
                | Message::DeliveryKept { .. },
            ) => false,
        }
    }
}

impl Placed {
    fn place(place: Place, ctx: &mut Context<'_>) -> Self {
        let (priced, amount) = (price(&place.lines), price::sum(&place.lines).unwrap_or(Money::ZERO));
        let is_quoted = |line: &&Wanted| ctx.logic >= Logic::V3 && line.unit_price.is_none();
        let quoted = place.lines.iter().filter(is_quoted).map(|line| line.product.clone()).collect();
        let lines = place.lines.into_iter().map(Line::from).collect();
        let mut order = Self {
            user: place.user,
            lines,
            amount,
            phase: Phase::Paying,
            shipped: false,
            cancelling: false,
            cancel_reason: None,
            cancel_refused: None,
            quoted,
            placed_at: ctx.now,
            updated_at: ctx.change(),
            version: Version::ZERO,
            placers: ctx.take_caller().into_iter().collect(),
            cancellers: vec![],
        };
        match priced {
            Ok(_) => {
                saga::PAY.forward(&order, ctx);
                order.tell_page(ctx);
            }
            Err(refusal) => order.reject(refusal, ctx),
        }
        order
    }

    /// The same id once more. Once it is settled the kept answer is given before this is reached.
    fn place_again(&mut self, ctx: &mut Context<'_>) {
        let Some(caller) = ctx.take_caller() else { return };
        let first = self.placers.first();
        if first.is_some_and(|first| first.fingerprint == caller.fingerprint) {
            callers::wait(&mut self.placers, caller, ctx);
        } else {
            let refusal = ctx.reused(&caller, first.and_then(|first| first.key.as_deref()));
            ctx.answer_to(Asker { answer_row: None, ..caller }, Answer::refused(&refusal, ctx.logic));
        }
    }

    fn cancel(&mut self, reason: Option<Box<str>>, ctx: &mut Context<'_>) {
        match self.phase {
            Phase::Paying | Phase::Taking { .. } | Phase::Stopping => {
                self.accept_cancel(reason, ctx);
            }
            Phase::Confirmed => {
                self.phase = Phase::Stopping;
                saga::SHIP.undo(self, ctx);
                self.accept_cancel(reason, ctx);
            }
            Phase::Rejected(_) => {
                let status = Status::Rejected.to_string().into();
                ctx.refuse(&Refusal::NotCancellable { kind: Kind::Order, status });
            }
            Phase::Cancelled => ctx.show(&self.view(ctx.id)),
        }
    }

    /// Remembers that the order is to be cancelled, and who waits for it.
    fn accept_cancel(&mut self, reason: Option<Box<str>>, ctx: &mut Context<'_>) {
        if let Some(caller) = ctx.take_caller() {
            let reused = |other: &Asker| {
                caller.answer_row.is_some()
                    && other.answer_row == caller.answer_row
                    && other.fingerprint != caller.fingerprint
            };
            if self.cancellers.iter().any(reused) {
                let refused = Answer::refused(&ctx.reused(&caller, None), ctx.logic);
                return ctx.answer_to(Asker { answer_row: None, ..caller }, refused);
            }
            callers::wait(&mut self.cancellers, caller, ctx);
        }
        if !self.cancelling {
            self.cancelling = true;
            self.cancel_reason = reason;
            self.updated_at = ctx.change();
            self.tell_page(ctx);
        }
    }

    fn charged(&mut self, ctx: &mut Context<'_>) {
        match self.phase {
            Phase::Paying if self.cancelling => self.end_cancelled(&[saga::PAY], ctx),
            Phase::Paying => {
                self.phase = Phase::Taking { answers: BTreeMap::new() };
                saga::TAKE.forward(self, ctx);
            }
            Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Rejected(_) | Phase::Cancelled => {}
        }
    }

    fn charge_refused(&mut self, refusal: Refusal, ctx: &mut Context<'_>) {
        match self.phase {
            Phase::Paying => self.end_undone(&[], refusal, ctx),
            Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Rejected(_) | Phase::Cancelled => {}
        }
    }

    fn take_answered(&mut self, product: ProductId, refusal: Option<Refusal>, ctx: &mut Context<'_>) {
        let Phase::Taking { answers } = &mut self.phase else { return };
        answers.insert(product, refusal);
        if answers.len() < self.lines.len() {
            return;
        }
        let refusal = self.lines.iter().find_map(|line| answers.get(&line.product).cloned().flatten());
        let quoted = std::mem::take(&mut self.quoted);
        match refusal.map(|refusal| refusal.of_an_order_that_was_quoted(&quoted)) {
            Some(refusal) => self.end_undone(&[saga::PAY, saga::TAKE], refusal, ctx),
            None if self.cancelling => self.end_cancelled(&[saga::PAY, saga::TAKE], ctx),
            None => self.confirm(ctx),
        }
    }

    /// The pivot: from here on the order is carried out unless it is cancelled.
    fn confirm(&mut self, ctx: &mut Context<'_>) {
        self.phase = Phase::Confirmed;
        self.shipped = true;
        self.updated_at = ctx.change();
        saga::SHIP.forward(self, ctx);
        self.tell_page(ctx);
        self.answer_placers(&ctx.shown(&self.view(ctx.id)), ctx);
    }

    fn delivery_cancelled(&mut self, ctx: &mut Context<'_>) {
        if self.phase == Phase::Stopping {
            self.end_cancelled(&[saga::PAY, saga::TAKE], ctx);
        }
    }

    fn delivery_kept(&mut self, status: delivery::Status, ctx: &mut Context<'_>) {
        if self.phase != Phase::Stopping {
            return;
        }
        self.phase = Phase::Confirmed;
        self.cancelling = false;
        let reason = self.cancel_reason.take();
        if ctx.logic >= Logic::V3 {
            self.cancel_refused = Some(CancelRefused { reason, delivery_status: status, at: ctx.now });
        }
        self.updated_at = ctx.change();
        self.tell_page(ctx);
        let refusal = Refusal::NotCancellable { kind: Kind::Delivery, status: status.to_string().into() };
        self.answer_cancellers(&Answer::refused(&refusal, ctx.logic), ctx);
    }

    /// A step was refused: undoes what was `done`, and ends the order. A cancel that was accepted
    /// meanwhile has promised its caller a cancelled order.
    fn end_undone(&mut self, done: &[saga::Step], refusal: Refusal, ctx: &mut Context<'_>) {
        if self.cancelling {
            return self.end_cancelled(done, ctx);
        }
        saga::undo(done, self, ctx);
        self.reject(refusal, ctx);
    }

    fn reject(&mut self, refusal: Refusal, ctx: &mut Context<'_>) {
        let answer = Answer::order_refused(&refusal, ctx.id, ctx.logic);
        self.phase = Phase::Rejected(refusal);
        self.updated_at = ctx.change();
        self.tell_page(ctx);
        self.answer_placers(&answer, ctx);
    }

    fn end_cancelled(&mut self, done: &[saga::Step], ctx: &mut Context<'_>) {
        saga::undo(done, self, ctx);
        self.phase = Phase::Cancelled;
        self.updated_at = ctx.change();
        self.tell_page(ctx);
        let answer = ctx.shown(&self.view(ctx.id));
        self.answer_placers(&answer, ctx);
        self.answer_cancellers(&answer, ctx);
    }

    fn answer_placers(&mut self, answer: &Answer, ctx: &mut Context<'_>) {
        for caller in std::mem::take(&mut self.placers) {
            ctx.answer_to(caller, answer.clone());
        }
    }

    fn answer_cancellers(&mut self, answer: &Answer, ctx: &mut Context<'_>) {
        for caller in std::mem::take(&mut self.cancellers) {
            ctx.answer_to(caller, answer.clone());
        }
    }

    fn tell_page(&self, ctx: &mut Context<'_>) {
        let mut order = Box::new(self.view(ctx.id));
        if ctx.logic < Logic::V3 {
            order.refusal = None;
        }
        let delivery_status = self.shipped.then_some(match self.phase {
            Phase::Paying | Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Rejected(_) => {
                delivery::Status::Scheduled
            }
            Phase::Cancelled => delivery::Status::Cancelled,
        });
        ctx.send(self.user.clone(), mypage::Message::OrderChanged { order, delivery_status });
    }

    /// Whether the pieces of this line were taken.
    fn took(&self, line: &Line) -> bool {
        match &self.phase {
            Phase::Paying => false,
            Phase::Taking { answers } => matches!(answers.get(&line.product), Some(None)),
            Phase::Confirmed | Phase::Stopping | Phase::Rejected(_) | Phase::Cancelled => self.shipped,
        }
    }

    /// What callers are told about where the order is.
    pub const fn status(&self) -> Status {
        match self.phase {
            Phase::Paying | Phase::Taking { .. } if self.cancelling => Status::Cancelling,
            Phase::Paying | Phase::Taking { .. } => Status::Pending,
            Phase::Confirmed => Status::Confirmed,
            Phase::Stopping => Status::Cancelling,
            Phase::Rejected(_) => Status::Rejected,
            Phase::Cancelled => Status::Cancelled,
        }
    }

    fn view(&self, id: &Id) -> View {
        let (reason, refusal) = match &self.phase {
            Phase::Rejected(refusal) => (Some(refusal.code().name.into()), Some(Facts(refusal.clone()))),
            Phase::Paying | Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Cancelled => {
                (self.cancel_reason.clone(), None)
            }
        };
        View {
            id: id.clone().into(),
            user: self.user.clone(),
            lines: self.lines.clone(),
            amount: self.amount,
            status: self.status(),
            reason,
            refusal,
            cancel_refused: self.cancel_refused.clone(),
            delivery: self.shipped.then(|| id.clone().into()),
            placed_at: self.placed_at,
            updated_at: self.updated_at,
        }
    }
}

impl From<Wanted> for Line {
    fn from(wanted: Wanted) -> Self {
        let unit_price = wanted.agreed_price();
        Self { product: wanted.product, quantity: wanted.quantity, unit_price }
    }
}

impl Wanted {
    /// The customer's price, or else the one that the product was offered at.
    pub const fn agreed_price(&self) -> Option<Money> {
        match (self.unit_price, self.quote) {
            (Some(price), _) | (None, Some(Quote::Offer { price, .. })) => Some(price),
            (None, Some(Quote::NotFound) | None) => None,
        }
    }
}
