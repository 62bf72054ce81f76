//! The saga as one table: each step stands next to its undo.
//!
//! Money first, stock second: only a customer who has paid takes stock away from others. The
//! take is the last step that can be refused; the ship that follows it cannot, but its undo can,
//! so a cancel begins there. The undo of pay and take cannot be refused and is not answered:
//! once the log has the message, it is as good as done.

use super::Placed;
use crate::{delivery, entity::Context, money::Money, product, wallet};

/// A step of an order, and what undoes it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    forward: fn(&Placed, &mut Context<'_>),
    undo: fn(&Placed, &mut Context<'_>),
}

/// The wallet pays: `charge`, undone by `refund`.
pub const PAY: Step = Step { forward: charge, undo: refund };
/// The products are taken, all lines at once: `take`, undone by `put_back`.
pub const TAKE: Step = Step { forward: take, undo: put_back };
/// The delivery is made: `schedule`, undone by `cancel`, which asks.
pub const SHIP: Step = Step { forward: schedule, undo: stop };

impl Step {
    /// Does the step.
    pub(super) fn forward(&self, order: &Placed, ctx: &mut Context<'_>) {
        (self.forward)(order, ctx);
    }

    /// Undoes the step.
    pub(super) fn undo(&self, order: &Placed, ctx: &mut Context<'_>) {
        (self.undo)(order, ctx);
    }
}

/// Undoes the steps that were done, last first.
pub(super) fn undo(done: &[Step], order: &Placed, ctx: &mut Context<'_>) {
    for step in done.iter().rev() {
        step.undo(order, ctx);
    }
}

fn charge(order: &Placed, ctx: &mut Context<'_>) {
    let message = wallet::Message::Charge { order: ctx.id.clone().into(), amount: order.amount };
    ctx.send(order.user.clone(), message);
}

fn refund(order: &Placed, ctx: &mut Context<'_>) {
    ctx.send(order.user.clone(), wallet::Message::Refund { order: ctx.id.clone().into() });
}

fn take(order: &Placed, ctx: &mut Context<'_>) {
    for line in &order.lines {
        let unit_price = line.unit_price.unwrap_or(Money::ZERO);
        let message = product::Message::Take { order: ctx.id.clone().into(), quantity: line.quantity, unit_price };
        ctx.send(line.product.clone(), message);
    }
}

fn put_back(order: &Placed, ctx: &mut Context<'_>) {
    for line in order.lines.iter().filter(|line| order.took(line)).rev() {
        ctx.send(line.product.clone(), product::Message::PutBack { order: ctx.id.clone().into() });
    }
}

fn schedule(order: &Placed, ctx: &mut Context<'_>) {
    let lines = order
        .lines
        .iter()
        .map(|line| delivery::Line { product: line.product.clone(), quantity: line.quantity })
        .collect();
    let message = delivery::Message::Schedule { user: order.user.clone(), lines, placed_at: order.placed_at };
    ctx.send(ctx.id.clone(), message);
}

fn stop(_: &Placed, ctx: &mut Context<'_>) {
    ctx.send(ctx.id.clone(), delivery::Message::Cancel);
}
