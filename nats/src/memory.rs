//! The log in memory, for simulations: everything that JetStream may do to a frame or a reader
//! can be made to happen, and what happens is decided by one [`Chaos`].

mod layouts;
mod reader;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_domain::{kind::Kind, logic::Logic, timestamp::Timestamp};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use self::reader::Reader;
use crate::{
    log::{AppendError, Appending, Identity, Log, LogError, READ_AHEAD, Record, TrimError},
    stream::{layout::Decided, topology},
    subject,
};

/// When the logs in memory begin: some moment, the same in every run.
const BEGIN_UNIX_MS: u64 = 1_700_000_000_000;
/// How long a publisher waits for an acknowledgement that never comes.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Decides what goes wrong.
pub trait Chaos: Debug + Send + Sync + 'static {
    /// What becomes of a frame that is handed to the log.
    fn append(&self, kind: Kind, partition: u16, frame: &Bytes) -> Fate;

    /// How a record reaches its reader.
    fn deliver(&self, kind: Kind, record: &Record) -> Delivery;

    /// When the process goes on that asks the logs, if it is frozen: meanwhile it hands nothing in, and hears nothing.
    fn frozen(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// How long a question takes to whoever keeps the streams, or the answer to it.
    fn way(&self) -> Duration {
        Duration::ZERO
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Stored, and acknowledged after a while.
    Stored(Duration),
    /// Stored, but the acknowledgement is lost.
    Unacknowledged,
    /// Not stored, and refused after a while.
    Refused(Duration),
    /// Not stored, and nobody says so.
    Lost,
}

/// How a record reaches its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It comes.
    Comes {
        /// How long it takes.
        delay: Duration,
        /// How often it comes.
        copies: usize,
    },
    /// The reader is lost; after a while another one goes on behind the last record that came.
    ReaderLost(Duration),
    /// The log is not what it was: the reader ends with an error.
    Failed,
}

impl Delivery {
    /// Once and at once.
    pub const PROMPT: Self = Self::Comes { delay: Duration::ZERO, copies: 1 };
}

/// No chaos: everything is stored, acknowledged and delivered at once.
#[derive(Clone, Copy, Debug)]
pub struct Calm;

impl Chaos for Calm {
    fn append(&self, _: Kind, _: u16, _: &Bytes) -> Fate {
        Fate::Stored(Duration::ZERO)
    }

    fn deliver(&self, _: Kind, _: &Record) -> Delivery {
        Delivery::PROMPT
    }
}

/// The logs of all kinds, in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    logs: Arc<Mutex<BTreeMap<Kind, KindLog>>>,
    decided: Arc<Mutex<Decided>>,
    dead: Arc<Mutex<Vec<(Kind, u64, String)>>>,
    chaos: Arc<dyn Chaos>,
    disruptions: Observers,
    under: Under,
    begin: Instant,
    /// By how many milliseconds its clock was put back, altogether.
    put_back_ms: Arc<AtomicU64>,
}

/// Under which layout logs are appended to and read.
#[derive(Clone, Copy, Debug)]
enum Under {
    /// The one of that generation: as a host does.
    Generation(u32),
    /// Each record under the one that counts there: as a tool does.
    WhicheverCounts,
}

#[derive(Debug)]
struct KindLog {
    /// How its stream is made.
    config: Config,
    /// Which log that is.
    identity: Identity,
    records: Vec<Stored>,
    /// How many records were cut off; they are still in there.
    cut_off: u64,
    /// Where each layout begins that came into force.
    layouts: Vec<u64>,
    /// How many there may be.
    room: u64,
    appended: Observers,
}

/// A record, and the generation of the layout under which it was appended.
#[derive(Clone, Debug)]
struct Stored {
    generation: u32,
    record: Record,
}

impl KindLog {
    fn new(config: Config) -> Self {
        let identity = topology::described(&config).expect("the shop has made it");
        let (records, layouts) = (vec![], vec![]);
        Self { config, identity, records, cut_off: 0, layouts, room: u64::MAX, appended: Observers::default() }
    }

    fn last_sequence(&self) -> u64 {
        self.records.len() as u64
    }

    fn identity(&self) -> Identity {
        let oldest_sequence = self.cut_off + 1;
        let first_sequence = self.identity.first_sequence.max(oldest_sequence);
        Identity { first_sequence, oldest_sequence, last_sequence: self.last_sequence(), ..self.identity }
    }

    fn stored_at(&self, sequence: u64) -> Option<&Stored> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        (sequence > self.cut_off).then(|| self.records.get(index))?
    }

    /// Stores a record in the next place.
    fn store(&mut self, generation: u32, record: Record) -> u64 {
        let sequence = self.last_sequence() + 1;
        self.records.push(Stored { generation, record: Record { sequence, ..record } });
        self.appended.tell(sequence);
        sequence
    }

    /// A record as everybody takes it who reads under that layout.
    fn read(&self, Stored { generation, record }: &Stored, under: Under) -> Record {
        if record.foreign.is_some() {
            return record.clone();
        }
        let Record { sequence, partition, time, ref payload, .. } = *record;
        let counts = match under {
            Under::Generation(own) => own,
            Under::WhicheverCounts => self.counts_at(sequence),
        };
        Record::of((*generation, partition), counts, sequence, time, payload.clone())
    }

    /// The generation of the layout that counts at a sequence.
    fn counts_at(&self, sequence: u64) -> u32 {
        self.layouts.iter().filter(|begins_at| **begins_at <= sequence).count() as u32
    }
}

/// A number that several observe. Each has a channel of its own, because a shared one wakes its
/// observers in an order that is drawn by chance, and a simulation is to run the same way twice.
#[derive(Clone, Debug, Default)]
struct Observers(Arc<Mutex<Vec<watch::Sender<u64>>>>);

impl Observers {
    fn observe(&self, now: u64) -> watch::Receiver<u64> {
        let (sender, receiver) = watch::channel(now);
        self.0.lock().expect("nobody panics while changing it").push(sender);
        receiver
    }

    fn tell(&self, now: u64) {
        let mut observers = self.0.lock().expect("nobody panics while changing it");
        observers.retain(|observer| observer.send(now).is_ok());
    }
}

impl MemoryLog {
    /// Empty logs with so many partitions per kind, which begin with the newest logic.
    pub fn new(partitions: u16, chaos: Arc<dyn Chaos>) -> Self {
        Self::with_logic(partitions, Logic::NEWEST, chaos)
    }

    /// The same with the logic of an older shop.
    pub fn with_logic(partitions: u16, logic: Logic, chaos: Arc<dyn Chaos>) -> Self {
        let empty = |kind| (kind, KindLog::new(topology::log(kind, kind as u64 + 1, partitions, logic.number(), 1)));
        Self {
            logs: Arc::new(Mutex::new(Kind::ALL.into_iter().map(empty).collect())),
            decided: Arc::default(),
            dead: Arc::default(),
            chaos,
            disruptions: Observers::default(),
            under: Under::Generation(0),
            begin: Instant::now(),
            put_back_ms: Arc::default(),
        }
    }

    /// The same logs, for somebody to whom other things happen.
    #[must_use]
    pub fn under(&self, chaos: Arc<dyn Chaos>) -> Self {
        Self { chaos, ..self.clone() }
    }

    /// Lets every publisher believe that what is on its way may be lost.
    pub fn disrupt(&self) {
        // Any number is a change.
        self.disruptions.tell(1);
    }

    /// What its clock says.
    pub fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let time = BEGIN_UNIX_MS.saturating_add(elapsed).saturating_sub(self.put_back_ms.load(Relaxed));
        Timestamp::from_unix_ms(time)
    }

    /// Puts its clock back, as one is that had gone ahead.
    pub fn put_back(&self, by: Duration) {
        self.put_back_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// All records of a kind, each as it counts.
    pub fn records(&self, kind: Kind) -> Vec<Record> {
        let logs = self.logs();
        let Some(log) = logs.get(&kind) else { return vec![] };
        log.records.iter().map(|stored| log.read(stored, Under::WhicheverCounts)).collect()
    }

    /// Removes all records of a kind before the one at `from`; returns how many those were. Who reads there learns
    /// that something is missing.
    pub fn trim(&self, kind: Kind, from: u64) -> u64 {
        let mut logs = self.logs();
        let log = logs.get_mut(&kind).expect("every kind has a log");
        let before = log.cut_off;
        log.cut_off = before.max(from - 1);
        log.cut_off - before
    }

    /// Lets a kind's log begin there, as one does whose shop was repartitioned: what is before it stays until it is
    /// cut off.
    pub fn begin_at(&self, kind: Kind, first: u64) {
        self.logs().get_mut(&kind).expect("every kind has a log").identity.first_sequence = first;
    }

    /// Lets a kind's log have so many records from now on.
    pub fn limit(&self, kind: Kind, records: u64) {
        self.logs().get_mut(&kind).expect("every kind has a log").room = records;
    }

    fn is_full(&self, kind: Kind) -> bool {
        self.logs().get(&kind).is_some_and(|log| log.last_sequence() - log.cut_off >= log.room)
    }

    /// Dead letters, with the sequence that they come from and the reason.
    pub fn dead(&self) -> Vec<(Kind, u64, String)> {
        self.dead.lock().expect("nobody panics while changing it").clone()
    }

    /// Stores bytes as they are, whatever the chaos says, under the layout in force.
    pub fn store(&self, kind: Kind, partition: u16, payload: Bytes) -> u64 {
        self.store_under(self.generation(), kind, partition, payload, None)
    }

    /// Stores bytes under a subject that is none of the log's.
    pub fn store_foreign(&self, kind: Kind, subject: &str, payload: Bytes) -> u64 {
        self.store_under(self.generation(), kind, 0, payload, Some(subject.into()))
    }

    fn store_under(
        &self,
        generation: u32,
        kind: Kind,
        partition: u16,
        payload: Bytes,
        foreign: Option<Box<str>>,
    ) -> u64 {
        let time = self.now();
        let mut logs = self.logs();
        let log = logs.get_mut(&kind).expect("every kind has a log");
        log.store(generation, Record { sequence: 0, partition, time, payload, foreign, is_skipped: false })
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<Kind, KindLog>> {
        self.logs.lock().expect("nobody panics while changing it")
    }

    /// The generation under which is appended.
    fn own_generation(&self) -> u32 {
        match self.under {
            Under::Generation(own) => own,
            Under::WhicheverCounts => self.generation(),
        }
    }

    /// Whether the stream of a kind takes what is for that subject.
    fn takes(&self, kind: Kind, subject: &String) -> bool {
        self.logs().get(&kind).is_some_and(|log| log.config.subjects.contains(subject))
    }

    fn record_at(&self, kind: Kind, sequence: u64) -> Option<(u32, Record)> {
        let logs = self.logs();
        let log = logs.get(&kind)?;
        log.stored_at(sequence).map(|stored| (stored.generation, log.read(stored, self.under)))
    }

    fn identity_now(&self, kind: Kind) -> Identity {
        self.logs().get(&kind).expect("every kind has a log").identity()
    }

    /// What is asked of the log of a kind, or an error if it is not the one of that epoch any more.
    fn verify(&self, kind: Kind, epoch: u64) -> Result<(), LogError> {
        match self.identity_now(kind).epoch {
            now if now == epoch => Ok(()),
            now => {
                let reason = format!("its epoch is {now:016x} instead of {epoch:016x}");
                Err(LogError::OtherLog { kind, reason })
            }
        }
    }

    /// Waits until the process goes on that asks, if it is frozen.
    async fn thawed(&self) {
        while let Some(thawed) = self.chaos.frozen() {
            thawed.await;
        }
    }

    /// An answer as it is when the log is asked, which comes when the process that asks goes on.
    fn ask<T: Send + 'static>(&self, answer: impl FnOnce(&Self) -> T + Send + 'static) -> BoxFuture<'static, T> {
        let log = self.clone();
        async move {
            log.thawed().await;
            let answer = answer(&log);
            log.thawed().await;
            answer
        }
        .boxed()
    }
}

impl Log for MemoryLog {
    fn append(&self, kind: Kind, partition: u16, frame: Bytes) -> BoxFuture<'static, Result<Appending, AppendError>> {
        if self.chaos.frozen().is_some() {
            let log = self.clone();
            return async move {
                log.thawed().await;
                log.append(kind, partition, frame).await
            }
            .boxed();
        }
        let generation = self.own_generation();
        let subject = subject::log(kind, generation, partition);
        let refusal = |reason: &str, is_full| {
            let refused: Appending =
                std::future::ready(Err(AppendError { subject: subject.clone(), reason: reason.into(), is_full }))
                    .boxed();
            std::future::ready(Ok(refused)).boxed()
        };
        if !self.takes(kind, &subject) {
            return refusal("no responders", false);
        }
        if self.is_full(kind) {
            return refusal("it is full", true);
        }
        let fate = self.chaos.append(kind, partition, &frame);
        let stored = match fate {
            Fate::Stored(_) | Fate::Unacknowledged => Some(self.store_under(generation, kind, partition, frame, None)),
            Fate::Refused(_) | Fate::Lost => None,
        };
        let failed = move |reason: &str| AppendError { subject, reason: reason.into(), is_full: false };
        let log = self.clone();
        let acknowledgement: Appending = async move {
            let acknowledged = match (fate, stored) {
                (Fate::Stored(after), Some(sequence)) => {
                    sleep(after).await;
                    Ok(sequence)
                }
                (Fate::Refused(after), _) => {
                    sleep(after).await;
                    Err(failed("refused"))
                }
                (Fate::Unacknowledged | Fate::Lost | Fate::Stored(_), _) => {
                    sleep(ACK_TIMEOUT).await;
                    Err(failed("no acknowledgement"))
                }
            };
            log.thawed().await;
            acknowledged
        }
        .boxed();
        std::future::ready(Ok(acknowledgement)).boxed()
    }

    fn read(&self, kind: Kind, epoch: u64, after: u64) -> mpsc::Receiver<Result<Record, LogError>> {
        let (records, receiver) = mpsc::channel(READ_AHEAD);
        tokio::spawn(Reader::new(self.clone(), kind, epoch, after).run(records));
        receiver
    }

    fn last_sequence(&self, kind: Kind) -> BoxFuture<'static, Result<u64, LogError>> {
        self.ask(move |log| Ok(log.identity_now(kind).last_sequence))
    }

    fn record(&self, kind: Kind, sequence: u64) -> BoxFuture<'static, Result<Option<Record>, LogError>> {
        self.ask(move |log| Ok(log.record_at(kind, sequence).map(|(_, record)| record)))
    }

    fn identity(&self, kind: Kind) -> BoxFuture<'static, Result<Identity, LogError>> {
        self.ask(move |log| Ok(log.identity_now(kind)))
    }

    fn bury(&self, kind: Kind, _: u64, record: Record, reason: String) -> BoxFuture<'static, Result<(), LogError>> {
        let mut dead = self.dead.lock().expect("nobody panics while changing it");
        if !dead.iter().any(|(of, sequence, _)| (*of, *sequence) == (kind, record.sequence)) {
            dead.push((kind, record.sequence, reason));
        }
        std::future::ready(Ok(())).boxed()
    }

    fn trim(&self, kind: Kind, _: u64, from: u64) -> BoxFuture<'static, Result<u64, TrimError>> {
        std::future::ready(Ok(Self::trim(self, kind, from))).boxed()
    }

    fn disruptions(&self, _: Kind) -> watch::Receiver<u64> {
        self.disruptions.observe(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::publisher::Room;

    /// Of seven frames, one is refused, one is lost, one is stored without an acknowledgement. (A
    /// period that the window does not divide: else the same frame would be hit for ever.)
    #[derive(Debug, Default)]
    struct Unreliable(Mutex<u32>);

    impl Chaos for Unreliable {
        fn append(&self, _: Kind, _: u16, _: &Bytes) -> Fate {
            let mut count = self.0.lock().unwrap();
            *count += 1;
            match *count % 7 {
                2 => Fate::Refused(Duration::from_millis(1)),
                4 => Fate::Unacknowledged,
                6 => Fate::Lost,
                _ => Fate::Stored(Duration::from_millis(3)),
            }
        }

        fn deliver(&self, _: Kind, _: &Record) -> Delivery {
            Delivery::PROMPT
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_sends_again_in_order_until_every_frame_is_stored() {
        let log = MemoryLog::new(1, Arc::new(Unreliable::default()));
        let resent = crate::log::publisher::Resent::default();
        let publisher =
            crate::log::publisher::Publisher::counting(Arc::new(log.clone()), Kind::Wallet, 0, 4, resent.clone());
        let mut acknowledged = Vec::new();
        for frame in 0..20_u8 {
            acknowledged.push(publisher.send(Bytes::from(vec![frame])).await);
        }
        for one in acknowledged {
            one.await.unwrap();
        }
        // What a receiver accepts that takes the next one only: everything, in order.
        let mut next = 0;
        for record in log.records(Kind::Wallet) {
            assert!(record.payload[0] <= next + 4, "beyond the window");
            if record.payload[0] == next {
                next += 1;
            }
        }
        assert_eq!(next, 20);
        assert!(resent.load(std::sync::atomic::Ordering::Relaxed) > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_offered_to_a_full_log_is_given_up_and_what_is_sent_waits_for_room() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        log.limit(Kind::Wallet, 1);
        let publisher = || crate::log::publisher::Publisher::new(Arc::new(log.clone()), Kind::Wallet, 0, 1);
        let (door, partition) = (publisher(), publisher());
        assert_eq!(door.offer("a".into()).await.await, Ok(Room::Taken));
        assert_eq!(door.offer("b".into()).await.await, Ok(Room::Full));
        let mut sent = partition.send("c".into()).await;
        sleep(Duration::from_secs(10)).await;
        assert!(sent.try_recv().is_err());
        log.trim(Kind::Wallet, 2);
        sent.await.unwrap();
        assert_eq!(door.offer("d".into()).await.await, Ok(Room::Full));
        log.limit(Kind::Wallet, 2);
        assert_eq!(door.offer("e".into()).await.await, Ok(Room::Taken));
        let payloads: Vec<_> = log.records(Kind::Wallet).into_iter().map(|record| record.payload).collect();
        assert_eq!(payloads, ["a", "c", "e"]);
    }

    /// The reader is lost at the second record, and the third comes twice; the fourth never comes.
    #[derive(Debug, Default)]
    struct Interrupted(Mutex<bool>);

    impl Chaos for Interrupted {
        fn append(&self, _: Kind, _: u16, _: &Bytes) -> Fate {
            Fate::Stored(Duration::ZERO)
        }

        fn deliver(&self, _: Kind, record: &Record) -> Delivery {
            let was_lost = std::mem::replace(&mut *self.0.lock().unwrap(), record.sequence == 2);
            match record.sequence {
                2 if !was_lost => Delivery::ReaderLost(Duration::from_millis(20)),
                3 => Delivery::Comes { delay: Duration::ZERO, copies: 2 },
                4 => Delivery::Failed,
                _ => Delivery::PROMPT,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reader_goes_on_where_it_was_and_a_failed_one_says_so() {
        let log = MemoryLog::new(1, Arc::new(Interrupted::default()));
        for record in ["a", "b", "c", "d"] {
            log.store(Kind::Order, 0, record.into());
        }
        let mut reader = log.read(Kind::Order, Kind::Order as u64 + 1, 0);
        for expected in [1, 2, 3, 3] {
            assert_eq!(reader.recv().await.unwrap().unwrap().sequence, expected);
        }
        assert!(matches!(reader.recv().await, Some(Err(LogError::OtherLog { kind: Kind::Order, .. }))));
        assert!(reader.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_told_that_the_log_was_cut_ahead_of_it() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        for record in ["a", "b", "c"] {
            log.store(Kind::Order, 0, record.into());
        }
        log.trim(Kind::Order, 3);
        log.trim(Kind::Order, 2);
        assert_eq!(log.read(Kind::Order, Kind::Order as u64 + 1, 2).recv().await.unwrap().unwrap().sequence, 3);
        let missing = log.read(Kind::Order, Kind::Order as u64 + 1, 1).recv().await.unwrap().unwrap_err();
        assert!(missing.to_string().ends_with("sequence 2 is missing"), "{missing}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_gets_what_was_there_and_what_comes() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        log.store(Kind::Order, 0, "a".into());
        log.store(Kind::Order, 0, "b".into());
        let mut reader = log.read(Kind::Order, Kind::Order as u64 + 1, 1);
        assert_eq!(reader.recv().await.unwrap().unwrap().payload, "b");
        log.store(Kind::Order, 0, "c".into());
        assert_eq!(reader.recv().await.unwrap().unwrap().sequence, 3);
    }
}
