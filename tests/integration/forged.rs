//! What somebody appends to the logs who has no business there: under the numbers of doors, of partitions, of a newer
//! program. Nothing that a customer asked for is swallowed by it, and an operator gets the shop going again.

mod doors;
mod links;
mod upgrade;

use async_nats::jetstream::Context;
use bytes::Bytes;
use shop_domain::{
    kind::Kind,
    message::{Envelope, Message},
    money::Money,
    wallet,
};
use shop_nats::{
    log::frame::{EncodedMessage, Frame, Payload, Source, frames},
    subject,
};

/// As many as were enough to make a partition forget a door, and more.
const MANY: u64 = 300;

/// So many top-ups of a wallet that there is not: they do nothing.
fn top_ups(source: Source, first: u64, count: u64) -> Bytes {
    top_ups_by(1_000, source, first, count)
}

fn top_ups_by(amount: u64, source: Source, first: u64, count: u64) -> Bytes {
    let message = || Message::Wallet(wallet::Message::TopUp { amount: Money::new(amount).unwrap() });
    let envelope = || Envelope { to: "nobody".parse().unwrap(), message: message(), request: None, trace: None };
    let messages: Vec<_> = (0..count).map(|_| EncodedMessage::new(&envelope())).collect();
    frames(source, first, &messages).remove(0).0
}

async fn append(log: &Context, kind: Kind, frame: Bytes) -> u64 {
    log.publish(subject::log(kind, 0, 0), frame).await.unwrap().await.unwrap().sequence
}

/// The newest frame in a log that is of that sort.
async fn newest_frame(log: &Context, kind: Kind, is: impl Fn(&Frame) -> bool) -> Frame {
    let stream = log.get_stream(subject::stream(kind)).await.unwrap();
    let mut sequence = stream.cached_info().state.last_sequence;
    loop {
        let payload = stream.get_raw_message(sequence).await.unwrap().payload;
        match Payload::decode(kind, &payload) {
            Ok(Payload::Frame(frame)) if is(&frame) => return frame,
            _ => sequence -= 1,
        }
    }
}
