//! What there is to buy, and what its stock can be while others buy, restock and cancel as well.

use std::sync::Mutex;

use hyper::Method;
use serde_json::json;
use shop_tests::client::{Ask, Client};

use crate::{
    counter::{Counter, Found, untrue},
    ledger::read,
};

/// So many that they never sell out.
const PLENTY: u64 = 1_000_000_000_000;
/// So few that they do, until somebody restocks.
const FEW: u64 = 30;

/// Something to buy; its price never changes.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) id: String,
    pub(crate) price: u64,
    pub(crate) is_scarce: bool,
}

/// One line of an order.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Which product; none: one that does not exist.
    pub(crate) product: Option<usize>,
    pub(crate) quantity: u64,
    /// The price that the order names.
    pub(crate) unit_price: Option<u64>,
}

/// Pieces of one product, as far as customers know. Each of them only grows, but for a cancel
/// that was refused.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// There at first, and restocked for sure.
    restocked: u64,
    /// Of restocks that were at least begun.
    restocks_begun: u64,
    /// Of orders that were at least begun.
    ordered: u64,
    /// Of these, of those that are rejected or cancelled for sure.
    released: u64,
    /// Of orders that are confirmed for sure.
    held: u64,
    /// Of these, of those whose cancel was at least begun.
    cancels_begun: u64,
}

/// All products.
#[derive(Debug)]
pub(crate) struct Goods {
    pub(crate) products: Vec<Product>,
    counts: Mutex<Vec<Count>>,
}

/// What was known before a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before(Count);

impl Goods {
    /// Puts them on sale.
    pub(crate) async fn offer(client: &Client) -> Self {
        let product = |number: usize| Product {
            id: format!("product-{number}"),
            price: 100 + 150 * number as u64,
            is_scarce: number.is_multiple_of(4),
        };
        let goods = Self { products: (0..8).map(product).collect(), counts: Mutex::new(vec![Count::default(); 8]) };
        for (number, Product { id, price, is_scarce }) in goods.products.iter().enumerate() {
            let stock = if *is_scarce { FEW } else { PLENTY };
            let body = json!({ "id": id, "name": id, "price": price, "stock": stock });
            let answer = client.exchange(&Ask::new(Method::POST, "/products").body(body)).await;
            answer.expect("a new shop answers").json(201);
            goods.change(number, |count| (count.restocked, count.restocks_begun) = (stock, stock));
        }
        goods
    }

    pub(crate) fn restock_begins(&self, product: usize, quantity: u64) {
        self.change(product, |count| count.restocks_begun += quantity);
    }

    pub(crate) fn restocked(&self, product: usize, quantity: u64) {
        self.change(product, |count| count.restocked += quantity);
    }

    pub(crate) fn order_begins(&self, lines: &[Line]) {
        self.change_all(lines, |count, quantity| count.ordered += quantity);
    }

    pub(crate) fn order_is_confirmed(&self, lines: &[Line]) {
        self.change_all(lines, |count, quantity| count.held += quantity);
    }

    /// Nothing is taken for it, or not any more.
    pub(crate) fn order_is_undone(&self, lines: &[Line]) {
        self.change_all(lines, |count, quantity| count.released += quantity);
    }

    /// The cancel of an order that is known to be confirmed.
    pub(crate) fn cancel_begins(&self, lines: &[Line]) {
        self.change_all(lines, |count, quantity| count.cancels_begun += quantity);
    }

    /// It stays confirmed for ever.
    pub(crate) fn cancel_is_refused(&self, lines: &[Line]) {
        self.change_all(lines, |count, quantity| count.cancels_begun -= quantity);
    }

    pub(crate) fn before(&self, product: usize) -> Before {
        Before(self.counts.lock().expect("nobody panics while counting")[product])
    }

    /// What a stock that was read since then can have been: nothing that was known before may be
    /// missing, and nothing may be there that was not even begun by now.
    pub(crate) fn possible(&self, product: usize, Before(before): Before) -> std::ops::RangeInclusive<u64> {
        let Before(now) = self.before(product);
        let least = before.restocked.saturating_sub(now.ordered - before.released);
        let most = now.restocks_begun - before.held.saturating_sub(now.cancels_begun);
        least..=most
    }

    /// When nobody buys any more, every piece is accounted for.
    pub(crate) async fn all_are_true(&self, counter: &Counter) -> Found<()> {
        for (number, product) in self.products.iter().enumerate() {
            let shown = read(counter, format!("/products/{}", product.id), 200).await?;
            let Before(Count { restocked, restocks_begun, ordered, released, held, cancels_begun }) =
                self.before(number);
            let taken = held - cancels_begun;
            if (restocks_begun, ordered - released) != (restocked, taken) || shown["stock"] != restocked - taken {
                let known = self.before(number);
                return untrue(format!("{taken} of {restocked} are sold, but it is {shown}; {known:?}"));
            }
            counter.read_was_true()?;
        }
        Ok(())
    }

    fn change(&self, product: usize, change: impl FnOnce(&mut Count)) {
        change(&mut self.counts.lock().expect("nobody panics while counting")[product]);
    }

    fn change_all(&self, lines: &[Line], change: impl Fn(&mut Count, u64)) {
        for Line { product, quantity, .. } in lines {
            if let Some(product) = product {
                self.change(*product, |count| change(count, *quantity));
            }
        }
    }
}
