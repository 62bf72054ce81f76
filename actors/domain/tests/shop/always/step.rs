//! From one message to the next: what came in, and where things went.

use shop_domain::{
    delivery::{Delivery, Status},
    entity::State,
    invariant::always,
    kind::Kind,
    message::{Envelope, Message},
    mypage,
    order::{self, Order, Phase, Placed},
    product::{self, Product},
    refusal::Refusal,
    wallet::{self, Wallet},
};

use super::{AT, Shop, broke, made, phases, placed, refused, taking};
use crate::world::{cancel, create, id, money, place, quantity};

fn step(before: &State, message: impl Into<Message>, after: &State) -> Vec<String> {
    always::check_step(&id("x"), before, &message.into(), after).iter().map(ToString::to_string).collect()
}

/// A wallet with open charges of 20.
fn wallet(balance: u64) -> State {
    State::Wallet(Wallet::Open(wallet::Open { balance: money(balance), ..Shop::sound().wallet }))
}

/// A product of which 2 are taken.
fn product(stock: u64) -> State {
    State::Product(Product::OnSale(product::OnSale { stock: quantity(stock), ..Shop::sound().product }))
}

fn order(phase: Phase) -> State {
    State::Order(Order::Placed(Box::new(placed(phase, false, false))))
}

#[test]
fn money_comes_in_only_by_a_command_that_brings_it_and_never_goes_out() {
    let top_up = || wallet::Message::TopUp { amount: money(5) };
    let open = wallet::Message::Open { balance: money(100) };
    let charge = wallet::Message::Charge { order: "o-1".parse().unwrap(), amount: money(5) };
    let refund = wallet::Message::Refund { order: "o-1".parse().unwrap() };
    assert_eq!(step(&wallet(80), top_up(), &wallet(85)), [""; 0]);
    assert_eq!(step(&wallet(80), top_up(), &wallet(80)), [""; 0], "it was refused, or a repetition");
    let message = "Wallet(TopUp { amount: Money(5) })";
    for (after, holds) in [(86, 106), (84, 104), (75, 95)] {
        let expected = format!("x: holds {holds} altogether, 100 before {message}");
        assert_eq!(step(&wallet(80), top_up(), &wallet(after)), [expected]);
    }
    assert_eq!(step(&State::absent(Kind::Wallet), open, &wallet(80)), [""; 0]);
    for message in [charge, refund] {
        assert_eq!(step(&wallet(80), message.clone(), &wallet(80)), [""; 0]);
        assert_eq!(step(&wallet(80), message, &wallet(85)).len(), 1);
    }
}

#[test]
fn pieces_come_in_only_by_a_command_that_brings_them() {
    let restock = || product::Message::Restock { quantity: quantity(5) };
    assert_eq!(step(&product(8), restock(), &product(13)), [""; 0]);
    assert_eq!(step(&product(8), restock(), &product(8)), [""; 0], "it was refused, or a repetition");
    let message = "Product(Restock { quantity: Quantity(5) })";
    let expected = format!("x: holds 16 altogether, 10 before {message}");
    assert_eq!(step(&product(8), restock(), &product(14)), [expected]);
    assert_eq!(step(&State::absent(Kind::Product), create(1, 10), &product(8)), [""; 0]);
    assert_eq!(step(&State::absent(Kind::Product), create(1, 10), &product(9)).len(), 1);
    let change = product::Message::Change { name: None, price: Some(money(7)) };
    assert_eq!(step(&product(8), change.clone(), &product(8)), [""; 0]);
    assert_eq!(step(&product(8), change, &product(9)).len(), 1);
}

#[test]
fn an_order_goes_only_forward() {
    for before in phases() {
        for after in phases() {
            let allowed = match before {
                Phase::Paying => [true, true, false, false, true, true],
                Phase::Taking { .. } => [false, true, true, false, true, true],
                Phase::Confirmed => [false, false, true, true, false, false],
                Phase::Stopping => [false, false, true, true, false, true],
                Phase::Rejected(_) => [false, false, false, false, true, false],
                Phase::Cancelled => [false, false, false, false, false, true],
            };
            let at = phases().iter().position(|phase| *phase == after).unwrap();
            let expected = if allowed[at] { vec![] } else { vec![format!("x: went from {before:?} to {after:?}")] };
            assert_eq!(step(&order(before.clone()), order::Message::Charged, &order(after)), expected);
        }
    }
    let (rejected, again) = (order(Phase::Rejected(refused())), order(Phase::Rejected(broke())));
    assert_eq!(step(&rejected, order::Message::Charged, &again).len(), 1, "a reason never changes");
    let answered = order(taking(&[("apple", None)]));
    assert_eq!(step(&order(taking(&[])), order::Message::Charged, &answered), [""; 0]);
}

#[test]
fn what_an_order_is_about_never_changes() {
    let changes: [fn(&mut Placed); 4] = [
        |order| order.user = "bob".parse().unwrap(),
        |order| order.lines.clear(),
        |order| order.amount = money(21),
        |order| order.placed_at = AT,
    ];
    for change in changes {
        let mut after = placed(Phase::Paying, false, false);
        change(&mut after);
        let after = State::Order(Order::Placed(Box::new(after)));
        assert_eq!(step(&order(Phase::Paying), cancel(), &after), ["x: is about something else now"]);
    }
}

#[test]
fn a_delivery_goes_only_forward() {
    let statuses = [Status::Scheduled, Status::Dispatched, Status::Delivered, Status::Cancelled];
    let all = || [Delivery::Absent].into_iter().chain(statuses.map(made));
    for (before, allowed) in all().zip([
        [true, true, false, false, false],
        [false, true, true, false, true],
        [false, false, true, true, false],
        [false, false, false, true, false],
        [false, false, false, false, true],
    ]) {
        for (after, allowed) in all().zip(allowed) {
            let expected = if allowed { vec![] } else { vec![format!("x: went from {before:?} to {after:?}")] };
            let (before, after) = (State::Delivery(before.clone()), State::Delivery(after));
            assert_eq!(step(&before, shop_domain::delivery::Message::Deliver, &after), expected);
        }
    }
}

#[test]
fn a_thing_that_turns_into_another_or_vanishes_is_found() {
    let (none, page) = (State::absent(Kind::Order), State::absent(Kind::Mypage));
    assert_eq!(step(&none, order::Message::Charged, &none), [""; 0]);
    assert_eq!(step(&none, place("alice", &[]), &order(Phase::Paying)), [""; 0]);
    assert_eq!(step(&page, cancel(), &page), [""; 0]);
    let gone = format!("x: was {:?} and is Order(Absent)", order(Phase::Paying));
    assert_eq!(step(&order(Phase::Paying), cancel(), &none), [gone]);
    let turned = format!("x: was {page:?} and is Order(Absent)");
    assert_eq!(step(&page, cancel(), &none), [turned]);
}

#[test]
fn a_message_is_about_the_order_that_it_names_or_goes_to() {
    let order = || "o-1".parse().unwrap();
    let view = Order::Placed(Box::new(placed(Phase::Paying, false, false))).view(&id("o-1")).unwrap();
    let refusal = Refusal::IdempotencyKeyReused;
    let table: Vec<(&str, Message, Option<&str>)> = vec![
        ("alice", wallet::Message::Open { balance: money(1) }.into(), None),
        ("alice", wallet::Message::TopUp { amount: money(1) }.into(), None),
        ("alice", wallet::Message::Charge { order: order(), amount: money(1) }.into(), Some("o-1")),
        ("alice", wallet::Message::Refund { order: order() }.into(), Some("o-1")),
        ("apple", create(1, 1).into(), None),
        ("apple", product::Message::PutBack { order: order() }.into(), Some("o-1")),
        ("o-2", order::Message::ChargeRefused { refusal }.into(), Some("o-2")),
        ("o-2", shop_domain::delivery::Message::Dispatch.into(), Some("o-2")),
        (
            "alice",
            mypage::Message::DeliveryChanged { order: order(), placed_at: AT, status: Status::Delivered }.into(),
            Some("o-1"),
        ),
        ("alice", mypage::Message::OrderChanged { order: Box::new(view), delivery_status: None }.into(), Some("o-1")),
    ];
    for (to, message, expected) in table {
        let envelope = Envelope { to: id(to), message, request: None, trace: None };
        let found = always::order_of(&envelope);
        assert_eq!(found.as_ref().map(|order| order.as_str()), expected, "{:?}", envelope.message);
    }
}
