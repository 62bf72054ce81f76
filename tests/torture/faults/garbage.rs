//! What no shop has written, in the logs of a shop: bytes, torn frames, old frames, and frames
//! that belong elsewhere.

use async_nats::jetstream;
use fastrand::Rng;
use shop_domain::kind::Kind;
use shop_nats::{log::frame::Payload, subject};

use super::{Stage, Survived};

/// How many messages are published at a time.
const COUNT: usize = 60;
/// Most random bytes.
const BYTES_MAX: usize = 2_000;

/// What is published, and where.
struct Garbage {
    subject: String,
    payload: Vec<u8>,
    /// Whether nobody can read it there.
    is_dead: bool,
}

impl Stage<'_> {
    pub(super) async fn publish_garbage(&mut self) -> Survived {
        // Who has the key of an operator can append to logs.
        let context = jetstream::new(self.cluster.connect("operator").await);
        let mut dead_letters = 0;
        for _ in 0..COUNT {
            let Garbage { subject, payload, is_dead } = self.garbage(&context).await;
            let published = context.publish(subject, payload.into()).await;
            published.expect("the log takes bytes").await.expect("the log takes bytes");
            dead_letters += u64::from(is_dead);
        }
        Survived { dead_letters, ..Survived::default() }
    }

    async fn garbage(&mut self, context: &jetstream::Context) -> Garbage {
        let kind = some_kind(self.rng);
        let subject = subject::log(kind, 0, self.rng.u16(..self.cluster.partitions()));
        let dead = |payload| Garbage { subject: subject.clone(), payload, is_dead: true };
        match self.rng.u8(0..5) {
            0 => dead(vec![]),
            1 => dead((0..self.rng.usize(1..BYTES_MAX)).map(|_| self.rng.u8(..)).collect()),
            2 => {
                let Garbage { mut payload, .. } = some_frame(context, self.rng, kind).await;
                payload.truncate(self.rng.usize(..payload.len()));
                dead(payload)
            }
            3 => {
                let others: Vec<Kind> = Kind::ALL.into_iter().filter(|other| *other != kind).collect();
                let other = others[self.rng.usize(..others.len())];
                dead(some_frame(context, self.rng, other).await.payload)
            }
            // Once more, where it was.
            _ => some_frame(context, self.rng, kind).await,
        }
    }
}

fn some_kind(rng: &mut Rng) -> Kind {
    Kind::ALL[rng.usize(..Kind::ALL.len())]
}

/// A frame that the shop has written, from anywhere in a log.
async fn some_frame(context: &jetstream::Context, rng: &mut Rng, kind: Kind) -> Garbage {
    let stream = context.get_stream(subject::stream(kind)).await.expect("there is the log");
    let last = stream.cached_info().state.last_sequence;
    loop {
        let message = stream.get_raw_message(rng.u64(1..=last)).await.expect("nothing is ever deleted");
        // Garbage of an earlier time may be no frame.
        if Payload::decode(kind, &message.payload).is_ok() {
            let (subject, payload) = (message.subject.to_string(), message.payload.to_vec());
            return Garbage { subject, payload, is_dead: false };
        }
    }
}
