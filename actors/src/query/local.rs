//! Reads of the partitions that this host holds.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;
use serde_json::Value;
use shop_domain::{
    encode,
    entity::{self, State},
    id::{Id, ProductId, UserId},
    kind::Kind,
    logic::Logic,
    message::Envelope,
    mypage::{self, Item, Summary},
    order::Order,
    problem::Problem,
    product::Quote,
    rows::Rows,
    version::Current,
    wallet::{self, Entry},
};
use shop_nats::subject::partition_of;
use tokio::{sync::watch, time::timeout};

use super::{
    About, Found, KeyScope, List, Outlook, PAGE_BYTES_MAX, PAGE_ITEMS, Page, States, decode, to_json, unavailable, view,
};
use crate::{
    kind_host::{
        View,
        read_index::{End, ReadIndex},
        readiness::Ready,
    },
    partition::overlay::Look,
    store::StoreError,
};

/// How long a read waits for its log, and then for its partition to catch up with it and to settle what was seen. A
/// partition that is further behind is not serving.
pub(super) const READ_WAIT_MAX: Duration = Duration::from_secs(3);

/// Answers questions about the partitions of one kind that are here.
#[derive(Clone, Debug)]
pub struct Local {
    kind: Kind,
    /// Into how many the kind is cut.
    partitions: u16,
    read_index: ReadIndex,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) ready: watch::Receiver<Ready>,
}

/// Why nothing is read here.
#[derive(Debug)]
pub enum Unread {
    /// The partition does not run here, or does not any more: another host may have it.
    NotHere,
    /// There is no such thing, or it cannot be read.
    Refused(Problem),
}

impl Local {
    /// Reads what `view` shows of a kind with so many partitions, while this host is `ready`.
    pub fn new(
        kind: Kind,
        partitions: u16,
        read_index: ReadIndex,
        view: watch::Receiver<Arc<View>>,
        ready: watch::Receiver<Ready>,
    ) -> Self {
        Self { kind, partitions, read_index, view, ready }
    }

    /// Whether a partition is read here: while this host is far behind, others read it.
    fn reads(&self, number: u16) -> bool {
        self.ready.borrow().is_some() && self.view.borrow().partitions.contains_key(&number)
    }

    /// The partitions that are read here.
    pub fn readable(&self) -> Vec<u16> {
        let running: Vec<u16> = self.view.borrow().partitions.keys().copied().collect();
        running.into_iter().filter(|number| self.reads(*number)).collect()
    }

    pub(super) fn describe(&self) -> Value {
        let mut status = self.view.borrow().describe(self.kind);
        if self.ready.borrow().is_none() {
            status["status"] = "catching_up".into();
        }
        status
    }

    /// What is asked about an entity of a partition.
    pub async fn of(&self, number: u16, id: &Id, about: &About) -> Result<Found, Unread> {
        self.expect_in(number, id)?;
        match about {
            About::Itself => self.get(number, id).await,
            About::Statement(page) => {
                self.statement(number, id, page).await.map(|json| Found { json, current: Current::Untagged })
            }
            About::Orders(page) => self.orders(number, id, page).await,
        }
    }

    /// By which logic version the partition of an entity goes on.
    pub(super) async fn logic(&self, number: u16, id: &Id) -> Result<u32, Unread> {
        self.expect_in(number, id)?;
        self.look(number, |look| Ok(look.logic().number())).await
    }

    async fn get(&self, number: u16, id: &Id) -> Result<Found, Unread> {
        let kind = self.kind;
        let found = self.look(number, |look| {
            let found = |state: &State| Some(Found { json: view(state, id)?, current: state.current(look.logic()) });
            Ok(state_of(look, kind, id)?.as_ref().and_then(found))
        });
        found.await?.ok_or_else(|| not_found(kind, id))
    }

    async fn statement(&self, number: u16, id: &Id, page: &Page) -> Result<Vec<u8>, Unread> {
        let rows = self.look(number, |look| {
            let exists = state_of(look, Kind::Wallet, id)?.is_some_and(|state| view(&state, id).is_some());
            exists.then(|| rows_of::<Entry>(look, Kind::Wallet, id, wallet::ENTRY_ROWS, page)).transpose()
        });
        let (items, next) = rows.await?.ok_or_else(|| not_found(Kind::Wallet, id))?;
        Ok(to_json(&List { user: None, items, next }))
    }

    async fn orders(&self, number: u16, user: &Id, page: &Page) -> Result<Found, Unread> {
        let seen = self.look(number, |look| {
            let state = state_of(look, Kind::Mypage, user)?;
            let current = state.unwrap_or_else(|| State::absent(Kind::Mypage)).current(look.logic());
            Ok((rows_of::<Item>(look, Kind::Mypage, user, mypage::ORDER_ROWS, page)?, current))
        });
        let ((rows, next), current) = seen.await?;
        let items: Vec<Summary> = rows.into_iter().filter_map(Item::summary).collect();
        Ok(Found { json: to_json(&List { user: Some(user.clone()), items, next }), current })
    }

    /// At most `limit` products with ids after `after`; fewer when they are large, but at least one.
    pub(super) async fn products(&self, number: u16, after: Option<&Id>, limit: usize) -> Result<States, Unread> {
        // One more than a page, at most; of another host, which may say anything.
        let limit = limit.min(PAGE_ITEMS.1 + 1);
        let states = self.look(number, |look| look.states_after(after, limit)).await?;
        let found = states.len();
        let mut bytes = 0;
        let fitting = states.into_iter().take_while(|(_, state)| {
            let fits = bytes < PAGE_BYTES_MAX;
            bytes += state.len();
            fits
        });
        let states: Vec<_> = fitting.map(|(id, state)| (id, ByteBuf::from(state))).collect();
        Ok(States { is_cut: states.len() < found, states })
    }

    /// The quotes, in the order in which the products are given.
    pub(super) async fn quotes(&self, number: u16, products: &[ProductId]) -> Result<Vec<Quote>, Unread> {
        for product in products {
            self.expect_in(number, &product.clone().into())?;
        }
        let quote = |look: &Look<'_>, product: &ProductId| {
            Ok(match state_of(look, Kind::Product, &product.clone().into())? {
                Some(State::Product(product)) => product.quote(),
                Some(State::Wallet(_) | State::Order(_) | State::Delivery(_) | State::Mypage(_)) | None => {
                    Quote::NotFound
                }
            })
        };
        self.look(number, |look| products.iter().map(|product| quote(look, product)).collect()).await
    }

    /// That an entity is not there says only the partition that it belongs to.
    fn expect_in(&self, number: u16, id: &Id) -> Result<(), Unread> {
        match partition_of(id, self.partitions) {
            own if own == number => Ok(()),
            own => Err(self.unavailable(&format!("{id} is in partition {own}, not in {number}")).into()),
        }
    }

    /// What would come of a command to one of the entities of a partition.
    pub(super) async fn outlook(&self, number: u16, envelope: &Envelope) -> Result<Outlook, Unread> {
        self.expect_in(number, &envelope.to)?;
        let kind = self.kind;
        self.look(number, |look| {
            let state = state_of(look, kind, &envelope.to)?.unwrap_or_else(|| State::absent(kind));
            let mut rows = Rows::default();
            for key in entity::rows(envelope) {
                let bytes = look.row(&envelope.to, &key)?.map(Vec::from);
                rows.load(key, bytes);
            }
            Ok(Outlook::of(envelope.clone(), state, rows))
        })
        .await
    }

    /// Whose a key is, if `order` is the one that it leads to without regard to the user.
    pub(super) async fn key_scope(&self, number: u16, order: &Id, user: &UserId) -> Result<KeyScope, Unread> {
        self.expect_in(number, order)?;
        let is_of_user = self.look(number, |look| {
            Ok(matches!(state_of(look, Kind::Order, order)?, Some(State::Order(Order::Placed(placed))) if placed.user == *user))
        });
        let is_of_user = is_of_user.await?;
        let view = self.view.borrow();
        let partition = view.partitions.get(&number).ok_or(Unread::NotHere)?;
        let logic = Logic::try_from(partition.handle.logic.load(Relaxed)).unwrap_or(Logic::NEWEST);
        Ok(KeyScope { by_user: logic >= Logic::V3 && !is_of_user })
    }

    /// Looks at a partition, as of a moment after this call began, and waits until all that was seen is
    /// settled: nobody is told of what a message has caused before the log has that message.
    async fn look<T>(&self, number: u16, look: impl Fn(&Look<'_>) -> Result<T, StoreError>) -> Result<T, Unread> {
        if !self.reads(number) {
            return Err(Unread::NotHere);
        }
        let last = match timeout(READ_WAIT_MAX, self.read_index.end()).await {
            Ok(End::At(last)) => last,
            Ok(End::OtherLog) => {
                return Err(self.unavailable("the shop was repartitioned, which it has missed").into());
            }
            Ok(End::Unknown) | Err(_) => return Err(self.unavailable("its log does not answer").into()),
        };
        let looked = timeout(READ_WAIT_MAX, self.look_behind(last, number, look)).await;
        let late = || format!("partition {number} is behind its log, or the log does not take its messages");
        looked.unwrap_or_else(|_| Err(self.unavailable(&late()).into()))
    }

    /// Looks at a partition behind the log's sequence `last`: once more each time that it starts again meanwhile.
    async fn look_behind<T>(
        &self,
        last: u64,
        number: u16,
        look: impl Fn(&Look<'_>) -> Result<T, StoreError>,
    ) -> Result<T, Unread> {
        let mut view = self.view.clone();
        loop {
            let now = Arc::clone(&view.borrow_and_update());
            let partition = now.partitions.get(&number).ok_or(Unread::NotHere)?;
            if now.has_settled([partition], last).await {
                let seen = partition.handle.overlay.look(|moment| Ok((moment.cursor(), look(moment)?)));
                let (cursor, seen) = seen.map_err(|error| {
                    tracing::error!("{}: {error}", self.kind);
                    self.unavailable("its data cannot be read")
                })?;
                let mut settled = partition.handle.settled.clone();
                if settled.wait_for(|settled| *settled >= cursor).await.is_ok() {
                    return Ok(seen);
                }
            }
            // All partitions are starting again, here or elsewhere.
            if view.changed().await.is_err() {
                return Err(Unread::NotHere);
            }
        }
    }

    fn unavailable(&self, why: &str) -> Problem {
        unavailable(self.kind, why)
    }
}

fn state_of(look: &Look<'_>, kind: Kind, id: &Id) -> Result<Option<State>, StoreError> {
    look.state(id)?.map(|state| decode(kind, id, &state)).transpose()
}

/// What is in the rows of a page, and where the next one begins.
fn rows_of<T: DeserializeOwned>(
    look: &Look<'_>,
    kind: Kind,
    id: &Id,
    prefix: &str,
    Page { limit, from }: &Page,
) -> Result<(Vec<T>, Option<String>), StoreError> {
    // Of another host, which may say anything.
    let limit = (*limit).min(PAGE_ITEMS.1);
    let before = from.as_ref().map(|from| format!("{prefix}{from}"));
    let mut rows = look.rows_before(id, prefix, before.as_deref(), limit + 1)?;
    let mut bytes = 0;
    let fitting = rows.iter().take(limit).take_while(|(_, row)| {
        let fits = bytes < PAGE_BYTES_MAX;
        bytes += row.len();
        fits
    });
    let count = fitting.count();
    let more = rows.len() > count;
    rows.truncate(count);
    let next = rows.last().filter(|_| more).map(|(key, _)| key[prefix.len()..].to_owned());
    let item =
        |row: &Bytes| encode::decode(row).map_err(|error| StoreError::Unreadable { kind, id: id.clone(), error });
    Ok((rows.iter().map(|(_, row)| item(row)).collect::<Result<_, _>>()?, next))
}

impl From<Problem> for Unread {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

fn not_found(kind: Kind, id: &Id) -> Unread {
    shop_domain::refusal::Refusal::NotFound { kind, id: id.clone() }.problem().into()
}
