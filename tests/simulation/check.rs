//! What must hold after every run.

use std::collections::{BTreeMap, BTreeSet};

use shop_actors::{kind_host::View, store::StoreError};
use shop_domain::{
    entity::State,
    id::Id,
    invariant::{self, Totals},
    kind::Kind,
    logic::Logic,
    message::Message,
    mypage::{self, Item},
    order::{self, Status},
    problem::Code,
    product,
    rows::decode_row,
    wallet::{self, Entry, EntryKind, Wallet},
};

use shop_nats::subject::partition_of;

use crate::sim::{Asked, Sim, TRESPASSER};

type States = BTreeMap<(Kind, Id), State>;

/// Money and stock are conserved, every order is settled, pages and statements agree with the
/// entities, every caller was answered, always with the same bytes, and whoever looks at the log
/// (a second host, or one that begins with nothing) comes to the same states.
pub(crate) async fn everything(sim: &mut Sim) {
    let states: States = Kind::ALL.into_iter().flat_map(|kind| states_of(sim, kind)).collect();
    sim.expect_one_owner_each();
    let (totals, violations) = invariant::check_at_rest(states.iter().map(|((_, id), state)| (id, state)));
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(totals, brought_in(sim), "what the shop holds, and what was brought in");
    let orders = || states.iter().filter_map(|((_, id), state)| order_view(id, state));
    for user in orders().map(|order| order.user).collect::<BTreeSet<_>>() {
        page_shows_every_order(sim, &states, user.as_str());
    }
    for ((_, user), state) in &states {
        if let State::Wallet(Wallet::Open(wallet)) = state {
            statement_adds_up(sim, user, wallet);
        }
    }
    if sim.shape.logic >= Logic::V3 {
        time_does_not_go_back(sim, &states);
    }
    every_caller_was_answered_with_the_same_bytes(sim);
    nobody_moved_what_is_anothers(sim);
    everybody_comes_to_the_same_states(sim, &states).await;
}

/// What callers see of an order's state.
pub(crate) fn status(sim: &Sim, order: &str) -> Status {
    let states = states_of(sim, Kind::Order);
    let id = order.parse().expect("it is a proper id");
    order_view(&id, &states[&(Kind::Order, id.clone())]).expect("the order was placed").status
}

/// What commands have brought in: each counts once, however often it was asked under its key, and
/// only where there is somebody to take it.
fn brought_in(sim: &Sim) -> Totals {
    let (mut totals, mut made, mut keys) = (Totals::default(), BTreeSet::new(), BTreeSet::new());
    // Customers without a key know what was done.
    let done = sim.errands.iter().filter(|errand| errand.is_done == Some(true));
    totals.money += done.map(|errand| u128::from(errand.amount)).sum::<u128>();
    let replies = sim.replies();
    let done: BTreeSet<_> =
        replies.iter().filter(|reply| reply.answer.error.is_none()).map(|reply| &reply.to.inbox).collect();
    for asked in sim.asked.iter().filter(|asked| asked.ticket.is_none()) {
        // Of several under one key any may have come first; the others are refused.
        let caller = asked.caller.as_ref().map(|caller| &caller.name);
        let first = done.contains(&asked.inbox) && keys.insert((asked.message.kind(), &asked.to, caller, &asked.key));
        match &asked.message {
            Message::Wallet(wallet::Message::Open { balance }) if made.insert((Kind::Wallet, &asked.to)) => {
                totals.money += u128::from(balance.get());
            }
            Message::Wallet(wallet::Message::TopUp { amount })
                if first && made.contains(&(Kind::Wallet, &asked.to)) =>
            {
                totals.money += u128::from(amount.get());
            }
            Message::Product(product::Message::Create { stock, .. }) if made.insert((Kind::Product, &asked.to)) => {
                totals.pieces += u128::from(stock.get());
            }
            Message::Product(product::Message::Restock { quantity })
                if first && made.contains(&(Kind::Product, &asked.to)) =>
            {
                totals.pieces += u128::from(quantity.get());
            }
            Message::Wallet(_)
            | Message::Product(_)
            | Message::Order(_)
            | Message::Delivery(_)
            | Message::Mypage(_)
            | Message::Void(_) => {}
        }
    }
    totals
}

fn order_view(id: &Id, state: &State) -> Option<order::View> {
    if let State::Order(order) = state { order.view(id) } else { None }
}

fn page_shows_every_order(sim: &Sim, states: &States, user: &str) {
    let mut orders: Vec<order::View> = states
        .iter()
        .filter_map(|((_, id), state)| order_view(id, state))
        .filter(|order| order.user.as_str() == user)
        .collect();
    orders.sort_by(|one, other| (one.placed_at, &one.id).cmp(&(other.placed_at, &other.id)));
    let items: Vec<Item> = rows(sim, Kind::Mypage, user, mypage::ORDER_ROWS);
    let mut shown: Vec<_> = items.iter().filter_map(|item| item.order.clone()).collect();
    if sim.shape.logic < Logic::V3 {
        // What a page was told under an older logic has no facts of a refusal.
        orders.iter_mut().chain(&mut shown).for_each(|order| order.refusal = None);
    }
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

fn statement_adds_up(sim: &Sim, user: &Id, wallet: &wallet::Open) {
    let entries: Vec<Entry> = rows(sim, Kind::Wallet, user.as_str(), wallet::ENTRY_ROWS);
    let balance = entries.iter().fold(0, |balance, entry| match entry.kind {
        EntryKind::TopUp | EntryKind::Refund => balance + entry.amount.get(),
        EntryKind::Charge => balance - entry.amount.get(),
    });
    assert_eq!(wallet.balance.get(), balance, "the statement of {user}");
    let charged: Vec<_> =
        entries.iter().filter(|entry| entry.kind == EntryKind::Charge).map(|entry| &entry.order).collect();
    assert_eq!(charged.len(), charged.iter().collect::<BTreeSet<_>>().len(), "an order of {user} was charged twice");
}

/// Whatever the clock of the logs did, an order changes after it was placed, and a statement is in the order of time.
fn time_does_not_go_back(sim: &Sim, states: &States) {
    for ((kind, id), state) in states {
        if let Some(order) = order_view(id, state) {
            assert!(order.placed_at <= order.updated_at, "{order:?}");
        }
        if *kind == Kind::Wallet {
            let entries: Vec<Entry> = rows(sim, Kind::Wallet, id.as_str(), wallet::ENTRY_ROWS);
            assert!(entries.is_sorted_by_key(|entry| entry.at), "the statement of {id}: {entries:?}");
        }
    }
}

fn every_caller_was_answered_with_the_same_bytes(sim: &Sim) {
    let mut answers: BTreeMap<Box<str>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut reused: BTreeSet<Box<str>> = BTreeSet::new();
    for reply in sim.replies() {
        if reply.answer.code() == Some(Code::IDEMPOTENCY_KEY_REUSED) {
            reused.insert(reply.to.inbox.clone());
        }
        answers.entry(reply.to.inbox).or_default().insert(reply.answer.body);
    }
    let mut by_key: BTreeMap<_, BTreeSet<&Vec<u8>>> = BTreeMap::new();
    for asked in &sim.asked {
        let Some(bodies) = answers.get(&asked.inbox) else {
            assert!(asked.asked_again, "this caller was not answered: {asked:?}");
            continue;
        };
        assert_eq!(bodies.len(), 1, "this caller was told different things: {asked:?}");
        let is_place = matches!(asked.message, Message::Order(order::Message::Place(_)));
        if (asked.key.is_some() || is_place) && !reused.contains(&asked.inbox) {
            let caller = asked.caller.as_ref().map(|caller| &caller.name);
            by_key.entry((asked.message.kind(), &asked.to, caller, &asked.key)).or_default().extend(bodies);
        }
    }
    for (key, bodies) in by_key {
        assert_eq!(bodies.len(), 1, "under one key different things were told: {key:?}");
    }
}

/// An order that is not there is nobody's; all else is refused.
fn nobody_moved_what_is_anothers(sim: &Sim) {
    let is_trespass = |asked: &&Asked| asked.caller.as_ref().is_some_and(|caller| caller.name.as_str() == TRESPASSER);
    let trespasses: BTreeMap<_, _> = sim.asked.iter().filter(is_trespass).map(|asked| (&asked.inbox, asked)).collect();
    for reply in sim.replies() {
        let (code, trespass) = (reply.answer.code(), trespasses.get(&reply.to.inbox));
        match trespass {
            Some(asked) => {
                let is_of_order = asked.message.kind() == Kind::Order;
                let is_refused = code == Some(Code::FORBIDDEN) || (is_of_order && code == Some(Code::NOT_FOUND));
                assert!(is_refused, "{asked:?} was answered {reply:?}");
            }
            None => assert_ne!(code, Some(Code::FORBIDDEN), "{reply:?}"),
        }
    }
}

async fn everybody_comes_to_the_same_states(sim: &mut Sim, expected: &States) {
    for kind in Kind::ALL {
        let partitions = sim.log.partitions(kind);
        let expected = |view: &View| -> States {
            let is_there = |id: &Id| view.partitions.contains_key(&partition_of(id, partitions));
            let there = expected.iter().filter(|((of, id), _)| *of == kind && is_there(id));
            there.map(|(key, state)| (key.clone(), state.clone())).collect()
        };
        for (which, view) in sim.views(kind).iter().enumerate() {
            assert_eq!(states(view, kind), expected(view), "host {which} of {kind}");
        }
        let before = sim.records();
        let rebuilt = sim.rebuilt(kind).await;
        assert_eq!(states(&rebuilt, kind), expected(&rebuilt), "{kind} rebuilt from its log");
        // What it sent again was known to everybody: it changed nothing.
        assert!(sim.records() >= before);
    }
}

/// The states of a kind, of every partition as the first host has it that holds it.
fn states_of(sim: &Sim, kind: Kind) -> States {
    let mut all = States::new();
    for view in sim.views(kind) {
        for (key, state) in states(&view, kind) {
            all.entry(key).or_insert(state);
        }
    }
    all
}

fn states(view: &View, kind: Kind) -> States {
    let mut states = States::new();
    for partition in view.partitions.values() {
        let found = partition.handle.overlay.look(|look| look.states_after(None, usize::MAX));
        for (id, bytes) in found.expect("memory can be read") {
            states.insert((kind, id), State::decode(kind, &bytes).expect("a stored state decodes"));
        }
    }
    states
}

fn rows<T: serde::de::DeserializeOwned>(sim: &Sim, kind: Kind, id: &str, prefix: &str) -> Vec<T> {
    let id: Id = id.parse().expect("it is a proper id");
    let number = partition_of(&id, sim.log.partitions(kind));
    let partition = sim.views(kind).into_iter().find_map(|view| view.partitions.get(&number).cloned());
    let found: Result<_, StoreError> = partition
        .expect("somebody holds it")
        .handle
        .overlay
        .look(|look| look.rows_before(&id, prefix, None, usize::MAX));
    found.expect("memory can be read").iter().rev().map(|(_, bytes)| decode_row(bytes)).collect()
}
