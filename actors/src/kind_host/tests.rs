//! A kind whose checkpoints hold what no entity can read: the one way in which an entity panics
//! that does not take a bug.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use shop_domain::{
    id::Id,
    message::{Envelope, Message},
    money::Money,
    rows::RowKey,
    wallet,
};
use shop_nats::{
    frame::{EncodedMessage, Origin, Payload, Source, frames},
    log::{Log, Record},
    memory::{Calm, MemoryLog},
    subject::partition_of,
};

use super::*;
use crate::store::{Checkpoint, Frozen, Items, Meta, SharedShelf, Shelf, memory::MemoryStore};

const ORDERS: Source = Source { origin: Origin::Partition(Kind::Order, 0), epoch: 7 };
/// The order whose charge cannot be read.
const SPOILT: &str = "o-7";
const GARBAGE: Bytes = Bytes::from_static(b"\xc1");

/// A store that spoils a row the first few times that it is read.
#[derive(Debug)]
struct Spoiling {
    store: MemoryStore,
    times: Arc<AtomicU32>,
}

#[derive(Debug)]
struct SpoilingShelf {
    shelf: SharedShelf,
    times: Arc<AtomicU32>,
}

impl Store for Spoiling {
    fn shelf(&self, partition: u16) -> Result<SharedShelf, StoreError> {
        Ok(Arc::new(SpoilingShelf { shelf: self.store.shelf(partition)?, times: Arc::clone(&self.times) }))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
}

impl Shelf for SpoilingShelf {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.shelf.meta()
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        self.shelf.state(id)
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        let is_spoilt = row == format!("{}{SPOILT}", wallet::CHARGE_ROWS)
            && self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1)).is_ok();
        if is_spoilt { Ok(Some(GARBAGE)) } else { self.shelf.row(id, row) }
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        self.shelf.states_after(after, limit)
    }

    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        self.shelf.rows_before(id, prefix, before, limit)
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.shelf.write(checkpoint)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        self.shelf.tidy()
    }

    fn blocks(&self) -> bool {
        self.shelf.blocks()
    }

    fn freeze(&self) -> Result<Option<Box<dyn Frozen>>, StoreError> {
        self.shelf.freeze()
    }

    fn restore(&self, meta: &Meta, items_max: u64, items: &mut Items<'_>) -> Result<(), SnapshotError> {
        self.shelf.restore(meta, items_max, items)
    }
}

/// Wallets that are served, and what is seen of them.
struct Wallets {
    log: MemoryLog,
    view: watch::Receiver<Arc<View>>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), KindError>>,
}

impl Wallets {
    async fn serve(partitions: u16, spoilt_times: u32) -> Self {
        let log = MemoryLog::new(partitions, Arc::new(Calm));
        let mut logs = Logs::new();
        for kind in Kind::ALL {
            logs.insert(kind, log.identity(kind).await.unwrap());
        }
        let store = Arc::new(Spoiling { store: MemoryStore::default(), times: Arc::new(spoilt_times.into()) });
        // Nobody waits for an answer here, so that none is sent.
        let (replies, _) = mpsc::channel(1);
        let (view, seen) = watch::channel(Arc::default());
        let (kind, identity) = (Kind::Wallet, logs[&Kind::Wallet]);
        let host = KindHost {
            kind,
            log: Arc::new(log.clone()),
            identity,
            logs,
            store,
            snapshots: None,
            replies,
            view,
            turns: vec![Turn::alone(); usize::from(partitions)],
            held: watch::channel((0..partitions).collect()).1,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(host.run(stop.clone()));
        Self { log, view: seen, stop, running }
    }

    /// A record with one message, numbered on the only link.
    fn store(&self, number: u64, wallet: &Id, partition: u16, message: wallet::Message) -> u64 {
        let message = Message::Wallet(message);
        let envelope = Envelope { to: wallet.clone(), message, request: None, trace: None };
        let frame = frames(ORDERS, number, &[EncodedMessage::new(&envelope)]).remove(0).0;
        self.log.store(Kind::Wallet, partition, frame)
    }

    /// Waits until a partition, started again however often, has settled up to there.
    async fn settled(&mut self, partition: u16, sequence: u64) {
        let is_settled = |view: &Arc<View>| {
            view.partitions.get(&partition).is_some_and(|one| *one.handle.settled.borrow() >= sequence)
        };
        while !is_settled(&self.view.borrow()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many messages each frame to the orders holds.
    fn frames_to_orders(&self) -> Vec<usize> {
        let records = self.log.records(Kind::Order);
        let messages = |record: &Record| match Payload::decode(Kind::Order, &record.payload).unwrap() {
            Payload::Frame(frame) => frame.messages.len(),
            Payload::Upgrade(_) => 0,
        };
        records.iter().map(messages).collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn open() -> wallet::Message {
    wallet::Message::Open { balance: Money::new(1_000).unwrap() }
}

fn charge(order: u64) -> wallet::Message {
    wallet::Message::Charge { order: format!("o-{order}").parse().unwrap(), amount: Money::new(1).unwrap() }
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_entity_panics_three_times_at_a_message_is_parked_and_the_others_go_on() {
    let mut wallets = Wallets::serve(2, u32::MAX).await;
    let ids = ["alice", "bob", "carol", "dave"].map(|id| id.parse::<Id>().unwrap());
    let of = |partition: u16| ids.iter().find(|id| partition_of(id, 2) == partition).unwrap();
    let mut last = 0;
    for number in 1..=10 {
        let message = |order| if number == 1 { open() } else { charge(order) };
        wallets.store(number, of(0), 0, message(number));
        last = wallets.store(number, of(1), 1, message(number + 100));
    }
    wallets.settled(1, last).await;
    let view = wallets.view.wait_for(|view| !view.parked.is_empty()).await.unwrap().clone();
    // Two records of each number: the seventh is the thirteenth.
    let parked = Parked { sequence: 13, reason: format!("wallet {} panicked 3 times", of(0)) };
    assert_eq!(view.parked, [(0, parked)].into());
    assert_eq!(view.partitions.keys().copied().collect::<Vec<_>>(), [1]);
    // The first was told of the round's first message, the three others of the very one.
    assert_eq!(view.counts.panics.get(), 4);
    wallets.settled(1, last).await;
    wallets.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_past_a_panic_takes_all_that_waits_again() {
    let mut wallets = Wallets::serve(1, 1).await;
    let alice = "alice".parse().unwrap();
    let mut last = wallets.store(1, &alice, 0, open());
    for number in 2..=20 {
        last = wallets.store(number, &alice, 0, charge(number));
    }
    wallets.settled(0, last).await;
    assert_eq!(wallets.frames_to_orders(), [1; 19], "one by one up to the end of the round that panicked");
    for number in 21..=40 {
        last = wallets.store(number, &alice, 0, charge(number));
    }
    wallets.settled(0, last).await;
    assert_eq!(wallets.frames_to_orders()[19..], [20]);
    assert_eq!(wallets.view.borrow().counts.panics.get(), 1);
    assert_eq!(wallets.view.borrow().counts.accepted.get(), 40);
    assert!(wallets.view.borrow().parked.is_empty());
    wallets.stop().await;
}
