//! Customers who look, and are quoted prices: at any host, whether it holds what they ask for or asks another one.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;
use shop_actors::{
    kind_host::{View, read_index::ReadIndex},
    partition::role::Role,
    query::{self, About, Found, Holders, Local, Page, Query},
};
use shop_domain::{
    id::{Id, ProductId},
    problem::{Code, Problem},
    product::Quote,
};
use shop_nats::{log::Identity, memory::MemoryLog};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    exchange::{Line, Seat},
    life::Life,
    trace::Fault,
};

/// More than there are products.
const LIST_MAX: usize = 100;

/// What a customer asks.
#[derive(Clone, Debug)]
pub(crate) enum LookAt {
    /// An entity of the host's kind.
    Entity(Id),
    /// All products.
    Products,
    /// What products cost.
    Quotes(Vec<ProductId>),
}

/// Where a host answers those who look.
pub(crate) struct Reads {
    life: Arc<Life>,
    reads: query::Reads,
    /// One at a time: who is woken first of several is not up to the seed.
    looking: Option<JoinHandle<()>>,
}

/// A list of products.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    id: Id,
}

impl Reads {
    /// Lets customers look at what a host shows that began under the layout of that generation.
    pub(crate) fn new(
        life: &Arc<Life>,
        log: &MemoryLog,
        of: &Identity,
        generation: u32,
        view: &watch::Receiver<Arc<View>>,
    ) -> Self {
        let read_index = ReadIndex::new(Arc::new(log.under(life.clone())), life.kind, of.epoch);
        let local = Local::new(life.kind, of.partitions, read_index, view.clone(), watch::channel(Some(0)).1);
        let holders = Holders::new(life.kind, generation, Arc::new(Line { life: Arc::clone(life) }));
        let reads = query::Reads::new(life.kind, of, local.clone(), holders.clone());
        life.world().exchange.join(Seat { life: Arc::clone(life), generation, local, holders });
        Self { life: Arc::clone(life), reads, looking: None }
    }

    /// Somebody looks, unless somebody looks already; at something that the host has in that role, if it has it.
    pub(crate) fn look(&mut self, at: LookAt, role: Option<Role>) {
        if self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
            self.looking = Some(tokio::spawn(look(Arc::clone(&self.life), self.reads.clone(), at, role)));
        }
    }

    /// Nobody gets an answer any more.
    pub(crate) fn end(&self) {
        self.looking.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        self.life.world().exchange.leave(self.life.number);
    }
}

async fn look(life: Arc<Life>, reads: query::Reads, at: LookAt, role: Option<Role>) {
    let begun = life.observer().last(life.kind);
    let query = match &at {
        LookAt::Entity(id) => Query::Of(id.clone(), About::Itself),
        LookAt::Products => Query::Products(Page { limit: LIST_MAX, from: None }),
        LookAt::Quotes(products) => Query::Quotes(products.clone()),
    };
    life.thawed().await;
    let answer = reads.answer(query).await;
    life.thawed().await;
    if life.kept().is_some() {
        return;
    }
    if let Err(Problem { code: Code::UNAVAILABLE, .. }) = answer {
        return life.count(Fault::LookedInVain);
    }
    life.count(match (&at, role) {
        (LookAt::Products, _) => Fault::LookedAtList,
        (LookAt::Quotes(_), _) => Fault::Quoted,
        (LookAt::Entity(_), Some(Role::Owner)) => Fault::LookedAtOwner,
        (LookAt::Entity(_), Some(Role::Standby)) => Fault::LookedAtStandby,
        (LookAt::Entity(_), Some(Role::Spectator) | None) => Fault::LookedElsewhere,
    });
    if let Err(told) = judge(&life, &at, begun, answer) {
        life.observer().report(format!("who looks at {at:?} is told: {told}"));
    }
}

/// Has the observer judge an answer; what is no proper one is returned.
fn judge(life: &Life, at: &LookAt, begun: u64, answer: Result<Found, Problem>) -> Result<(), String> {
    let observer = life.observer();
    let found = match (at, answer) {
        (LookAt::Entity(id), Err(Problem { code: Code::NOT_FOUND, .. })) => {
            observer.shown(life.kind, id, begun, None);
            return Ok(());
        }
        (_, answer) => answer.map_err(|problem| format!("{problem:?}"))?,
    };
    match at {
        LookAt::Entity(id) => observer.shown(life.kind, id, begun, Some(&found)),
        LookAt::Products => {
            let List { items, next } = serde_json::from_slice(&found.json).map_err(|error| error.to_string())?;
            if next.is_some() {
                return Err(format!("there is more behind {next:?}"));
            }
            let id = |item: &RawValue| serde_json::from_str(item.get()).map(|Item { id }| id);
            let shown = items.into_iter().map(|item| Ok((id(item)?, item.get().as_bytes())));
            let shown: Result<BTreeMap<_, _>, serde_json::Error> = shown.collect();
            observer.listed(begun, &shown.map_err(|error| error.to_string())?);
        }
        LookAt::Quotes(products) => {
            let quotes: Vec<Quote> = serde_json::from_slice(&found.json).map_err(|error| error.to_string())?;
            for (product, quote) in products.iter().zip(quotes) {
                observer.quoted(&product.clone().into(), begun, quote);
            }
        }
    }
    Ok(())
}
