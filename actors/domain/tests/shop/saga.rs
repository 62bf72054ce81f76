//! One order through its life: carried out, refused at every step, cancelled at every step.

use shop_domain::{
    delivery,
    kind::Kind,
    logic::Logic,
    message::Message,
    mypage,
    order::{self, Place, Status, Wanted},
    product::{self, Quote, Take},
    wallet,
};

use crate::world::{World, cancel, money, place, quantity};

fn shop() -> World {
    World::with(&[("apple", 1000, 1000), ("pear", 300, 5)], &[("alice", 999_999)])
}

#[test]
fn an_order_is_paid_taken_and_shipped_and_its_cancel_gives_everything_back() {
    let mut shop = shop();
    shop.ask("o-1", place("alice", &[("apple", 10, 1000)]), "placed");
    shop.settle();
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (989_999, 990));
    assert_eq!(shop.delivery("o-1"), Some(delivery::Status::Scheduled));
    assert_eq!(shop.answer("placed")["status"], "CONFIRMED");
    shop.check();

    shop.ask("o-1", cancel(), "cancelled");
    shop.settle();
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (999_999, 1000));
    assert_eq!(shop.delivery("o-1"), Some(delivery::Status::Cancelled));
    assert_eq!(shop.answer("cancelled")["status"], "CANCELLED");
    shop.check();
}

#[test]
fn an_order_that_cannot_be_paid_takes_no_stock() {
    let mut shop = shop();
    shop.ask("o-1", place("alice", &[("apple", 1000, 1000)]), "placed");
    shop.settle();
    let answer = shop.answer("placed");
    assert_eq!(answer["code"], "insufficient_balance");
    assert_eq!((&answer["balance"], &answer["needed"]), (&999_999.into(), &1_000_000.into()));
    assert_eq!(answer["order"], "o-1");
    assert_eq!(answer["status"], 409);
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (999_999, 1000));
    assert_eq!(shop.order("o-1").status, Status::Rejected);
    assert_eq!(shop.delivery("o-1"), None);
    shop.check();
}

#[test]
fn an_order_of_two_lines_puts_back_the_one_that_was_taken_when_the_other_is_refused() {
    for lines in [[("apple", 1, 1000), ("pear", 6, 300)], [("pear", 6, 300), ("apple", 1, 1000)]] {
        let mut shop = shop();
        shop.ask("o-1", place("alice", &lines), "placed");
        shop.settle();
        assert_eq!(shop.answer("placed")["code"], "out_of_stock");
        assert_eq!((shop.balance("alice"), shop.stock("apple"), shop.stock("pear")), (999_999, 1000, 5));
        shop.check();
    }
}

#[test]
fn a_price_that_changed_undoes_the_charge() {
    let mut shop = shop();
    shop.tell("apple", product::Message::Change { name: None, price: Some(money(1200)) });
    shop.ask("o-1", place("alice", &[("apple", 1, 1000)]), "placed");
    shop.settle();
    let answer = shop.answer("placed");
    assert_eq!(
        (&answer["code"], &answer["price"], &answer["agreed"]),
        (&"price_changed".into(), &1200.into(), &1000.into())
    );
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (999_999, 1000));
    shop.check();
}

#[test]
fn an_unknown_wallet_or_product_rejects_the_order() {
    let mut shop = shop();
    shop.ask("o-1", place("nobody", &[("apple", 1, 1000)]), "wallet");
    shop.ask("o-2", place("alice", &[("nothing", 1, 1000)]), "product");
    shop.settle();
    assert_eq!(shop.answer("wallet")["detail"], "there is no wallet \"nobody\"");
    assert_eq!(shop.answer("product")["detail"], "there is no product \"nothing\"");
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (999_999, 1000));
    shop.check();
}

#[test]
fn a_quote_that_shows_too_little_rejects_before_any_money_moves() {
    let mut shop = shop();
    let quoted = |quote| {
        let product = "apple".parse().unwrap();
        let wanted = Wanted { product, quantity: quantity(10), unit_price: None, quote: Some(quote) };
        order::Message::Place(Place { user: "alice".parse().unwrap(), lines: vec![wanted] })
    };
    shop.ask("o-1", quoted(Quote::Offer { price: money(1000), stock: quantity(9) }), "short");
    shop.ask("o-2", quoted(Quote::NotFound), "unknown");
    assert_eq!(shop.answer("short")["code"], "out_of_stock");
    assert_eq!(shop.answer("unknown")["code"], "not_found");
    assert_eq!(shop.order("o-2").amount, money(0), "nobody knows what it would have cost");
    shop.ask("o-3", quoted(Quote::Offer { price: money(1000), stock: quantity(10) }), "enough");
    shop.settle();
    assert_eq!(shop.answer("enough")["amount"], 10_000);
    assert_eq!(shop.balance("alice"), 989_999);
    shop.check();
}

#[test]
fn a_cancel_at_any_moment_gives_back_exactly_what_was_taken() {
    for lines in
        [&[("apple", 2, 1000)][..], &[("apple", 2, 1000), ("pear", 1, 300)], &[("apple", 2, 1000), ("pear", 6, 300)]]
    {
        for moment in 0..20 {
            let mut shop = shop();
            shop.ask("o-1", place("alice", lines), "placed");
            for _ in 0..moment {
                shop.step(|links| links - 1);
            }
            let before = shop.order("o-1").status;
            shop.ask("o-1", cancel(), "cancelled");
            shop.settle();
            let after = shop.order("o-1").status;
            match before {
                Status::Rejected => assert_eq!(shop.answer("cancelled")["code"], "not_cancellable"),
                Status::Pending | Status::Confirmed | Status::Cancelling | Status::Cancelled => {
                    assert_eq!(after, Status::Cancelled, "cancelled at {moment} while {before}");
                    assert_eq!(shop.answer("cancelled")["status"], "CANCELLED");
                }
            }
            assert_eq!(shop.answers("placed").len(), 1);
            assert_eq!((shop.balance("alice"), shop.stock("apple"), shop.stock("pear")), (999_999, 1000, 5));
            shop.check();
        }
    }
}

#[test]
fn a_cancel_during_a_partial_take_puts_back_the_part_that_was_taken_and_gives_back_the_money() {
    for pears in [1, 6] {
        let mut shop = shop();
        shop.ask("o-1", place("alice", &[("apple", 2, 1000), ("pear", pears, 300)]), "placed");
        shop.step_until(|shop| shop.stock("apple") < 1000);
        assert_eq!((shop.stock("pear"), shop.order("o-1").status), (5, Status::Pending));
        shop.ask("o-1", cancel(), "cancelled");
        assert_eq!(shop.order("o-1").status, Status::Cancelling);
        shop.settle();
        assert_eq!(shop.answer("cancelled")["status"], "CANCELLED");
        assert_eq!(shop.answer("placed"), shop.answer("cancelled"));
        assert_eq!((shop.balance("alice"), shop.stock("apple"), shop.stock("pear")), (999_999, 1000, 5));
        assert_eq!(shop.delivery("o-1"), None);
        shop.check();
    }
}

#[test]
fn an_order_that_is_cancelled_before_it_is_paid_never_takes_a_piece_from_others() {
    let mut shop = shop();
    shop.tell("o-1", place("alice", &[("apple", 1000, 1), ("pear", 1, 300)]));
    assert_eq!(shop.order("o-1").status, Status::Pending);
    shop.tell("o-1", cancel());
    assert_eq!(shop.order("o-1").status, Status::Cancelling);
    while shop.step(|_| 0) {
        assert_eq!((shop.stock("apple"), shop.stock("pear")), (1000, 5));
    }
    assert_eq!(shop.order("o-1").status, Status::Cancelled);
    assert_eq!(shop.rows::<Take>(Kind::Product, "apple", "take/"), []);
    assert_eq!(shop.balance("alice"), 999_999);
    shop.check();
}

#[test]
fn only_products_that_gave_pieces_are_asked_to_take_them_back() {
    let mut shop = shop();
    shop.tell("o-1", place("alice", &[("apple", 2, 1000), ("pear", 6, 300)]));
    shop.settle();
    assert_eq!(shop.rows::<Take>(Kind::Product, "apple", "take/"), [Take::PutBack(quantity(2))]);
    assert_eq!(shop.rows::<Take>(Kind::Product, "pear", "take/"), []);
}

#[test]
fn two_lines_of_one_order_with_the_same_product_reject_it_before_any_money_moves() {
    let mut shop = shop();
    shop.ask("o-1", place("alice", &[("apple", 1, 1000), ("pear", 1, 300), ("apple", 2, 1000)]), "placed");
    let answer = shop.answer("placed");
    assert_eq!((&answer["code"], &answer["errors"][0]["pointer"]), (&"invalid".into(), &"/lines".into()));
    assert_eq!(shop.order("o-1").status, Status::Rejected);
    shop.settle();
    assert_eq!((shop.balance("alice"), shop.stock("apple"), shop.stock("pear")), (999_999, 1000, 5));
    shop.check();
}

#[test]
fn an_order_has_one_to_fifty_lines() {
    let products: Vec<String> = (0..51).map(|product| format!("p-{product}")).collect();
    let lines: Vec<_> = products.iter().map(|product| (product.as_str(), 10, 10)).collect();
    let mut shop = World::with(&lines, &[("alice", 5000)]);
    shop.ask("o-0", place("alice", &[]), "none");
    shop.ask("o-51", place("alice", &lines), "too many");
    shop.ask("o-50", place("alice", &lines[..50]), "just enough");
    shop.settle();
    for refused in ["none", "too many"] {
        assert_eq!(shop.answer(refused)["detail"], "/lines must be 1 to 50, each product once");
    }
    assert_eq!(shop.answer("just enough")["status"], "CONFIRMED");
    assert_eq!(shop.balance("alice"), 0);
    shop.check();
}

#[test]
fn the_page_is_told_of_every_change_of_an_order_when_it_happens() {
    let mut shop = shop();
    let cancel = || order::Message::Cancel { reason: Some("too many".into()) };
    let commands: Vec<(&str, Message)> = vec![
        ("o-1", place("alice", &[("apple", 1, 1000)]).into()),
        ("o-1", cancel().into()),
        ("o-2", place("alice", &[("pear", 6, 300)]).into()),
        ("o-3", place("alice", &[("apple", 1, 1000)]).into()),
        ("o-3", delivery::Message::Dispatch.into()),
        // The delivery is kept: each time the order is cancelling, and then again as it was.
        ("o-3", cancel().into()),
        ("o-3", cancel().into()),
    ];
    for (to, message) in commands {
        let before = shop.orders();
        shop.tell(to, message);
        page_is_told(&before, &shop);
        loop {
            let before = shop.orders();
            if !shop.step(|_| 0) {
                break;
            }
            page_is_told(&before, &shop);
        }
    }
    let ended: Vec<_> = shop.orders().into_iter().map(|order| (order.status, order.reason)).collect();
    let because = |reason: &str| Some(reason.into());
    assert_eq!(
        ended,
        [
            (Status::Cancelled, because("too many")),
            (Status::Rejected, because("out_of_stock")),
            (Status::Confirmed, None)
        ]
    );
}

fn page_is_told(before: &[order::View], shop: &World) {
    for changed in shop.orders().into_iter().filter(|order| !before.contains(order)) {
        let told = |message: &&Message| matches!(message, Message::Mypage(mypage::Message::OrderChanged { order, .. }) if **order == changed);
        assert_eq!(shop.under_way().into_iter().filter(told).count(), 1, "{changed:?}");
    }
}

#[test]
fn a_cancel_after_the_dispatch_is_refused_and_touches_nothing() {
    let mut shop = shop();
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.settle();
    shop.tell("o-1", delivery::Message::Dispatch);
    shop.ask("o-1", cancel(), "cancelled");
    shop.settle();
    let answer = shop.answer("cancelled");
    assert_eq!((&answer["code"], &answer["delivery_status"]), (&"not_cancellable".into(), &"DISPATCHED".into()));
    assert_eq!(shop.order("o-1").status, Status::Confirmed);
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (989_999, 990));
    shop.check();
}

/// An order whose cancel came when it was on its way, as the order and the page show it.
fn cancelled_too_late(logic: Logic) -> [serde_json::Value; 2] {
    let mut shop = shop();
    shop.logic = logic;
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.settle();
    shop.tell("o-1", delivery::Message::Dispatch);
    shop.tell("o-1", order::Message::Cancel { reason: Some("too many".into()) });
    assert_eq!(shop.order("o-1").status, Status::Cancelling);
    shop.settle();
    shop.check();
    let shown = |kind, of| serde_json::from_str::<serde_json::Value>(&shop.view(kind, of).unwrap()).unwrap();
    [shown(Kind::Order, "o-1"), shown(Kind::Mypage, "alice")[0].clone()]
}

#[test]
fn a_cancel_that_loses_to_a_dispatch_stays_on_the_order_and_on_the_page() {
    for shown in cancelled_too_late(Logic::V3) {
        assert_eq!(shown["status"], "CONFIRMED", "{shown}");
        let at = shown["updated_at"].clone();
        let expected = serde_json::json!({ "reason": "too many", "delivery_status": "DISPATCHED", "at": at });
        assert_eq!(shown["cancel_refused"], expected);
    }
    for shown in cancelled_too_late(Logic::V2) {
        assert_eq!(shown.get("cancel_refused"), None);
    }
}

#[test]
fn an_order_that_is_refused_keeps_the_facts_and_the_page_has_them() {
    let mut shop = World::with(&[("apple", 1000, 5), ("pear", 10, 3)], &[("alice", 10_000)]);
    shop.ask("o-1", place("alice", &[("apple", 1, 1000), ("pear", 4, 10)]), "one");
    shop.settle();
    let shown = |kind, of| serde_json::from_str::<serde_json::Value>(&shop.view(kind, of).unwrap()).unwrap();
    let answer = shop.answer("one");
    for shown in [shown(Kind::Order, "o-1"), shown(Kind::Mypage, "alice")[0].clone()] {
        let facts = &shown["refusal"];
        assert_eq!(facts["product"], "pear");
        for fact in ["code", "detail", "product", "stock", "needed"] {
            assert_eq!(facts[fact], answer[fact], "{fact}");
        }
    }
}

#[test]
fn a_delivery_is_dispatched_once_and_then_delivered_once() {
    let mut shop = shop();
    shop.ask("o-1", delivery::Message::Dispatch, "nothing yet");
    assert_eq!(shop.answer("nothing yet")["code"], "not_found");
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.settle();
    shop.ask("o-1", delivery::Message::Deliver, "too early");
    assert_eq!(shop.answer("too early")["code"], "not_deliverable");
    shop.ask("o-1", delivery::Message::Dispatch, "dispatched");
    assert_eq!(shop.answer("dispatched")["status"], "DISPATCHED");
    shop.ask("o-1", delivery::Message::Dispatch, "again");
    assert_eq!(shop.answer("again")["code"], "not_dispatchable");
    shop.ask("o-1", delivery::Message::Deliver, "delivered");
    assert_eq!(shop.answer("delivered")["status"], "DELIVERED");
    shop.ask("o-1", delivery::Message::Deliver, "and again");
    assert_eq!(shop.answer("and again")["delivery_status"], "DELIVERED");
    shop.settle();
    shop.check();
}

#[test]
fn a_delivery_that_was_cancelled_before_it_was_scheduled_is_never_sent_and_its_order_ends() {
    let mut shop = shop();
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.step_until(|shop| shop.order("o-1").status == Status::Confirmed);
    shop.ask("o-1", cancel(), "cancelled");
    shop.deliver("o-1", delivery::Message::Cancel);
    shop.step_until(|shop| shop.order("o-1").status == Status::Cancelled);
    shop.settle();
    assert_eq!(shop.delivery("o-1"), None);
    assert_eq!(shop.answer("cancelled")["status"], "CANCELLED");
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (999_999, 1000));
    shop.check();
}

#[test]
fn whoever_is_asked_again_by_an_order_answers_again() {
    let mut shop = shop();
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.settle();
    let (order, product) = (|| "o-1".parse().unwrap(), "apple".parse().unwrap());
    shop.deliver("alice", wallet::Message::Charge { order: order(), amount: money(10_000) });
    assert_eq!(shop.under_way(), [&order::Message::Charged.into()]);
    shop.settle();
    shop.deliver("apple", product::Message::Take { order: order(), quantity: quantity(10), unit_price: money(1000) });
    assert_eq!(shop.under_way(), [&order::Message::Taken { product }.into()]);
    shop.tell("o-1", cancel());
    shop.settle();
    shop.deliver("o-1", delivery::Message::Cancel);
    assert_eq!(shop.under_way(), [&order::Message::DeliveryCancelled.into()]);
}

#[test]
fn a_cancel_of_what_is_over_says_how_it_ended() {
    let mut shop = shop();
    shop.ask("o-1", cancel(), "unknown");
    assert_eq!(shop.answer("unknown")["code"], "not_found");
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.tell("o-2", place("alice", &[("apple", 1001, 1)]));
    shop.settle();
    shop.ask("o-2", cancel(), "rejected");
    assert_eq!(shop.answer("rejected")["order_status"], "REJECTED");
    shop.tell("o-1", order::Message::Cancel { reason: Some("too many".into()) });
    shop.settle();
    shop.ask("o-1", order::Message::Cancel { reason: Some("again".into()) }, "cancelled");
    let answer = shop.answer("cancelled");
    assert_eq!((&answer["status"], &answer["reason"]), (&"CANCELLED".into(), &"too many".into()));
    shop.check();
}

#[test]
fn answers_that_come_late_change_nothing() {
    let mut shop = shop();
    shop.deliver("o-9", order::Message::Charged);
    shop.tell("o-1", place("alice", &[("apple", 10, 1000)]));
    shop.settle();
    let before = shop.order("o-1");
    let refusal = shop_domain::refusal::Refusal::IdempotencyKeyReused;
    shop.deliver("o-1", order::Message::Charged);
    shop.deliver("o-1", order::Message::ChargeRefused { refusal: refusal.clone() });
    shop.deliver("o-1", order::Message::Taken { product: "apple".parse().unwrap() });
    shop.deliver("o-1", order::Message::TakeRefused { product: "apple".parse().unwrap(), refusal });
    shop.deliver("o-1", order::Message::DeliveryCancelled);
    shop.deliver("o-1", order::Message::DeliveryKept { status: delivery::Status::Delivered });
    shop.settle();
    assert_eq!(shop.order("o-1"), before);
    assert_eq!((shop.balance("alice"), shop.stock("apple")), (989_999, 990));
    shop.check();
}
