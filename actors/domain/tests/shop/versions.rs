//! Versions and preconditions. That a version goes up by one with what callers see, and with nothing else, and that
//! an answer has the version of what it shows, the world itself checks at every message of every test.

use serde_json::json;
use shop_domain::{delivery, kind::Kind, logic::Logic, order, product, wallet};

use crate::world::{Chance, World, cancel, create, money, place, quantity};

fn market() -> World {
    World::with(&[("apple", 1000, 5)], &[("alice", 10_000)])
}

fn top_up(amount: u64) -> wallet::Message {
    wallet::Message::TopUp { amount: money(amount) }
}

fn reprice(price: u64) -> product::Message {
    product::Message::Change { name: None, price: Some(money(price)) }
}

fn code(shop: &World, inbox: &str) -> Option<String> {
    shop.answer(inbox)["code"].as_str().map(str::to_owned)
}

#[test]
fn each_change_that_callers_see_has_the_next_version_and_an_answer_has_that_of_what_it_shows() {
    let mut shop = market();
    assert_eq!((shop.version(Kind::Wallet, "alice"), shop.version(Kind::Product, "apple")), (Some(1), Some(1)));
    assert_eq!((shop.version(Kind::Order, "o-1"), shop.version(Kind::Mypage, "alice")), (None, Some(0)));
    shop.ask("alice", top_up(5), "more");
    shop.ask("alice", top_up(0), "nothing");
    shop.ask("alice", wallet::Message::Open { balance: money(1) }, "again");
    assert_eq!(shop.versions_told("more"), [Some(2)]);
    assert_eq!((shop.versions_told("nothing"), shop.versions_told("again")), (vec![Some(2)], vec![None]));

    shop.ask("o-1", place("alice", &[("apple", 2, 1000)]), "placed");
    assert_eq!(shop.version(Kind::Order, "o-1"), Some(1), "PENDING");
    shop.settle();
    assert_eq!(shop.versions_told("placed"), [Some(2)], "CONFIRMED");
    assert_eq!((shop.version(Kind::Wallet, "alice"), shop.version(Kind::Product, "apple")), (Some(3), Some(2)));
    assert_eq!((shop.version(Kind::Delivery, "o-1"), shop.version(Kind::Mypage, "alice")), (Some(1), Some(2)));
    shop.ask("o-1", delivery::Message::Dispatch, "dispatched");
    shop.ask("o-1", delivery::Message::Dispatch, "once more");
    shop.ask("o-1", cancel(), "late");
    shop.settle();
    assert_eq!((shop.versions_told("dispatched"), code(&shop, "once more").is_some()), (vec![Some(2)], true));
    assert_eq!(shop.version(Kind::Order, "o-1"), Some(4), "CANCELLING, and CONFIRMED again");
    assert_eq!(shop.version(Kind::Mypage, "alice"), Some(5), "and it is dispatched");
}

#[test]
fn a_page_counts_what_it_shows_whatever_comes_first() {
    let mut shop = market();
    let changed = || {
        let (order, placed_at) = ("o-9".parse().unwrap(), shop_domain::timestamp::Timestamp::from_unix_ms(9));
        shop_domain::mypage::Message::DeliveryChanged { order, placed_at, status: delivery::Status::Dispatched }
    };
    shop.deliver("bob", changed());
    assert_eq!(shop.version(Kind::Mypage, "bob"), Some(0), "its order has not told yet");
    shop.tell("o-1", place("bob", &[("apple", 1, 1000)]));
    shop.settle();
    assert_eq!(shop.order("o-1").status, order::Status::Rejected, "bob has no wallet");
    assert_eq!(shop.version(Kind::Mypage, "bob"), Some(2));
}

#[test]
fn of_many_writes_that_demand_the_same_version_one_is_done() {
    let mut shop = market();
    for number in 0..20 {
        shop.ask_if("apple", reprice(2000 + number), &format!("write {number}"), ("\"1\"", ""), None);
    }
    assert_eq!(shop.answer("write 0")["price"], 2000);
    for number in 1..20 {
        let told = shop.answer(&format!("write {number}"));
        assert_eq!((&told["code"], &told["status"]), (&json!("precondition_failed"), &json!(412)));
        assert_eq!((&told["etag"], &told["kind"], &told["id"]), (&json!("\"2\""), &json!("product"), &json!("apple")));
        assert_eq!(told["retryable"], false);
    }
    assert_eq!(shop.version(Kind::Product, "apple"), Some(2));
}

#[test]
fn every_write_is_done_only_where_its_precondition_holds() {
    let write = |to: &'static str, message: shop_domain::message::Message| (to, message);
    let writes = [
        write("alice", top_up(1).into()),
        write("apple", reprice(1).into()),
        write("apple", product::Message::Restock { quantity: quantity(1) }.into()),
        write("o-1", cancel().into()),
        write("o-1", delivery::Message::Dispatch.into()),
        write("o-2", delivery::Message::Deliver.into()),
    ];
    let mut shop = market();
    shop.tell("alice", top_up(10_000));
    for order in ["o-1", "o-2"] {
        shop.tell(order, place("alice", &[("apple", 1, 1000)]));
    }
    shop.settle();
    shop.tell("o-2", delivery::Message::Dispatch);
    shop.settle();
    for (to, message) in &writes {
        let version = shop.version(message.kind(), to).unwrap();
        let (own, other) = (format!("\"{version}\""), format!("\"{}\"", version + 1));
        let weak = format!("W/{own}");
        for (if_match, if_none_match, is_done) in [
            (&*own, "", true),
            ("*", "", true),
            (&*other, "", false),
            ("\"nonsense\"", "", false),
            (&*weak, "", false),
            ("", "*", false),
            ("", &*own, false),
            ("", &*weak, false),
            ("", &*other, true),
            (&*own, &*other, true),
            (&*own, &*own, false),
        ] {
            let mut shop = shop.clone();
            let before = shop.digest();
            shop.ask_if(to, message.clone(), "asker", (if_match, if_none_match), None);
            if is_done {
                assert_ne!(shop.version(message.kind(), to), Some(version), "{message:?} {if_match} {if_none_match}");
                continue;
            }
            assert_eq!(code(&shop, "asker").as_deref(), Some("precondition_failed"), "{message:?} {if_match}");
            shop.forget_answers();
            assert_eq!(shop.digest(), before, "{message:?} {if_match} {if_none_match}");
        }
    }
}

#[test]
fn what_is_to_be_made_is_made_where_nothing_is_and_what_is_not_there_matches_nothing() {
    for (if_match, if_none_match) in [("*", ""), ("\"1\"", "")] {
        let mut shop = World::default();
        shop.ask_if("apple", create(1, 1), "create", (if_match, if_none_match), None);
        shop.ask_if("alice", top_up(1), "top-up", (if_match, if_none_match), None);
        shop.ask_if("o-1", cancel(), "cancel", (if_match, if_none_match), None);
        for inbox in ["create", "top-up", "cancel"] {
            assert_eq!(code(&shop, inbox).as_deref(), Some("precondition_failed"), "{inbox}");
            assert_eq!(shop.answer(inbox).get("etag"), None, "{inbox}");
        }
        assert_eq!(shop.version(Kind::Product, "apple"), None);
    }
    let mut shop = World::default();
    shop.ask_if("apple", create(1, 1), "first", ("", "*"), None);
    shop.ask_if("apple", create(1, 1), "second", ("", "*"), None);
    shop.ask_if("pear", create(1, 1), "other", ("", "\"1\""), None);
    assert_eq!((shop.versions_told("first"), shop.versions_told("other")), (vec![Some(1)], vec![Some(1)]));
    assert_eq!(code(&shop, "second").as_deref(), Some("precondition_failed"));
    shop.ask_if("alice", top_up(1), "none", ("", "*"), None);
    assert_eq!(code(&shop, "none").as_deref(), Some("not_found"));
}

#[test]
fn who_repeats_a_request_under_its_key_is_told_the_first_answer_whatever_has_become_of_the_entity() {
    let mut shop = market();
    shop.ask_if("apple", reprice(7), "first", ("\"1\"", ""), Some("k"));
    shop.tell("apple", reprice(8));
    for if_match in ["\"1\"", "\"3\"", ""] {
        let inbox = format!("again {if_match}");
        shop.ask_if("apple", reprice(7), &inbox, (if_match, ""), Some("k"));
        assert_eq!(shop.answer_bytes(&inbox), shop.answer_bytes("first"));
        assert_eq!(shop.versions_told(&inbox), [Some(2)]);
    }
    shop.ask_if("apple", reprice(9), "refused", ("\"1\"", ""), Some("other"));
    shop.ask_if("apple", reprice(9), "refused again", ("\"3\"", ""), Some("other"));
    assert_eq!(code(&shop, "refused").as_deref(), Some("precondition_failed"));
    assert_eq!(shop.answer_bytes("refused again"), shop.answer_bytes("refused"), "a refusal is an answer as well");
    assert_eq!(shop.version(Kind::Product, "apple"), Some(3));
}

#[test]
fn a_cancel_that_is_repeated_while_it_is_under_way_is_the_same_one() {
    let mut shop = market();
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    shop.ask_if("o-1", cancel(), "first", ("\"1\"", ""), Some("k"));
    shop.ask_if("o-1", cancel(), "same", ("\"1\"", ""), Some("k"));
    shop.ask_if("o-1", cancel(), "other", ("\"1\"", ""), None);
    assert_eq!(code(&shop, "other").as_deref(), Some("precondition_failed"), "it has come second");
    shop.settle();
    assert_eq!(shop.answer("first")["status"], "CANCELLED");
    assert_eq!(shop.answer_bytes("same"), shop.answer_bytes("first"));
}

#[test]
fn an_order_that_is_only_to_be_made_is_made_once_and_its_id_stays_free_if_it_is_not() {
    let mut shop = market();
    let order = || place("alice", &[("apple", 1, 1000)]);
    shop.ask_if("o-1", order(), "no match", ("*", ""), None);
    assert_eq!(code(&shop, "no match").as_deref(), Some("precondition_failed"));
    shop.ask_if("o-1", order(), "first", ("", "*"), None);
    shop.ask_if("o-1", order(), "meanwhile", ("", "*"), None);
    shop.settle();
    shop.ask_if("o-1", order(), "afterwards", ("", "*"), None);
    assert_eq!(shop.answer("first")["status"], "CONFIRMED");
    for inbox in ["meanwhile", "afterwards"] {
        assert_eq!(shop.answer_bytes(inbox), shop.answer_bytes("first"), "its id is its key");
    }
    shop.ask_if("o-1", place("alice", &[("apple", 2, 1000)]), "another", ("", "*"), None);
    assert_eq!(code(&shop, "another").as_deref(), Some("idempotency_key_reused"));
}

#[test]
fn versions_are_counted_from_the_upgrade_on() {
    let mut shop = World::default();
    shop.logic = Logic::V3;
    shop.ask("apple", create(1, 1), "created");
    shop.tell("apple", reprice(2));
    shop.ask_if("apple", reprice(9), "too early", ("\"0\"", ""), None);
    shop.ask_if("apple", reprice(3), "anything", ("*", ""), None);
    assert_eq!((shop.versions_told("created"), shop.versions_told("anything")), (vec![None], vec![None]));
    assert_eq!(
        (code(&shop, "too early").as_deref(), shop.answer("too early").get("etag")),
        (Some("precondition_failed"), None)
    );
    assert_eq!(shop.version(Kind::Product, "apple"), Some(0));
    shop.logic = Logic::V4;
    shop.ask_if("apple", reprice(4), "first", ("\"0\"", ""), None);
    assert_eq!((shop.versions_told("first"), shop.answer("first")["price"].as_u64()), (vec![Some(1)], Some(4)));
}

#[test]
fn whatever_happens_versions_go_up_by_one_with_what_is_seen() {
    for seed in 1..200 {
        let (mut chance, mut shop) = (Chance(seed), World::with(&[("apple", 1, 5), ("pear", 0, 3)], &[("alice", 6)]));
        shop.stands_still = seed % 3 == 0;
        shop.stutters = seed % 2 == 0;
        for number in 0..60 {
            let order = format!("o-{}", chance.below(6));
            let tag = format!("\"{}\"", chance.below(5));
            let condition = [("", ""), (&*tag, ""), ("", &*tag), ("*", ""), ("", "*")][chance.below(5)];
            let key = format!("k-{}", chance.below(20));
            let key = Some(&*key).filter(|_| chance.below(3) > 0);
            let inbox = format!("caller {number}");
            let lines = [("apple", 1 + chance.below(2) as u64, 1), ("pear", 1, 0)];
            let lines = &lines[chance.below(2)..];
            match chance.below(8) {
                0 | 1 => shop.ask_if(&order, place("alice", lines), &inbox, condition, None),
                2 => shop.ask_if(&order, cancel(), &inbox, condition, key),
                3 => shop.ask_if(&order, delivery::Message::Dispatch, &inbox, condition, key),
                4 => shop.ask_if(&order, delivery::Message::Deliver, &inbox, condition, key),
                5 => shop.ask_if("alice", top_up(chance.below(2) as u64), &inbox, condition, key),
                6 => shop.ask_if("apple", reprice(1 + chance.below(2) as u64), &inbox, condition, key),
                _ => {
                    let restock = product::Message::Restock { quantity: quantity(chance.below(2) as u64) };
                    shop.ask_if("pear", restock, &inbox, condition, key);
                }
            }
            for _ in 0..chance.below(6) {
                shop.step(|count| chance.below(count));
            }
        }
        shop.settle();
        shop.check();
        shop.check_always();
    }
}
