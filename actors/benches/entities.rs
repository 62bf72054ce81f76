//! What the rules themselves cost: one message handled by one entity, with its rows.
//! Run by `cargo bench --profile dist -p shop-actors --bench entities`.

use criterion::{BatchSize, Criterion};
use shop_domain::{
    entity::{self, State},
    kind::Kind,
    logic::Logic,
    message::{Envelope, Format, Message, ReplyTo, Request},
    money::{Money, Quantity},
    order::{self, Place, Wanted},
    product,
    rows::Rows,
    timestamp::Timestamp,
    wallet,
};

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    handling(&mut criterion);
    criterion.final_summary();
}

fn handling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handle");
    let wallet = made(Kind::Wallet, to("alice", wallet::Message::Open { balance: money(1_000_000) }));
    let product = product::Message::Create { name: "apple".into(), price: money(1_000), stock: pieces(1_000_000) };
    let product = made(Kind::Product, to("apple", product));
    let (order, amount) = ("o-1".parse().expect("an id"), money(1_000));
    let charge = wallet::Message::Charge { order, amount };
    let order = "o-1".parse().expect("an id");
    let take = product::Message::Take { order, quantity: pieces(1), unit_price: money(1_000) };
    for (name, state, envelope) in [
        ("charge", wallet, to("alice", charge)),
        ("take", product, to("apple", take)),
        ("place", State::absent(Kind::Order), place()),
    ] {
        group.bench_function(name, |bencher| {
            let given = || (state.clone(), envelope.clone(), rows_of(&envelope));
            let handle = |(mut state, envelope, mut rows): (State, Envelope, Rows)| {
                let effects = state.handle(envelope, NOW, Logic::NEWEST, &mut rows);
                (state, rows, effects)
            };
            bencher.iter_batched(given, handle, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// An order as a customer places it over HTTP, who waits for the answer.
fn place() -> Envelope {
    let product = "apple".parse().expect("an id");
    let line = Wanted { product, quantity: pieces(1), unit_price: Some(money(1_000)), quote: None };
    let message = order::Message::Place(Place { user: "alice".parse().expect("an id"), lines: vec![line] });
    let mut envelope = to("o-1", message);
    let reply = Some(ReplyTo { inbox: "_INBOX.1234567890123456789012.1".into(), format: Format::Msgpack });
    let fingerprint = envelope.message.fingerprint();
    envelope.request = Some(Request {
        key: None,
        key_as_given: None,
        fingerprint,
        reply,
        ticket: None,
        precondition: None,
        caller: None,
    });
    envelope
}

/// The entity that this message makes.
fn made(kind: Kind, envelope: Envelope) -> State {
    let mut state = State::absent(kind);
    let mut rows = rows_of(&envelope);
    state.handle(envelope, NOW, Logic::NEWEST, &mut rows);
    state
}

/// The rows that the message names, none of which is there yet.
fn rows_of(envelope: &Envelope) -> Rows {
    let mut rows = Rows::default();
    for row in entity::rows(envelope) {
        rows.load(row, None);
    }
    rows
}

fn to(id: &str, message: impl Into<Message>) -> Envelope {
    Envelope { to: id.parse().expect("an id"), message: message.into(), request: None, trace: None }
}

fn money(units: u64) -> Money {
    Money::new(units).expect("within the range")
}

fn pieces(count: u64) -> Quantity {
    Quantity::new(count).expect("within the range")
}
