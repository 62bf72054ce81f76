//! When what was on its way to a log may be lost: the connection broke, or another server of a
//! cluster leads the log now. What is sent again too often falls away; what is not sent again is
//! noticed by a time-out only, which takes seconds.

use std::collections::BTreeMap;

use futures::{StreamExt, future::join_all, stream};
use shop_domain::kind::Kind;
use tokio::sync::watch;

use crate::{connection::Connection, subject};

/// Counts for each kind how often that may have happened.
#[derive(Clone)]
pub(crate) struct Disruptions {
    of: BTreeMap<Kind, watch::Receiver<u64>>,
}

impl Disruptions {
    /// Over this connection. Watches until the last copy is dropped.
    pub(crate) fn over(connection: &Connection) -> Self {
        let (counts, of) = Kind::ALL
            .map(|kind| {
                let (count, counted) = watch::channel(0);
                ((kind, count), (kind, counted))
            })
            .into_iter()
            .unzip();
        tokio::spawn(watch_over(connection.clone(), counts));
        Self { of }
    }

    /// Of one log.
    pub(crate) fn of(&self, kind: Kind) -> watch::Receiver<u64> {
        self.of.get(&kind).expect("every kind has a log").clone()
    }
}

type Counts = BTreeMap<Kind, watch::Sender<u64>>;

async fn watch_over(connection: Connection, counts: Counts) {
    let mut connects = connection.connects();
    connects.mark_unchanged();
    let mut elections = match connection.client().subscribe(subject::ELECTIONS).await {
        Ok(elections) => elections.boxed(),
        Err(error) => {
            tracing::warn!("elections among the nats-servers cannot be heard of, and cost seconds each: {error}");
            stream::pending().boxed()
        }
    };
    let nobody_asks = join_all(counts.values().map(watch::Sender::closed));
    tokio::pin!(nobody_asks);
    loop {
        tokio::select! {
            connected = connects.changed() => match connected {
                Ok(()) => counts.values().for_each(disrupt),
                Err(_) => return,
            },
            election = elections.next() => match election.map(|election| subject::elected(&election.subject)) {
                Some(Some(kind)) => counts.get(&kind).into_iter().for_each(disrupt),
                // Of a stream that is not ours.
                Some(None) => {}
                None => return,
            },
            _ = &mut nobody_asks => return,
        }
    }
}

fn disrupt(count: &watch::Sender<u64>) {
    count.send_modify(|count| *count += 1);
}
