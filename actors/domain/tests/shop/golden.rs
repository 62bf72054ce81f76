//! The bytes of every message in the log, pinned: what was written yesterday must be read tomorrow.
//!
//! A change here needs a new version of the message beside the old one. After adding a message, run
//! the test once with `GOLDEN_WRITE=1` and look at the difference before committing it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use shop_domain::{
    caller::{Caller, Reach},
    delivery,
    kind::Kind,
    message::{Envelope, Format, Message, ReplyTo, Request},
    mypage,
    order::{self, Place, Wanted},
    product::{self, Quote},
    refusal::Refusal,
    timestamp::Timestamp,
    version::{Current, Precondition, Version},
    wallet,
};

use crate::world::{World, create, id, money, place, quantity};

#[test]
fn every_message_has_the_bytes_that_it_always_had() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/messages.v1");
    let samples = samples();
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        let lines = samples.iter().map(|(name, envelope)| format!("{name} {}\n", hex(&encode(envelope))));
        fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    let golden: BTreeMap<_, _> = golden.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(golden.keys().copied().collect::<Vec<_>>(), samples.keys().map(String::as_str).collect::<Vec<_>>());
    for (name, envelope) in &samples {
        let bytes = golden[name.as_str()];
        assert_eq!(hex(&encode(envelope)), bytes, "{name} is written differently now");
        assert_eq!(
            rmp_serde::from_slice::<Envelope>(&unhex(bytes)).unwrap(),
            *envelope,
            "{name} is read differently now"
        );
    }
}

#[test]
fn the_fingerprint_of_a_command_never_changes() {
    let message = Message::from(wallet::Message::TopUp { amount: money(5) });
    assert_eq!(message.fingerprint(), 0x4b2d_8736_c772_a125);
}

fn samples() -> BTreeMap<String, Envelope> {
    let mut shop = World::with(&[("apple", 1000, 5)], &[("alice", 10_000)]);
    shop.tell("o-1", place("alice", &[("apple", 1, 1000)]));
    shop.settle();
    shop.tell("o-2", place("alice", &[("apple", 9, 1000)]));
    shop.tell("o-3", place("alice", &[("apple", 2, 1000)]));
    shop.settle();
    shop.tell("o-3", delivery::Message::Dispatch);
    shop.tell("o-3", order::Message::Cancel { reason: Some("too many".into()) });
    shop.settle();
    let order = || "o-1".parse().unwrap();
    let product = || "apple".parse().unwrap();
    let placed_at = Timestamp::from_unix_ms(1_700_000_000_000);
    let refused = |refusal| order::Message::ChargeRefused { refusal };
    let precondition_failed =
        |current| refused(Refusal::PreconditionFailed { kind: Kind::Wallet, id: id("alice"), current });
    let wanted = |unit_price, quote| Wanted { product: product(), quantity: quantity(2), unit_price, quote };
    let place_all = Place {
        user: "alice".parse().unwrap(),
        lines: vec![
            wanted(Some(money(1000)), None),
            wanted(None, Some(Quote::Offer { price: money(1000), stock: quantity(5) })),
            wanted(None, Some(Quote::NotFound)),
        ],
    };
    let messages: Vec<(&str, Message)> = vec![
        ("wallet.open", wallet::Message::Open { balance: money(999_999) }.into()),
        ("wallet.top_up", wallet::Message::TopUp { amount: money(1) }.into()),
        ("wallet.charge", wallet::Message::Charge { order: order(), amount: money(10_000) }.into()),
        ("wallet.refund", wallet::Message::Refund { order: order() }.into()),
        ("product.create", create(1000, 1000).into()),
        ("product.restock", product::Message::Restock { quantity: quantity(7) }.into()),
        ("product.change", product::Message::Change { name: Some("pomme".into()), price: Some(money(7)) }.into()),
        ("product.change.nothing", product::Message::Change { name: None, price: None }.into()),
        (
            "product.take",
            product::Message::Take { order: order(), quantity: quantity(10), unit_price: money(1000) }.into(),
        ),
        ("product.put_back", product::Message::PutBack { order: order() }.into()),
        ("order.place", order::Message::Place(place_all).into()),
        ("order.cancel", order::Message::Cancel { reason: None }.into()),
        ("order.cancel.reason", order::Message::Cancel { reason: Some("changed my mind".into()) }.into()),
        ("order.charged", order::Message::Charged.into()),
        ("order.taken", order::Message::Taken { product: product() }.into()),
        ("order.delivery_cancelled", order::Message::DeliveryCancelled.into()),
        ("order.delivery_kept", order::Message::DeliveryKept { status: delivery::Status::Dispatched }.into()),
        ("refusal.not_found", refused(Refusal::NotFound { kind: Kind::Wallet, id: id("alice") }).into()),
        ("refusal.already_exists", refused(Refusal::AlreadyExists { kind: Kind::Wallet, id: id("alice") }).into()),
        (
            "refusal.insufficient_balance",
            refused(Refusal::InsufficientBalance { balance: money(1), needed: money(2) }).into(),
        ),
        (
            "refusal.out_of_stock",
            order::Message::TakeRefused {
                product: product(),
                refusal: Refusal::OutOfStock { product: product(), stock: quantity(1), needed: quantity(2) },
            }
            .into(),
        ),
        (
            "refusal.price_changed",
            refused(Refusal::PriceChanged { product: product(), price: money(1), agreed: money(2), was_quoted: false })
                .into(),
        ),
        (
            "refusal.not_cancellable",
            refused(Refusal::NotCancellable { kind: Kind::Delivery, status: "DISPATCHED".into() }).into(),
        ),
        ("refusal.not_dispatchable", refused(Refusal::NotDispatchable { status: "CANCELLED".into() }).into()),
        ("refusal.not_deliverable", refused(Refusal::NotDeliverable { status: "SCHEDULED".into() }).into()),
        ("refusal.idempotency_key_reused", refused(Refusal::IdempotencyKeyReused).into()),
        (
            "refusal.price_changed.quoted",
            refused(Refusal::PriceChanged { product: product(), price: money(1), agreed: money(2), was_quoted: true })
                .into(),
        ),
        (
            "refusal.limit_exceeded",
            refused(Refusal::LimitExceeded {
                pointer: "/amount".into(),
                detail: "too much".into(),
                used: 1,
                needed: 2,
            })
            .into(),
        ),
        ("refusal.precondition_failed", precondition_failed(Current::Untagged).into()),
        ("refusal.precondition_failed.absent", precondition_failed(Current::Absent).into()),
        ("refusal.precondition_failed.at", precondition_failed(Current::At(Version::ZERO.next())).into()),
        ("refusal.invalid", refused(Refusal::Invalid { pointer: "/amount".into(), detail: "too much".into() }).into()),
        (
            "delivery.schedule",
            delivery::Message::Schedule {
                user: "alice".parse().unwrap(),
                lines: vec![delivery::Line { product: product(), quantity: quantity(10) }],
                placed_at,
            }
            .into(),
        ),
        ("delivery.cancel", delivery::Message::Cancel.into()),
        ("delivery.dispatch", delivery::Message::Dispatch.into()),
        ("delivery.deliver", delivery::Message::Deliver.into()),
        (
            "mypage.order_changed",
            mypage::Message::OrderChanged {
                order: Box::new(shop.order("o-1")),
                delivery_status: Some(delivery::Status::Scheduled),
            }
            .into(),
        ),
        (
            "mypage.order_changed.refused",
            mypage::Message::OrderChanged { order: Box::new(shop.order("o-2")), delivery_status: None }.into(),
        ),
        (
            "mypage.order_changed.cancel_refused",
            mypage::Message::OrderChanged { order: Box::new(shop.order("o-3")), delivery_status: None }.into(),
        ),
        (
            "mypage.delivery_changed",
            mypage::Message::DeliveryChanged { order: order(), placed_at, status: delivery::Status::Delivered }.into(),
        ),
    ];
    let envelope = |message| Envelope { to: id("x"), message, request: None, trace: None };
    let mut samples: BTreeMap<_, _> =
        messages.into_iter().map(|(name, message)| (name.to_owned(), envelope(message))).collect();
    let full = Envelope {
        request: Some(Request {
            key: Some("k-1".parse().unwrap()),
            key_as_given: None,
            fingerprint: u64::MAX,
            reply: Some(ReplyTo { inbox: "_INBOX.a.b".into(), format: Format::Msgpack }),
            ticket: None,
            precondition: None,
            caller: None,
        }),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..envelope(wallet::Message::TopUp { amount: money(1) }.into())
    };
    let mut as_given = full.clone();
    as_given.request.iter_mut().for_each(|request| request.key_as_given = Some("k/1".into()));
    for (name, if_match, if_none_match) in
        [("if_match", vec!["\"7\", \"8\"".to_owned()], vec![]), ("if_none_match", vec![], vec!["*".to_owned()])]
    {
        let mut conditional = full.clone();
        let precondition = Precondition::read(&if_match, &if_none_match).unwrap();
        conditional.request.iter_mut().for_each(|request| request.precondition = precondition.clone());
        samples.insert(format!("envelope.full.{name}"), conditional);
    }
    for (name, reach) in [("own", Reach::Own), ("any", Reach::Any)] {
        let mut of_a_caller = full.clone();
        of_a_caller.request.iter_mut().for_each(|request| request.caller = Some(Caller { name: id("alice"), reach }));
        samples.insert(format!("envelope.full.caller.{name}"), of_a_caller);
    }
    samples.insert("envelope.full".into(), full);
    let ticket = "0af7651916cd43dd8448eb211c80319c.1700000000000.1700000005000".parse().unwrap();
    let voided = Envelope {
        request: Some(Request {
            key: None,
            key_as_given: None,
            fingerprint: 1,
            reply: None,
            ticket: Some(ticket),
            precondition: None,
            caller: None,
        }),
        ..envelope(Message::Void(Kind::Wallet))
    };
    samples.insert("envelope.void".into(), voided);
    samples.insert("envelope.full.key_as_given".into(), as_given);
    samples
}

fn encode(envelope: &Envelope) -> Vec<u8> {
    rmp_serde::to_vec_named(envelope).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
