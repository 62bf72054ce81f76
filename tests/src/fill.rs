//! Wallets and products in any number, all of them with plenty.

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use shop_domain::kind::Kind;

use crate::wait::until;

/// What every wallet and every product begins with: more than is ever spent in a test.
const PLENTY: u64 = 1_000_000_000_000;
/// Requests on their way at a time.
const REQUESTS: usize = 1_024;

/// Opens the wallets `u<number>`.
pub async fn wallets(nats: &async_nats::Client, numbers: impl Iterator<Item = u64>) {
    make(nats, numbers.map(|number| (Kind::Wallet, format!("u{number}.open"), json!({ "balance": PLENTY })))).await;
}

/// Offers the products `p<number>` at one price.
pub async fn products(nats: &async_nats::Client, numbers: impl Iterator<Item = u64>, price: u64) {
    let product = json!({ "name": "a thing", "price": price, "stock": PLENTY });
    make(nats, numbers.map(|number| (Kind::Product, format!("p{number}.create"), product.clone()))).await;
}

async fn make(nats: &async_nats::Client, commands: impl Iterator<Item = (Kind, String, Value)>) {
    let sent = commands.map(|(kind, target, body)| send(nats, format!("shop.{kind}.{target}"), body));
    stream::iter(sent).buffer_unordered(REQUESTS).collect::<()>().await;
}

/// Sends one command, which must not be refused. A door that is overloaded is asked again.
async fn send(nats: &async_nats::Client, subject: String, body: Value) {
    let body = Bytes::from(body.to_string());
    until(&format!("{subject} is done"), async || {
        let answer = nats.request(subject.clone(), body.clone()).await.ok()?;
        let Some(error) = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) else {
            return Some(());
        };
        // Done before, when the answer was lost.
        assert!(["overloaded", "unavailable", "already_exists"].contains(&error.as_str()), "{subject}: {error}");
        (error.as_str() == "already_exists").then_some(())
    })
    .await;
}
