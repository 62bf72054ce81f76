//! What callers see, pinned: names, codes, sentences, limits and shapes. A change here is a
//! change of the contract, and somebody's program or screen shows it.

use std::collections::BTreeMap;

use serde_json::Value;
use shop_domain::{
    delivery,
    entity::{self, Answer},
    id::{Id, InvalidId, Key},
    kind::Kind,
    logic::Logic,
    message::{Envelope, Message, Request},
    money::{AMOUNT_MAX, Money, Quantity},
    mypage,
    order::{self, Place, Wanted},
    problem::{Code, Problem},
    product::{self, Quote},
    refusal::Refusal,
    timestamp::Timestamp,
    version::{Current, Version},
    wallet,
};

use crate::world::{World, cancel, create, id, money, place, quantity};

#[test]
fn every_code_has_one_status_and_one_title_and_is_found_by_its_name() {
    let table = [
        ("invalid", 422, "The request breaks a rule"),
        ("malformed", 400, "The request cannot be read"),
        ("unauthorized", 401, "Unauthorized"),
        ("forbidden", 403, "Forbidden"),
        ("cross_site", 403, "Cross-site request"),
        ("not_found", 404, "Not found"),
        ("method_not_allowed", 405, "Method not allowed"),
        ("already_exists", 409, "Already exists"),
        ("insufficient_balance", 409, "Insufficient balance"),
        ("out_of_stock", 409, "Out of stock"),
        ("price_changed", 409, "Price changed"),
        ("not_cancellable", 409, "Not cancellable"),
        ("not_dispatchable", 409, "Not dispatchable"),
        ("not_deliverable", 409, "Not deliverable"),
        ("limit_exceeded", 409, "Limit exceeded"),
        ("idempotency_key_reused", 409, "Idempotency key reused"),
        ("precondition_failed", 412, "Precondition failed"),
        ("request_timeout", 408, "Request timeout"),
        ("payload_too_large", 413, "Payload too large"),
        ("uri_too_long", 414, "URI too long"),
        ("unsupported_media_type", 415, "Unsupported media type"),
        ("misdirected", 421, "Misdirected request"),
        ("rate_limited", 429, "Rate limited"),
        ("headers_too_large", 431, "Request header fields too large"),
        ("overloaded", 503, "Overloaded"),
        ("unavailable", 503, "Unavailable"),
    ];
    let codes: Vec<_> = Code::ALL.iter().map(|code| (code.name, code.status, code.title)).collect();
    assert_eq!(codes, table);
    for code in Code::ALL {
        assert_eq!(Code::named(code.name), Some(*code));
    }
    assert_eq!(Code::named("no_such_code"), None);
}

/// A refusal, its code, its sentence, and its facts in JSON.
type Told<'a> = (Refusal, &'static str, &'static str, &'a str);

/// Every refusal as it was told before logic version 3.
fn former_refusals() -> Vec<Told<'static>> {
    let (apple, alice) = (|| "apple".parse().unwrap(), || id("alice"));
    vec![
        (Refusal::NotFound { kind: Kind::Wallet, id: alice() }, "not_found", "there is no wallet alice", ""),
        (
            Refusal::AlreadyExists { kind: Kind::Wallet, id: alice() },
            "already_exists",
            "the wallet alice exists already",
            "",
        ),
        (
            Refusal::InsufficientBalance { balance: money(1), needed: money(2) },
            "insufficient_balance",
            "the order costs 2, the wallet holds 1",
            r#","balance":1,"needed":2"#,
        ),
        (
            Refusal::OutOfStock { product: apple(), stock: quantity(1), needed: quantity(2) },
            "out_of_stock",
            "the order wants 2 of apple, 1 are left",
            r#","product":"apple","stock":1,"needed":2"#,
        ),
        (
            Refusal::PriceChanged { product: apple(), price: money(1), agreed: money(2), was_quoted: false },
            "price_changed",
            "apple costs 1 now, the order agreed to 2",
            r#","product":"apple","price":1,"agreed":2"#,
        ),
        (
            Refusal::NotCancellable { kind: Kind::Delivery, status: "DISPATCHED".into() },
            "not_cancellable",
            "the delivery is DISPATCHED, so the order cannot be cancelled",
            r#","delivery_status":"DISPATCHED""#,
        ),
        (
            Refusal::NotCancellable { kind: Kind::Order, status: "REJECTED".into() },
            "not_cancellable",
            "the order is REJECTED, so the order cannot be cancelled",
            r#","order_status":"REJECTED""#,
        ),
        (
            Refusal::NotDispatchable { status: "CANCELLED".into() },
            "not_dispatchable",
            "a delivery that is CANCELLED cannot be dispatched",
            r#","delivery_status":"CANCELLED""#,
        ),
        (
            Refusal::NotDeliverable { status: "SCHEDULED".into() },
            "not_deliverable",
            "a delivery that is SCHEDULED cannot be delivered",
            r#","delivery_status":"SCHEDULED""#,
        ),
        (
            Refusal::IdempotencyKeyReused,
            "idempotency_key_reused",
            "this idempotency key or order id was used before with another request; take a new one",
            "",
        ),
        (
            Refusal::Invalid { pointer: "/amount".into(), detail: "is too much".into() },
            "invalid",
            "/amount is too much",
            r#","errors":[{"pointer":"/amount","detail":"is too much"}]"#,
        ),
    ]
}

#[test]
fn every_refusal_tells_what_happened_in_a_sentence_and_in_facts() {
    let apple = || "apple".parse().unwrap();
    let mut table = former_refusals();
    let (detail, facts) = (r#"there is no wallet \"alice\""#, r#","kind":"wallet","id":"alice""#);
    (table[0].2, table[0].3) = (detail, facts);
    (table[1].2, table[1].3) = (r#"the wallet \"alice\" exists already"#, facts);
    table[3].2 = r#"the order wants 2 of \"apple\", 1 are left"#;
    table[4].2 = r#"\"apple\" costs 1 now, the order agreed to 2"#;
    table.push((
        Refusal::PriceChanged { product: apple(), price: money(1), agreed: money(2), was_quoted: true },
        "price_changed",
        r#"\"apple\" costs 1 now, it was quoted at 2"#,
        r#","product":"apple","price":1,"agreed":2"#,
    ));
    table.push((
        Refusal::LimitExceeded { pointer: "/amount".into(), detail: "is too much".into(), used: 1, needed: 2 },
        "limit_exceeded",
        "/amount is too much",
        r#","limit":9007199254740991,"used":1,"needed":2,"errors":[{"pointer":"/amount","detail":"is too much"}]"#,
    ));
    table.push((
        Refusal::KeyReused { kind: Kind::Wallet, id: id("alice") },
        "idempotency_key_reused",
        r#"this idempotency key was used before with another request to the wallet \"alice\"; take a new one"#,
        r#","reused":"key","wallet":"alice""#,
    ));
    for told in table {
        is_told(Logic::V3, r#","retryable":false"#, told);
    }
    let facts = r#","kind":"wallet","id":"alice""#;
    for (current, detail, etag) in [
        (Current::Absent, r#"the wallet \"alice\" does not exist, and If-Match demands that it does"#, ""),
        (Current::Untagged, r#"the wallet \"alice\" has no entity tag that If-Match or If-None-Match could mean"#, ""),
        (
            Current::At(Version::ZERO.next()),
            r#"the wallet \"alice\" has the entity tag \"1\", and If-Match or If-None-Match demands otherwise"#,
            r#","etag":"\"1\"""#,
        ),
    ] {
        let refusal = Refusal::PreconditionFailed { kind: Kind::Wallet, id: id("alice"), current };
        let facts = format!("{facts}{etag}");
        is_told(Logic::V4, r#","retryable":false"#, (refusal, "precondition_failed", detail, &facts));
    }
    let crowded = (
        Refusal::Overloaded { waiting: 256 },
        "overloaded",
        "256 callers wait for this order already, as many as it answers; ask again",
        r#","waiting":256"#,
    );
    is_told(Logic::V3, r#","retryable":true"#, crowded);
}

#[test]
fn before_logic_version_3_a_refusal_is_told_in_the_words_of_its_day() {
    for logic in [Logic::V1, Logic::V2] {
        for told in former_refusals() {
            is_told(logic, "", told);
        }
    }
}

#[track_caller]
fn is_told(logic: Logic, retryable: &str, (refusal, name, detail, facts): Told<'_>) {
    let Code { status, title, .. } = Code::named(name).unwrap();
    let head = format!(r#""type":"urn:shop:problem:{name}","title":"{title}","status":{status},"code":"{name}""#);
    let answer = Answer::refused(&refusal, logic);
    assert_eq!(text(&answer), format!(r#"{{{head},"detail":"{detail}"{retryable}{facts}}}"#));
    assert_eq!(answer.code(), Code::named(name));
    let answer = Answer::order_refused(&refusal, &id("o-1"), logic);
    assert_eq!(text(&answer), format!(r#"{{{head},"detail":"{detail}"{retryable}{facts},"order":"o-1"}}"#));
    assert_eq!(answer.code(), Code::named(name));
}

#[test]
fn a_problem_says_whether_the_request_may_be_sent_again() {
    let retryable = |problem: Problem| {
        let told: Value = serde_json::from_slice(&problem.to_json()).unwrap();
        told["retryable"].as_bool().unwrap()
    };
    for code in Code::ALL {
        assert_eq!(retryable(Problem::new(*code, "no")), matches!(code.status, 408 | 429 | 503), "{}", code.name);
        assert!(!retryable(Problem::new(*code, "no").retryable(false)), "{}", code.name);
        assert!(retryable(Problem::new(*code, "no").retryable(true)), "{}", code.name);
    }
    assert!(retryable(Problem::held("not now")));
}

#[test]
fn a_rejected_order_and_its_page_show_which_of_its_products_ran_out() {
    for (logic, page_shows_it) in [(Logic::V2, false), (Logic::V3, true)] {
        let mut shop = World::with(&[("apple", 10, 5), ("pear", 10, 2)], &[("alice", 10_000)]);
        shop.logic = logic;
        shop.tell("o-1", place("alice", &[("apple", 1, 10), ("pear", 3, 10)]));
        shop.tell("o-2", place("alice", &[("apple", 1, 10)]));
        shop.settle();
        let facts = serde_json::json!({
            "code": "out_of_stock",
            "detail": "the order wants 3 of \"pear\", 2 are left",
            "product": "pear",
            "stock": 2,
            "needed": 3,
        });
        let shown = |kind, of| serde_json::from_str::<Value>(&shop.view(kind, of).unwrap()).unwrap();
        let (rejected, page) = (shown(Kind::Order, "o-1"), shown(Kind::Mypage, "alice"));
        assert_eq!(rejected["refusal"], facts, "{logic}");
        assert_eq!(page[0].get("refusal"), page_shows_it.then_some(&facts), "{logic}");
        assert_eq!((&rejected["reason"], &page[0]["reason"]), (&"out_of_stock".into(), &"out_of_stock".into()));
        assert_eq!(shown(Kind::Order, "o-2").get("refusal"), None);
    }
}

#[test]
fn who_named_no_price_is_told_what_was_quoted_and_others_what_they_agreed_to() {
    for (unit_price, logic, says) in [
        (Some(money(9)), Logic::V3, "\"apple\" costs 10 now, the order agreed to 9"),
        (None, Logic::V3, "\"apple\" costs 10 now, it was quoted at 9"),
        (None, Logic::V2, "apple costs 10 now, the order agreed to 9"),
    ] {
        let mut shop = World::with(&[("apple", 10, 5)], &[("alice", 10_000)]);
        shop.logic = logic;
        let quote = unit_price.is_none().then_some(Quote::Offer { price: money(9), stock: quantity(5) });
        let line = Wanted { product: "apple".parse().unwrap(), quantity: quantity(1), unit_price, quote };
        let place = Place { user: "alice".parse().unwrap(), lines: vec![line] };
        shop.ask("o-1", order::Message::Place(place), "caller");
        shop.settle();
        let answer = shop.answer("caller");
        assert_eq!((&answer["detail"], &answer["agreed"]), (&says.into(), &9.into()), "{logic}");
    }
}

#[test]
fn an_answer_has_a_code_only_when_it_is_an_error() {
    assert_eq!(Answer::ok(&1, None).code(), None);
    // Kept by a version that knew more codes.
    let kept = Answer { error: Some("of_the_future".into()), version: None, body: vec![] };
    assert_eq!(kept.code(), Some(Code::INVALID));
}

#[test]
fn a_fact_told_twice_is_told_as_it_was_last() {
    let problem = Problem::new(Code::INVALID, "no").fact("stock", 1).fact("stock", 2);
    assert_eq!(serde_json::to_string(&problem.facts).unwrap(), r#"{"stock":2}"#);
}

#[test]
fn the_five_kinds_are_known_by_their_names_and_nothing_else_is() {
    let names: Vec<_> = Kind::ALL.iter().map(Kind::to_string).collect();
    assert_eq!(names, ["wallet", "product", "order", "delivery", "mypage"]);
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse::<Kind>().ok(), Some(kind));
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("{:?}", kind.as_str()));
    }
    let unknown = "Wallet".parse::<Kind>().unwrap_err();
    assert_eq!(unknown.to_string(), r#"no such kind: "Wallet" (expected wallet, product, order, delivery or mypage)"#);
}

#[test]
fn a_status_is_spelt_alike_in_sentences_and_in_json() {
    use delivery::Status as Delivery;
    use order::Status as Order;
    let orders = [
        (Order::Pending, "PENDING"),
        (Order::Confirmed, "CONFIRMED"),
        (Order::Rejected, "REJECTED"),
        (Order::Cancelling, "CANCELLING"),
        (Order::Cancelled, "CANCELLED"),
    ];
    for (status, name) in orders {
        assert_eq!((status.to_string(), serde_json::to_value(status).unwrap()), (name.into(), name.into()));
    }
    let deliveries = [
        (Delivery::Scheduled, "SCHEDULED"),
        (Delivery::Dispatched, "DISPATCHED"),
        (Delivery::Delivered, "DELIVERED"),
        (Delivery::Cancelled, "CANCELLED"),
    ];
    for (status, name) in deliveries {
        assert_eq!((status.to_string(), serde_json::to_value(status).unwrap()), (name.into(), name.into()));
    }
    assert!(deliveries.is_sorted(), "a delivery only ever moves down the list");
}

#[test]
fn what_is_wrong_with_an_id_or_a_key_is_said_with_its_limit() {
    let table = [
        ("".parse::<Id>(), "must not be empty"),
        ("x".repeat(65).parse(), "must have at most 64 characters, not 65"),
        ("a.b".parse(), "must consist of A-Z a-z 0-9 - _, not '.'"),
        ("a\0".parse(), "must consist of A-Z a-z 0-9 - _, not U+0000"),
        ("a\u{200b}".parse(), "must consist of A-Z a-z 0-9 - _, not U+200B"),
    ];
    for (wrong, says) in table {
        assert_eq!(wrong.unwrap_err().to_string(), says);
    }
    let long: Result<Key, InvalidId> = "k".repeat(129).parse();
    assert_eq!(long.unwrap_err().to_string(), "must have at most 128 characters, not 129");
    assert_eq!((format!("{}", id("o-1")), format!("{:?}", id("o-1"))), ("o-1".into(), "o-1".into()));
}

#[test]
fn money_and_quantities_are_counted_alike_up_to_the_limit() {
    assert_eq!((Money::new(AMOUNT_MAX), Money::new(AMOUNT_MAX + 1)), (Some(Money::MAX), None));
    assert_eq!((Quantity::new(AMOUNT_MAX), Quantity::new(AMOUNT_MAX + 1)), (Some(Quantity::MAX), None));
    assert_eq!((Money::MAX.to_string(), Quantity::MAX.to_string()), (AMOUNT_MAX.to_string(), AMOUNT_MAX.to_string()));
    assert_eq!(quantity(2).checked_add(quantity(3)), Some(quantity(5)));
    assert_eq!(Quantity::MAX.checked_add(quantity(1)), None);
    assert_eq!(quantity(3).checked_sub(quantity(2)), Some(quantity(1)));
    assert_eq!(quantity(2).checked_sub(quantity(3)), None);
    let beyond = serde_json::from_str::<Money>("9007199254740992").unwrap_err();
    assert!(beyond.to_string().starts_with("9007199254740992 is beyond 9007199254740991"), "{beyond}");
}

#[test]
fn every_thing_is_shown_in_the_shape_that_the_contract_names() {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.tell("o-1", place("alice", &[("apple", 2, 1000)]));
    shop.settle();
    let lines = r#"[{"product":"apple","quantity":2,"unit_price":1000}]"#;
    let at = |ms| format!("1970-01-01T00:00:00.{ms:03}Z");
    let order = |moment: u64| {
        format!(
            r#""id":"o-1","user":"alice","lines":{lines},"amount":2000,"status":"CONFIRMED","delivery":"o-1","placed_at":"{}","updated_at":"{}""#,
            at(3),
            at(moment)
        )
    };
    let shown = [
        (
            Kind::Product,
            "apple",
            format!(r#"{{"id":"apple","name":"thing","price":1000,"stock":3,"updated_at":"{}"}}"#, at(6)),
        ),
        (Kind::Wallet, "alice", format!(r#"{{"id":"alice","balance":8000,"updated_at":"{}"}}"#, at(4))),
        (Kind::Order, "o-1", format!("{{{}}}", order(7))),
        (
            Kind::Delivery,
            "o-1",
            format!(
                r#"{{"id":"o-1","order":"o-1","user":"alice","lines":[{{"product":"apple","quantity":2}}],"status":"SCHEDULED","updated_at":"{}"}}"#,
                at(8)
            ),
        ),
        (Kind::Mypage, "alice", format!(r#"[{{{},"delivery_status":"SCHEDULED"}}]"#, order(7))),
    ];
    for (kind, of, json) in shown {
        assert_eq!(shop.view(kind, of).as_deref(), Some(&*json));
    }
}

#[test]
fn what_changes_says_when_and_what_does_not_change_keeps_its_time() {
    let change = || product::Message::Change { name: Some("pomme".into()), price: None };
    let commands: Vec<(&str, Message)> = vec![
        ("apple", create(1000, 5).into()),
        ("apple", product::Message::Restock { quantity: quantity(5) }.into()),
        ("apple", change().into()),
        ("apple", change().into()),
        ("alice", wallet::Message::Open { balance: money(10_000) }.into()),
        ("alice", wallet::Message::TopUp { amount: money(5) }.into()),
        ("confirmed", place("alice", &[("apple", 1, 1000)]).into()),
        ("confirmed", delivery::Message::Dispatch.into()),
        ("confirmed", cancel().into()),
        ("confirmed", delivery::Message::Deliver.into()),
        ("cancelled", place("alice", &[("apple", 1, 1000)]).into()),
        ("cancelled", cancel().into()),
        ("cancelled", cancel().into()),
        ("unpaid", place("alice", &[("apple", 1, 10_000)]).into()),
        ("untaken", place("alice", &[("apple", 1, 999)]).into()),
        ("untaken", cancel().into()),
    ];
    let mut shop = World::default();
    for (to, message) in commands {
        let before = views(&shop);
        shop.tell(to, message);
        changed_say_when(&before, &shop);
        loop {
            let before = views(&shop);
            if !shop.step(|_| 0) {
                break;
            }
            changed_say_when(&before, &shop);
        }
    }
    assert_eq!(views(&shop).len(), 2 + 4 + 2);
}

type Views = BTreeMap<(Kind, &'static str), Value>;

fn views(shop: &World) -> Views {
    let things = [(Kind::Product, "apple"), (Kind::Wallet, "alice")].into_iter();
    let orders = ["confirmed", "cancelled", "unpaid", "untaken"];
    let things = things.chain(orders.into_iter().flat_map(|id| [(Kind::Order, id), (Kind::Delivery, id)]));
    things.filter_map(|(kind, of)| Some(((kind, of), serde_json::from_str(&shop.view(kind, of)?).unwrap()))).collect()
}

fn changed_say_when(before: &Views, shop: &World) {
    let now = serde_json::to_value(Timestamp::from_unix_ms(shop.now)).unwrap();
    for (thing, view) in views(shop) {
        let mut expected = before.get(&thing).unwrap_or(&Value::Null).clone();
        if view != expected {
            assert_eq!(view["updated_at"], now, "{thing:?} {view}");
            expected["updated_at"] = now.clone();
            assert_ne!(view, expected, "nothing but the time has changed");
        }
    }
}

#[test]
fn what_nobody_has_made_is_not_shown() {
    let mut shop = World::default();
    for kind in [Kind::Wallet, Kind::Product, Kind::Order, Kind::Delivery] {
        assert_eq!(shop.view(kind, "x"), None, "{kind}");
    }
    shop.deliver("x", delivery::Message::Cancel);
    assert_eq!(shop.view(Kind::Delivery, "x"), None);
    // A delivery may tell the page before its order does: nothing is shown of an order half known.
    let (order, placed_at) = ("o-1".parse().unwrap(), Timestamp::from_unix_ms(1));
    shop.deliver("x", mypage::Message::DeliveryChanged { order, placed_at, status: delivery::Status::Scheduled });
    assert_eq!(shop.view(Kind::Mypage, "x").as_deref(), Some("[]"));
}

#[test]
fn a_message_reads_the_rows_that_it_needs_and_no_others() {
    let order = || "o-1".parse().unwrap();
    let placed_at = Timestamp::from_unix_ms(1_700_000_000_007);
    let schedule = delivery::Message::Schedule { user: "alice".parse().unwrap(), lines: vec![], placed_at };
    let change = product::Message::Change { name: None, price: None };
    let changed = mypage::Message::DeliveryChanged { order: order(), placed_at, status: delivery::Status::Delivered };
    let mut shop = World::with(&[("apple", 1, 1)], &[("alice", 1)]);
    shop.tell("o-1", place("alice", &[("apple", 1, 1)]));
    let told = mypage::Message::OrderChanged { order: Box::new(shop.order("o-1")), delivery_status: None };
    let table: Vec<(Message, &[&str])> = vec![
        (wallet::Message::Open { balance: money(1) }.into(), &[]),
        (wallet::Message::TopUp { amount: money(1) }.into(), &[]),
        (wallet::Message::Charge { order: order(), amount: money(1) }.into(), &["charge/o-1"]),
        (wallet::Message::Refund { order: order() }.into(), &["charge/o-1"]),
        (create(1, 1).into(), &[]),
        (product::Message::Restock { quantity: quantity(1) }.into(), &[]),
        (change.into(), &[]),
        (product::Message::Take { order: order(), quantity: quantity(1), unit_price: money(1) }.into(), &["take/o-1"]),
        (product::Message::PutBack { order: order() }.into(), &["take/o-1"]),
        (place("alice", &[]).into(), &[]),
        (cancel().into(), &[]),
        (order::Message::Charged.into(), &[]),
        (schedule.into(), &[]),
        (delivery::Message::Cancel.into(), &[]),
        (delivery::Message::Dispatch.into(), &[]),
        (delivery::Message::Deliver.into(), &[]),
        (told.into(), &["order/0000000000000003-o-1"]),
        (changed.into(), &["order/0001700000000007-o-1"]),
    ];
    for (message, expected) in table {
        let mut envelope = Envelope { to: id("x"), message, request: None, trace: None };
        assert_eq!(rows(&envelope), expected, "{:?}", envelope.message);
        let key = Some("k-1".parse().unwrap());
        envelope.request = Some(Request {
            key,
            key_as_given: None,
            fingerprint: envelope.message.fingerprint(),
            reply: None,
            ticket: None,
            precondition: None,
            caller: None,
        });
        let answer =
            if matches!(envelope.message, Message::Order(order::Message::Place(_))) { "answer/" } else { "answer/k-1" };
        assert_eq!(rows(&envelope), [expected, &[answer]].concat(), "{:?}", envelope.message);
    }
}

#[test]
fn the_rows_of_a_statement_sort_by_number() {
    assert_eq!(&*wallet::entry_row(7), "entry/00000000000000000007");
    assert!(wallet::entry_row(9) < wallet::entry_row(10));
    assert!(wallet::entry_row(10) < wallet::entry_row(u64::MAX));
}

fn rows(envelope: &Envelope) -> Vec<String> {
    entity::rows(envelope).into_iter().map(Into::into).collect()
}

fn text(answer: &Answer) -> &str {
    str::from_utf8(&answer.body).unwrap()
}
