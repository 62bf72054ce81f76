//! A host of wallets in memory, whose folder is lost, whose log is cut, and whose snapshots are damaged.

use std::{fs, path::PathBuf, time::Duration};

use shop_domain::{
    entity::State,
    id::Id,
    kind::Kind,
    message::{Envelope, Message},
    money::Money,
    wallet::{self, Wallet},
};
use shop_nats::{
    log::{
        Log, Logs, SharedLog,
        frame::{EncodedMessage, Origin, Source, frames},
    },
    memory::{Calm, MemoryLog},
    subject::partition_of,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    candidates::{Candidates, Order},
    retention::Retention,
    *,
};
use crate::{
    host::snapshotter::{Keeper, Schedule},
    kind_host::{KindError, KindHost, View},
    partition::{
        AttachError, attach,
        role::{Role, RoleWatch},
    },
    store::{Store, memory::MemoryStore, sled::SledStore},
};

const KIND: Kind = Kind::Wallet;
const KEEP: usize = 3;

struct World {
    log: MemoryLog,
    partitions: u16,
    folder: TempDir,
    sent: u64,
}

struct Running {
    host: tokio::task::JoinHandle<Result<(), KindError>>,
    keeper: tokio::task::JoinHandle<()>,
    view: watch::Receiver<Arc<View>>,
    stop: [CancellationToken; 2],
}

impl World {
    fn new(partitions: u16) -> Self {
        let log = MemoryLog::new(partitions, Arc::new(Calm));
        Self { log, partitions, folder: tempfile::tempdir().unwrap(), sent: 0 }
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots::open(&self.folder.path().join("snapshots").to_string_lossy()).unwrap()
    }

    /// A host with the folder that was there.
    async fn start(&self) -> Running {
        self.start_with(vec![RoleWatch::alone(); usize::from(self.partitions)]).await
    }

    /// The same, which is something to its partitions.
    async fn start_with(&self, roles: Vec<RoleWatch>) -> Running {
        let mut logs = Logs::new();
        for kind in Kind::ALL {
            logs.insert(kind, self.log.identity(kind).await.unwrap());
        }
        let store = Arc::new(SledStore::open(&self.folder.path().join("host"), KIND).unwrap());
        let (replies, _) = mpsc::channel(1);
        let (view, seen) = watch::channel(Arc::default());
        let (log, identity, snapshots) = (Arc::new(self.log.clone()), logs[&KIND], self.snapshots());
        let schedule = Schedule { records: u64::MAX, interval: Duration::MAX, keep: KEEP, retention: None };
        let keeper = Keeper::new(KIND, identity, log.clone(), (snapshots.clone(), schedule), seen.clone());
        let snapshots = Some(snapshots);
        let held = watch::channel((0..identity.partitions).collect()).1;
        let host = KindHost {
            kind: KIND,
            log,
            identity,
            logs,
            store,
            snapshots,
            replies,
            view,
            roles,
            held,
            admissions: None,
        };
        let stop = [(); 2].map(|()| CancellationToken::new());
        let host = tokio::spawn(host.run(stop[0].clone()));
        Running { host, keeper: tokio::spawn(keeper.run(stop[1].clone())), view: seen, stop }
    }

    /// What a host says of why it does not start.
    async fn refusal(&self) -> String {
        let running = self.start().await;
        match running.host.await.unwrap() {
            Err(KindError::Attach(error @ AttachError::Trimmed { .. })) => error.to_string(),
            other => panic!("the host should not start, but: {other:?}"),
        }
    }

    fn lose_the_folder(&self) {
        fs::remove_dir_all(self.folder.path().join("host")).unwrap();
    }

    /// So many records with a top-up of 1 each.
    fn top_up(&mut self, wallet: &Id, times: u64) -> u64 {
        let partition = partition_of(wallet, self.partitions);
        for _ in 0..times {
            self.sent += 1;
            // Each from a door of its own, so that none of them needs the others.
            let source = Source { origin: Origin::Door, epoch: self.sent };
            let messages = [wallet::Message::Open { balance: Money::ZERO }, wallet::Message::TopUp { amount: one() }];
            let encode = |message| {
                let message = Message::Wallet(message);
                EncodedMessage::new(&Envelope { to: wallet.clone(), message, request: None, trace: None })
            };
            self.log.store(KIND, partition, frames(source, 1, &messages.map(encode)).remove(0).0);
        }
        self.sent
    }

    /// One more snapshot of a wallet's partition, by a host that comes and goes.
    async fn written_anew(&mut self, wallet: &Id) {
        let last = self.top_up(wallet, 10);
        let mut running = self.start().await;
        assert_eq!(running.balance(partition_of(wallet, self.partitions), wallet, last).await, last);
        running.stop().await;
    }

    /// The files of a partition's snapshots, newest first.
    fn files(&self, partition: u16) -> Vec<PathBuf> {
        let epochs = fs::read_dir(self.folder.path().join(format!("snapshots/wallet/{partition}"))).unwrap();
        let files = epochs.flat_map(|epoch| fs::read_dir(epoch.unwrap().path()).unwrap());
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort_by(|one, other| other.cmp(one));
        files
    }

    fn damage(&self, partition: u16, number: usize) {
        let path = &self.files(partition)[number];
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

impl Running {
    async fn saved(&self, partition: u16, sequence: u64) {
        let mut view = self.view.clone();
        loop {
            let handle = view.borrow_and_update().partitions[&partition].handle.clone();
            if handle.saved.clone().wait_for(|saved| *saved >= sequence).await.is_ok() {
                return;
            }
            // It began again, and is seen in the next one.
            view.changed().await.unwrap();
        }
    }

    async fn balance(&mut self, partition: u16, wallet: &Id, settled: u64) -> u64 {
        let is_settled = |view: &Arc<View>| {
            view.partitions.get(&partition).is_some_and(|one| *one.handle.settled.borrow() >= settled)
        };
        while !is_settled(&self.view.borrow()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let view = self.view.borrow().clone();
        let state = view.partitions[&partition].handle.overlay.look(|look| look.state(wallet)).unwrap().unwrap();
        let State::Wallet(Wallet::Open(open)) = State::decode(KIND, &state).unwrap() else { panic!("{state:?}") };
        open.balance.get()
    }

    /// How many records it has applied.
    fn applied(&self) -> u64 {
        self.view.borrow().counts.records.get()
    }

    async fn stop(self) {
        self.stop[0].cancel();
        self.host.await.unwrap().unwrap();
        self.stop[1].cancel();
        self.keeper.await.unwrap();
    }
}

fn one() -> Money {
    Money::new(1).unwrap()
}

fn id(id: &str) -> Id {
    id.parse().unwrap()
}

/// A wallet that belongs to that partition.
fn of_partition(partition: u16, partitions: u16) -> Id {
    let mut ids = (0..).map(|number| id(&format!("user-{number}")));
    ids.find(|id| partition_of(id, partitions) == partition).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_lost_its_folder_goes_on_from_the_newest_snapshot_that_is_whole() {
    let mut world = World::new(1);
    let alice = id("alice");
    for _ in 0..5 {
        world.written_anew(&alice).await;
    }
    assert_eq!(world.files(0).len(), KEEP);

    for (damaged, replayed) in [(None, 0), (Some(0), 10), (Some(1), 20), (Some(2), 50)] {
        damaged.into_iter().for_each(|number| world.damage(0, number));
        world.lose_the_folder();
        let mut running = world.start().await;
        assert_eq!(running.balance(0, &alice, 50).await, 50);
        assert_eq!(running.applied(), replayed);
        // Without a last snapshot.
        running.keeper.abort();
        running.stop[0].cancel();
        running.host.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_goes_on_in_a_log_that_was_cut_and_without_a_snapshot_says_why_not() {
    let mut world = World::new(1);
    let alice = id("alice");
    world.top_up(&alice, 30);
    let mut running = world.start().await;
    running.balance(0, &alice, 30).await;
    running.stop().await;
    fs::rename(world.folder.path().join("host"), world.folder.path().join("old")).unwrap();
    world.top_up(&alice, 20);
    let mut running = world.start().await;
    running.balance(0, &alice, 50).await;
    running.stop().await;
    world.log.trim(KIND, 41);
    world.top_up(&alice, 5);

    // Without a checkpoint, and with one that ends before the log begins.
    world.lose_the_folder();
    let mut running = world.start().await;
    assert_eq!((running.balance(0, &alice, 55).await, running.applied()), (55, 5));
    running.stop().await;
    world.lose_the_folder();
    fs::rename(world.folder.path().join("old"), world.folder.path().join("host")).unwrap();
    let mut running = world.start().await;
    assert_eq!(running.balance(0, &alice, 55).await, 55);
    running.stop().await;

    world.lose_the_folder();
    fs::remove_dir_all(world.folder.path().join("snapshots")).unwrap();
    let refusal = world.refusal().await;
    assert!(refusal.contains("the log of wallet begins at sequence 41, but wallet/0 has to go on from 1"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_may_be_cut_far_behind_the_last_record_of_a_partition_to_which_little_comes() {
    let mut world = World::new(3);
    let (busy, idle) = (of_partition(0, 3), of_partition(1, 3));
    world.top_up(&idle, 2);
    let last = world.top_up(&busy, 40);
    let mut running = world.start().await;
    running.balance(0, &busy, last).await;
    running.balance(1, &idle, 2).await;
    running.stop().await;
    let names = |partition| {
        let (snapshots, epoch) = (world.snapshots(), KIND as u64 + 1);
        async move { snapshots.list((KIND, partition), epoch).await.unwrap()[0].name }
    };
    for (partition, cursor) in [(0, 42), (1, 2), (2, 0)] {
        let name = names(partition).await;
        assert_eq!((name.complete_to, name.cursor), (42, cursor), "of partition {partition}");
    }
    world.log.trim(KIND, 40);

    // With its own checkpoints, which do not know that nothing came; and without any.
    for is_lost in [false, true] {
        if is_lost {
            world.lose_the_folder();
        }
        let mut running = world.start().await;
        assert_eq!(running.balance(0, &busy, 42).await, 40);
        assert_eq!(running.balance(1, &idle, 2).await, 2);
        assert_eq!(running.view.borrow().partitions.len(), 3);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_another_log_is_never_used() {
    let mut world = World::new(1);
    let alice = id("alice");
    world.top_up(&alice, 30);
    let mut running = world.start().await;
    running.balance(0, &alice, 30).await;
    running.stop().await;

    // The same epoch, but rolled back: what is beyond its end, or not what it holds, is of no use.
    world.lose_the_folder();
    (world.log, world.sent) = (MemoryLog::new(1, Arc::new(Calm)), 1_000);
    world.top_up(&alice, 7);
    let mut running = world.start().await;
    assert_eq!((running.balance(0, &alice, 7).await, running.applied()), (7, 7));
    running.keeper.abort();
    running.stop[0].cancel();
    running.host.await.unwrap().unwrap();
    world.lose_the_folder();
    world.top_up(&alice, 33);
    let mut running = world.start().await;
    assert_eq!((running.balance(0, &alice, 40).await, running.applied()), (40, 40));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_enough_is_cut_off_by_the_owner_of_the_first_partition_alone() {
    let mut world = World::new(1);
    let alice = id("alice");
    let last = world.top_up(&alice, 40);
    let (decision, role) = RoleWatch::new();
    decision.role.send_replace(Role::Standby);
    decision.settled.send_replace(last);
    let mut running = world.start_with(vec![role]).await;
    running.balance(0, &alice, last).await;
    running.saved(0, last).await;
    let identity = async || world.log.identity(KIND).await.unwrap();
    let keeper = |days| {
        let retention = Some(Retention { days, margin: 5 });
        let schedule = Schedule { records: 1, interval: Duration::MAX, keep: 1, retention };
        (world.snapshots(), schedule)
    };
    let log = Arc::new(world.log.clone());
    // The log in memory begins in 2023.
    for (role, days, first) in [(Role::Standby, 0, 1), (Role::Owner, 100_000, 1), (Role::Owner, 0, 36)] {
        decision.role.send_replace(role);
        fs::remove_dir_all(world.folder.path().join("snapshots")).unwrap_or_default();
        let mut keeper = Keeper::new(KIND, identity().await, log.clone(), keeper(days), running.view.clone());
        assert!(keeper.write_due().await);
        let snapshots = world.snapshots().list((KIND, 0), identity().await.epoch).await.unwrap();
        assert_eq!(snapshots.len(), usize::from(role == Role::Owner), "{role:?}");
        assert_eq!(identity().await.first_sequence, first, "{role:?}, {days} days");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_checkpoint_is_damaged_keeps_no_other_from_its_snapshot_and_is_built_again() {
    let mut world = World::new(3);
    let wallets: Vec<_> = (0..3).map(|partition| of_partition(partition, 3)).collect();
    let lasts: Vec<_> = wallets.iter().map(|wallet| world.top_up(wallet, 10)).collect();
    let mut running = world.start().await;
    for ((partition, wallet), last) in (0..).zip(&wallets).zip(&lasts) {
        assert_eq!(running.balance(partition, wallet, *last).await, 10);
        running.saved(partition, *last).await;
    }
    let runs = fs::read_dir(world.folder.path().join("host/wallet/runs/0")).unwrap();
    for path in runs.map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let identity = world.log.identity(KIND).await.unwrap();
    let schedule = Schedule { records: 1, interval: Duration::MAX, keep: 1, retention: None };
    let log = Arc::new(world.log.clone());
    let mut keeper = Keeper::new(KIND, identity, log, (world.snapshots(), schedule), running.view.clone());
    assert!(!keeper.write_due().await);
    let snapshots = world.snapshots();
    let written = async || {
        let mut written = Vec::new();
        for partition in 0..3 {
            written.push(snapshots.list((KIND, partition), identity.epoch).await.unwrap().len());
        }
        written
    };
    assert_eq!(written().await, [0, 1, 1]);

    // Its next checkpoint cannot be written: it begins anew.
    let last = world.top_up(&wallets[0], 1);
    assert_eq!(running.balance(0, &wallets[0], last).await, 11);
    running.saved(0, last).await;
    assert!(keeper.write_due().await);
    assert_eq!(written().await, [1, 1, 1]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_before_a_repartition_is_cut_off_however_young_it_is() {
    let mut world = World::new(2);
    let (alice, bob) = (of_partition(0, 2), of_partition(1, 2));
    world.top_up(&alice, 40);
    let last = world.top_up(&bob, 2);
    let mut running = world.start().await;
    running.balance(0, &alice, last - 2).await;
    running.balance(1, &bob, last).await;
    running.saved(1, last).await;
    world.log.begin_at(KIND, last + 1);

    let log: SharedLog = Arc::new(world.log.clone());
    let retention = Retention { days: 100_000, margin: 1_000 };
    let snapshots = world.snapshots();
    assert_eq!(retention.enforce(&log, &snapshots, KIND).await.unwrap(), 0, "nothing stands for it");
    running.stop().await;
    assert_eq!(retention.enforce(&log, &snapshots, KIND).await.unwrap(), last);
    assert_eq!(retention.enforce(&log, &snapshots, KIND).await.unwrap(), 0);
    let identity = world.log.identity(KIND).await.unwrap();
    assert_eq!((identity.oldest_sequence, identity.first_sequence), (last + 1, last + 1));

    // All goes on from there.
    world.lose_the_folder();
    let more = world.top_up(&bob, 1);
    let mut running = world.start().await;
    assert_eq!(running.balance(1, &bob, more).await, 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_another_host_removed_meanwhile_counts_as_not_there() {
    let world = World::new(1);
    let (log, snapshots): (SharedLog, _) = (Arc::new(world.log.clone()), world.snapshots());
    let identity = log.identity(KIND).await.unwrap();
    let (place, name) = ((KIND, 0), Name::of(&Meta::new(&identity)));
    let verified = snapshots.verify(place, name);
    let used = usable(&log, &snapshots, place, name, &identity, verified).await.unwrap();
    assert!(matches!(used, Usable::Gone), "{used:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_snapshots_that_were_listed_are_removed_the_newer_ones_are_looked_at_as_well() {
    let mut world = World::new(1);
    let (alice, snapshots) = (id("alice"), world.snapshots());
    let epoch = world.log.identity(KIND).await.unwrap().epoch;
    world.written_anew(&alice).await;
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let mut candidates = Candidates::list(&snapshots, (KIND, 0), epoch, order).await.unwrap();
        let mut listed = world.files(0);
        for _ in 0..KEEP {
            world.written_anew(&alice).await;
        }
        assert!(world.files(0).iter().all(|file| !listed.contains(file)), "all that were listed are removed");
        while let Some(kept) = candidates.next().await.unwrap() {
            match snapshots.verify((KIND, 0), kept.name).await {
                Err(SnapshotError::Gone(_)) => candidates.is_gone(),
                verified => drop(verified.unwrap()),
            }
            listed.push(world.folder.path().join("snapshots").join(kept.name.path((KIND, 0)).as_ref()));
        }
        let mut newer = listed.split_off(listed.len() - KEEP);
        if order == Order::OldestFirst {
            newer.reverse();
        }
        assert_eq!(newer, world.files(0), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_another_host_wrote_since_the_log_was_looked_at_is_of_use() {
    let mut world = World::new(1);
    let log: SharedLog = Arc::new(world.log.clone());
    let before = log.identity(KIND).await.unwrap();
    world.written_anew(&id("alice")).await;
    let last = log.last_sequence(KIND).await.unwrap();
    assert!(before.last_sequence < last);
    let partition_store = MemoryStore::default().partition(0).unwrap();
    restore::where_needed(&world.snapshots(), &log, (KIND, 0), &partition_store, &before).await.unwrap();
    let (meta, _) = attach(&log, KIND, 0, &partition_store, &before).await.unwrap();
    assert_eq!(meta.cursor, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_of_former_epochs_are_kept_until_hosts_have_written_newer_ones_of_all_partitions() {
    const FORMER: u64 = 0xf0;
    let mut world = World::new(2);
    let (alice, bob) = (of_partition(0, 2), of_partition(1, 2));
    // More partitions than there are now.
    let former = [0, 1, 7].map(|partition| {
        let folder = world.folder.path().join(format!("snapshots/wallet/{partition}/{FORMER:016x}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{:020}-{:020}.snapshot", 9, 9)), "former").unwrap();
        folder.join(format!("{:020}-{:020}.snapshot", 9, 9))
    });
    world.top_up(&alice, 3);
    let last = world.top_up(&bob, 1);
    let (decision, role) = RoleWatch::new();
    decision.role.send_replace(Role::Standby);
    decision.settled.send_replace(last);
    let mut running = world.start_with(vec![RoleWatch::alone(), role]).await;
    running.balance(0, &alice, last - 1).await;
    running.balance(1, &bob, last).await;
    running.saved(1, last).await;
    let identity = world.log.identity(KIND).await.unwrap();
    let schedule = Schedule { records: 1, interval: Duration::MAX, keep: 1, retention: None };
    let log = Arc::new(world.log.clone());
    let keeper = Keeper::new(KIND, identity, log, (world.snapshots(), schedule), running.view.clone());
    let mut keeper = keeper.forgetting(&[FORMER]);
    let are_there = || former.iter().filter(|path| path.exists()).count();
    for (role, kept) in [(Role::Standby, 3), (Role::Owner, 3), (Role::Owner, 0)] {
        decision.role.send_replace(role);
        assert!(keeper.write_due().await);
        assert_eq!(are_there(), kept, "{role:?}");
        let last = world.top_up(&alice, 1);
        running.balance(0, &alice, last).await;
        running.saved(0, last).await;
    }
    assert!(world.files(0).len() == 1 && world.files(1).len() == 1);
    running.stop().await;
}
