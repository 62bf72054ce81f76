//! Quotes for orders that name no price: one request to the products serves all orders that wait.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use shop_domain::{id::ProductId, kind::Kind, order::Wanted, product::Quote};
use shop_nats::{
    connection::Connection,
    rpc::request::{Reply, Request, RequestError},
    subject,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::command::QUOTES_MAX;

/// Orders that wait for the products to answer.
const WAITING_MAX: usize = 4_096;
/// How long the products may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long there may be no answer before they are asked once more: the host that was asked may be gone,
/// and all orders without a price wait for this one answer.
const SILENCE_MAX: Duration = Duration::from_millis(300);

/// Asks products for their price and stock.
#[derive(Clone, Debug)]
pub struct Quotes {
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Ask {
    products: Vec<ProductId>,
    answer: oneshot::Sender<Option<Vec<Quote>>>,
}

impl Quotes {
    /// Asks over `connection`; ends when it is dropped.
    pub fn new(connection: Connection) -> Self {
        let (asks, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(serve(connection, waiting));
        Self { asks }
    }

    /// Returns when nothing asks any more, because that has panicked.
    pub async fn ended(&self) {
        self.asks.closed().await;
    }

    /// Puts a quote on every line without a price; false if the products do not answer.
    pub async fn fill(&self, lines: &mut [Wanted]) -> bool {
        let mut open: Vec<&mut Wanted> = lines.iter_mut().filter(|line| line.unit_price.is_none()).collect();
        let products = open.iter().map(|line| line.product.clone()).collect();
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask { products, answer }).await.is_err() {
            return false;
        }
        let Ok(Some(quotes)) = answered.await else { return false };
        for (line, quote) in open.iter_mut().zip(quotes) {
            line.quote = Some(quote);
        }
        true
    }
}

async fn serve(connection: Connection, mut waiting: mpsc::Receiver<Ask>) {
    let mut next = waiting.recv().await;
    while let Some(first) = next.take() {
        let mut products: BTreeSet<ProductId> = first.products.iter().cloned().collect();
        let mut asks = vec![first];
        while let Ok(ask) = waiting.try_recv() {
            let together = products.union(&ask.products.iter().cloned().collect()).count();
            if together > QUOTES_MAX {
                next = Some(ask);
                break;
            }
            products.extend(ask.products.iter().cloned());
            asks.push(ask);
        }
        let quotes = match ask(&connection, products).await {
            Ok(quotes) => Some(quotes),
            Err(error) => {
                tracing::warn!("no quotes: {error}");
                None
            }
        };
        for Ask { products, answer } in asks {
            let found = quotes.as_ref().and_then(|quotes| {
                products.iter().map(|product| quotes.get(product).copied()).collect::<Option<Vec<_>>>()
            });
            // Who asked may have given up.
            let _ = answer.send(found);
        }
        if next.is_none() {
            next = waiting.recv().await;
        }
    }
}

async fn ask(
    connection: &Connection,
    products: BTreeSet<ProductId>,
) -> Result<HashMap<ProductId, Quote>, RequestError> {
    let ids: Vec<_> = products.iter().map(|product| json!({ "id": product })).collect();
    let request = Request::new(subject::door_of_kind(Kind::Product, "quote"), json!({ "products": ids }).to_string());
    let reply = persistently(connection, request).await?;
    let quotes: Vec<Quote> = serde_json::from_slice(&reply.body).unwrap_or_default();
    Ok(products.into_iter().zip(quotes).collect())
}

/// The first answer to a question that is asked again and again, or the reason why there is none.
async fn persistently(connection: &Connection, request: Request) -> Result<Reply, RequestError> {
    let mut asks = FuturesUnordered::new();
    loop {
        asks.push(connection.request(request.clone(), ANSWER_TIMEOUT));
        if let Ok(Some(answer)) = timeout(SILENCE_MAX, asks.next()).await {
            return answer;
        }
    }
}
