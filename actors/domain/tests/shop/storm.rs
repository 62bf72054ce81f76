//! Many orders, cancels and deliveries in every possible disorder: all must add up in the end.

use shop_domain::{
    delivery,
    kind::Kind,
    mypage::{self, Item},
    order::Status,
    wallet::{self, Entry, EntryKind},
};

use crate::world::{Chance, World, cancel, money, place};

const USERS: [&str; 3] = ["alice", "bob", "nobody"];
const PRODUCTS: [&str; 3] = ["apple", "pear", "nothing"];

#[test]
fn whatever_the_order_of_events_money_and_stock_are_conserved() {
    for seed in 1..=300 {
        storm(seed, false);
    }
}

#[test]
fn every_message_delivered_twice_changes_nothing() {
    for seed in 1..=300 {
        storm(seed, true);
    }
}

fn storm(seed: u64, stutters: bool) {
    let mut chance = Chance(seed * 0x9e37_79b9);
    let mut shop = World::with(&[("apple", 10, 20), ("pear", 3, 8)], &[("alice", 150), ("bob", 60)]);
    shop.stutters = stutters;
    let (mut topped_up, mut orders) = (210, 0);
    for _ in 0..150 {
        match chance.below(10) {
            0..=2 => {
                let (first, second) = (chance.below(3), chance.below(3));
                let line =
                    |product: usize, pieces| (PRODUCTS[product], pieces as u64, if product == 0 { 10 } else { 3 });
                let mut lines = vec![line(first, 1 + chance.below(3))];
                if second != first {
                    lines.push(line(second, 1 + chance.below(3)));
                }
                shop.tell(&format!("o-{orders}"), place(USERS[chance.below(3)], &lines));
                orders += 1;
            }
            3 if orders > 0 => shop.tell(&format!("o-{}", chance.below(orders)), cancel()),
            4 if orders > 0 => shop.tell(&format!("o-{}", chance.below(orders)), delivery::Message::Dispatch),
            5 => {
                shop.tell("alice", wallet::Message::TopUp { amount: money(7) });
                topped_up += 7;
            }
            _ => drop(shop.step(|links| chance.below(links))),
        }
    }
    while shop.step(|links| chance.below(links)) {}

    let totals = shop.check();
    assert_eq!((totals.money, totals.pieces), (topped_up, 28), "seed {seed}");
    for user in USERS {
        page_shows_every_order(&shop, user);
    }
    for user in ["alice", "bob"] {
        statement_adds_up(&shop, user);
    }
}

fn page_shows_every_order(shop: &World, user: &str) {
    let items: Vec<Item> = shop.rows(Kind::Mypage, user, mypage::ORDER_ROWS);
    let mut orders: Vec<_> = shop.orders().into_iter().filter(|order| order.user.as_str() == user).collect();
    orders.sort_by_key(|order| order.placed_at);
    assert_eq!(items.iter().filter_map(|item| item.order.clone()).collect::<Vec<_>>(), orders);
    for item in items {
        let order = item.order.unwrap();
        assert_eq!(item.delivery_status, shop.delivery(order.id.as_str()), "{}", order.id);
        assert_eq!(order.delivery.is_some(), item.delivery_status.is_some());
    }
}

fn statement_adds_up(shop: &World, user: &str) {
    let entries: Vec<Entry> = shop.rows(Kind::Wallet, user, wallet::ENTRY_ROWS);
    let mut balance = 0;
    for entry in &entries {
        match entry.kind {
            EntryKind::TopUp | EntryKind::Refund => balance += entry.amount.get(),
            EntryKind::Charge => balance -= entry.amount.get(),
        }
        assert_eq!(entry.balance.get(), balance);
    }
    assert_eq!(shop.balance(user), balance);
    let confirmed: u64 = shop
        .orders()
        .iter()
        .filter(|order| order.user.as_str() == user && order.status == Status::Confirmed)
        .map(|order| order.amount.get())
        .sum();
    let sum = |kind| entries.iter().filter(|entry| entry.kind == kind).map(|entry| entry.amount.get()).sum::<u64>();
    assert_eq!(sum(EntryKind::Charge) - sum(EntryKind::Refund), confirmed);
}
