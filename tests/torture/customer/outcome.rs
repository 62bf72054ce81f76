//! What became of an order: whether that could be, and what follows from it.

use serde_json::{Value, json};
use shop_tests::client::{Answer, Ask};
use tokio::time::sleep;

use super::{Customer, Draft};
use crate::{
    books,
    counter::{Found, said, untrue},
    goods::Line,
    ledger::{Delivery, Order, Told, read},
};

/// The pause between two looks at an order that is under way.
const LOOK: std::time::Duration = std::time::Duration::from_millis(10);
/// How many looks there are at most: together as long as a request may take.
const LOOKS_MAX: usize = 9_000;

impl Customer {
    /// An order was answered, and perhaps the cancel of it. Enters it into the ledger.
    pub(super) async fn is_placed(&mut self, draft: Draft, placed: Answer, cancelled: Option<Told>) -> Found<()> {
        let Draft { id, lines, place } = draft;
        let view = read(&self.counter, format!("/orders/{id}"), 200).await?;
        let wrong = |why: &str| {
            let cancel = cancelled
                .as_ref()
                .map_or_else(String::new, |Told { ask, answer }| format!("\n {ask}: {}", said(answer)));
            untrue(format!("{why}\n {place}: {}{cancel}\n it is shown as {view}", said(&placed)))
        };
        let told: Value = serde_json::from_slice(&placed.bytes).unwrap_or_default();
        let cancel_status = cancelled.as_ref().map(|cancelled| cancelled.answer.status);
        let mut delivery = None;
        match (view["status"].as_str(), placed.status, cancel_status) {
            (Some("CONFIRMED"), 201, None | Some(404)) => {
                if told != view || !self.is_as_ordered(&lines, &view) {
                    return wrong("the confirmed order is not what was ordered");
                }
                let paid = view["amount"].as_u64().and_then(|amount| self.ledger.balance.checked_sub(amount));
                let Some(balance) = paid else { return wrong("it is confirmed, but nobody can have paid it") };
                self.ledger.balance = balance;
                delivery = Some(Delivery::Scheduled);
                self.counter.goods.order_is_confirmed(&lines);
                self.counter.order_is_confirmed();
            }
            (Some("REJECTED"), 404 | 409, None | Some(404 | 409)) => {
                if view["reason"] != told["code"] || told["order"] != *id || !self.is_a_reason(&lines, &told) {
                    return wrong("this cannot be why it is rejected");
                }
                self.counter.goods.order_is_undone(&lines);
            }
            (Some("CANCELLED"), 201, Some(200)) => {
                let was_confirmed = told["status"] == "CONFIRMED";
                let is_shipped = view["delivery"] == *id;
                let body = cancelled.as_ref().map(|cancelled| cancelled.answer.json(200));
                if body.as_ref() != Some(&view) || (was_confirmed && !is_shipped) || (!was_confirmed && told != view) {
                    return wrong("the cancelled order is not what was told");
                }
                delivery = is_shipped.then_some(Delivery::Cancelled);
                self.counter.goods.order_is_undone(&lines);
            }
            (_, _, _) => return wrong("this does not go together"),
        }
        self.counter.order_has_ended(books::outcome(&view));
        self.counter.others().learn(&self.ledger.user, &id);
        self.ledger.orders.push(Order { id, lines, view, delivery });
        self.ledger.told.push(Told { ask: place, answer: placed });
        self.ledger.told.extend(cancelled);
        Ok(())
    }

    /// Every product at its price, and the sum of it; nothing that cannot be had.
    fn is_as_ordered(&self, lines: &[Line], view: &Value) -> bool {
        let mut amount = 0;
        let shown = view["lines"].as_array().into_iter().flatten();
        let is_line = |(line, shown): (&Line, &Value)| {
            let Some(product) = line.product.map(|product| &self.counter.goods.products[product]) else { return false };
            amount += product.price * line.quantity;
            let right = json!({ "product": product.id, "quantity": line.quantity, "unit_price": product.price });
            *shown == right && line.unit_price.is_none_or(|price| price == product.price)
        };
        let count = view["lines"].as_array().map_or(0, Vec::len);
        count == lines.len() && lines.iter().zip(shown).all(is_line) && view["amount"] == amount
    }

    /// Whether the facts of a refusal can be so.
    fn is_a_reason(&self, lines: &[Line], problem: &Value) -> bool {
        let products = &self.counter.goods.products;
        let named = |line: &&Line| line.product.is_some_and(|number| problem["product"] == *products[number].id);
        let line = lines.iter().find(named);
        let number = |fact: &str| problem[fact].as_u64();
        match problem["code"].as_str() {
            Some("insufficient_balance") => {
                number("balance") == Some(self.ledger.balance) && number("needed") > number("balance")
            }
            Some("price_changed") => line.is_some_and(|line| {
                let price = line.product.map(|number| products[number].price);
                number("price") == price && number("agreed") == line.unit_price && line.unit_price != price
            }),
            Some("out_of_stock") => line.is_some_and(|line| {
                line.product.is_some_and(|number| products[number].is_scarce)
                    && number("needed") == Some(line.quantity)
                    && number("stock") < Some(line.quantity)
            }),
            Some("not_found") => lines.iter().any(|line| line.product.is_none()),
            Some(_) | None => false,
        }
    }

    /// Looks at an order that the shop has taken until it has ended: it is there from the first
    /// look on, and never goes back.
    pub(super) async fn ends_by_itself(&self, id: &str) -> Found<()> {
        for _ in 0..LOOKS_MAX {
            let view = read(&self.counter, format!("/orders/{id}"), 200).await?;
            match view["status"].as_str() {
                Some("PENDING") => sleep(LOOK).await,
                Some("CONFIRMED" | "REJECTED") => return self.counter.read_was_true(),
                Some(_) | None => return untrue(format!("nobody has cancelled {view}")),
            }
        }
        untrue(format!("order {id} does not end"))
    }

    /// Cancels an order whose state is known, and so is the answer.
    pub(super) async fn cancel(&mut self, number: usize, ask: Ask) -> Found<()> {
        let order = &self.ledger.orders[number];
        let (status, delivery) = match (order.status(), order.delivery) {
            ("CANCELLED", _) => (200, None),
            ("CONFIRMED", delivery @ Some(Delivery::Scheduled)) => (200, delivery),
            (_, delivery) => (409, delivery),
        };
        if delivery.is_some() {
            self.counter.goods.cancel_begins(&order.lines);
        }
        let answer = self.counter.settled(&ask).await?;
        if answer.status != status {
            return untrue(format!("{ask}: {status} was expected of {}, but it is {}", order.view, said(&answer)));
        }
        let shown = answer.json(status);
        match (status, delivery) {
            (200, Some(_)) => self.is_cancelled(number, shown).await?,
            (200, None) if shown != order.view => return untrue(format!("{} is now {shown}", order.view)),
            (_, Some(delivery)) => self.is_kept(number, delivery).await?,
            (_, None) => {}
        }
        if ask.key.is_some() {
            self.ledger.told.push(Told { ask, answer });
        }
        Ok(())
    }

    /// A confirmed order was cancelled, and is now like this.
    pub(super) async fn is_cancelled(&mut self, number: usize, view: Value) -> Found<()> {
        let order = &mut self.ledger.orders[number];
        if !is_otherwise_the_same(&order.view, &view) || view["status"] != "CANCELLED" {
            return untrue(format!("{} was cancelled and is now {view}", order.view));
        }
        self.ledger.balance += order.amount();
        (order.view, order.delivery) = (view, Some(Delivery::Cancelled));
        self.counter.goods.order_is_undone(&order.lines);
        Ok(())
    }

    /// A confirmed order could not be cancelled any more: only that somebody tried is to be seen.
    pub(super) async fn is_kept(&mut self, number: usize, delivery: Delivery) -> Found<()> {
        let order = &mut self.ledger.orders[number];
        self.counter.goods.cancel_is_refused(&order.lines);
        let view = read(&self.counter, format!("/orders/{}", order.id), 200).await?;
        if !is_otherwise_the_same(&order.view, &view) || view["status"] != "CONFIRMED" || !view["reason"].is_null() {
            return untrue(format!("{} was not cancelled and is now {view}", order.view));
        }
        (order.view, order.delivery) = (view, Some(delivery));
        Ok(())
    }
}

fn is_otherwise_the_same(before: &Value, after: &Value) -> bool {
    ["id", "user", "lines", "amount", "delivery", "placed_at"].iter().all(|member| before[*member] == after[*member])
}
