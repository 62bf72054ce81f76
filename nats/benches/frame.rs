//! What every message costs on its way into a log and out of it: encoding, decoding, and finding
//! its partition. Run by `cargo bench --profile dist -p shop-nats --bench frame`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use shop_domain::{
    kind::Kind,
    message::{Envelope, Message},
    money::Money,
    wallet,
};
use shop_nats::{
    log::frame::{self, EncodedMessage, Origin, Payload, Source},
    subject,
};

const SOURCE: Source = Source { origin: Origin::Partition(Kind::Order, 0), epoch: 0x0123_4567_89ab_cdef };
/// Alone, as at night, and together, as in a rush.
const MESSAGES: [usize; 2] = [1, 100];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    frames(&mut criterion);
    partition(&mut criterion);
    criterion.final_summary();
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for count in MESSAGES {
        let messages: Vec<Envelope> = (0..count).map(charge).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("encode", count), &messages, |bencher, messages| {
            bencher.iter(|| encode(messages));
        });
        let bytes = encode(&messages).remove(0).0;
        group.bench_with_input(BenchmarkId::new("decode", count), &bytes, |bencher, bytes| {
            bencher.iter(|| Payload::decode(Kind::Wallet, bytes).expect("what was encoded decodes"));
        });
    }
    group.finish();
}

fn partition(criterion: &mut Criterion) {
    let id = charge(0).to;
    criterion.bench_function("partition_of", |bencher| bencher.iter(|| subject::partition_of(black_box(&id), 12)));
}

fn encode(messages: &[Envelope]) -> Vec<(bytes::Bytes, u64)> {
    let messages: Vec<EncodedMessage> = messages.iter().map(EncodedMessage::new).collect();
    frame::frames(SOURCE, 1, &messages)
}

/// The message that every order begins with, with an id as the bridge draws it.
fn charge(number: usize) -> Envelope {
    let order = format!("019ab1c2-{number:04x}-7def-8123-456789abcdef").parse().expect("an id");
    let amount = Money::new(1_000).expect("within the range");
    let to = format!("u{number}").parse().expect("an id");
    Envelope { to, message: Message::Wallet(wallet::Message::Charge { order, amount }), request: None, trace: None }
}
