//! A kind whose checkpoints are in trouble. They may hold what no entity can read, for instance: the one
//! way in which an entity panics that does not take a bug.

use std::sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use bytes::Bytes;
use shop_domain::{
    id::Id,
    message::{Envelope, Message},
    money::Money,
    rows::RowKey,
    wallet,
};
use shop_nats::{
    log::{
        Log, Record,
        frame::{EncodedMessage, Origin, Payload, Repair, Source, frames},
    },
    memory::{Calm, Chaos, Delivery, Fate, MemoryLog},
    subject::partition_of,
};

use super::*;
use crate::{
    kind_host::{read_index::ReadIndex, readiness::Readiness},
    partition::role::{Decision, Role},
    replay::{Content, Handled, Replay, Step},
    store::{
        Checkpoint, CheckpointView, Items, ItemsError, Meta, PartitionStore, SharedPartitionStore, memory::MemoryStore,
    },
};

const ORDERS: Source = Source { origin: Origin::Partition(Kind::Order, 0), epoch: 7 };
/// The order whose charge cannot be read.
const SPOILT: &str = "o-7";
const GARBAGE: Bytes = Bytes::from_static(b"\xc1");

/// How long it is waited for what must not happen.
const NOT_WITHIN: Duration = Duration::from_millis(200);

/// A store in trouble.
#[derive(Debug, Default)]
struct Troubled {
    store: MemoryStore,
    trouble: Arc<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// How often the row of the order is still spoilt when it is read.
    spoilt_rows: AtomicU32,
    /// How often the second partition's checkpoint is still damaged when it is opened.
    damaged_stores: AtomicU32,
    /// Whether the first partition's checkpoint turns out to be damaged while that of the second one is being written.
    at_a_bad_time: AtomicBool,
    /// What the second one's does.
    second: Mutex<Second>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Second {
    is_being_written: bool,
    was_opened_meanwhile: bool,
}

impl Trouble {
    fn strikes(times: &AtomicU32) -> bool {
        times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1)).is_ok()
    }

    /// The first partition is damaged as soon as the second one is being written.
    fn first_is_written(&self) -> Result<(), StoreError> {
        if !self.at_a_bad_time.load(Ordering::Relaxed) {
            return Ok(());
        }
        let second = self.second.lock().unwrap();
        drop(self.changed.wait_while(second, |second| !second.is_being_written).unwrap());
        self.at_a_bad_time.store(false, Ordering::Relaxed);
        Err(StoreError::Damaged(7))
    }

    fn second_is_written(&self) {
        if !self.at_a_bad_time.load(Ordering::Relaxed) {
            return;
        }
        let mut second = self.second.lock().unwrap();
        second.is_being_written = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(second, NOT_WITHIN, |second| !second.was_opened_meanwhile);
        waited.unwrap().0.is_being_written = false;
    }

    fn second_is_opened(&self) {
        let mut second = self.second.lock().unwrap();
        second.was_opened_meanwhile |= second.is_being_written;
        self.changed.notify_all();
    }
}

#[derive(Debug)]
struct TroubledPartitionStore {
    partition_store: SharedPartitionStore,
    partition: u16,
    trouble: Arc<Trouble>,
}

impl Store for Troubled {
    fn partition(&self, partition: u16) -> Result<SharedPartitionStore, StoreError> {
        if partition == 1 {
            self.trouble.second_is_opened();
            if Trouble::strikes(&self.trouble.damaged_stores) {
                return Err(StoreError::Damaged(7));
            }
        }
        let trouble = Arc::clone(&self.trouble);
        Ok(Arc::new(TroubledPartitionStore { partition_store: self.store.partition(partition)?, partition, trouble }))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
}

impl PartitionStore for TroubledPartitionStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        self.partition_store.meta()
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        self.partition_store.state(id)
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        let is_spoilt =
            row == format!("{}{SPOILT}", wallet::CHARGE_ROWS) && Trouble::strikes(&self.trouble.spoilt_rows);
        if is_spoilt { Ok(Some(GARBAGE)) } else { self.partition_store.row(id, row) }
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        self.partition_store.states_after(after, limit)
    }

    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        self.partition_store.rows_before(id, prefix, before, limit)
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        match self.partition {
            0 => self.trouble.first_is_written()?,
            _ => self.trouble.second_is_written(),
        }
        self.partition_store.write(checkpoint)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        self.partition_store.tidy()
    }

    fn blocks(&self) -> bool {
        self.trouble.at_a_bad_time.load(Ordering::Relaxed)
    }

    fn freeze(&self) -> Result<Option<Box<dyn CheckpointView>>, StoreError> {
        self.partition_store.freeze()
    }

    fn restore(&self, meta: &Meta, items_max: u64, items: &mut Items<'_>) -> Result<(), ItemsError> {
        self.partition_store.restore(meta, items_max, items)
    }
}

/// Takes nothing for the orders while it is so.
#[derive(Debug, Default)]
struct DeafOrders(AtomicBool);

impl Chaos for DeafOrders {
    fn append(&self, kind: Kind, _: u16, _: &Bytes) -> Fate {
        let is_lost = kind == Kind::Order && self.0.load(Ordering::Relaxed);
        if is_lost { Fate::Lost } else { Fate::Stored(Duration::ZERO) }
    }

    fn deliver(&self, _: Kind, _: &Record) -> Delivery {
        Delivery::PROMPT
    }
}

/// Wallets that are served, and what is seen of them.
struct Wallets {
    log: MemoryLog,
    view: watch::Receiver<Arc<View>>,
    decisions: Vec<Decision>,
    hold: watch::Sender<BTreeSet<u16>>,
    trouble: Arc<Trouble>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), KindError>>,
}

impl Wallets {
    async fn serve(partitions: u16, trouble: Trouble) -> Self {
        Self::hold(0..partitions, partitions, trouble, Arc::new(Calm)).await
    }

    async fn hold(
        held: impl IntoIterator<Item = u16>,
        partitions: u16,
        trouble: Trouble,
        chaos: Arc<dyn Chaos>,
    ) -> Self {
        let log = MemoryLog::new(partitions, chaos);
        let mut logs = Logs::new();
        for kind in Kind::ALL {
            logs.insert(kind, log.identity(kind).await.unwrap());
        }
        let store = Arc::new(Troubled { trouble: Arc::new(trouble), ..Troubled::default() });
        let trouble = Arc::clone(&store.trouble);
        // Nobody waits for an answer here, so that none is sent.
        let (replies, _) = mpsc::channel(1);
        let (view, seen) = watch::channel(Arc::default());
        let (decisions, roles) = (0..partitions).map(|_| RoleWatch::new()).unzip();
        let (hold, held) = watch::channel(held.into_iter().collect());
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
            roles,
            held,
            admissions: None,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(host.run(stop.clone()));
        Self { log, view: seen, decisions, hold, trouble, stop, running }
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

    /// Opens a wallet of a partition, and charges it for so many orders; returns the last sequence.
    fn charge_one_of(&self, partition: u16, orders: u64) -> u64 {
        let ids = ["alice", "bob", "carol", "dave"].map(|id| id.parse::<Id>().unwrap());
        let id = ids.iter().find(|id| partition_of(id, self.decisions.len() as u16) == partition).unwrap();
        let messages = std::iter::once(open()).chain((1..=orders).map(charge));
        (1..).zip(messages).map(|(number, message)| self.store(number, id, partition, message)).last().unwrap()
    }

    fn running(&self) -> Vec<u16> {
        self.view.borrow().partitions.keys().copied().collect()
    }

    /// How many messages each frame to the orders holds.
    fn frames_to_orders(&self) -> Vec<usize> {
        let records = self.log.records(Kind::Order);
        let messages = |record: &Record| match record.read(Kind::Order).unwrap() {
            Payload::Frame(frame) => frame.messages.len(),
            Payload::Upgrade(_) | Payload::Repair(_) => 0,
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
async fn a_kind_that_is_cut_into_other_partitions_while_it_begins_is_another_log_and_not_one_without_a_beginning() {
    let log = MemoryLog::new(1, Arc::new(Calm));
    let mut logs = Logs::new();
    for kind in Kind::ALL {
        logs.insert(kind, log.identity(kind).await.unwrap());
    }
    // As it was before the log was cut, when this host looked.
    let identity = Identity { epoch: 77, ..logs[&Kind::Wallet] };
    log.store(Kind::Wallet, 0, "of the former layout".into());
    log.begin_at(Kind::Wallet, 2);
    let ((replies, _), (view, _), (_hold, held)) =
        (mpsc::channel(1), watch::channel(Arc::default()), watch::channel([0].into()));
    let (store, roles) = (Arc::new(MemoryStore::default()), vec![RoleWatch::alone()]);
    let (kind, log, snapshots) = (Kind::Wallet, Arc::new(log), None);
    let host = KindHost { kind, log, identity, logs, store, snapshots, replies, view, roles, held, admissions: None };
    let ended = host.run(CancellationToken::new()).await;
    assert!(matches!(ended, Err(KindError::Log(LogError::OtherLog { .. }))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_partition_whose_entity_panics_three_times_at_a_message_is_parked_and_the_others_go_on() {
    let mut wallets = Wallets::serve(2, Trouble { spoilt_rows: u32::MAX.into(), ..Trouble::default() }).await;
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
    let mut wallets = Wallets::serve(1, Trouble { spoilt_rows: 1.into(), ..Trouble::default() }).await;
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

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_up_does_not_keep_what_is_held_from_going_on() {
    let trouble = Trouble { spoilt_rows: 1.into(), damaged_stores: 5.into(), ..Trouble::default() };
    let mut wallets = Wallets::hold([0], 2, trouble, Arc::new(Calm)).await;
    wallets.settled(0, 0).await;
    let other = wallets.charge_one_of(1, 20);
    wallets.hold.send_replace([0, 1].into());
    let last = wallets.charge_one_of(0, 20);
    wallets.settled(0, last).await;
    assert_eq!((wallets.running(), wallets.view.borrow().counts.panics.get()), (vec![0], 1));
    wallets.settled(1, other).await;
    assert_eq!(wallets.running(), [0, 1]);
    wallets.stop().await;
}

#[tokio::test(start_paused = true)]
async fn partitions_whose_messages_no_log_takes_do_not_keep_others_away() {
    let deaf = Arc::new(DeafOrders(true.into()));
    let mut wallets = Wallets::hold([0], 2, Trouble::default(), Arc::clone(&deaf) as Arc<dyn Chaos>).await;
    wallets.settled(0, 0).await;
    let other = wallets.charge_one_of(1, 0);
    // Several times what may wait.
    let last = wallets.charge_one_of(0, 2_000);
    tokio::time::advance(Duration::from_secs(1)).await;
    wallets.hold.send_replace([0, 1].into());
    wallets.settled(1, other).await;
    assert_eq!(wallets.running(), [0, 1]);
    deaf.0.store(false, Ordering::Relaxed);
    wallets.settled(0, last).await;
    wallets.stop().await;
}

#[tokio::test]
async fn after_damage_nothing_begins_again_while_a_checkpoint_is_still_being_written() {
    let trouble = Trouble { at_a_bad_time: true.into(), ..Trouble::default() };
    let mut wallets = Wallets::serve(2, trouble).await;
    let lasts = [0, 1].map(|partition| wallets.charge_one_of(partition, 20));
    // Its trouble is over when it is damaged.
    while wallets.trouble.at_a_bad_time.load(Ordering::Relaxed) || wallets.running() != [0, 1] {
        wallets.view.changed().await.unwrap();
    }
    for (partition, last) in [0, 1].into_iter().zip(lasts) {
        wallets.settled(partition, last).await;
    }
    assert!(!wallets.trouble.second.lock().unwrap().was_opened_meanwhile);
    wallets.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_was_away_or_begins_again_far_behind_is_ready_only_when_it_has_caught_up() {
    let (trouble, deaf) = (Trouble { spoilt_rows: 1.into(), ..Trouble::default() }, Arc::new(DeafOrders::default()));
    let mut wallets = Wallets::hold([0], 1, trouble, Arc::clone(&deaf) as Arc<dyn Chaos>).await;
    wallets.settled(0, 0).await;
    let read_index = ReadIndex::new(Arc::new(wallets.log.clone()), Kind::Wallet, 1);
    let ((ready, mut is_ready), (absence, absences)) = (watch::channel(None), watch::channel(0));
    let readiness = Readiness { kind: Kind::Wallet, view: wallets.view.clone(), read_index, absences, ready };
    let keeping = tokio::spawn(readiness.keep());
    is_ready.wait_for(|ready| *ready == Some(0)).await.unwrap();

    // It takes its time, because it holds back what an owner who says nothing might send.
    wallets.decisions[0].role.send_replace(Role::Standby);
    let last = wallets.charge_one_of(0, 20);
    is_ready.wait_for(Option::is_none).await.unwrap();
    is_ready.wait_for(|ready| *ready == Some(0)).await.unwrap();
    assert_eq!(wallets.view.borrow().counts.panics.get(), 1, "for which it began again");
    assert!(*wallets.view.borrow().partitions[&0].handle.settled.borrow() >= last);

    deaf.0.store(true, Ordering::Relaxed);
    let alice = "alice".parse().unwrap();
    wallets.store(22, &alice, 0, charge(22));
    absence.send_replace(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*is_ready.borrow(), None);
    deaf.0.store(false, Ordering::Relaxed);
    is_ready.wait_for(|ready| *ready == Some(1)).await.unwrap();
    wallets.stop().await;
    keeping.await.unwrap();
}

/// Panics in whatever asks, in the end.
#[derive(Debug)]
struct Panicking {
    sends: bool,
}

impl Chaos for Panicking {
    fn append(&self, kind: Kind, _: u16, _: &Bytes) -> Fate {
        assert!(kind != Kind::Order || !self.sends, "on purpose");
        Fate::Stored(Duration::ZERO)
    }

    fn deliver(&self, _: Kind, record: &Record) -> Delivery {
        assert!(record.sequence < 2 || self.sends, "on purpose");
        Delivery::PROMPT
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_what_reads_the_log_or_sends_messages_ends_the_kind() {
    for sends in [true, false] {
        let wallets = Wallets::hold([0], 1, Trouble::default(), Arc::new(Panicking { sends })).await;
        wallets.charge_one_of(0, 3);
        let ended = wallets.running.await.unwrap().unwrap_err();
        let expected = if sends { "what sends them has ended" } else { "its reader has ended" };
        assert!(ended.to_string().contains(expected), "{ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_are_none_of_the_log_are_dead_letters_of_the_first_partition() {
    let mut wallets = Wallets::serve(2, Trouble::default()).await;
    let dead = |wallets: &Wallets| wallets.log.dead().into_iter().map(|(_, at, _)| at).collect::<Vec<_>>();
    let frame = |number| {
        let envelope = Envelope { to: "alice".parse().unwrap(), message: open().into(), request: None, trace: None };
        frames(ORDERS, number, &[EncodedMessage::new(&envelope)]).remove(0).0
    };
    let upgrade = shop_nats::log::frame::Upgrade { logic: 9_999 }.encode();
    // What it says would stop the kind, or be done.
    for payload in [frame(1), upgrade.clone(), Bytes::new()] {
        wallets.log.store_foreign(Kind::Wallet, "shop.log.order.0", payload);
    }
    for partition in [2, u16::MAX] {
        wallets.log.store(Kind::Wallet, partition, upgrade.clone());
    }
    // A dead letter that comes back is one more, and its copy is none.
    wallets.log.store_foreign(Kind::Wallet, "shop.dead.order.00000000000000aa.1", Bytes::new());
    let last = wallets.log.store_foreign(Kind::Wallet, "shop.dead.wallet.00000000000000aa.6", Bytes::new());
    wallets.settled(0, last).await;
    assert_eq!(dead(&wallets), [1, 2, 3, 4, 5, 6]);
    let last = wallets.charge_one_of(0, 3);
    wallets.settled(0, last).await;
    wallets.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_mended_lets_in_what_was_skipped_and_goes_on_where_its_sender_is() {
    let mut wallets = Wallets::serve(1, Trouble::default()).await;
    let alice: Id = "alice".parse().unwrap();
    let envelope =
        |message: wallet::Message| Envelope { to: alice.clone(), message: message.into(), request: None, trace: None };
    wallets.store(1, &alice, 0, open());
    // Forged ones under the next two numbers, so that the second message is skipped.
    for (number, order) in [(2, 90), (3, 91), (2, 2)] {
        wallets.store(number, &alice, 0, charge(order));
    }
    let mend = |accepted, messages: Vec<_>| {
        let repair = Repair { source: ORDERS, cause: None, accepted, first: 2, messages };
        wallets.log.store(Kind::Wallet, 0, repair.encode())
    };
    mend(2, vec![envelope(charge(2))]);
    wallets.store(2, &alice, 0, charge(2));
    let last = wallets.store(3, &alice, 0, charge(3));
    wallets.settled(0, last).await;
    assert_eq!(wallets.frames_to_orders().iter().sum::<usize>(), 4, "each charge is answered once");

    // In a replay as well.
    let logs: Logs = Kind::ALL.map(|kind| (kind, Identity::new(7))).into();
    let mut replay = Replay::new(logs);
    let records = wallets.log.records(Kind::Wallet);
    let steps: Vec<_> = records.iter().map(|record| replay.apply(Kind::Wallet, record).unwrap()).collect();
    assert_eq!(steps.iter().map(|step| step.mended_to).collect::<Vec<_>>()[4..6], [Some(2), None]);
    let sent = |step: &Step<Handled>| match &step.content {
        Content::Frame { messages, .. } => messages.iter().map(|handled| handled.sent.len()).sum(),
        Content::Dead { .. } | Content::Upgrade(_) => 0,
    };
    assert_eq!(steps.iter().map(sent).collect::<Vec<usize>>(), [0, 1, 1, 0, 1, 0, 1]);
    wallets.stop().await;
}

/// Brings nothing beyond the first record, while it is so.
#[derive(Debug, Default)]
struct Withholding(AtomicBool);

impl Chaos for Withholding {
    fn append(&self, _: Kind, _: u16, _: &Bytes) -> Fate {
        Fate::Stored(Duration::ZERO)
    }

    fn deliver(&self, kind: Kind, record: &Record) -> Delivery {
        match kind == Kind::Wallet && record.sequence > 1 && self.0.load(Ordering::Relaxed) {
            true => Delivery::ReaderLost(Duration::from_millis(100)),
            false => Delivery::PROMPT,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_to_which_nothing_comes_though_the_log_goes_on_is_not_ready() {
    let withholding = Arc::new(Withholding::default());
    let mut wallets = Wallets::hold([0], 1, Trouble::default(), Arc::clone(&withholding) as Arc<dyn Chaos>).await;
    let read_index = ReadIndex::new(Arc::new(wallets.log.clone()), Kind::Wallet, 1);
    let ((ready, mut is_ready), (_absence, absences)) = (watch::channel(None), watch::channel(0));
    let readiness = Readiness { kind: Kind::Wallet, view: wallets.view.clone(), read_index, absences, ready };
    let keeping = tokio::spawn(readiness.keep());
    let last = wallets.charge_one_of(0, 5);
    wallets.settled(0, last).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*is_ready.borrow_and_update(), Some(0), "a log that does not go on is no trouble");

    withholding.0.store(true, Ordering::Relaxed);
    let alice = "alice".parse().unwrap();
    let last = wallets.store(7, &alice, 0, charge(7));
    is_ready.wait_for(Option::is_none).await.unwrap();
    withholding.0.store(false, Ordering::Relaxed);
    is_ready.wait_for(Option::is_some).await.unwrap();
    assert!(*wallets.view.borrow().partitions[&0].handle.settled.borrow() >= last);
    wallets.stop().await;
    keeping.abort();
}
