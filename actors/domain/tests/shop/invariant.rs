//! The check of conservation finds what does not add up, and says by how much.

use shop_domain::{delivery, product, timestamp::Timestamp, wallet};

use crate::world::{World, cancel, money, place, quantity};

fn shop() -> World {
    let mut shop = World::with(&[("apple", 10, 20), ("pear", 3, 8)], &[("alice", 150), ("bob", 60)]);
    shop.tell("o-1", place("alice", &[("apple", 3, 10), ("pear", 2, 3)]));
    shop.tell("o-2", place("alice", &[("apple", 1, 10)]));
    shop.tell("o-3", place("bob", &[("apple", 21, 1)]));
    shop.settle();
    shop.tell("o-2", cancel());
    shop.settle();
    shop
}

fn violations(shop: &World) -> Vec<String> {
    shop.audit().1
}

#[test]
fn all_that_came_in_is_what_is_on_hand_and_what_confirmed_orders_hold() {
    let totals = shop().check();
    assert_eq!((totals.money, totals.pieces), (210, 28));
}

#[test]
fn an_order_under_way_is_no_rest() {
    let mut shop = shop();
    shop.tell("o-4", place("bob", &[("pear", 1, 3)]));
    assert_eq!(violations(&shop), ["order o-4 is not settled"]);
    shop.step_until(|shop| shop.balance("bob") < 60);
    assert_eq!(
        violations(&shop),
        ["order o-4 is not settled", "wallet bob: open charges exceed the confirmed orders by 3"]
    );
    shop.settle();
    shop.check();
    shop.tell("o-4", cancel());
    assert_eq!(violations(&shop)[0], "order o-4 is not settled");
}

#[test]
fn a_charge_or_a_refund_that_belongs_to_no_confirmed_order_is_found() {
    let mut shop = shop();
    shop.deliver("bob", wallet::Message::Charge { order: "o-9".parse().unwrap(), amount: money(7) });
    assert_eq!(violations(&shop), ["wallet bob: open charges exceed the confirmed orders by 7"]);
    shop.deliver("bob", wallet::Message::Refund { order: "o-9".parse().unwrap() });
    shop.check();
    shop.deliver("alice", wallet::Message::Refund { order: "o-1".parse().unwrap() });
    assert_eq!(violations(&shop), ["wallet alice: open charges exceed the confirmed orders by -36"]);
}

#[test]
fn a_take_or_a_put_back_that_belongs_to_no_confirmed_order_is_found() {
    let mut shop = shop();
    let take = product::Message::Take { order: "o-9".parse().unwrap(), quantity: quantity(2), unit_price: money(3) };
    shop.deliver("pear", take);
    assert_eq!(violations(&shop), ["product pear: open takes exceed the confirmed orders by 2"]);
    shop.deliver("pear", product::Message::PutBack { order: "o-9".parse().unwrap() });
    shop.check();
    shop.deliver("apple", product::Message::PutBack { order: "o-1".parse().unwrap() });
    assert_eq!(violations(&shop), ["product apple: open takes exceed the confirmed orders by -3"]);
}

#[test]
fn a_delivery_that_is_not_what_its_order_says_is_found() {
    let schedule = || delivery::Message::Schedule {
        user: "alice".parse().unwrap(),
        lines: vec![],
        placed_at: Timestamp::from_unix_ms(1),
    };
    let mut stopped = shop();
    stopped.deliver("o-1", delivery::Message::Cancel);
    assert_eq!(violations(&stopped), ["order o-1: confirmed is true, but its delivery says otherwise"]);
    let mut sent = shop();
    sent.deliver("o-3", schedule());
    assert_eq!(violations(&sent), ["order o-3: confirmed is false, but its delivery says otherwise"]);
    let mut stray = shop();
    stray.deliver("o-9", schedule());
    assert_eq!(violations(&stray), ["delivery o-9 has no order"]);
}
