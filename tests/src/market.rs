//! Customers with money, products with stock, and the books: what must hold over all of them
//! whatever was killed in between.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;
use futures::{StreamExt, stream};
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client},
    rush::Told,
    wait::until,
};

/// How many customers there are.
const CUSTOMERS: usize = 8;
/// How many products there are.
const PRODUCTS: usize = 6;
/// How many requests the auditor has under way at a time.
const AUDITS: usize = 16;

/// Who buys, and what there is to buy.
#[derive(Debug)]
pub struct Market {
    rng: Rng,
    balance: u64,
    stock: u64,
    customers: Vec<String>,
    /// Names and prices.
    products: Vec<(String, u64)>,
}

/// How the orders ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Paid, taken and scheduled.
    pub confirmed: usize,
    /// Rejected before any money moved.
    pub rejected: usize,
    /// Rejected, and the charge undone.
    pub refunded: usize,
}

impl Market {
    /// Opens wallets and creates products, so that about a tenth of so many orders cannot be
    /// paid, and some products sell out.
    pub async fn open(client: &Client, mut rng: Rng, orders: usize) -> Self {
        let orders = orders as u64;
        let customers = (0..CUSTOMERS).map(|n| format!("customer-{n}")).collect();
        let products = (0..PRODUCTS).map(|n| (format!("product-{n}"), rng.u64(1..=20) * 100)).collect();
        let market =
            Self { rng, customers, products, balance: 3_000 * orders / CUSTOMERS as u64, stock: orders / 3 + 1 };
        for id in &market.customers {
            client.post("/wallets", &json!({ "id": id, "balance": market.balance })).await.json(201);
        }
        for (id, price) in &market.products {
            let product = json!({ "id": id, "name": id, "price": price, "stock": market.stock });
            client.post("/products", &product).await.json(201);
        }
        market
    }

    /// So many orders, with ids that begin with `prefix`.
    pub fn orders(&mut self, prefix: &str, count: usize) -> Vec<Value> {
        (0..count).map(|n| self.order(format!("{prefix}-{n}"))).collect()
    }

    /// Some of one product or of two; some name the price, and a few a wrong one, which is
    /// noticed after the charge.
    fn order(&mut self, id: String) -> Value {
        let rng = &mut self.rng;
        let mut wanted = self.products.clone();
        rng.shuffle(&mut wanted);
        wanted.truncate(rng.usize(1..=2));
        let price_is = rng.u8(0..10);
        let lines = wanted.into_iter().map(|(product, price)| {
            let mut line = json!({ "product": product, "quantity": rng.u64(1..=3) });
            match price_is {
                0 => line["unit_price"] = json!(price - 1),
                1..=4 => line["unit_price"] = json!(price),
                _ => {}
            }
            line
        });
        let lines: Vec<Value> = lines.collect();
        json!({ "id": id, "user": rng.choice(&self.customers), "lines": lines })
    }

    /// Checks that the books balance: every order has ended one way or the other, as its
    /// customer was told; nothing was paid, taken or scheduled twice, and nothing is lost.
    pub async fn audit(&self, client: &Client, told: &Told) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let charges = self.charges(client).await;
        let orders = self.ended_as_told(client, told).await;
        let (mut spent, mut sold) = (BTreeMap::new(), BTreeMap::new());
        for (id, order) in &orders {
            let (user, amount) = (text(&order["user"]), order["amount"].as_u64().unwrap_or_default());
            let paid = charges.get(&(user.clone(), id.clone())).map(Vec::as_slice).unwrap_or_default();
            match order["status"].as_str() {
                Some("CONFIRMED") => {
                    outcomes.confirmed += 1;
                    assert_eq!(paid, [("CHARGE".to_owned(), amount)], "{order}");
                    *spent.entry(user).or_insert(0) += amount;
                    for line in order["lines"].as_array().into_iter().flatten() {
                        *sold.entry(text(&line["product"])).or_insert(0) += line["quantity"].as_u64().unwrap_or(0);
                    }
                }
                Some("REJECTED") if paid.is_empty() => outcomes.rejected += 1,
                Some("REJECTED") => {
                    outcomes.refunded += 1;
                    assert_eq!(paid, [("CHARGE".to_owned(), amount), ("REFUND".to_owned(), amount)], "{order}");
                }
                Some(_) | None => panic!("this is no end of an order: {order}"),
            }
        }
        for (user, id) in charges.keys() {
            assert!(orders.contains_key(id), "{user} was charged for {id}, which is no order");
        }
        for id in &self.customers {
            let wallet = client.read(&format!("/wallets/{id}")).await.json(200);
            let spent = spent.get(id).copied().unwrap_or(0);
            assert_eq!(wallet["balance"], self.balance - spent, "{wallet}, who has spent {spent}");
        }
        for (id, _) in &self.products {
            let product = client.read(&format!("/products/{id}")).await.json(200);
            let sold = sold.get(id).copied().unwrap_or(0);
            assert_eq!(product["stock"], self.stock - sold, "{product}, of which {sold} are sold");
        }
        self.pages_list_exactly(client, &orders).await;
        outcomes
    }

    /// Every GET that there is about the market and these orders, and its answer.
    pub async fn picture(&self, client: &Client, told: &Told) -> BTreeMap<String, (u16, Bytes)> {
        let mut paths = vec!["/products?limit=100".to_owned()];
        paths.extend(self.products.iter().map(|(id, _)| format!("/products/{id}")));
        for id in &self.customers {
            let list = ["statement?limit=100", "statement?limit=7"].map(|page| format!("/wallets/{id}/{page}"));
            paths.extend(list);
            paths.extend([format!("/wallets/{id}"), format!("/mypages/{id}?limit=100")]);
        }
        paths.extend(told.keys().flat_map(|id| [format!("/orders/{id}"), format!("/deliveries/{id}")]));
        let answers = stream::iter(paths).map(|path| async move {
            let Answer { status, bytes, .. } = client.read(&path).await;
            (path, (status, bytes))
        });
        answers.buffer_unordered(AUDITS).collect().await
    }

    /// The kinds and amounts of all wallets' entries, oldest first, by customer and order.
    async fn charges(&self, client: &Client) -> BTreeMap<(String, String), Vec<(String, u64)>> {
        let mut charges = BTreeMap::<_, Vec<_>>::new();
        for user in &self.customers {
            let mut balance = 0;
            for entry in client.items(&format!("/wallets/{user}/statement"), "before").await.iter().rev() {
                let (kind, amount) = (text(&entry["kind"]), entry["amount"].as_u64().unwrap_or(0));
                balance = if kind == "CHARGE" { balance - amount } else { balance + amount };
                assert_eq!(entry["balance"], balance, "the entries of {user} do not add up at {entry}");
                if let Some(order) = entry["order"].as_str() {
                    charges.entry((user.clone(), order.to_owned())).or_default().push((kind, amount));
                }
            }
        }
        charges
    }

    /// The orders as they are now, each of which must be what its customer was told.
    async fn ended_as_told(&self, client: &Client, told: &Told) -> BTreeMap<String, Value> {
        let orders = stream::iter(told).map(|(id, (wanted, first))| async move {
            let what = format!("{id} is told again");
            let again = until(&what, async || {
                let again = client.send(Method::POST, "/orders", Some(wanted)).await.ok();
                again.filter(|answer| ![202, 503].contains(&answer.status))
            })
            .await;
            assert_eq!((again.status, &again.bytes), (first.status, &first.bytes), "{id} was answered otherwise");
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{id}");
            let order = client.read(&format!("/orders/{id}")).await.json(200);
            let delivery = client.read(&format!("/deliveries/{id}")).await;
            if first.status == 201 {
                assert_eq!(order, first.json(201));
                assert_eq!(order["status"], "CONFIRMED");
                assert_eq!(delivery.json(200)["status"], "SCHEDULED");
            } else {
                let refusal = first.json(409);
                assert_eq!((&refusal["order"], &refusal["code"]), (&order["id"], &order["reason"]), "{order}");
                assert_eq!(order["status"], "REJECTED");
                delivery.json(404);
            }
            (id.clone(), order)
        });
        orders.buffer_unordered(AUDITS).collect().await
    }

    /// Every order is on its customer's page once, as it is.
    async fn pages_list_exactly(&self, client: &Client, orders: &BTreeMap<String, Value>) {
        let mut listed = BTreeSet::new();
        for user in &self.customers {
            for item in client.items(&format!("/mypages/{user}"), "before").await {
                let id = text(&item["id"]);
                let order = orders.get(&id).unwrap_or_else(|| panic!("{user} has never ordered {item}"));
                assert_eq!((&order["user"], &order["status"]), (&json!(user), &item["status"]), "{item}");
                let is_confirmed = order["status"] == "CONFIRMED";
                assert_eq!(item["delivery_status"].as_str(), is_confirmed.then_some("SCHEDULED"), "{item}");
                assert!(listed.insert(id), "listed twice: {item}");
            }
        }
        assert_eq!(listed.len(), orders.len(), "some orders are on nobody's page");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}
