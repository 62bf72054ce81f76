//! Where hosts ask each other about partitions that they do not hold: a question comes to one of those who listen on its
//! subject, as it would over NATS.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_actors::query::{Holders, Local};
use shop_domain::kind::Kind;
use shop_nats::{
    rpc::{holders::Asking, request::RequestError},
    subject,
};
use tokio::time::{sleep, timeout};

use crate::life::Life;

/// How long a question, or an answer, is on its way.
const HOP: Duration = Duration::from_millis(1);

/// All hosts that can be asked, by the lives that they live.
#[derive(Default)]
pub(crate) struct Exchange(Mutex<BTreeMap<u64, Seat>>);

/// A host that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) life: Arc<Life>,
    /// Of the layout under which it serves.
    pub(crate) generation: u32,
    pub(crate) local: Local,
    pub(crate) holders: Holders,
}

/// From where a host asks the others.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) life: Arc<Life>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each life knows the exchange.
        f.debug_set().entries(self.seats().keys()).finish()
    }
}

impl Exchange {
    pub(crate) fn join(&self, seat: Seat) {
        self.seats().insert(seat.life.number, seat);
    }

    pub(crate) fn leave(&self, life: u64) {
        self.seats().remove(&life);
    }

    /// One of those who listen on a subject, and the partition for which it does.
    fn listener(&self, kind: Kind, subject: &str) -> Option<(Seat, u16)> {
        let seats = self.seats();
        let of_kind = seats.values().filter(|seat| seat.life.kind == kind && seat.life.kept().is_none());
        let mut listeners = of_kind.filter_map(|seat| {
            let held = seat.local.readable().into_iter();
            let mut heard = held.filter(|number| subject::holders(kind, seat.generation, *number) == subject);
            heard.next().map(|number| (seat.clone(), number))
        });
        listeners.next()
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<u64, Seat>> {
        self.0.lock().expect("nobody panics while changing it")
    }
}

impl Asking for Line {
    fn ask_holder(
        &self,
        kind: Kind,
        generation: u32,
        partition: u16,
        question: Bytes,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestError>> {
        async move {
            self.life.thawed().await;
            let subject = subject::holders(kind, generation, partition);
            let Some((seat, number)) = self.life.world().exchange.listener(kind, &subject) else {
                return Err(RequestError::NoResponders { subject });
            };
            let answer = async {
                sleep(HOP).await;
                seat.life.thawed().await;
                let answer = seat.holders.answer(&seat.local, number, question).await;
                seat.life.thawed().await;
                sleep(HOP).await;
                answer
            };
            let answered = timeout(wait, answer).await;
            self.life.thawed().await;
            match answered {
                Ok(answer) if seat.life.kept().is_none() => Ok(answer),
                Ok(_) | Err(_) => Err(RequestError::TimedOut { subject, wait }),
            }
        }
        .boxed()
    }
}
