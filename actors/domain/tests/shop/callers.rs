//! Who may move what, as the entities decide it.

use shop_domain::{
    caller::Reach::{self, Any, Own},
    delivery,
    kind::Kind,
    logic::Logic,
    message::Message,
    product, wallet,
};

use crate::world::{World, cancel, create, money, place, quantity};

fn top_up(amount: u64) -> wallet::Message {
    wallet::Message::TopUp { amount: money(amount) }
}

/// A shop in which alice and bob have a wallet and an order each.
fn shop() -> World {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000), ("bob", 10_000)]);
    shop.tell("o-alice", place("alice", &[("apple", 1, 1000)]));
    shop.tell("o-bob", place("bob", &[("apple", 1, 1000)]));
    shop.settle();
    shop
}

#[test]
fn a_customer_moves_nothing_that_is_anothers_or_the_shops() {
    let attempts: [(&str, Message); 9] = [
        ("bob", top_up(5).into()),
        ("carol", wallet::Message::Open { balance: money(5) }.into()),
        ("o-new", place("bob", &[("apple", 1, 1000)]).into()),
        ("o-bob", cancel().into()),
        ("pear", create(1, 1).into()),
        ("apple", product::Message::Restock { quantity: quantity(5) }.into()),
        ("apple", product::Message::Change { name: None, price: Some(money(1)) }.into()),
        ("o-alice", delivery::Message::Dispatch.into()),
        ("o-alice", delivery::Message::Deliver.into()),
    ];
    for (to, message) in attempts {
        let mut shop = shop();
        let before = (shop.view(message.kind(), to), shop.check());
        shop.ask_as(("alice", Own), to, message.clone(), "answer", "k-1");
        shop.settle();
        let answer = shop.answer("answer");
        assert_eq!(answer["code"], "forbidden", "{message:?}: {answer}");
        assert_eq!((shop.view(message.kind(), to), shop.check()), before, "{message:?}");
        // Nothing is kept of it, so that whose it is can use the same key.
        assert_eq!(shop.rows::<serde::de::IgnoredAny>(message.kind(), to, "answer/alice").len(), 0, "{message:?}");
        shop.ask_as(("mary", Any), to, message.clone(), "staff", "k-1");
        shop.settle();
        assert_ne!(shop.answer("staff")["code"], "forbidden", "{message:?}");
    }
}

#[test]
fn a_customer_moves_what_is_his_own() {
    let mut shop = shop();
    let own: [(&str, Message); 4] = [
        ("alice", top_up(5).into()),
        ("carol", wallet::Message::Open { balance: money(5) }.into()),
        ("o-2", place("alice", &[("apple", 1, 1000)]).into()),
        ("o-alice", cancel().into()),
    ];
    for (number, (to, message)) in own.into_iter().enumerate() {
        let name = if to == "carol" { "carol" } else { "alice" };
        let inbox = number.to_string();
        shop.ask_as((name, Own), to, message.clone(), &inbox, "");
        shop.settle();
        assert_eq!(shop.answer(&inbox).get("code"), None, "{message:?}");
    }
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (9_005, 3));
    shop.check();
}

#[test]
fn an_order_that_is_not_there_is_not_found_and_one_that_is_anothers_keeps_its_id() {
    let mut shop = shop();
    shop.ask_as(("alice", Own), "o-none", cancel(), "missing", "");
    assert_eq!(shop.answer("missing")["code"], "not_found");
    shop.ask_as(("alice", Own), "o-bob", place("alice", &[("apple", 1, 1000)]), "taken", "");
    assert_eq!(shop.answer("taken")["code"], "idempotency_key_reused");
}

#[test]
fn a_key_is_its_callers_own_from_the_fifth_logic_version_on() {
    let told = |logic: Logic, callers: [(&str, Reach); 2]| {
        let mut shop = shop();
        shop.logic = logic;
        for (number, caller) in callers.into_iter().enumerate() {
            shop.ask_as(caller, "alice", top_up(5), &number.to_string(), "k-1");
        }
        let replayed = ["0", "1"].map(|inbox| shop.answers(inbox)[0].1);
        (replayed, shop.balance("alice"))
    };
    let (alice, mary) = (("alice", Own), ("mary", Any));
    assert_eq!(told(Logic::V5, [alice, mary]), ([false, false], 9_010));
    assert_eq!(told(Logic::V5, [alice, alice]), ([false, true], 9_005));
    assert_eq!(told(Logic::V4, [alice, mary]), ([false, true], 9_005));
}

#[test]
fn callers_are_not_heeded_where_an_earlier_logic_version_is_in_force() {
    let mut shop = shop();
    shop.logic = Logic::V4;
    shop.ask_as(("alice", Own), "o-bob", cancel(), "answer", "k-1");
    shop.settle();
    assert_eq!(shop.answer("answer")["status"], "CANCELLED");
    assert_eq!(shop.rows::<serde::de::IgnoredAny>(Kind::Order, "o-bob", "answer/k-1").len(), 1);
}

#[test]
fn who_is_refused_learns_nothing_of_what_was_answered_under_the_same_key() {
    let mut shop = shop();
    shop.ask_as(("bob", Own), "bob", top_up(5), "bob", "k-1");
    for reach in [Own, Any] {
        shop.ask_as(("alice", reach), "bob", top_up(5), "alice", "k-1");
    }
    let answers = shop.answers("alice");
    assert_eq!((&answers[0].0["code"], answers[1].1), (&"forbidden".into(), false));
    assert_eq!(shop.balance("bob"), 9_010);
}
