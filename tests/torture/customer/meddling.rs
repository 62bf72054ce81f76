//! What a customer tries that is not its own, where there is a login: it must be told so, and nothing may come of it. That
//! nothing comes of it is what those notice whose it is, who look at all that they have again and again.

use hyper::Method;
use serde_json::{Value, json};
use shop_tests::client::{Ask, Caller};

use super::Customer;
use crate::counter::{Found, said, untrue};

/// Another customer, and an order of that customer.
struct Victim {
    user: String,
    order: String,
}

impl Customer {
    /// Tries something, if anything is known of others.
    pub(super) async fn meddle(&mut self) -> Found<()> {
        let user = self.ledger.user.clone();
        let Some((user, order)) = self.counter.others().some_order(&user, &mut self.rng) else { return Ok(()) };
        let victim = Victim { user, order };
        match self.rng.u8(0..6) {
            0 | 1 => self.look_at(&victim).await,
            2 | 3 => self.move_something_of(&victim).await,
            4 => self.come_without_token(&victim).await,
            _ => self.speak_as(&victim).await,
        }
    }

    /// It looks as if it were not there.
    async fn look_at(&mut self, Victim { user, order }: &Victim) -> Found<()> {
        let paths = [
            format!("/wallets/{user}"),
            format!("/wallets/{user}/statement?limit=5"),
            format!("/mypages/{user}?limit=5"),
            format!("/orders/{order}"),
            format!("/deliveries/{order}"),
        ];
        let path = paths[self.rng.usize(..paths.len())].clone();
        self.is_refused(Ask::new(Method::GET, path), 404).await
    }

    async fn move_something_of(&mut self, Victim { user, order }: &Victim) -> Found<()> {
        let (id, number) = (self.fresh("stolen"), self.rng.usize(..self.counter.goods.products.len()));
        let product = self.counter.goods.products[number].id.clone();
        let for_somebody = |id: &str, user: &str| {
            let body = json!({ "id": id, "user": user, "product": product, "quantity": 1 });
            Ask::new(Method::POST, "/orders").body(body)
        };
        let payer = self.counter.callers().map(|callers| callers.payer.clone());
        let top_up = Ask::new(Method::POST, format!("/wallets/{user}/top-up")).body(json!({ "amount": 1 }));
        let open = Ask::new(Method::POST, "/wallets").body(json!({ "id": id, "balance": 1_000_000 }));
        let quantity = json!({ "quantity": 1_000 });
        let (ask, status, never) = match self.rng.u8(0..10) {
            0 => (Ask::new(Method::POST, format!("/orders/{order}/cancel")).body(json!({})), 403, None),
            1 => (Ask::new(Method::DELETE, format!("/orders/{order}")), 403, None),
            2 => (for_somebody(&id, user), 403, Some(format!("/orders/{id}"))),
            // Ids are one space: who orders under one that is taken is told so.
            3 => (for_somebody(order, &self.ledger.user), 409, None),
            // With the scope it is another's, without it the scope is missing.
            4 => (top_up.by(payer.as_ref()), 403, None),
            5 => (top_up, 403, None),
            6 => (open.by(payer.as_ref()), 403, Some(format!("/wallets/{id}"))),
            7 => (Ask::new(Method::POST, format!("/products/{product}/restock")).body(quantity), 403, None),
            8 => (Ask::new(Method::POST, format!("/deliveries/{order}/dispatch")), 403, None),
            _ => (
                Ask::new(Method::POST, "/products").body(json!({ "id": id, "name": id, "price": 1, "stock": 1 })),
                403,
                Some(format!("/products/{id}")),
            ),
        };
        if let Some(path) = never {
            self.counter.others().may_never_be(path);
        }
        // Most without a key would be asked once, and then looked for.
        let ask = ask.key(self.fresh("meddle"));
        self.is_refused(ask, status).await
    }

    /// Or with one that is none.
    async fn come_without_token(&mut self, Victim { user, order }: &Victim) -> Found<()> {
        let bad = self.counter.callers().map_or_else(Vec::new, |callers| callers.bad.to_vec());
        let Some(caller): Option<&Caller> = self.rng.choice(&bad) else { return Ok(()) };
        let ask = match self.rng.u8(0..3) {
            0 => Ask::new(Method::GET, format!("/wallets/{user}")),
            1 => Ask::new(Method::GET, format!("/wallets/{}", self.ledger.user)),
            _ => Ask::new(Method::DELETE, format!("/orders/{order}")),
        };
        self.is_refused(ask.by(Some(caller)), 401).await
    }

    /// Over NATS, on subjects that are not its own: nobody answers, and the victim would see it.
    async fn speak_as(&mut self, Victim { user, order }: &Victim) -> Found<()> {
        let key = self.fresh("meddle");
        let Some(callers) = self.counter.callers() else { return Ok(()) };
        let (own, staff) = (&self.ledger.user, callers.staff.name());
        let (amount, none) = (json!({ "amount": 1_000_000 }), Value::Null);
        let (subject, body) = match self.rng.u8(0..6) {
            0 => (format!("shop.by.{user}.order.{order}.cancel"), none),
            1 => (format!("shop.order.{order}.cancel"), none),
            2 => (format!("shop.staff.{staff}.order.{order}.cancel"), none),
            3 => (format!("shop.staff.{own}.wallet.{own}.top-up"), amount),
            4 => (format!("shop.wallet.{own}.top-up"), amount),
            _ => ("shop.log.wallet.0".to_owned(), amount),
        };
        callers.own_direct.say(subject, &key, &body).await;
        Ok(())
    }

    async fn is_refused(&self, ask: Ask, status: u16) -> Found<()> {
        let answer = self.counter.settled(&ask).await?;
        if answer.status != status {
            return untrue(format!(
                "{} has asked {ask}: {status} was expected, but it is {}",
                self.ledger.user,
                said(&answer)
            ));
        }
        self.counter.others().is_refused(status);
        Ok(())
    }
}
