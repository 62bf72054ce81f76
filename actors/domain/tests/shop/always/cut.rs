//! Between entities: an order, and what its wallet, its products, its delivery and its page say.

use shop_domain::{
    delivery::Status, entity::State, kind::Kind, order::Phase, product::Take, timestamp::Timestamp, wallet::Charge,
};

use super::{AT, Books, Case, Shop, broke, check, found, made, phases, refused, taking};
use crate::world::{id, money, quantity};

/// What is said of the order, whatever else is wrong.
fn of_order(shop: Shop) -> Vec<String> {
    shop.found().into_iter().filter(|found| found.starts_with("o-1: ")).collect()
}

fn said(text: &str, when: bool) -> Vec<String> {
    if when { vec![format!("o-1: {text}")] } else { vec![] }
}

#[test]
fn an_order_that_goes_on_has_paid_what_it_costs_and_one_that_got_its_money_back_has_ended() {
    for phase in phases() {
        let with = |charge| {
            let mut shop = Shop::at(phase.clone());
            shop.charge(charge);
            of_order(shop)
        };
        let unpaid = matches!(phase, Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping);
        let ended = matches!(phase, Phase::Rejected(_) | Phase::Cancelled);
        assert_eq!(with(None), said("goes on unpaid", unpaid), "{phase:?}");
        assert_eq!(with(Some(Charge::Void)), said("goes on unpaid", unpaid), "{phase:?}");
        assert_eq!(with(Some(Charge::Charged(money(20)))), [""; 0], "{phase:?}");
        let other = said("was charged something else than it costs", true);
        assert_eq!(with(Some(Charge::Charged(money(21)))), other, "{phase:?}");
        let goes_on = said("got its money back, and goes on", !ended);
        assert_eq!(with(Some(Charge::Refunded(money(20)))), goes_on, "{phase:?}");
        let other = said("got back something else than it costs", true);
        assert_eq!(with(Some(Charge::Refunded(money(21)))), [other, goes_on].concat(), "{phase:?}");
    }
    let mut shop = Shop::at(Phase::Rejected(broke()));
    shop.charge(Some(Charge::Charged(money(20))));
    assert_eq!(of_order(shop), said("was charged something else than it costs", true));
}

#[test]
fn an_order_that_goes_on_has_the_pieces_that_it_counts_on() {
    for phase in phases() {
        let with = |take| {
            let mut shop = Shop::at(phase.clone());
            shop.take(take);
            of_order(shop)
        };
        let counts = matches!(phase, Phase::Confirmed | Phase::Stopping);
        let ended = matches!(phase, Phase::Rejected(_) | Phase::Cancelled);
        assert_eq!(with(None), said("counts on pieces that it did not take", counts), "{phase:?}");
        assert_eq!(with(Some(Take::Void)), said("counts on pieces that it did not take", counts), "{phase:?}");
        let early = said("took pieces that it did not ask for", phase == Phase::Paying);
        assert_eq!(with(Some(Take::Taken(quantity(2)))), early, "{phase:?}");
        let other = said("took pieces that it did not ask for", true);
        assert_eq!(with(Some(Take::Taken(quantity(3)))), other, "{phase:?}");
        let goes_on = said("put its pieces back, and goes on", !ended);
        assert_eq!(with(Some(Take::PutBack(quantity(2)))), goes_on, "{phase:?}");
        let other = said("put back more or less than it took", true);
        assert_eq!(with(Some(Take::PutBack(quantity(3)))), [other, goes_on].concat(), "{phase:?}");
    }
    // One of two products has answered.
    for (answer, counts) in [(None, true), (Some(refused()), false)] {
        let mut shop = Shop::at(taking(&[("apple", answer)]));
        shop.add_line_of_pears();
        shop.take(None);
        assert_eq!(of_order(shop), said("counts on pieces that it did not take", counts));
    }
}

#[test]
fn a_delivery_that_does_not_go_with_its_order_is_found() {
    let none_and_each =
        [None, Some(Status::Scheduled), Some(Status::Dispatched), Some(Status::Delivered), Some(Status::Cancelled)];
    for phase in phases() {
        for delivery in none_and_each {
            for shipped in [false, true] {
                let mut shop = Shop::at(phase.clone());
                shop.page(AT, false, None);
                shop.delivery = delivery;
                shop.order.shipped = shipped;
                let holds = match phase {
                    Phase::Paying | Phase::Taking { .. } | Phase::Rejected(_) => delivery.is_none(),
                    Phase::Confirmed => delivery != Some(Status::Cancelled),
                    Phase::Stopping => true,
                    Phase::Cancelled if shipped => delivery == Some(Status::Cancelled),
                    Phase::Cancelled => delivery.is_none(),
                };
                let found = shop.found().into_iter().filter(|found| found.contains("with a delivery"));
                let expected = said(&format!("is {phase:?} with a delivery {delivery:?}"), !holds);
                assert_eq!(found.collect::<Vec<_>>(), expected);
            }
        }
    }
}

#[test]
fn a_delivery_of_an_order_that_was_never_placed_is_found() {
    let none = std::collections::BTreeMap::new;
    let delivery = (Kind::Delivery, (id("o-1"), State::Delivery(made(Status::Scheduled)), none()));
    let absent = (Kind::Order, (id("o-1"), State::absent(Kind::Order), none()));
    let expected = ["o-1: was never placed, and has a delivery"];
    assert_eq!(found(&Books([delivery.clone()].into())), expected);
    assert_eq!(found(&Books([delivery, absent.clone()].into())), expected);
    assert_eq!(found(&Books([absent].into())), [""; 0]);
}

#[test]
fn a_page_that_is_ahead_of_what_it_shows_is_found() {
    let mut behind = Shop::sound();
    behind.page(Timestamp::from_unix_ms(4), false, None);
    assert_eq!(behind.found(), [""; 0]);
    let cases: [Case; 4] = [
        (
            |shop| shop.page(Timestamp::from_unix_ms(6), true, Some(Status::Scheduled)),
            &["o-1: the page is ahead of the order"],
        ),
        (|shop| shop.page(AT, true, Some(Status::Dispatched)), &["o-1: the page is ahead of the delivery"]),
        (|shop| shop.page(AT, true, Some(Status::Delivered)), &["o-1: the page is ahead of the delivery"]),
        (|shop| shop.page(AT, true, Some(Status::Cancelled)), &["o-1: the page is ahead of the delivery"]),
    ];
    check(&Phase::Confirmed, &cases);
    let cases: [Case; 2] = [
        (|shop| shop.page(AT, true, None), &["o-1: the page shows a delivery that was not asked for"]),
        (|shop| shop.page(AT, false, Some(Status::Scheduled)), &["o-1: the page is ahead of the delivery"]),
    ];
    check(&taking(&[]), &cases);
    let mut told = Shop::sound();
    told.delivery = Some(Status::Dispatched);
    told.page(AT, true, Some(Status::Dispatched));
    assert_eq!(told.found(), [""; 0]);
    let mut told = Shop::sound();
    told.delivery = Some(Status::Delivered);
    told.page(AT, true, Some(Status::Dispatched));
    assert_eq!(told.found(), [""; 0]);
}
