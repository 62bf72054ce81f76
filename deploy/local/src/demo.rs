//! `--demo`: a customer's story through HTTP. Every number is checked, and the first one that differs ends the story.
//! It is told in some twenty lines or, with `-v`, with every request, every answer and every check.
//!
//! On a fresh data folder the product is `apple` and the customer `alice`; when these exist from
//! an earlier run, `apple-2` and `alice-2`, and so on.

use std::{
    fmt::Display,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use shop_domain::kind::Kind;

use crate::{
    Shop,
    http::{Answer, Http, HttpError},
    shop::ShopError,
};

/// How long the shop may take to say that orders are not served: who does not say how long to wait
/// waits 5 s for a process that may just be restarted.
const UNAVAILABLE_WITHIN: Duration = Duration::from_secs(6);
/// How many earlier runs are looked past.
const RUNS_MAX: u32 = 1000;

/// Why the story ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Something is not as the story has it.
    #[error("the demo expected {what} to be {expected}, and got {got}")]
    Differs {
        /// What was looked at.
        what: String,
        /// What the story says.
        expected: String,
        /// What the shop says.
        got: String,
    },
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A part of the shop could not be stopped or started.
    #[error(transparent)]
    Shop(#[from] ShopError),
}

/// How the story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// What happens, and how it ends.
    Short,
    /// Every request, every answer, and every number that is checked.
    Whole,
}

/// Plays the whole story.
pub async fn play(shop: &mut Shop, telling: Telling) -> Result<(), DemoError> {
    let story = Story::begin(shop.http().clone(), Teller::of(telling)).await?;
    let Story { apple, alice, teller, .. } = &story;
    let page = format!("/mypages/{alice}");
    let apples = |quantity: u64| json!({ "user": alice, "product": apple, "quantity": quantity });

    teller.chapter("1. An apple costs 1000 and there are 1000 of them. Alice has 999999.");
    story.post("/products", json!({ "id": apple, "name": "apple", "price": 1000, "stock": 1000 }), 201).await?;
    story.post("/wallets", json!({ "id": alice, "balance": 999_999 }), 201).await?;

    teller.chapter("2. Alice orders ten.");
    let order = story.post("/orders", apples(10), 201).await?;
    order.is("/status", "CONFIRMED")?;
    order.is("/amount", 10_000)?;
    let first = order.text("/id");
    story.balance_and_stock(989_999, 990).await?;
    story.get(&format!("/deliveries/{first}"), 200).await?.is("/status", "SCHEDULED")?;
    let mypage = story.get(&page, 200).await?;
    mypage.lists(&[&first])?;
    mypage.is("/items/0/status", "CONFIRMED")?;
    mypage.is("/items/0/delivery_status", "SCHEDULED")?;
    teller.outcome("CONFIRMED: her wallet has 989999, 990 apples are left, a delivery is SCHEDULED, her page knows");

    teller.chapter("3. She changes her mind: everything goes back to where it was.");
    let order = story.post(&format!("/orders/{first}/cancel"), json!({ "reason": "changed my mind" }), 200).await?;
    order.is("/status", "CANCELLED")?;
    story.get(&format!("/deliveries/{first}"), 200).await?.is("/status", "CANCELLED")?;
    story.balance_and_stock(999_999, 1000).await?;
    let mypage = story.get(&page, 200).await?;
    mypage.is("/items/0/status", "CANCELLED")?;
    mypage.is("/items/0/delivery_status", "CANCELLED")?;
    let statement = story.get(&format!("/wallets/{alice}/statement"), 200).await?;
    for (entry, kind, balance) in [(0, "REFUND", 999_999), (1, "CHARGE", 989_999)] {
        statement.is(&format!("/items/{entry}/kind"), kind)?;
        statement.is(&format!("/items/{entry}/amount"), 10_000)?;
        statement.is(&format!("/items/{entry}/balance"), balance)?;
        statement.is(&format!("/items/{entry}/order"), first.as_str())?;
    }
    teller.outcome("CANCELLED: 999999 in her wallet and 1000 apples again, the delivery is CANCELLED");

    teller.chapter("4. She orders twice more. Then nobody serves orders, and her page still answers.");
    let second = story.post("/orders", apples(1), 201).await?.text("/id");
    let third = story.post("/orders", apples(2), 201).await?.text("/id");
    story.get(&page, 200).await?.lists(&[&third, &second, &first])?;
    teller.event("the process that serves orders is stopped");
    shop.stop_kind(Kind::Order).await?;
    let refusal = story.post("/orders", apples(1), 503).await?;
    refusal.is("/code", "unavailable")?;
    let took = refusal.answer.took;
    teller.expect("time until that answer", took < UNAVAILABLE_WITHIN, "less than 6 seconds", took)?;
    story.get(&page, 200).await?.lists(&[&third, &second, &first])?;
    teller.outcome(&format!(
        "an order: 503 unavailable after {:.1} s; her page still lists all three",
        took.as_secs_f64()
    ));
    teller.event("the process that serves orders is started again");
    shop.start_kind(Kind::Order).await?;
    story.post("/orders", apples(1), 201).await?.is("/status", "CONFIRMED")?;
    story.balance_and_stock(995_999, 996).await?;
    teller.outcome("an order: CONFIRMED; her wallet has 995999, 996 apples are left");

    teller.chapter("5. Orders that cannot be carried out are rejected, and nothing moves.");
    let rejected = story.rejected("too-dear", apples(996), 409, "insufficient_balance").await?;
    rejected.is("/balance", 995_999)?;
    rejected.is("/needed", 996_000)?;
    teller.outcome("996 apples for 995999: 409 insufficient_balance, with balance and needed");
    let rejected = story.rejected("too-many", apples(997), 409, "out_of_stock").await?;
    rejected.is("/stock", 996)?;
    rejected.is("/needed", 997)?;
    teller.outcome("997 apples: 409 out_of_stock, with stock and needed");
    story.send(Method::PATCH, &format!("/products/{apple}"), json!({ "price": 1200 }), 200).await?;
    let mut at_the_old_price = apples(1);
    at_the_old_price["unit_price"] = json!(1000);
    let rejected = story.rejected("old-price", at_the_old_price, 409, "price_changed").await?;
    rejected.is("/price", 1200)?;
    rejected.is("/agreed", 1000)?;
    teller.outcome("one at a price that has changed: 409 price_changed, with price and agreed");
    let nothing = json!({ "user": alice, "product": "no-such-product", "quantity": 1 });
    story.rejected("no-product", nothing, 404, "not_found").await?;
    let nobody = json!({ "user": "no-such-user", "product": apple, "quantity": 1 });
    story.rejected("no-wallet", nobody, 404, "not_found").await?;
    teller.outcome("a product, and a customer, that there is not: 404 not_found; her wallet is as it was each time");

    teller.end();
    Ok(())
}

struct Story {
    http: Http,
    teller: Teller,
    apple: String,
    alice: String,
    /// What ids of this run end with.
    suffix: String,
}

/// What the shop answered to one step of the story.
struct Step<'s> {
    asked: String,
    answer: Answer,
    teller: &'s Teller,
}

/// Who tells it.
struct Teller {
    telling: Telling,
    requests: AtomicU32,
    checks: AtomicU32,
}

impl Story {
    /// Finds ids that no earlier run has used.
    async fn begin(http: Http, teller: Teller) -> Result<Self, DemoError> {
        for run in 1..=RUNS_MAX {
            let suffix = if run == 1 { String::new() } else { format!("-{run}") };
            let (apple, alice) = (format!("apple{suffix}"), format!("alice{suffix}"));
            let product = http.get(&format!("/products/{apple}")).await?;
            let wallet = http.get(&format!("/wallets/{alice}")).await?;
            if product.status == StatusCode::NOT_FOUND && wallet.status == StatusCode::NOT_FOUND {
                return Ok(Self { http, teller, apple, alice, suffix });
            }
        }
        let got = format!("all in use up to apple-{RUNS_MAX}");
        Err(DemoError::Differs { what: "ids".to_owned(), expected: "free".to_owned(), got })
    }

    async fn get(&self, path: &str, status: u16) -> Result<Step<'_>, DemoError> {
        self.step(Method::GET, path, None, status).await
    }

    async fn post(&self, path: &str, body: Value, status: u16) -> Result<Step<'_>, DemoError> {
        self.send(Method::POST, path, body, status).await
    }

    async fn send(&self, method: Method, path: &str, body: Value, status: u16) -> Result<Step<'_>, DemoError> {
        self.step(method, path, Some(body), status).await
    }

    async fn step(&self, method: Method, path: &str, body: Option<Value>, status: u16) -> Result<Step<'_>, DemoError> {
        let asked = format!("{method} {path}");
        self.teller.request(&asked, body.as_ref());
        let answer = self.http.send(method, path, body.as_ref()).await?;
        self.teller.answer(&answer);
        let step = Step { asked, answer, teller: &self.teller };
        step.check("status", step.answer.status.as_u16() == status, status, step.answer.status)?;
        Ok(step)
    }

    /// Places an order that is refused, and checks that it is kept as such and that nothing moved.
    async fn rejected(&self, name: &str, mut order: Value, status: u16, code: &str) -> Result<Step<'_>, DemoError> {
        let id = format!("{name}{}", self.suffix);
        order["id"] = json!(id);
        let refusal = self.post("/orders", order, status).await?;
        refusal.is("/code", code)?;
        let kept = self.get(&format!("/orders/{id}"), 200).await?;
        kept.is("/status", "REJECTED")?;
        kept.is("/reason", code)?;
        self.balance_and_stock(995_999, 996).await?;
        Ok(refusal)
    }

    async fn balance_and_stock(&self, balance: u64, stock: u64) -> Result<(), DemoError> {
        self.get(&format!("/wallets/{}", self.alice), 200).await?.is("/balance", balance)?;
        self.get(&format!("/products/{}", self.apple), 200).await?.is("/stock", stock)
    }
}

impl Step<'_> {
    /// Checks one value of the body, named by its JSON pointer.
    fn is(&self, pointer: &str, expected: impl Into<Value>) -> Result<(), DemoError> {
        let (expected, got) = (expected.into(), self.value(pointer));
        self.check(pointer.trim_start_matches('/'), *got == expected, &expected, got)
    }

    /// Checks that the page lists these orders, and no others, in this order.
    fn lists(&self, orders: &[&str]) -> Result<(), DemoError> {
        let items = self.value("/items").as_array().map(Vec::as_slice).unwrap_or_default();
        let got: Value = items.iter().map(|item| item["id"].clone()).collect();
        self.check("the list of orders", got == json!(orders), json!(orders), got)
    }

    fn text(&self, pointer: &str) -> String {
        self.value(pointer).as_str().unwrap_or_default().to_owned()
    }

    fn value(&self, pointer: &str) -> &Value {
        self.answer.body.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn check(&self, what: &str, holds: bool, expected: impl Display, got: impl Display) -> Result<(), DemoError> {
        if holds {
            self.teller.checked(what, &got);
            return Ok(());
        }
        let what = format!("{what} after {}", self.asked);
        Err(DemoError::Differs { what, expected: expected.to_string(), got: got.to_string() })
    }
}

impl Teller {
    fn of(telling: Telling) -> Self {
        Self { telling, requests: AtomicU32::new(0), checks: AtomicU32::new(0) }
    }

    fn chapter(&self, title: &str) {
        println!("\n── {title}");
    }

    /// What happens beside the requests.
    fn event(&self, what: &str) {
        if self.telling == Telling::Whole {
            println!("\n  ({what})");
        }
    }

    /// What the requests came to, where they are not shown themselves. All of it was checked.
    fn outcome(&self, what: &str) {
        if self.telling == Telling::Short {
            println!("   {what}");
        }
    }

    fn request(&self, asked: &str, body: Option<&Value>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.telling == Telling::Whole {
            println!("\n  {asked} {}", body.map(Value::to_string).unwrap_or_default());
        }
    }

    fn answer(&self, answer: &Answer) {
        if self.telling == Telling::Whole {
            println!("  {} in {:.1} ms", answer.status, answer.took.as_secs_f64() * 1e3);
            println!("{}", indented(&format!("{:#}", answer.body)));
        }
    }

    fn checked(&self, what: &str, got: &dyn Display) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        if self.telling == Telling::Whole {
            println!("  ok: {what} is {got}");
        }
    }

    fn expect(&self, what: &str, holds: bool, expected: &str, got: Duration) -> Result<(), DemoError> {
        if holds {
            self.checked(what, &expected);
            return Ok(());
        }
        Err(DemoError::Differs { what: what.to_owned(), expected: expected.to_owned(), got: format!("{got:?}") })
    }

    fn end(&self) {
        let (requests, checks) = (self.requests.load(Ordering::Relaxed), self.checks.load(Ordering::Relaxed));
        println!("\n── Every number was as it should be: {checks} checks of {requests} answers.");
        self.outcome("-v shows each of them");
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
