//! Asked again, under a key or an order's id: answered once more, done once.

use std::collections::BTreeMap;

use shop_domain::{delivery, kind::Kind, logic::Logic, message::Message, order, product, wallet};

use crate::world::{World, cancel, create, money, place, quantity};

fn top_up(amount: u64) -> wallet::Message {
    wallet::Message::TopUp { amount: money(amount) }
}

#[test]
fn a_top_up_retried_with_its_key_is_applied_once_and_answered_with_the_same_bytes_also_a_year_later() {
    let mut shop = World::with(&[], &[("alice", 100)]);
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    shop.ask_with_key("alice", top_up(1), "between", "k-2");
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    shop.pass_a_year();
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    assert_eq!(shop.balance("alice"), 106);
    let bytes = shop.answer_bytes("first");
    assert!(bytes.iter().all(|one| *one == bytes[0]));
    assert_eq!(shop.answers("first").iter().map(|(_, replayed)| *replayed).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn an_answer_given_after_success_and_asked_for_again_has_the_same_bytes_whatever_was_asked() {
    let because = order::Message::Cancel { reason: Some("too many".into()) };
    let commands: Vec<(&str, Message)> = vec![
        ("apple", create(1000, 5).into()),
        ("apple", product::Message::Restock { quantity: quantity(5) }.into()),
        ("apple", product::Message::Change { name: Some("pomme".into()), price: None }.into()),
        ("alice", wallet::Message::Open { balance: money(10_000) }.into()),
        ("alice", top_up(5).into()),
        ("o-1", place("alice", &[("apple", 1, 1000)]).into()),
        ("o-1", delivery::Message::Dispatch.into()),
        ("o-1", delivery::Message::Deliver.into()),
        ("o-2", place("alice", &[("apple", 2, 1000)]).into()),
        ("o-2", because.into()),
    ];
    let mut shop = World::default();
    for _ in 0..2 {
        for (number, (to, message)) in commands.iter().enumerate() {
            shop.ask_with_key(to, message.clone(), &number.to_string(), &format!("k-{number}"));
            shop.settle();
        }
        shop.pass_a_year();
    }
    for (number, command) in commands.iter().enumerate() {
        let inbox = number.to_string();
        let bytes = shop.answer_bytes(&inbox);
        assert_eq!((bytes.len(), bytes[0]), (2, bytes[1]), "{command:?}");
        let answers = shop.answers(&inbox);
        assert_eq!(answers[0].0.get("code"), None, "{command:?}");
        assert_eq!((answers[0].1, answers[1].1), (false, true), "{command:?}");
    }
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (9_005, 9));
    shop.check();
}

#[test]
fn a_key_used_again_for_another_amount_is_refused() {
    let mut shop = World::with(&[], &[("alice", 100)]);
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    shop.ask_with_key("alice", top_up(6), "second", "k-1");
    assert_eq!(shop.answer("second")["code"], "idempotency_key_reused");
    assert!(!shop.answers("second")[0].1, "a refusal of the key is no first answer again");
    assert_eq!(shop.balance("alice"), 105);
}

#[test]
fn a_refusal_is_an_answer_and_is_replayed() {
    let mut shop = World::with(&[], &[]);
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    shop.tell("alice", wallet::Message::Open { balance: money(100) });
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    let bytes = shop.answer_bytes("first");
    assert_eq!(bytes[0], bytes[1]);
    assert_eq!(shop.balance("alice"), 100);
}

#[test]
fn an_order_placed_again_is_answered_as_it_was_first_also_after_its_cancel() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    let order = place("alice", &[("apple", 1, 1000)]);
    shop.ask("o-1", order.clone(), "placed");
    shop.ask("o-1", order.clone(), "placed");
    shop.settle();
    shop.tell("o-1", cancel());
    shop.settle();
    shop.ask("o-1", order, "placed");
    let bytes = shop.answer_bytes("placed");
    assert_eq!(bytes.len(), 3);
    assert!(bytes.iter().all(|one| *one == bytes[0]));
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (10_000, 5));
    shop.check();
}

#[test]
fn an_order_id_reused_by_another_user_is_refused_while_pending_and_after() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000), ("bob", 10_000)]);
    shop.ask("o-1", place("alice", &[("apple", 1, 1000)]), "alice");
    shop.ask("o-1", place("bob", &[("apple", 1, 1000)]), "bob");
    shop.settle();
    shop.ask("o-1", place("bob", &[("apple", 1, 1000)]), "bob");
    let answers = shop.answers("bob");
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(answer, _)| answer["code"] == "idempotency_key_reused"));
    assert_eq!((shop.balance("alice"), shop.balance("bob"), shop.stock("apple")), (9_000, 10_000, 4));
    shop.check();
}

#[test]
fn who_placed_a_pending_order_may_ask_again_after_a_stranger_tried_its_id() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000), ("bob", 10_000)]);
    shop.ask("o-1", place("alice", &[("apple", 1, 1000)]), "alice");
    shop.ask("o-1", place("bob", &[("apple", 1, 1000)]), "bob");
    shop.ask("o-1", place("alice", &[("apple", 1, 1000)]), "alice again");
    shop.settle();
    assert_eq!(shop.answer("alice again"), shop.answer("alice"));
    assert_eq!(shop.answer("alice again")["status"], "CONFIRMED");
}

#[test]
fn a_key_of_a_cancel_under_way_is_refused_for_another_reason() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    let because = |reason: &str| order::Message::Cancel { reason: Some(reason.into()) };
    shop.ask_with_key("o-1", because("one"), "first", "k-1");
    shop.ask_with_key("o-1", because("two"), "second", "k-1");
    shop.ask_with_key("o-1", because("one"), "first again", "k-1");
    shop.settle();
    assert_eq!(shop.answer("first")["reason"], "one");
    assert_eq!(shop.answer("second")["code"], "idempotency_key_reused");
    assert_eq!(shop.answer("first again"), shop.answer("first"));
    shop.check();
}

#[test]
fn every_caller_who_cancels_is_answered_with_the_reason_that_came_first() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    let because = |reason: &str| order::Message::Cancel { reason: Some(reason.into()) };
    shop.ask_with_key("o-1", because("one"), "one", "k-1");
    shop.ask_with_key("o-1", because("two"), "two", "k-2");
    shop.ask("o-1", because("three"), "no key");
    shop.ask("o-1", because("four"), "no key either");
    shop.settle();
    for inbox in ["one", "two", "no key", "no key either"] {
        let answer = shop.answer(inbox);
        assert_eq!((&answer["status"], &answer["reason"]), (&"CANCELLED".into(), &"one".into()), "{inbox}");
    }
    shop.check();
}

/// How many of so many callers who ask the same at once are answered with what, by code.
fn crowd(logic: Logic, callers: usize, message: &order::Message) -> BTreeMap<String, usize> {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.logic = logic;
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    // Whoever does not listen takes nobody's place.
    (0..300).for_each(|_| shop.tell("o-1", message.clone()));
    (0..callers).for_each(|caller| shop.ask("o-1", message.clone(), &format!("caller {caller}")));
    shop.settle();
    let mut told = BTreeMap::new();
    for answer in (0..callers).flat_map(|caller| shop.answers(&format!("caller {caller}"))) {
        let word = answer.0.get("code").unwrap_or(&answer.0["status"]).as_str().unwrap().to_owned();
        *told.entry(word).or_default() += 1;
    }
    shop.check();
    told
}

#[test]
fn each_of_any_number_of_callers_gets_the_outcome_or_is_told_that_too_many_wait() {
    let told = |told: &[(&str, usize)]| told.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
    let placed = crowd(Logic::V3, 600, &place("alice", &[("apple", 1, 1000)]));
    // The first of them is the one that placed it, and does not listen.
    assert_eq!(placed, told(&[("CONFIRMED", 255), ("overloaded", 345)]));
    assert_eq!(crowd(Logic::V3, 600, &cancel()), told(&[("CANCELLED", 256), ("overloaded", 344)]));
    assert_eq!(crowd(Logic::V3, 256, &cancel()), told(&[("CANCELLED", 256)]));
    // The older ones forgot whoever waited longest.
    assert_eq!(crowd(Logic::V2, 600, &cancel()), told(&[("CANCELLED", 256)]));
}

#[test]
fn who_is_one_too_many_is_answered_when_asking_again_and_keeps_the_key() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    (0..256).for_each(|caller| shop.ask("o-1", cancel(), &format!("caller {caller}")));
    shop.ask_with_key("o-1", cancel(), "late", "k-1");
    assert_eq!(shop.answer("late")["waiting"], 256);
    shop.settle();
    shop.ask_with_key("o-1", cancel(), "late again", "k-1");
    assert_eq!(shop.answer("late again")["status"], "CANCELLED");
}

#[test]
fn a_refusal_says_whether_the_key_or_the_id_was_used_before_and_for_what() {
    let mut shop = World::with(&[("apple", 1000, 50)], &[("alice", 90_000)]);
    let order = |pieces| place("alice", &[("apple", pieces, 1000)]);
    shop.ask_with_key("o-1", order(1), "placed", "k-1");
    for settled in [false, true] {
        if settled {
            shop.settle();
        }
        let mut refused = |key: Option<&str>| {
            let inbox = format!("{key:?} {settled}");
            match key {
                Some(key) => shop.ask_with_key("o-1", order(2), &inbox, key),
                None => shop.ask("o-1", order(2), &inbox),
            }
            let answer = shop.answer(&inbox);
            assert_eq!((&answer["code"], &answer["order"]), (&"idempotency_key_reused".into(), &"o-1".into()));
            answer["reused"].as_str().unwrap().to_owned()
        };
        assert_eq!([Some("k-1"), Some("k-2"), None].map(&mut refused), ["key", "id", "id"], "{settled}");
    }
    shop.ask_with_key("alice", top_up(5), "first", "k-1");
    shop.ask_with_key("alice", top_up(6), "second", "k-1");
    let answer = shop.answer("second");
    assert_eq!((&answer["reused"], &answer["wallet"]), (&"key".into(), &"alice".into()));
}

#[test]
fn a_key_that_the_log_keeps_under_another_name_is_shown_as_it_was_given() {
    for (logic, shown) in [(Logic::V2, "x-1"), (Logic::V3, "a/b")] {
        let mut shop = World::with(&[], &[("alice", 1)]);
        shop.logic = logic;
        shop.ask_with_key_as_given("alice", top_up(5), "first", "x-1", "a/b");
        let entries: Vec<wallet::Entry> = shop.rows(Kind::Wallet, "alice", wallet::ENTRY_ROWS);
        assert_eq!(entries[1].key.as_deref(), Some(shown));
    }
}
