//! Cases of wallets and stock that others got wrong, each with its name.

use shop_domain::{
    kind::Kind,
    logic::Logic,
    message::Message,
    money::AMOUNT_MAX,
    order::Status,
    product,
    timestamp::Timestamp,
    wallet::{self, Entry, EntryKind},
};

use crate::world::{Chance, World, cancel, create, money, place, quantity};

fn charge(order: &str, amount: u64) -> wallet::Message {
    wallet::Message::Charge { order: order.parse().unwrap(), amount: money(amount) }
}

fn refund(order: &str) -> wallet::Message {
    wallet::Message::Refund { order: order.parse().unwrap() }
}

fn top_up(amount: u64) -> wallet::Message {
    wallet::Message::TopUp { amount: money(amount) }
}

fn take(order: &str, pieces: u64) -> product::Message {
    product::Message::Take { order: order.parse().unwrap(), quantity: quantity(pieces), unit_price: money(1000) }
}

fn put_back(order: &str) -> product::Message {
    product::Message::PutBack { order: order.parse().unwrap() }
}

#[test]
fn a_refund_applied_twice_gives_back_once() {
    let mut shop = World::with(&[], &[("alice", 100)]);
    shop.deliver("alice", charge("o-1", 30));
    shop.deliver("alice", refund("o-1"));
    shop.deliver("alice", refund("o-1"));
    assert_eq!(shop.balance("alice"), 100);
}

#[test]
fn a_refund_larger_than_the_charge_cannot_be_asked_for_exactly_the_charge_comes_back() {
    let mut shop = World::with(&[], &[("alice", 100)]);
    shop.deliver("alice", charge("o-1", 30));
    // The order once more, at a higher price: neither this nor the refund changes the 30.
    shop.deliver("alice", charge("o-1", 70));
    assert_eq!(shop.balance("alice"), 70);
    shop.deliver("alice", refund("o-1"));
    assert_eq!(shop.balance("alice"), 100);
}

#[test]
fn a_charge_that_comes_after_its_refund_takes_nothing_and_is_not_answered() {
    let mut shop = World::with(&[], &[("alice", 100)]);
    shop.deliver("alice", refund("o-1"));
    shop.deliver("alice", charge("o-1", 30));
    assert!(shop.under_way().is_empty());
    shop.deliver("alice", charge("o-2", 30));
    shop.deliver("alice", refund("o-2"));
    shop.settle();
    shop.deliver("alice", charge("o-2", 30));
    assert!(shop.under_way().is_empty());
    assert_eq!(shop.balance("alice"), 100);
}

#[test]
fn a_refund_that_came_before_the_wallet_was_opened_still_makes_the_late_charge_take_nothing() {
    let mut shop = World::with(&[], &[]);
    shop.deliver("alice", refund("o-1"));
    shop.tell("alice", wallet::Message::Open { balance: money(100) });
    shop.deliver("alice", charge("o-1", 30));
    assert!(shop.under_way().is_empty());
    assert_eq!(shop.balance("alice"), 100);
}

#[test]
fn what_was_never_taken_is_not_put_back() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[]);
    shop.deliver("apple", put_back("o-1"));
    assert_eq!(shop.stock("apple"), 5);
    shop.deliver("apple", take("o-1", 2));
    assert_eq!(shop.stock("apple"), 5);
    shop.deliver("pear", put_back("o-1"));
    shop.tell("pear", create(1000, 5));
    shop.deliver("pear", take("o-1", 2));
    assert_eq!(shop.stock("pear"), 5);
}

#[test]
fn pieces_are_taken_once_and_put_back_once() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[]);
    shop.deliver("apple", take("o-1", 2));
    shop.deliver("apple", take("o-1", 2));
    assert_eq!(shop.stock("apple"), 3);
    shop.deliver("apple", put_back("o-1"));
    shop.deliver("apple", put_back("o-1"));
    shop.deliver("apple", take("o-1", 2));
    assert_eq!(shop.stock("apple"), 5);
}

#[test]
fn the_last_won_and_the_last_piece_can_be_spent() {
    let mut shop = World::with(&[("apple", 1000, 1)], &[("alice", 1000)]);
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    shop.settle();
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (0, 0));
    shop.check();
}

#[test]
fn the_last_piece_is_sold_once_among_two_hundred_buyers_however_their_messages_cross() {
    let buyers: Vec<String> = (0..200).map(|buyer| format!("buyer-{buyer}")).collect();
    let wallets: Vec<_> = buyers.iter().map(|buyer| (buyer.as_str(), 1000)).collect();
    for seed in 1..=20 {
        let mut chance = Chance(seed * 0x9e37_79b9);
        let mut shop = World::with(&[("apple", 1000, 1)], &wallets);
        for buyer in &buyers {
            shop.ask(&format!("o-{buyer}"), place(buyer, &[("apple", 1, 1000)]), buyer);
            // Some of those who came before are further on than others.
            for _ in 0..chance.below(8) {
                shop.step(|links| chance.below(links));
            }
        }
        while shop.step(|links| chance.below(links)) {}
        for buyer in &buyers {
            let answer = shop.answer(buyer);
            if answer["status"] == "CONFIRMED" {
                assert_eq!(shop.balance(buyer), 0, "seed {seed}");
            } else {
                assert_eq!((&answer["code"], &answer["stock"]), (&"out_of_stock".into(), &0.into()), "seed {seed}");
                assert_eq!(shop.balance(buyer), 1000, "seed {seed}");
            }
        }
        let sold = shop.orders().iter().filter(|order| order.status == Status::Confirmed).count();
        assert_eq!((sold, shop.stock("apple")), (1, 0), "seed {seed}");
        shop.check();
    }
}

#[test]
fn a_wallet_or_product_that_exists_is_not_made_again() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 100)]);
    shop.ask("alice", wallet::Message::Open { balance: money(1) }, "wallet");
    shop.ask("apple", create(1, 1), "product");
    assert_eq!(shop.answer("wallet")["code"], "already_exists");
    assert_eq!(shop.answer("product")["code"], "already_exists");
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (100, 5));
}

#[test]
fn a_balance_that_would_leave_the_range_is_refused() {
    let mut shop = World::with(&[], &[("alice", AMOUNT_MAX - 10)]);
    shop.ask("alice", top_up(11), "too much");
    assert_eq!(shop.answer("too much")["errors"][0]["pointer"], "/amount");
    shop.ask("alice", top_up(10), "just enough");
    assert_eq!(shop.answer("just enough")["balance"], AMOUNT_MAX);
}

#[test]
fn what_may_come_back_counts_towards_the_range() {
    let mut shop = World::with(&[("apple", 1000, AMOUNT_MAX)], &[("alice", AMOUNT_MAX)]);
    shop.tell("o-1", place("alice", &[("apple", 7, 1000)]));
    shop.settle();
    shop.ask("alice", top_up(7000), "money");
    shop.ask("apple", product::Message::Restock { quantity: quantity(7) }, "pieces");
    let money = shop.answer("money");
    assert_eq!((&money["code"], &money["limit"]), (&"limit_exceeded".into(), &AMOUNT_MAX.into()));
    assert_eq!((&money["used"], &money["needed"]), (&AMOUNT_MAX.into(), &7000.into()));
    assert_eq!(shop.answer("pieces")["errors"][0]["pointer"], "/quantity");
    shop.logic = Logic::V2;
    shop.ask("alice", top_up(7000), "money, formerly");
    assert_eq!(shop.answer("money, formerly")["code"], "invalid");
    shop.tell("o-1", cancel());
    shop.settle();
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (AMOUNT_MAX, AMOUNT_MAX));
    shop.check();
}

#[test]
fn an_order_that_costs_more_than_can_be_counted_is_rejected() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.ask("o-1", place("alice", &[("apple", AMOUNT_MAX, 2)]), "product");
    shop.ask("o-2", place("alice", &[("apple", 1, AMOUNT_MAX), ("pear", 1, 1)]), "sum");
    assert_eq!(shop.answer("product")["code"], "invalid");
    assert_eq!(shop.answer("sum")["code"], "invalid");
    shop.settle();
    shop.check();
}

#[test]
fn a_statement_tells_of_every_change_and_adds_up() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 5_000)]);
    shop.ask_with_key("alice", top_up(50), "top-up", "k-1");
    shop.tell("o-1", place("alice", &[("apple", 2, 1000)]));
    shop.settle();
    shop.tell("o-1", cancel());
    shop.settle();
    let entries: Vec<Entry> = shop.rows(Kind::Wallet, "alice", wallet::ENTRY_ROWS);
    let told: Vec<_> = entries.iter().map(|entry| (entry.kind, entry.amount.get(), entry.balance.get())).collect();
    let expected = [
        (EntryKind::TopUp, 5_000, 5_000),
        (EntryKind::TopUp, 50, 5_050),
        (EntryKind::Charge, 2_000, 3_050),
        (EntryKind::Refund, 2_000, 5_050),
    ];
    assert_eq!(told, expected);
    assert_eq!(entries[1].key.as_deref(), Some("k-1"));
    assert!(entries[2..].iter().all(|entry| entry.order.as_ref().is_some_and(|order| order.as_str() == "o-1")));
}

#[test]
fn a_wallet_opened_empty_has_an_empty_statement() {
    let mut shop = World::with(&[], &[("alice", 0)]);
    assert_eq!(shop.rows::<Entry>(Kind::Wallet, "alice", wallet::ENTRY_ROWS), []);
    shop.tell("alice", top_up(1));
    assert_eq!(shop.rows::<Entry>(Kind::Wallet, "alice", wallet::ENTRY_ROWS).len(), 1);
}

#[test]
fn a_change_keeps_what_is_not_given() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[]);
    shop.ask("apple", product::Message::Change { name: Some("pomme".into()), price: None }, "name");
    shop.ask("apple", product::Message::Change { name: None, price: Some(money(7)) }, "price");
    let answer = shop.answer("price");
    assert_eq!((&answer["name"], &answer["price"], &answer["stock"]), (&"pomme".into(), &7.into(), &5.into()));
    shop.ask("pear", product::Message::Change { name: None, price: None }, "unknown");
    shop.ask("pear", product::Message::Restock { quantity: quantity(1) }, "unknown too");
    assert_eq!(shop.answer("unknown")["code"], "not_found");
    assert_eq!(shop.answer("unknown too")["code"], "not_found");
}

#[test]
fn what_changes_nothing_is_a_change_before_logic_version_2_and_none_from_then_on() {
    for (logic, is_change) in [(Logic::V1, true), (Logic::V2, false)] {
        let mut shop = World::with(&[("apple", 5, 1)], &[("alice", 10)]);
        shop.logic = logic;
        let answer_to = |shop: &mut World, to: &str, message: Message| {
            let before = shop.now;
            shop.ask(to, message, &format!("caller {before}"));
            let answer = shop.answer(&format!("caller {before}"));
            let now = serde_json::to_value(Timestamp::from_unix_ms(shop.now)).unwrap();
            answer["updated_at"] == now
        };
        let change = product::Message::Change { name: Some("thing".into()), price: None };
        assert_eq!(answer_to(&mut shop, "apple", change.into()), is_change, "{logic}");
        let restock = product::Message::Restock { quantity: quantity(0) };
        assert_eq!(answer_to(&mut shop, "apple", restock.into()), is_change, "{logic}");
        let top_up = wallet::Message::TopUp { amount: money(0) };
        assert_eq!(answer_to(&mut shop, "alice", top_up.into()), is_change, "{logic}");
        let entries: Vec<wallet::Entry> = shop.rows(Kind::Wallet, "alice", wallet::ENTRY_ROWS);
        assert_eq!(entries.len(), if is_change { 2 } else { 1 }, "{logic}");

        // What changes something is a change in every version.
        let change = product::Message::Change { name: None, price: Some(money(6)) };
        assert!(answer_to(&mut shop, "apple", change.into()), "{logic}");
        let change = product::Message::Change { name: Some("fruit".into()), price: None };
        assert!(answer_to(&mut shop, "apple", change.into()), "{logic}");
        assert!(answer_to(&mut shop, "apple", product::Message::Restock { quantity: quantity(1) }.into()), "{logic}");
        assert!(answer_to(&mut shop, "alice", wallet::Message::TopUp { amount: money(1) }.into()), "{logic}");
    }
}
