//! What must hold after every run.

use std::collections::{BTreeMap, BTreeSet};

use shop_actors::{kind_host::View, store::StoreError};
use shop_domain::{
    entity::State,
    id::Id,
    invariant,
    kind::Kind,
    mypage::{self, Item},
    order::{self, Order},
    rows::decode_row,
    wallet::{self, Entry, EntryKind, Wallet},
};

use crate::{
    plan::{MONEY, PIECES, PRODUCTS, USERS},
    sim::Sim,
};

type States = BTreeMap<(Kind, Id), State>;

/// Money and stock are conserved, every order is settled, pages and statements agree with the
/// entities, every caller was answered, always with the same bytes, and whoever looks at the log
/// (a second host, or one that begins with nothing) comes to the same states.
pub(crate) async fn everything(sim: &Sim) {
    let states: States = Kind::ALL.into_iter().flat_map(|kind| states(&sim.views(kind)[0], kind)).collect();
    let (totals, violations) = invariant::check_at_rest(states.iter().map(|((_, id), state)| (id, state)));
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(totals.money, u128::from(MONEY) * USERS.len() as u128);
    assert_eq!(totals.pieces, u128::from(PIECES) * PRODUCTS.len() as u128);
    for user in USERS {
        page_shows_every_order(sim, &states, user);
        statement_adds_up(sim, &states, user);
    }
    every_caller_was_answered_with_the_same_bytes(sim);
    everybody_comes_to_the_same_states(sim, &states).await;
}

fn page_shows_every_order(sim: &Sim, states: &States, user: &str) {
    let mut orders: Vec<order::View> = states
        .iter()
        .filter_map(|((_, id), state)| if let State::Order(order) = state { Order::view(order, id) } else { None })
        .filter(|order| order.user.as_str() == user)
        .collect();
    orders.sort_by(|one, other| (one.placed_at, &one.id).cmp(&(other.placed_at, &other.id)));
    let items: Vec<Item> = rows(sim, Kind::Mypage, user, mypage::ORDER_ROWS);
    let shown: Vec<_> = items.iter().filter_map(|item| item.order.clone()).collect();
    assert_eq!(shown, orders, "the page of {user}");
    for item in &items {
        let id = item.order.as_ref().map(|order| Id::from(order.id.clone())).expect("its order has told");
        let delivery = match states.get(&(Kind::Delivery, id)) {
            Some(State::Delivery(shop_domain::delivery::Delivery::Made(delivery))) => Some(delivery.status),
            Some(_) | None => None,
        };
        assert_eq!(item.delivery_status, delivery, "the page of {user}");
    }
}

fn statement_adds_up(sim: &Sim, states: &States, user: &str) {
    let entries: Vec<Entry> = rows(sim, Kind::Wallet, user, wallet::ENTRY_ROWS);
    let balance = entries.iter().fold(0, |balance, entry| match entry.kind {
        EntryKind::TopUp | EntryKind::Refund => balance + entry.amount.get(),
        EntryKind::Charge => balance - entry.amount.get(),
    });
    let wallet = states.get(&(Kind::Wallet, user.parse().expect("it is a proper id")));
    let Some(State::Wallet(Wallet::Open(wallet))) = wallet else { panic!("{user} has no wallet") };
    assert_eq!(wallet.balance.get(), balance, "the statement of {user}");
    let charged: Vec<_> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Charge).map(|entry| &entry.order).collect();
    assert_eq!(charged.len(), charged.iter().collect::<BTreeSet<_>>().len(), "an order of {user} was charged twice");
}

fn every_caller_was_answered_with_the_same_bytes(sim: &Sim) {
    let mut answers: BTreeMap<Box<str>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for reply in sim.replies() {
        answers.entry(reply.to.inbox).or_default().insert(reply.answer.body);
    }
    for (caller, bodies) in &answers {
        assert_eq!(bodies.len(), 1, "{caller} was told different things");
    }
    let silent = (1..=sim.callers()).filter(|caller| !answers.contains_key(format!("caller {caller}").as_str()));
    let silent: Vec<_> = silent.map(|caller| (caller, &sim.asked[caller as usize - 1])).collect();
    assert!(silent.is_empty(), "these callers were not answered: {silent:#?}");
}

async fn everybody_comes_to_the_same_states(sim: &Sim, expected: &States) {
    for kind in Kind::ALL {
        let expected: States = expected
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|(key, state)| (key.clone(), state.clone()))
            .collect();
        for (which, view) in sim.views(kind).iter().enumerate().skip(1) {
            assert_eq!(states(view, kind), expected, "second host {which} of {kind}");
        }
        let before = sim.length();
        assert_eq!(states(&*sim.rebuilt(kind).await, kind), expected, "{kind} rebuilt from its log");
        // What it sent again was known to everybody: it changed nothing.
        assert!(sim.length() >= before);
    }
}

fn states(view: &View, kind: Kind) -> States {
    let mut states = States::new();
    for partition in view.partitions.values() {
        let found = partition.handle.memory.look(|look| look.states_after(None, usize::MAX));
        for (id, bytes) in found.expect("memory can be read") {
            states.insert((kind, id), State::decode(kind, &bytes).expect("a stored state decodes"));
        }
    }
    states
}

fn rows<T: serde::de::DeserializeOwned>(sim: &Sim, kind: Kind, id: &str, prefix: &str) -> Vec<T> {
    let id: Id = id.parse().expect("it is a proper id");
    let view = &sim.views(kind)[0];
    let partition = &view.partitions[&shop_nats::subject::partition_of(&id, sim.partitions)];
    let found: Result<_, StoreError> =
        partition.handle.memory.look(|look| look.rows_before(&id, prefix, None, usize::MAX));
    found.expect("memory can be read").iter().rev().map(|(_, bytes)| decode_row(bytes)).collect()
}
