//! A token for each customer who orders, where the bridge asks who they are.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, stream};
use hyper::Method;
use shop_tests::{
    client::{Ask, Caller, Client},
    issuer::Issuer,
    login::{CUSTOMER, write_private},
};

/// How many customers order at most: fewer than a bridge knows tokens of, as it is where they come again.
pub(crate) const CUSTOMERS_MAX: u64 = 10_000;
/// Requests on their way at a time when all tokens are shown.
const REQUESTS: usize = 64;

/// An issuer, and the tokens of customers.
#[derive(Debug)]
pub(crate) struct Tokens {
    issuer: Issuer,
    folder: PathBuf,
    /// Of `u1`, `u2`, …
    tokens: Arc<Vec<String>>,
}

impl Tokens {
    /// None yet.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { issuer: Issuer::new("bench"), folder: folder.to_owned(), tokens: Arc::default() }
    }

    /// What the bridge is told.
    pub(crate) fn options(&self) -> Vec<String> {
        self.issuer.options(&self.folder.join("issuer.json"))
    }

    /// Makes one for each of so many customers.
    pub(crate) fn make(&mut self, customers: u64) {
        let make = |number| self.issuer.token(&format!("u{number}"), CUSTOMER);
        self.tokens = Arc::new((1..=customers.min(CUSTOMERS_MAX)).map(make).collect());
        write_private(&self.file(), &self.tokens.iter().map(|token| format!("{token}\n")).collect::<String>());
    }

    /// Where they are, one in each line.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// All of them.
    pub(crate) fn all(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.tokens)
    }

    /// Shows each to the bridge once, so that it is known.
    pub(crate) async fn show(&self, http: SocketAddr) {
        let client = &Client::new(http);
        let shown = self.tokens.iter().zip(1..).map(|(token, number)| async move {
            let user = format!("u{number}");
            let ask = Ask::new(Method::GET, format!("/wallets/{user}")).by(Some(&Caller::new(&user, token)));
            client.exchange(&ask).await.unwrap_or_else(|error| panic!("{ask}: {error}")).json(200);
        });
        stream::iter(shown).buffer_unordered(REQUESTS).collect::<()>().await;
    }
}
