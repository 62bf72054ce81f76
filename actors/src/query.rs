//! Reads: answered by the host that owns the partition, as of a moment after they were asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use shop_domain::{
    entity::State,
    id::{Id, ProductId},
    kind::Kind,
    mypage::{self, Item, Summary},
    problem::{Code, Problem},
    product::Quote,
    rows::decode_row,
    wallet::{self, Entry},
};
use shop_nats::subject::partition_of;
use tokio::{sync::watch, time::timeout};

use crate::{
    fence::Fence,
    kind_host::{PartitionView, View},
    memory::Look,
    store::StoreError,
};

/// How long a read waits for its partition to catch up with the log. A partition that is further
/// behind is not serving.
const READ_WAIT_MAX: Duration = Duration::from_secs(3);
/// Most bytes of items in one page: well below what one NATS message carries by default (1 MiB).
/// A page may hold fewer items than asked for; `next` leads on.
const PAGE_BYTES_MAX: usize = 512 * 1024;

/// A question about one entity, or about all of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The entity as callers see it.
    Get(Id),
    /// A wallet's statement, newest first.
    Statement(Id, Page),
    /// A customer's orders, newest first.
    Orders(Id, Page),
    /// All products, by id.
    Products(Page),
    /// Price and stock of some products.
    Quotes(Vec<ProductId>),
    /// Whether the kind is served.
    Status,
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Most items, 1 to 1000.
    pub limit: usize,
    /// Where the page before ended.
    pub from: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize)]
struct List<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Id>,
    items: Vec<T>,
    next: Option<String>,
}

/// Answers questions about one kind.
#[derive(Clone, Debug)]
pub struct Reads {
    kind: Kind,
    partitions: u16,
    fence: Fence,
    view: watch::Receiver<Arc<View>>,
}

impl Reads {
    /// Reads what `view` shows.
    pub fn new(kind: Kind, partitions: u16, fence: Fence, view: watch::Receiver<Arc<View>>) -> Self {
        Self { kind, partitions, fence, view }
    }

    /// Answers a query with JSON, or says why not.
    pub async fn answer(&self, query: Query) -> Result<Bytes, Problem> {
        let json = match query {
            Query::Get(id) => self.get(id).await?,
            Query::Statement(id, page) => self.statement(id, page).await?,
            Query::Orders(id, page) => self.orders(id, page).await?,
            Query::Products(page) => self.products(page).await?,
            Query::Quotes(products) => to_json(&self.quotes(products).await?),
            Query::Status => to_json(&self.view.borrow().describe(self.kind)),
        };
        Ok(json.into())
    }

    /// Whether an entity is known to exist.
    pub async fn exists(&self, id: &Id) -> bool {
        self.get(id.clone()).await.is_ok()
    }

    async fn get(&self, id: Id) -> Result<Vec<u8>, Problem> {
        let kind = self.kind;
        let found =
            self.look(&id, |look| Ok(look.state(&id)?.and_then(|state| view(&decode(kind, &state), &id)))).await?;
        found.ok_or_else(|| not_found(kind, &id))
    }

    async fn statement(&self, id: Id, page: Page) -> Result<Vec<u8>, Problem> {
        let rows = self.look(&id, |look| {
            let exists = look.state(&id)?.is_some_and(|state| view(&decode(Kind::Wallet, &state), &id).is_some());
            exists.then(|| rows_of(look, &id, wallet::ENTRY_ROWS, &page)).transpose()
        });
        let (rows, next) = rows.await?.ok_or_else(|| not_found(Kind::Wallet, &id))?;
        let items: Vec<Entry> = rows.iter().map(|row| decode_row(row)).collect();
        Ok(to_json(&List { user: None, items, next }))
    }

    async fn orders(&self, user: Id, page: Page) -> Result<Vec<u8>, Problem> {
        let rows = self.look(&user, |look| rows_of(look, &user, mypage::ORDER_ROWS, &page));
        let (rows, next) = rows.await?;
        let items: Vec<Summary> = rows.iter().filter_map(|row| decode_row::<Item>(row).summary()).collect();
        Ok(to_json(&List { user: Some(user), items, next }))
    }

    /// Every partition's products after the page before, merged in the order of their ids.
    async fn products(&self, Page { limit, from }: Page) -> Result<Vec<u8>, Problem> {
        let after: Option<Id> = from.and_then(|from| from.parse().ok());
        let last = self.last_sequence().await?;
        let mut found: BTreeMap<Id, Bytes> = BTreeMap::new();
        for number in 0..self.partitions {
            let partition = self.caught_up(number, last).await?;
            let states = self.see(&partition, |look| look.states_after(after.as_ref(), limit + 1)).await?;
            found.extend(states);
        }
        let more = found.len() > limit;
        let (mut bytes, mut items) = (0, Vec::new());
        let mut cut = false;
        let mut last_id = None;
        for (id, state) in found.into_iter().take(limit) {
            if bytes > PAGE_BYTES_MAX {
                cut = true;
                break;
            }
            let item = view(&decode(Kind::Product, &state), &id).unwrap_or_default();
            bytes += item.len();
            if !item.is_empty() {
                items.push(raw(item));
            }
            last_id = Some(id.to_string());
        }
        let next = last_id.filter(|_| more || cut);
        Ok(to_json(&List { user: None, items, next }))
    }

    /// The quotes, in the order in which the products are given.
    async fn quotes(&self, products: Vec<ProductId>) -> Result<Vec<Quote>, Problem> {
        let last = self.last_sequence().await?;
        let mut quotes = Vec::with_capacity(products.len());
        for product in products {
            let id = Id::from(product);
            let partition = self.caught_up(partition_of(&id, self.partitions), last).await?;
            let state = self.see(&partition, |look| look.state(&id)).await?;
            quotes.push(match state.as_deref().map(|state| decode(Kind::Product, state)) {
                Some(State::Product(product)) => product.quote(),
                Some(State::Wallet(_) | State::Order(_) | State::Delivery(_) | State::Mypage(_)) | None => {
                    Quote::NotFound
                }
            });
        }
        Ok(quotes)
    }

    /// Looks at the partition of an entity, as of a moment after this call began.
    async fn look<T>(&self, id: &Id, look: impl FnOnce(&Look<'_>) -> Result<T, StoreError>) -> Result<T, Problem> {
        let last = self.last_sequence().await?;
        let partition = self.caught_up(partition_of(id, self.partitions), last).await?;
        self.see(&partition, look).await
    }

    async fn last_sequence(&self) -> Result<u64, Problem> {
        let last = timeout(READ_WAIT_MAX, self.fence.last_sequence()).await.ok().flatten();
        last.ok_or_else(|| self.unavailable("its log does not answer"))
    }

    /// The partition, once it has settled everything up to the log's sequence `last`.
    async fn caught_up(&self, number: u16, last: u64) -> Result<PartitionView, Problem> {
        let (partition, dispatched) = {
            let view = self.view.borrow();
            (view.partitions.get(&number).cloned(), view.dispatched.clone())
        };
        let (Some(mut partition), Some(mut dispatched)) = (partition, dispatched) else {
            return Err(self.unavailable(&format!("partition {number} is not running")));
        };
        let wait = async {
            dispatched.wait_for(|dispatched| *dispatched >= last).await.ok()?;
            let assigned = partition.assigned.load(Ordering::Acquire);
            partition.handle.settled.wait_for(|settled| *settled >= assigned).await.ok().map(drop)
        };
        match timeout(READ_WAIT_MAX, wait).await {
            Ok(Some(())) => Ok(partition),
            Ok(None) => Err(self.unavailable(&format!("partition {number} is starting again"))),
            Err(_) => Err(self.unavailable(&format!("partition {number} is behind its log"))),
        }
    }

    /// Looks, and waits until all that was seen is settled: nobody is told of what a message has
    /// caused before the log has that message.
    async fn see<T>(
        &self,
        partition: &PartitionView,
        look: impl FnOnce(&Look<'_>) -> Result<T, StoreError>,
    ) -> Result<T, Problem> {
        let seen = partition.handle.memory.look(|moment| Ok((moment.cursor(), look(moment)?)));
        let (cursor, seen) = seen.map_err(|error| {
            tracing::error!("{}: {error}", self.kind);
            self.unavailable("its data cannot be read")
        })?;
        let mut settled = partition.handle.settled.clone();
        match timeout(READ_WAIT_MAX, settled.wait_for(|settled| *settled >= cursor)).await {
            Ok(Ok(_)) => Ok(seen),
            Ok(Err(_)) | Err(_) => Err(self.unavailable("the log does not take its messages")),
        }
    }

    fn unavailable(&self, why: &str) -> Problem {
        Problem::new(Code::UNAVAILABLE, format!("the service that owns every {} cannot answer: {why}", self.kind))
    }
}

fn decode(kind: Kind, state: &[u8]) -> State {
    State::decode(kind, state).expect("a stored state decodes")
}

/// An entity as callers see it, in JSON.
fn view(state: &State, id: &Id) -> Option<Vec<u8>> {
    match state {
        State::Wallet(wallet) => wallet.view(id).map(|view| to_json(&view)),
        State::Product(product) => product.view(id).map(|view| to_json(&view)),
        State::Order(order) => order.view(id).map(|view| to_json(&view)),
        State::Delivery(delivery) => delivery.view(id).map(|view| to_json(&view)),
        State::Mypage(_) => None,
    }
}

/// The rows of a page, and where the next one begins.
fn rows_of(
    look: &Look<'_>,
    id: &Id,
    prefix: &str,
    Page { limit, from }: &Page,
) -> Result<(Vec<Bytes>, Option<String>), StoreError> {
    let before = from.as_ref().map(|from| format!("{prefix}{from}"));
    let mut rows = look.rows_before(id, prefix, before.as_deref(), limit + 1)?;
    let mut bytes = 0;
    let fitting = rows.iter().take(*limit).take_while(|(_, row)| {
        let fits = bytes < PAGE_BYTES_MAX;
        bytes += row.len();
        fits
    });
    let count = fitting.count();
    let more = rows.len() > count;
    rows.truncate(count);
    let next = rows.last().filter(|_| more).map(|(key, _)| key[prefix.len()..].to_owned());
    Ok((rows.into_iter().map(|(_, row)| row).collect(), next))
}

fn not_found(kind: Kind, id: &Id) -> Problem {
    shop_domain::refusal::Refusal::NotFound { kind, id: id.clone() }.problem()
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("an answer always encodes")
}

fn raw(json: Vec<u8>) -> Box<serde_json::value::RawValue> {
    let text = String::from_utf8(json).expect("JSON is UTF-8");
    serde_json::value::RawValue::from_string(text).expect("it was just written as JSON")
}
