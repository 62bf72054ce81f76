//! A customer: does one thing after the other, drawn from his own random numbers, repeats
//! whatever has no answer, and holds every answer against his ledger.

mod meddling;
mod outcome;

use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};
use shop_tests::{careful, client::Ask};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    counter::{Counter, Found, said, untrue},
    goods::Line,
    ledger::{Delivery, Ledger, Order, Told, read},
};

/// What a wallet holds at first.
const BALANCE: u64 = 50_000;
/// Below it, the customer thinks of putting money in.
const LITTLE: u64 = 20_000;
/// How long a top-up without a key may take: the longest fault and the way back from it.
const PATIENCE: Duration = Duration::from_secs(90);
/// The pause before what was not done is sent anew.
const PAUSE: Duration = Duration::from_millis(50);
/// After what time he looks who was told nothing, because the bridge died: the wait, and twice what clocks may differ.
const UNTOLD: Duration = Duration::from_secs(6);
/// One of so many things that a customer does, where there is a login, is about what is not its own.
const MEDDLING: u8 = 12;
/// One of so many things that customers do themselves is done by the staff, where there is a login.
const BY_STAFF: u8 = 6;
/// An order of so many pieces cannot be paid.
const TOO_MANY: u64 = 1_000_000;

/// Somebody with a wallet.
pub(crate) struct Customer {
    counter: Counter,
    rng: Rng,
    ledger: Ledger,
    /// Numbers the ids and the keys.
    number: u64,
}

/// An order that is about to be placed.
struct Draft {
    id: String,
    lines: Vec<Line>,
    place: Ask,
}

impl Customer {
    /// Opens a wallet.
    pub(crate) async fn open(counter: Counter, user: String, rng: Rng) -> Found<Self> {
        let key = format!("open-{user}");
        let ledger = Ledger {
            balance: BALANCE,
            orders: vec![],
            top_ups: vec![(key.clone(), BALANCE)],
            top_ups_without_key: vec![],
            told: vec![],
            user: user.clone(),
        };
        let mut customer = Self { counter, rng, ledger, number: 0 };
        let body = json!({ "id": user, "balance": BALANCE });
        let open = customer.counter.by_staff(Ask::new(Method::POST, "/wallets"));
        customer.tell(open.body(body).key(key), 201).await?;
        Ok(customer)
    }

    /// Buys until it is time to stop; then says what he was told.
    pub(crate) async fn live(mut self, stop: CancellationToken) -> Found<Ledger> {
        while !stop.is_cancelled() {
            self.act().await?;
            if self.rng.u8(0..4) == 0 {
                self.look().await?;
            }
        }
        Ok(self.ledger)
    }

    async fn act(&mut self) -> Found<()> {
        if self.counter.callers().is_some() && self.rng.u8(0..MEDDLING) == 0 {
            return self.meddle().await;
        }
        if self.ledger.balance < LITTLE && self.rng.bool() {
            return self.top_up().await;
        }
        match self.rng.u8(0..100) {
            0..2 => self.top_up().await,
            2..4 => self.top_up_without_key().await,
            4..9 => self.restock().await,
            9..21 => self.cancel_something().await,
            21..29 => self.send_something().await,
            29..32 => self.cancel_and_dispatch_at_once().await,
            32..38 => self.repeat_something().await,
            38..46 => self.place_without_waiting().await,
            46..53 => self.place_and_cancel().await,
            53..58 => self.place_and_cancel_at_once().await,
            58..62 => self.place_three_times_at_once().await,
            _ => self.place().await,
        }
    }

    /// Reads something, which must be as it was told.
    async fn look(&mut self) -> Found<()> {
        let (counter, ledger) = (&self.counter, &self.ledger);
        let recent = &ledger.orders[ledger.orders.len().saturating_sub(200)..];
        let order = self.rng.choice(recent);
        match (self.rng.u8(0..6), order) {
            (0, _) => ledger.wallet_is_true(counter).await,
            (1, _) => ledger.statement_is_true(counter).await,
            (2, _) => ledger.page_is_true(counter).await,
            (3, Some(order)) => ledger.order_is_true(counter, order).await,
            (4, Some(order)) => ledger.delivery_is_true(counter, order).await,
            (_, _) => self.stock_is_possible().await,
        }
    }

    async fn stock_is_possible(&mut self) -> Found<()> {
        let number = self.rng.usize(..self.counter.goods.products.len());
        let product = &self.counter.goods.products[number];
        let before = self.counter.goods.before(number);
        let shown = read(&self.counter, format!("/products/{}", product.id), 200).await?;
        let possible = self.counter.goods.possible(number, before);
        if !shown["stock"].as_u64().is_some_and(|stock| possible.contains(&stock)) {
            return untrue(format!("there can be {possible:?} of {shown}"));
        }
        self.counter.read_was_true()
    }

    async fn top_up(&mut self) -> Found<()> {
        let (amount, key) = (self.rng.u64(1..40_000), self.fresh("top-up"));
        let path = format!("/wallets/{}/top-up", self.ledger.user);
        let ask = self.counter.by_staff(Ask::new(Method::POST, path)).body(json!({ "amount": amount })).key(&key);
        let wallet = self.tell(ask, 200).await?;
        self.ledger.balance += amount;
        self.ledger.top_ups.push((key, amount));
        if wallet["balance"] != self.ledger.balance {
            return untrue(format!("{amount} more make {}, not {wallet}", self.ledger.balance));
        }
        Ok(())
    }

    /// Without a key he does as he is told: looks when it is time, and repeats what was not done.
    async fn top_up_without_key(&mut self) -> Found<()> {
        let amount = self.rng.u64(1..40_000);
        let path = format!("/wallets/{}/top-up", self.ledger.user);
        let ask = self.counter.by_staff(Ask::new(Method::POST, path)).body(json!({ "amount": amount }));
        let before = self.ledger.balance;
        self.ledger.balance += amount;
        self.ledger.top_ups_without_key.push(amount);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let look_after = match self.counter.once(&ask).await {
                Ok(answer) if answer.status == 200 => {
                    let wallet = answer.json(200);
                    if wallet["balance"] != self.ledger.balance {
                        return untrue(format!("{amount} more make {}, not {wallet}", self.ledger.balance));
                    }
                    return Ok(());
                }
                Ok(answer) if answer.status == 503 => careful::look_after(&answer).map(Duration::from_secs),
                Ok(answer) => return untrue(format!("{ask}: {}", said(&answer))),
                Err(_) => Some(UNTOLD),
            };
            let Some(look_after) = look_after else {
                sleep(PAUSE).await;
                continue;
            };
            sleep(look_after).await;
            let wallet = read(&self.counter, format!("/wallets/{}", self.ledger.user), 200).await?;
            match wallet["balance"].as_u64() {
                Some(balance) if balance == self.ledger.balance => return self.counter.read_was_true(),
                Some(balance) if balance == before => {}
                _ => return untrue(format!("{amount} more make {}, not {wallet}", self.ledger.balance)),
            }
        }
        untrue(format!("{ask} is not done after {PATIENCE:?}"))
    }

    async fn restock(&mut self) -> Found<()> {
        let number = self.rng.usize(..self.counter.goods.products.len());
        let quantity = self.rng.u64(1..40);
        let path = format!("/products/{}/restock", self.counter.goods.products[number].id);
        let ask = self.counter.by_staff(Ask::new(Method::POST, path)).body(json!({ "quantity": quantity }));
        let ask = ask.key(self.fresh("restock"));
        let before = self.counter.goods.before(number);
        self.counter.goods.restock_begins(number, quantity);
        let product = self.tell(ask, 200).await?;
        self.counter.goods.restocked(number, quantity);
        let possible = self.counter.goods.possible(number, before);
        if !product["stock"].as_u64().is_some_and(|stock| possible.contains(&stock)) {
            return untrue(format!("after {quantity} more there can be {possible:?} of {product}"));
        }
        Ok(())
    }

    /// Mostly one that can be cancelled.
    async fn cancel_something(&mut self) -> Found<()> {
        let Some(number) = self.some_order(|order| order.delivery == Some(Delivery::Scheduled)) else { return Ok(()) };
        let order = &self.ledger.orders[number];
        let mut ask = match self.rng.u8(0..3) {
            0 => Ask::new(Method::DELETE, format!("/orders/{}", order.id)),
            _ => Ask::new(Method::POST, format!("/orders/{}/cancel", order.id)).body(json!({ "reason": "no more" })),
        };
        // One that is refused changes when the order last changed; only under a key just once.
        if self.rng.bool() || matches!(order.delivery, Some(Delivery::Dispatched | Delivery::Delivered)) {
            ask = ask.key(self.fresh("cancel"));
        }
        let ask = self.perhaps_by_staff(ask);
        self.cancel(number, ask).await
    }

    async fn send_something(&mut self) -> Found<()> {
        let is_on_its_way = |order: &Order| matches!(order.delivery, Some(Delivery::Scheduled | Delivery::Dispatched));
        let Some(number) = self.some_order(is_on_its_way) else { return Ok(()) };
        let order = &self.ledger.orders[number];
        let dispatch = order.delivery != Some(Delivery::Dispatched);
        let (verb, after) =
            if dispatch { ("dispatch", Delivery::Dispatched) } else { ("deliver", Delivery::Delivered) };
        let status = match order.delivery {
            None => 404,
            Some(Delivery::Scheduled | Delivery::Dispatched) => 200,
            Some(Delivery::Delivered | Delivery::Cancelled) => 409,
        };
        let ask = self.counter.by_staff(Ask::new(Method::POST, format!("/deliveries/{}/{verb}", order.id)));
        let ask = ask.key(self.fresh(verb));
        self.tell(ask, status).await?;
        if status == 200 {
            self.ledger.orders[number].delivery = Some(after);
        }
        Ok(())
    }

    async fn cancel_and_dispatch_at_once(&mut self) -> Found<()> {
        let is_scheduled = |order: &Order| order.delivery == Some(Delivery::Scheduled);
        let Some(number) = self.some_order(is_scheduled).filter(|number| is_scheduled(&self.ledger.orders[*number]))
        else {
            return Ok(());
        };
        let id = self.ledger.orders[number].id.clone();
        let cancel = Ask::new(Method::DELETE, format!("/orders/{id}")).key(self.fresh("cancel"));
        let dispatch = self.counter.by_staff(Ask::new(Method::POST, format!("/deliveries/{id}/dispatch")));
        let dispatch = dispatch.key(self.fresh("dispatch"));
        self.counter.goods.cancel_begins(&self.ledger.orders[number].lines);
        let (cancelled, dispatched) = tokio::join!(self.counter.settled(&cancel), self.counter.settled(&dispatch));
        let (cancelled, dispatched) = (cancelled?, dispatched?);
        match (cancelled.status, dispatched.status) {
            (200, 409) => self.is_cancelled(number, cancelled.json(200)).await?,
            (409, 200) => self.is_kept(number, Delivery::Dispatched).await?,
            (_, _) => return untrue(format!("both of {}\n and {}", said(&cancelled), said(&dispatched))),
        }
        self.ledger.told.push(Told { ask: cancel, answer: cancelled });
        self.ledger.told.push(Told { ask: dispatch, answer: dispatched });
        Ok(())
    }

    async fn repeat_something(&mut self) -> Found<()> {
        match self.rng.choice(&self.ledger.told) {
            Some(told) => self.ledger.is_told_again(&self.counter, told).await,
            None => Ok(()),
        }
    }

    async fn place(&mut self) -> Found<()> {
        let draft = self.draft();
        let placed = self.counter.settled(&draft.place).await?;
        self.is_placed(draft, placed, None).await
    }

    /// Takes "we have it" for an answer, and then looks how it goes.
    async fn place_without_waiting(&mut self) -> Found<()> {
        let draft = self.draft();
        let taken = self.counter.taken(&draft.place.clone().without_waiting()).await?;
        if taken.status == 202 {
            self.ends_by_itself(&draft.id).await?;
        }
        let placed = self.counter.settled(&draft.place).await?;
        self.is_placed(draft, placed, None).await
    }

    async fn place_and_cancel(&mut self) -> Found<()> {
        let draft = self.draft();
        self.counter.taken(&draft.place.clone().without_waiting()).await?;
        let cancel = self.cancel_of(&draft);
        let cancelled = self.counter.settled(&cancel).await?;
        if cancelled.status == 404 {
            return untrue(format!("{} was taken, but then {cancel}: {}", draft.place, said(&cancelled)));
        }
        let placed = self.counter.settled(&draft.place).await?;
        self.is_placed(draft, placed, Some(Told { ask: cancel, answer: cancelled })).await
    }

    async fn place_and_cancel_at_once(&mut self) -> Found<()> {
        let draft = self.draft();
        let cancel = self.cancel_of(&draft);
        let (placed, cancelled) = tokio::join!(self.counter.settled(&draft.place), self.counter.settled(&cancel));
        self.is_placed(draft, placed?, Some(Told { ask: cancel, answer: cancelled? })).await
    }

    async fn place_three_times_at_once(&mut self) -> Found<()> {
        let draft = self.draft();
        let mut placed = try_join_all((0..3).map(|_| self.counter.settled(&draft.place))).await?;
        let last = placed.remove(2);
        if let Some(other) = placed.iter().find(|one| (one.status, &one.bytes) != (last.status, &last.bytes)) {
            return untrue(format!("{} was answered {}\n and {}", draft.place, said(&last), said(other)));
        }
        self.is_placed(draft, last, None).await
    }

    /// An order of one to three products: most can be had; some name a wrong price, some cannot be
    /// paid, and some are of a product that does not exist.
    fn draft(&mut self) -> Draft {
        let id = self.fresh("o");
        let rng = &mut self.rng;
        let products = &self.counter.goods.products;
        let mut wanted: Vec<usize> = (0..products.len()).collect();
        rng.shuffle(&mut wanted);
        wanted.truncate(rng.usize(1..=3));
        let special = rng.u8(0..40);
        let mut lines = Vec::new();
        for (place, product) in wanted.into_iter().enumerate() {
            let Some(price) = products.get(product).map(|product| product.price) else { continue };
            let is_wrong = special < 3 && place == 0;
            let unit_price = if is_wrong { Some(price + 1) } else { rng.bool().then_some(price) };
            let is_too_much = special == 3 && !products[product].is_scarce;
            let quantity = if is_too_much { TOO_MANY } else { rng.u64(1..=4) };
            lines.push(Line { product: Some(product), quantity, unit_price });
        }
        if special == 4 {
            lines.push(Line { product: None, quantity: 1, unit_price: rng.bool().then_some(100) });
        }
        self.counter.goods.order_begins(&lines);
        let body = json!({ "id": id, "user": self.ledger.user, "lines": self.in_json(&lines) });
        let place = self.perhaps_by_staff(Ask::new(Method::POST, "/orders").body(body));
        Draft { id, lines, place }
    }

    fn in_json(&self, lines: &[Line]) -> Vec<Value> {
        let line = |line: &Line| {
            let product = line.product.map_or("nothing", |product| &*self.counter.goods.products[product].id);
            let mut json = json!({ "product": product, "quantity": line.quantity });
            if let Some(unit_price) = line.unit_price {
                json["unit_price"] = json!(unit_price);
            }
            json
        };
        lines.iter().map(line).collect()
    }

    /// Under a key: one that comes before the order must not take effect behind it.
    fn cancel_of(&mut self, draft: &Draft) -> Ask {
        let ask = Ask::new(Method::POST, format!("/orders/{}/cancel", draft.id)).body(json!({}));
        let ask = ask.key(self.fresh("cancel"));
        self.perhaps_by_staff(ask)
    }

    /// Where there is a login, now and then the staff does it for the customer.
    fn perhaps_by_staff(&mut self, ask: Ask) -> Ask {
        let is_by_staff = self.counter.callers().is_some() && self.rng.u8(0..BY_STAFF) == 0;
        if is_by_staff { self.counter.by_staff(ask) } else { ask }
    }

    /// The newest order of a sort within sight, or now and then any.
    fn some_order(&mut self, is_of_that_sort: impl Fn(&Order) -> bool) -> Option<usize> {
        let orders = &self.ledger.orders;
        let any = (!orders.is_empty()).then(|| self.rng.usize(..orders.len()));
        if self.rng.u8(0..5) == 0 {
            return any;
        }
        let behind = self.rng.usize(..20);
        let newest = orders.iter().enumerate().rev().skip(behind).take(100);
        newest.filter(|(_, order)| is_of_that_sort(order)).map(|(number, _)| number).next().or(any)
    }

    /// A write under a new key, which must be answered with this status.
    async fn tell(&mut self, ask: Ask, status: u16) -> Found<Value> {
        let answer = self.counter.settled(&ask).await?;
        if answer.status != status {
            return untrue(format!("{ask}: {status} was expected, but it is {}", said(&answer)));
        }
        let body = answer.json(status);
        self.ledger.told.push(Told { ask, answer });
        Ok(body)
    }

    /// Sorts like the order in which they were drawn.
    fn fresh(&mut self, what: &str) -> String {
        self.number += 1;
        format!("{what}-{}-{:06}", self.ledger.user, self.number)
    }
}
