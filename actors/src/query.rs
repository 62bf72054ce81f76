//! Reads: answered by a host that holds the partition, as of a moment after they were asked.

mod local;
mod outlook;
mod remote;

use std::collections::{BTreeMap, HashMap};

use futures::future::try_join_all;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use shop_domain::{
    caller::Owner,
    encode::encode,
    entity::State,
    id::{Id, ProductId, UserId},
    kind::Kind,
    logic::Logic,
    message::Envelope,
    problem::{Code, Problem},
    product::Quote,
    version::Current,
};
use shop_nats::{log::Identity, subject::partition_of};

pub use self::{
    local::{Local, Unread},
    outlook::Outlook,
    remote::Holders,
};
use crate::store::StoreError;

/// Items of a page when nothing else is asked for, and at most.
pub(crate) const PAGE_ITEMS: (usize, usize) = (50, 1_000);
/// Most bytes of items in one page: well below what one NATS message carries by default (1 MiB).
/// A page may hold fewer items than asked for; `next` leads on.
const PAGE_BYTES_MAX: usize = 512 * 1024;

/// A question about one entity, or about all of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Something about one entity.
    Of(Id, About),
    /// All products, by id.
    Products(Page),
    /// Price and stock of some products.
    Quotes(Vec<ProductId>),
    /// Whose a key without an id is: see [`KeyScope`].
    KeyScope(Id, UserId),
    /// Whether the kind is served.
    Status,
}

impl Query {
    /// Whose it is that a question is about, as far as the question itself says.
    pub fn owner(&self, kind: Kind) -> Owner {
        match (self, kind) {
            (Self::Of(id, _), Kind::Wallet | Kind::Mypage) => Owner::Customer(id.clone()),
            (Self::KeyScope(_, user), _) => Owner::Customer(user.clone().into()),
            (Self::Of(..), Kind::Order | Kind::Delivery) => Owner::Unknown,
            (Self::Of(..), Kind::Product) | (Self::Products(_) | Self::Quotes(_) | Self::Status, _) => Owner::Shop,
        }
    }

    /// The entity that it shows with its version, if it is one.
    pub const fn entity(&self) -> Option<&Id> {
        match self {
            Self::Of(id, About::Itself | About::Orders(_)) => Some(id),
            Self::Of(_, About::Statement(_))
            | Self::Products(_)
            | Self::Quotes(_)
            | Self::KeyScope(..)
            | Self::Status => None,
        }
    }

    /// Whether it shows many things at once, so that it takes many times what a plain read takes.
    pub const fn is_list(&self) -> bool {
        match self {
            Self::Of(_, About::Statement(_) | About::Orders(_)) | Self::Products(_) => true,
            Self::Of(_, About::Itself) | Self::Quotes(_) | Self::KeyScope(..) | Self::Status => false,
        }
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// In JSON.
    #[serde(with = "serde_bytes")]
    pub json: Vec<u8>,
    /// The version of what it shows.
    pub current: Current,
}

impl Found {
    /// Whose it is, where what is shown says so: an order and a delivery do.
    pub fn owner(&self) -> Owner {
        #[derive(Deserialize)]
        struct Head {
            user: Id,
        }
        serde_json::from_slice(&self.json).map_or(Owner::Unknown, |Head { user }| Owner::Customer(user))
    }
}

/// What is asked about an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum About {
    /// The entity as callers see it.
    Itself,
    /// A wallet's statement, newest first.
    Statement(Page),
    /// A customer's orders, newest first.
    Orders(Page),
}

/// Whose a key is that a customer gives with an order without an id. Before the third logic version all customers
/// shared them, and what was placed so is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyScope {
    /// Whether the order's id follows from the user as well.
    pub by_user: bool,
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Most items, 1 to 1000.
    pub limit: usize,
    /// Where the page before ended.
    pub from: Option<String>,
}

/// What one partition is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Question {
    /// Something about one of its entities, as programs ask that know no versions.
    Of(Id, About),
    /// At most so many of its products with ids after that one.
    Products(Option<Id>, usize),
    /// Price and stock of some of its products.
    Quotes(Vec<ProductId>),
    /// What would come of a command to one of its entities, as it stands in the log.
    Outlook(ByteBuf),
    /// Whose a key is: the order whose id follows from the key alone, and the user.
    KeyScope(Id, UserId),
    /// Something about one of its entities, with its version.
    Tagged(Id, About),
    /// By which logic version the partition of that entity goes on.
    Logic(Id),
}

/// The states of entities that follow one another in a partition.
#[derive(Debug, Serialize, Deserialize)]
struct States {
    /// In the order of their ids.
    states: Vec<(Id, serde_bytes::ByteBuf)>,
    /// Whether there would be more, if they were not too large.
    is_cut: bool,
}

/// A page of a list.
#[derive(Debug, Serialize)]
struct List<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Id>,
    items: Vec<T>,
    next: Option<String>,
}

/// Answers questions about one kind: by itself where this host holds the partition, otherwise through those who do.
#[derive(Clone, Debug)]
pub struct Reads {
    kind: Kind,
    partitions: u16,
    /// The number of the logic version that the log began with.
    logic: u32,
    local: Local,
    holders: Holders,
}

impl Reads {
    /// Reads what is here of a log, and asks for what is not.
    pub fn new(kind: Kind, log: &Identity, local: Local, holders: Holders) -> Self {
        Self { kind, partitions: log.partitions, logic: log.logic, local, holders }
    }

    /// Answers a query, or says why not.
    pub async fn answer(&self, query: Query) -> Result<Found, Problem> {
        let json = match query {
            Query::Of(id, about) => return self.of(id, about).await,
            Query::Products(page) => self.products(page).await?,
            Query::Quotes(products) => to_json(&self.quotes(products).await?),
            Query::KeyScope(order, user) => {
                let number = partition_of(&order, self.partitions);
                let here = self.local.key_scope(number, &order, &user);
                let question = || Question::KeyScope(order.clone(), user.clone());
                to_json(&self.here_or_there::<KeyScope>(number, here, question).await?)
            }
            Query::Status => to_json(&self.local.describe()),
        };
        Ok(Found { json, current: Current::Untagged })
    }

    /// The number of the newest logic version that is in force in a log of the kind, as far as this host knows. Others
    /// may be behind it for a moment, but no program is left that does not know it.
    pub fn newest_logic(&self) -> u32 {
        self.local.view.borrow().newest_logic().max(self.logic)
    }

    /// Whether a logic version is in force where an entity is.
    pub async fn goes_by(&self, logic: Logic, id: &Id) -> Result<bool, Problem> {
        // Then no program is left that would overlook in the log what that version heeds.
        if self.newest_logic() >= logic.number() {
            return Ok(true);
        }
        let number = partition_of(id, self.partitions);
        let in_force = self.here_or_there(number, self.local.logic(number, id), || Question::Logic(id.clone())).await?;
        Ok(in_force >= logic.number())
    }

    /// Whether an entity is known to exist.
    pub async fn exists(&self, id: &Id) -> bool {
        self.of(id.clone(), About::Itself).await.is_ok()
    }

    /// What would come of a command if it were handled now, if that can be known.
    pub async fn outlook(&self, envelope: &Envelope) -> Option<Outlook> {
        let number = partition_of(&envelope.to, self.partitions);
        let question = || Question::Outlook(ByteBuf::from(encode(envelope)));
        self.here_or_there(number, self.local.outlook(number, envelope), question).await.ok()
    }

    async fn of(&self, id: Id, about: About) -> Result<Found, Problem> {
        let number = partition_of(&id, self.partitions);
        let here = self.local.of(number, &id, &about);
        let found = self.here_or_there(number, here, || Question::Tagged(id.clone(), about.clone())).await;
        match found {
            // A host that does not know the question yet: there are no versions either.
            Err(problem) if problem.code == Code::UNAVAILABLE && self.newest_logic() < Logic::V4.number() => {
                let json: ByteBuf = self.holders.ask(number, &Question::Of(id, about)).await?;
                Ok(Found { json: json.into_vec(), current: Current::Untagged })
            }
            found => found,
        }
    }

    /// What is read here, or else by one of those who have the partition.
    async fn here_or_there<T: DeserializeOwned>(
        &self,
        number: u16,
        here: impl Future<Output = Result<T, Unread>>,
        question: impl FnOnce() -> Question,
    ) -> Result<T, Problem> {
        match here.await {
            Ok(found) => Ok(found),
            Err(Unread::Refused(problem)) => Err(problem),
            Err(Unread::NotHere) => self.holders.ask(number, &question()).await,
        }
    }

    /// Every partition's products after the page before, merged in the order of their ids.
    async fn products(&self, Page { limit, from }: Page) -> Result<Vec<u8>, Problem> {
        let after: Option<Id> = from.and_then(|from| from.parse().ok());
        let states = async |number| {
            let here = self.local.products(number, after.as_ref(), limit + 1);
            self.here_or_there(number, here, || Question::Products(after.clone(), limit + 1)).await
        };
        let parts: Vec<States> = try_join_all((0..self.partitions).map(states)).await?;
        // Behind the end of one that was cut, nobody knows what comes next.
        let cuts = parts.iter().filter(|part| part.is_cut);
        let horizon = cuts.filter_map(|part| part.states.last()).map(|(id, _)| id.clone()).min();
        let mut found: BTreeMap<_, _> = parts.into_iter().flat_map(|part| part.states).collect();
        if let Some(horizon) = &horizon {
            found.retain(|id, _| id <= horizon);
        }
        let mut more = found.len() > limit || horizon.is_some();
        let (mut bytes, mut items, mut last_id) = (0, Vec::new(), None);
        for (id, state) in found.into_iter().take(limit) {
            if bytes > PAGE_BYTES_MAX {
                more = true;
                break;
            }
            let state = decode(Kind::Product, &id, &state).map_err(|error| {
                tracing::error!("{error}");
                unavailable(self.kind, "its data cannot be read")
            })?;
            let item = view(&state, &id).unwrap_or_default();
            bytes += item.len();
            if !item.is_empty() {
                items.push(raw(item));
            }
            last_id = Some(id.to_string());
        }
        Ok(to_json(&List { user: None, items, next: last_id.filter(|_| more) }))
    }

    /// The quotes, in the order in which the products are given.
    async fn quotes(&self, products: Vec<ProductId>) -> Result<Vec<Quote>, Problem> {
        let mut by_partition: BTreeMap<u16, Vec<ProductId>> = BTreeMap::new();
        for product in &products {
            let number = partition_of(&product.clone().into(), self.partitions);
            by_partition.entry(number).or_default().push(product.clone());
        }
        let quotes = async |(number, products): (u16, Vec<ProductId>)| {
            let here = self.local.quotes(number, &products);
            let quotes = self.here_or_there(number, here, || Question::Quotes(products.clone())).await?;
            Ok(products.into_iter().zip(quotes).collect::<Vec<_>>())
        };
        let quotes = try_join_all(by_partition.into_iter().map(quotes)).await?;
        let quotes: HashMap<_, _> = quotes.into_iter().flatten().collect();
        let quote =
            |product| quotes.get(product).copied().ok_or_else(|| unavailable(self.kind, "an answer is missing"));
        products.iter().map(quote).collect()
    }
}

fn unavailable(kind: Kind, why: &str) -> Problem {
    Problem::new(Code::UNAVAILABLE, format!("the service that owns every {kind} cannot answer: {why}"))
}

fn decode(kind: Kind, id: &Id, state: &[u8]) -> Result<State, StoreError> {
    State::decode(kind, state).map_err(|error| StoreError::Unreadable { kind, id: id.clone(), error })
}

/// An entity as callers see it, in JSON.
pub fn view(state: &State, id: &Id) -> Option<Vec<u8>> {
    match state {
        State::Wallet(wallet) => wallet.view(id).map(|view| to_json(&view)),
        State::Product(product) => product.view(id).map(|view| to_json(&view)),
        State::Order(order) => order.view(id).map(|view| to_json(&view)),
        State::Delivery(delivery) => delivery.view(id).map(|view| to_json(&view)),
        State::Mypage(_) => None,
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("an answer always encodes")
}

fn raw(json: Vec<u8>) -> Box<serde_json::value::RawValue> {
    let text = String::from_utf8(json).expect("JSON is UTF-8");
    serde_json::value::RawValue::from_string(text).expect("it was just written as JSON")
}
