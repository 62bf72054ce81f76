//! Writes with tickets, voids, and what comes late: in every order of the two there is one truth.

use std::hash::Hasher;

use fnv::FnvHasher;
use serde::de::IgnoredAny;
use serde_json::Value;
use shop_domain::{
    delivery,
    kind::Kind,
    logic::Logic,
    message::Message,
    order, product,
    ticket::{ANSWER_MEMORY_MS, SKEW_MS_MAX, TICKET_ROWS, Ticket},
    wallet,
};

use crate::world::{World, create, money, place, quantity};

/// What a wallet holds before.
const BALANCE: u64 = 100;
/// What is put in.
const AMOUNT: u64 = 5;

fn top_up() -> Message {
    wallet::Message::TopUp { amount: money(AMOUNT) }.into()
}

fn void() -> Message {
    Message::Void(Kind::Wallet)
}

fn ticket(token: &str, issued_ms: u64, life_ms: u64) -> Ticket {
    format!("{token}.{issued_ms}.{}", issued_ms + life_ms).parse().unwrap()
}

/// A shop with a wallet, some time after it began, and a ticket that was issued now.
fn shop() -> (World, Ticket) {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", BALANCE)]);
    shop.now = 1_700_000_000_000;
    let ticket = ticket("t", shop.now, 1_000);
    (shop, ticket)
}

fn is_undone(answer: &Value) -> bool {
    answer["code"] == "unavailable" && answer["done"] == false && answer["retryable"] == true
}

#[test]
fn of_a_write_and_its_void_the_first_wins_in_every_order_of_copies_and_both_are_told_it() {
    // A write, a void, or time, in all sequences of six.
    for sequence in 0..3_usize.pow(6) {
        let (mut shop, ticket) = shop();
        let (mut first, mut digits, mut inboxes) = (None, sequence, vec![]);
        for step in 0..6 {
            let (inbox, is_void) = (format!("{sequence}-{step}"), digits % 3 == 1);
            match digits % 3 {
                2 => shop.now += 100,
                _ => {
                    let message = if is_void { void() } else { top_up() };
                    shop.ask_with_ticket("alice", message, &inbox, &ticket);
                    first = first.or(Some(is_void));
                    inboxes.push(inbox);
                }
            }
            digits /= 3;
        }
        let is_voided = first == Some(true);
        let added = if first == Some(false) { AMOUNT } else { 0 };
        assert_eq!(shop.balance("alice"), BALANCE + added, "{sequence}");
        for inbox in &inboxes {
            let answer = shop.answer(inbox);
            assert_eq!(shop.answer_bytes(inbox), shop.answer_bytes(&inboxes[0]), "{sequence}");
            assert_eq!(is_undone(&answer), is_voided, "{sequence}: {answer}");
            assert!(shop.ticketed.contains(inbox), "{sequence}: it is final");
        }
    }
}

#[test]
fn a_void_is_answered_with_the_writes_own_answer_also_when_that_was_a_refusal() {
    let (mut shop, ticket) = shop();
    shop.ask_with_ticket("nobody", top_up(), "write", &ticket);
    shop.ask("nobody", wallet::Message::Open { balance: money(1) }, "open");
    shop.ask_with_ticket("nobody", void(), "void", &ticket);
    assert_eq!(shop.answer("void")["code"], "not_found");
    assert_eq!(shop.answer("void"), shop.answer("write"));
    assert_eq!(shop.balance("nobody"), 1);
}

#[test]
fn every_write_without_a_key_can_be_voided_and_then_does_nothing() {
    let writes: [(&str, Kind, Message); 7] = [
        ("bob", Kind::Wallet, wallet::Message::Open { balance: money(1) }.into()),
        ("alice", Kind::Wallet, top_up()),
        ("pear", Kind::Product, create(1, 1).into()),
        ("apple", Kind::Product, product::Message::Restock { quantity: quantity(1) }.into()),
        ("apple", Kind::Product, product::Message::Change { name: None, price: Some(money(7)) }.into()),
        ("o-1", Kind::Delivery, delivery::Message::Dispatch.into()),
        ("o-2", Kind::Delivery, delivery::Message::Deliver.into()),
    ];
    let (mut shop, _) = shop();
    shop.tell("alice", wallet::Message::TopUp { amount: money(10_000) });
    for order in ["o-1", "o-2"] {
        shop.tell(order, place("alice", &[("apple", 1, 1000)]));
        shop.settle();
    }
    shop.tell("o-2", delivery::Message::Dispatch);
    shop.settle();
    for (number, (to, kind, message)) in writes.iter().enumerate() {
        let (before, ticket) = (shop.view(*kind, to), ticket(&format!("t-{number}"), shop.now, 1_000));
        let (write, voided) = (format!("write {number}"), format!("void {number}"));
        shop.ask_with_ticket(to, Message::Void(*kind), &voided, &ticket);
        shop.ask_with_ticket(to, message.clone(), &write, &ticket);
        assert!(is_undone(&shop.answer(&write)) && is_undone(&shop.answer(&voided)), "{message:?}");
        assert_eq!(shop.view(*kind, to), before, "{message:?}");
        // With another ticket it is done.
        shop.ask_with_ticket(to, message.clone(), "", &self::ticket(&format!("u-{number}"), shop.now, 1_000));
        assert_ne!(shop.view(*kind, to), before, "{message:?}");
        shop.settle();
    }
    shop.check_always();
    shop.check();
}

#[test]
fn an_older_change_that_was_voided_never_lands_over_a_newer_one() {
    let (mut shop, older) = shop();
    let newer = ticket("newer", shop.now, 1_000);
    let price = |price| product::Message::Change { name: None, price: Some(money(price)) };
    shop.ask_with_ticket("apple", Message::Void(Kind::Product), "void", &older);
    shop.ask_with_ticket("apple", price(2), "newer", &newer);
    shop.ask_with_ticket("apple", price(1), "older", &older);
    assert!(is_undone(&shop.answer("older")));
    assert_eq!(shop.answer("newer")["price"], 2);
    assert!(shop.view(Kind::Product, "apple").unwrap().contains(r#""price":2"#));
}

#[test]
fn what_comes_after_its_time_by_the_logs_clock_is_refused_for_good() {
    let (mut shop, ticket) = shop();
    shop.now += 1_000 + SKEW_MS_MAX;
    shop.ask_with_ticket("alice", top_up(), "late", &ticket);
    shop.now += 365 * 24 * 60 * 60 * 1_000;
    shop.ask_with_ticket("alice", top_up(), "very late", &ticket);
    for inbox in ["late", "very late"] {
        assert!(is_undone(&shop.answer(inbox)), "{}", shop.answer(inbox));
    }
    assert_eq!(shop.balance("alice"), BALANCE);
}

#[test]
fn a_clock_that_is_off_shows_as_a_refusal_and_never_as_a_late_effect() {
    let (mut shop, _) = shop();
    let ahead = ticket("ahead", shop.now + SKEW_MS_MAX + 1_000, 1_000);
    shop.ask_with_ticket("alice", top_up(), "early", &ahead);
    let told = shop.answer("early");
    assert!(is_undone(&told) && told["detail"].as_str().unwrap().contains("ms ahead of the shop's"), "{told}");
    // Not even when the log has come to that time.
    shop.now += SKEW_MS_MAX + 1_500;
    shop.ask_with_ticket("alice", top_up(), "in its time", &ahead);
    assert!(is_undone(&shop.answer("in its time")));
    let behind = ticket("behind", shop.now - 1_001 - SKEW_MS_MAX, 1_000);
    shop.ask_with_ticket("alice", top_up(), "behind", &behind);
    assert!(is_undone(&shop.answer("behind")));
    assert_eq!(shop.balance("alice"), BALANCE);
}

#[test]
fn what_is_kept_of_a_ticket_outlasts_it_and_is_forgotten_then() {
    let (mut shop, used) = shop();
    let life = ANSWER_MEMORY_MS + SKEW_MS_MAX + 1_000;
    shop.ask_with_ticket("alice", top_up(), "write", &used);
    // Each message takes a millisecond.
    shop.now += life - 2;
    shop.ask_with_ticket("alice", void(), "in time", &used);
    assert_eq!(shop.answer("in time"), shop.answer("write"));
    shop.ask_with_ticket("alice", void(), "too late", &used);
    let told = shop.answer("too late");
    assert_eq!((&told["retryable"], &told["done"]), (&false.into(), &Value::Null), "{told}");
    assert!(!shop.ticketed.contains("too late"));
    assert_eq!(shop.balance("alice"), BALANCE + AMOUNT);
}

#[test]
fn rows_of_tickets_stay_few_and_short_however_many_come() {
    let (mut shop, _) = shop();
    for number in 0..20_000 {
        let ticket = ticket(&format!("t-{number}"), shop.now, 100);
        shop.ask_with_ticket("alice", top_up(), "", &ticket);
        shop.now += 9;
    }
    assert_eq!(shop.balance("alice"), BALANCE + 20_000 * AMOUNT);
    let rows: Vec<Vec<IgnoredAny>> = shop.rows(Kind::Wallet, "alice", TICKET_ROWS);
    assert!(rows.len() <= 256, "{} rows", rows.len());
    assert!(rows.iter().all(|row| row.len() < 32), "{} in a row", rows.iter().map(Vec::len).max().unwrap());
}

#[test]
fn a_row_that_is_full_lets_no_ticket_in_and_forgets_none() {
    let (mut shop, _) = shop();
    shop.stands_still = true;
    let (mut done, mut refused) = (0, vec![]);
    let is_of_one_row = |token: &String| {
        let mut hasher = FnvHasher::default();
        hasher.write(token.as_bytes());
        hasher.finish().is_multiple_of(256)
    };
    let tokens = (0..).map(|number| format!("t-{number}")).filter(is_of_one_row);
    for (number, token) in tokens.take(300).enumerate() {
        let (ticket, inbox) = (ticket(&token, shop.now, 1_000), format!("{number}"));
        if number % 8 == 0 {
            shop.ask_with_ticket("alice", top_up(), &inbox, &ticket);
            if shop.answer(&inbox)["code"] == "overloaded" {
                refused.push(ticket);
            } else {
                done += 1;
            }
        } else {
            shop.ask_with_ticket("alice", void(), "", &ticket);
        }
    }
    assert!(!refused.is_empty());
    assert_eq!(shop.balance("alice"), BALANCE + done * AMOUNT);
    shop.ask_with_ticket("alice", void(), "void", &refused[0]);
    assert!(!shop.ticketed.contains("void"), "that it cannot be voided is no answer to the write");
}

#[test]
fn a_ticket_used_again_for_another_amount_is_refused() {
    let (mut shop, ticket) = shop();
    shop.ask_with_ticket("alice", top_up(), "first", &ticket);
    shop.ask_with_ticket("alice", wallet::Message::TopUp { amount: money(6) }, "other", &ticket);
    assert_eq!(shop.answer("other")["code"], "idempotency_key_reused");
    assert_eq!(shop.balance("alice"), BALANCE + AMOUNT);
}

#[test]
fn before_the_third_logic_version_tickets_are_not_heeded_and_that_is_said() {
    let (mut shop, ticket) = shop();
    shop.logic = Logic::V2;
    shop.ask_with_ticket("alice", void(), "void", &ticket);
    shop.ask_with_ticket("alice", top_up(), "write", &ticket);
    assert_eq!(shop.balance("alice"), BALANCE + AMOUNT);
    assert!(shop.answer("void")["detail"].as_str().unwrap().contains("logic version 3"));
    assert!(shop.ticketed.is_empty());
}

#[test]
fn a_void_that_nobody_sends_changes_nothing() {
    let (mut shop, _) = shop();
    for kind in Kind::ALL {
        shop.deliver("alice", Message::Void(kind));
        shop.tell("alice", Message::Void(kind));
    }
    assert_eq!(shop.balance("alice"), BALANCE);
    shop.tell("o-1", order::Message::Cancel { reason: None });
    shop.check_always();
}
