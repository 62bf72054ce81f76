//! `shop seed`: a shop with something in it, to look at and to try things on. A customer like any other, over HTTP.
//!
//! Every request has a key or an id of its own that never changes, so that doing it again, also after it was
//! interrupted, adds nothing: each is answered as it was the first time.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use hyper::{Method, StatusCode, header::HeaderValue};
use serde_json::{Value, json};
use tokio::{
    net::lookup_host,
    time::{Instant, sleep},
};

use crate::http::{Answer, Http, HttpError};

/// Id, price and stock. The names are none that the banner or the README uses, so that their commands go on working.
const PRODUCTS: [(&str, u64, u64); 20] = [
    ("bread", 320, 60),
    ("butter", 280, 80),
    ("cheese", 890, 40),
    ("cocoa", 540, 35),
    ("coffee", 1_250, 120),
    ("dates", 460, 50),
    ("figs", 520, 45),
    ("honey", 980, 30),
    ("jam", 410, 70),
    ("lentils", 230, 200),
    ("milk", 150, 150),
    ("noodles", 190, 250),
    ("oats", 210, 180),
    ("olives", 640, 55),
    ("pepper", 370, 90),
    ("rice", 260, 300),
    ("saffron", 9_900, 0),
    ("salt", 90, 400),
    ("tea", 720, 110),
    ("walnuts", 830, 65),
];

/// Id and balance.
const CUSTOMERS: [(&str, u64); 5] =
    [("ada", 50_000), ("ben", 20_000), ("cleo", 100_000), ("dan", 1_000), ("eva", 35_000)];

/// Products, and how many of each.
type Lines = &'static [(&'static str, u64)];

/// Who orders what, and what becomes of it.
const ORDERS: [(&str, Lines, &[Then]); 10] = [
    ("ada", &[("coffee", 2), ("milk", 6)], &[Then::Dispatch, Then::Deliver]),
    ("ada", &[("bread", 1), ("butter", 1), ("jam", 2)], &[Then::Dispatch]),
    ("ada", &[("tea", 3)], &[]),
    ("ben", &[("rice", 10), ("lentils", 5), ("salt", 1)], &[Then::Dispatch, Then::Deliver]),
    ("ben", &[("olives", 4)], &[Then::Cancel]),
    ("cleo", &[("honey", 5), ("walnuts", 5), ("figs", 5)], &[]),
    // There is none.
    ("cleo", &[("saffron", 1)], &[]),
    // He has not enough.
    ("dan", &[("cheese", 2)], &[]),
    ("dan", &[("oats", 2)], &[]),
    ("eva", &[("noodles", 12), ("pepper", 1), ("cocoa", 2)], &[Then::Dispatch]),
];

/// How long an order may be answered that it is not known what became of it.
const DEFINITE_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait before the same is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// What happens to an order once it is confirmed.
#[derive(Clone, Copy, Debug)]
enum Then {
    Cancel,
    Dispatch,
    Deliver,
}

/// Which shop.
#[derive(Debug, Args)]
pub struct Seed {
    /// Where the shop serves HTTP.
    #[arg(long, value_name = "HOST:PORT", env = "SHOP_HTTP_ADDR", default_value = "127.0.0.1:8080")]
    http_addr: String,
    /// A token or a key, where the shop asks who sends a request: with catalog:write, wallets:fund:any, orders:write:any,
    /// orders:read:any and deliveries:write
    #[arg(long, value_name = "TOKEN", env = "SHOP_TOKEN", hide_env_values = true, value_parser = bearer)]
    token: Option<HeaderValue>,
}

/// Why the shop is not filled, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The address leads nowhere.
    #[error("{0} is no address: {1}")]
    Address(String, String),
    /// There was no answer.
    #[error("{0} (is a shop open there? `shop`, or `cargo run`, opens one)")]
    Http(#[from] HttpError),
    /// The answer was none of those that there can be.
    #[error("{asked} was answered {status} {body}; what was done so far stays, and `shop seed` goes on from there")]
    Unexpected {
        /// What was asked.
        asked: String,
        /// The status.
        status: StatusCode,
        /// The body.
        body: Value,
    },
}

/// What stands in `Authorization`; it is not shown.
fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "it is no token".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

impl Seed {
    /// Fills the shop, and says what there is.
    pub async fn run(self) -> ExitCode {
        match self.fill().await {
            Ok(said) => {
                // Who reads no further has read enough.
                let _closed = writeln!(stdout(), "{said}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("shop: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn fill(self) -> Result<String, SeedError> {
        let Self { http_addr: name, token } = self;
        let found = lookup_host(&name).await.map_err(|error| SeedError::Address(name.clone(), error.to_string()))?;
        let none = || SeedError::Address(name.clone(), "nothing has that name".to_owned());
        let statuses = fill(&Http::new(found.into_iter().next().ok_or_else(none)?).authorized(token)).await?;
        let statuses: Vec<_> = statuses.into_iter().map(|(status, count)| format!("{count} {status}")).collect();
        Ok(format!(
            "{} products, {} customers and {} orders are there: {}.\n\n  \
             To look at: curl -s http://{name}/products (or /mypages/ada, /wallets/ada/statement, /deliveries/seed-1)",
            PRODUCTS.len(),
            CUSTOMERS.len(),
            ORDERS.len(),
            statuses.join(", "),
        ))
    }
}

/// Fills a shop. Returns how many of the orders have which status.
pub async fn fill(http: &Http) -> Result<BTreeMap<String, usize>, SeedError> {
    for (id, price, stock) in PRODUCTS {
        let product = json!({ "id": id, "name": id, "price": price, "stock": stock });
        ask(http, "/products", &product, &format!("seed-product-{id}")).await?;
    }
    for (id, balance) in CUSTOMERS {
        ask(http, "/wallets", &json!({ "id": id, "balance": balance }), &format!("seed-wallet-{id}")).await?;
    }
    let mut statuses = BTreeMap::new();
    for (number, (user, lines, then)) in (1..).zip(ORDERS) {
        let id = format!("seed-{number}");
        let lines: Value =
            lines.iter().map(|(product, quantity)| json!({ "product": product, "quantity": quantity })).collect();
        ask(http, "/orders", &json!({ "id": id, "user": user, "lines": lines }), &id).await?;
        for then in then {
            let (path, verb) = match then {
                Then::Cancel => ("orders", "cancel"),
                Then::Dispatch => ("deliveries", "dispatch"),
                Then::Deliver => ("deliveries", "deliver"),
            };
            ask(http, &format!("/{path}/{id}/{verb}"), &json!({}), &format!("{id}-{verb}")).await?;
        }
        let path = format!("/orders/{id}");
        let order = http.get(&path).await?;
        let status = order.body["status"].as_str().ok_or_else(|| unexpected("GET", &path, &order))?;
        *statuses.entry(status.to_owned()).or_default() += 1;
    }
    Ok(statuses)
}

/// Asks until the answer is definite: done, or refused, which it may be by what others have done in this shop.
async fn ask(http: &Http, path: &str, body: &Value, key: &str) -> Result<(), SeedError> {
    let start = Instant::now();
    loop {
        let answer = http.send_with_key(Method::POST, path, body, key).await?;
        match answer.status {
            status if status.is_success() => return Ok(()),
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => return Ok(()),
            StatusCode::SERVICE_UNAVAILABLE if start.elapsed() < DEFINITE_WITHIN => sleep(PAUSE).await,
            _ => return Err(unexpected("POST", path, &answer)),
        }
    }
}

fn unexpected(method: &str, path: &str, answer: &Answer) -> SeedError {
    SeedError::Unexpected { asked: format!("{method} {path}"), status: answer.status, body: answer.body.clone() }
}
