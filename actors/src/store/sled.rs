//! Checkpoints: every one is a [`run`] in a file of its own until some are merged, and exists once sled
//! lists it: one database per kind, one tree per partition. A list is one small value, so sled puts a
//! checkpoint into force at once or not at all.
//!
//! The folder may be deleted at any time, and what cannot be read is set aside and built again
//! from the log.

mod block;
mod bounds;
mod checkpoint_view;
mod files;
mod filter;
mod index;
mod key;
mod manifest;
mod merge;
mod partition_store;
mod remote;
mod sorted_run;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use shop_domain::kind::Kind;
use shop_nats::private;
use tokio::time::{Instant, sleep};

use self::{files::RunFolder, manifest::Manifest, partition_store::SledPartitionStore};
use super::{SharedPartitionStore, Store, StoreError};

/// The version of what is in the folder.
const FORMAT: &str = "shop-actors store 3\n";
/// sled's page cache for one kind, in bytes: lists of runs are small.
const CACHE_BYTES: u64 = 1024 * 1024;
/// How often sled writes out on its own, in milliseconds: bounds what is replayed after a crash.
const FLUSH_EVERY_MS: u64 = 1_000;
/// How often a folder is tried again while its last owner is finishing.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The checkpoints of one kind.
#[derive(Debug)]
pub struct SledStore {
    kind: Kind,
    database: sled::Db,
    /// Where the runs of the partitions are.
    runs: PathBuf,
    /// Of each partition, what all share who have opened it, as long as there are any.
    listings: Mutex<BTreeMap<u16, Weak<Manifest>>>,
    /// Held for as long as the folder is in use.
    _lock: File,
}

impl SledStore {
    /// Opens, or makes, the folder of a kind in `data_dir`.
    pub fn open(data_dir: &Path, kind: Kind) -> Result<Self, StoreError> {
        let folder = data_dir.join(kind.as_str());
        let io = |source| StoreError::Io { folder: folder.clone(), source };
        private::make_folder(&folder).map_err(io)?;
        if let Some(file_system) = remote::file_system_of(&folder).map_err(io)? {
            return Err(StoreError::Remote { folder, file_system });
        }
        let lock = lock(&folder)?;
        check_format(&folder)?;
        let database = open_or_set_aside(&folder)?;
        Ok(Self { kind, database, runs: folder.join("runs"), listings: Mutex::default(), _lock: lock })
    }

    /// As [`Self::open`], but gives the last owner of the folder up to `limit` to finish.
    pub async fn open_within(data_dir: &Path, kind: Kind, limit: Duration) -> Result<Self, StoreError> {
        let deadline = Instant::now() + limit;
        loop {
            match Self::open(data_dir, kind) {
                Err(StoreError::InUse(_)) if Instant::now() < deadline => sleep(RETRY_INTERVAL).await,
                outcome => return outcome,
            }
        }
    }
}

impl SledStore {
    /// Forgets the checkpoints of logs of those epochs: what was in them is in snapshots of another one.
    pub fn forget(&self, epochs: &[u64]) -> Result<(), StoreError> {
        let prefix = format!("{}/", self.kind);
        let names = self.database.tree_names();
        let trees = names.iter().filter_map(|name| str::from_utf8(name).ok()?.strip_prefix(&prefix)?.parse().ok());
        for partition in trees {
            let manifest = self.manifest(partition)?;
            if let Some(epoch) = manifest.epoch().filter(|epoch| epochs.contains(epoch)) {
                tracing::info!("forgetting the checkpoint of {prefix}{partition} of epoch {epoch:016x}");
                manifest.clear()?;
            }
        }
        Ok(())
    }

    /// What all share who open a partition.
    fn manifest(&self, partition: u16) -> Result<Arc<Manifest>, StoreError> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manifest) = listings.get(&partition).and_then(Weak::upgrade) {
            return Ok(manifest);
        }
        let name = format!("{}/{partition}", self.kind);
        let tree = self.database.open_tree(&name)?;
        let folder = RunFolder::open(self.runs.join(partition.to_string()))?;
        let manifest = match Manifest::read(tree.clone(), folder.clone()) {
            Err(error @ (StoreError::Meta(..) | StoreError::Damaged(_))) => {
                tracing::error!("deleting the checkpoint of {name}, to build it again from the log: {error}");
                tree.clear()?;
                Manifest::read(tree, folder)?
            }
            read => read?,
        };
        let manifest = Arc::new(manifest);
        listings.insert(partition, Arc::downgrade(&manifest));
        Ok(manifest)
    }
}

impl Store for SledStore {
    fn partition(&self, partition: u16) -> Result<SharedPartitionStore, StoreError> {
        Ok(Arc::new(SledPartitionStore::open(self.manifest(partition)?)?))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.database.flush()?;
        Ok(())
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io { folder: folder.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("LOCK")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

fn check_format(folder: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { folder: folder.to_owned(), source };
    let path = folder.join("FORMAT");
    match fs::read_to_string(&path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(StoreError::Format { folder: folder.to_owned(), found, expected: FORMAT }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut file = private::make_file(&path).map_err(io)?;
            file.write_all(FORMAT.as_bytes()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

/// Opens the database. One that cannot be opened (sled may also panic over it) is renamed, for
/// whoever wants to look into it, and begun anew: the log holds everything.
fn open_or_set_aside(folder: &Path) -> Result<sled::Db, StoreError> {
    let path = folder.join("sled");
    let open =
        || sled::Config::new().path(&path).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_EVERY_MS)).open();
    let reason = match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => return Ok(database),
        Ok(Err(sled::Error::Io(error))) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(StoreError::InUse(folder.to_owned()));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_panic) => "sled panicked".to_owned(),
    };
    let aside = folder.join(format!("sled-unreadable-{}", uuid::Uuid::now_v7().simple()));
    tracing::error!(
        "cannot open {}: {reason}; set aside as {}, building again from the log",
        path.display(),
        aside.display()
    );
    fs::rename(&path, &aside).map_err(|source| StoreError::Io { folder: folder.to_owned(), source })?;
    Ok(open()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shop_domain::id::Id;
    use shop_nats::log::Identity;

    use super::*;
    use crate::store::{
        Checkpoint, ItemsError, Meta,
        delta::{Changed, Delta},
    };

    fn id(id: &str) -> Id {
        id.parse().unwrap()
    }

    fn checkpoint(cursor: u64, states: &[&str], rows: &[(&str, &str)]) -> Checkpoint {
        let state = |of: &&str| Changed { id: id(of), state: Some((*of).to_owned().into()), rows: vec![] };
        let row = |(of, row): &(&str, &str)| {
            let rows = vec![((*row).into(), (*row).to_owned().into())];
            Changed { id: id(of), state: None, rows }
        };
        let changes: Delta = states.iter().map(state).chain(rows.iter().map(row)).collect();
        Checkpoint { meta: Meta { cursor, ..Meta::new(&Identity::new(2)) }, changes: changes.into() }
    }

    #[test]
    fn a_checkpoint_is_read_back_after_the_folder_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let written = checkpoint(17, &["a", "b"], &[("a", "entry/1")]);
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        store.partition(0).unwrap().write(&written).unwrap();
        drop(store);
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let partition_store = store.partition(0).unwrap();
        assert_eq!(partition_store.meta().unwrap(), Some(written.meta));
        assert_eq!(partition_store.state(&id("a")).unwrap().as_deref(), Some(&b"a"[..]));
        assert_eq!(partition_store.row(&id("a"), "entry/1").unwrap().as_deref(), Some(&b"entry/1"[..]));
        assert_eq!(partition_store.row(&id("b"), "entry/1").unwrap(), None);
        assert_eq!(store.partition(1).unwrap().meta().unwrap(), None);
    }

    #[test]
    fn states_come_in_order_of_their_ids_and_rows_last_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let partition_store = store.partition(0).unwrap();
        let rows = [("a", "entry/1"), ("a", "entry/2"), ("a", "entry/3"), ("a", "charge/o"), ("ab", "entry/9")];
        partition_store.write(&checkpoint(1, &["b", "a", "ab"], &rows)).unwrap();
        let ids = |after: Option<&str>, limit| {
            let after = after.map(id);
            let states = partition_store.states_after(after.as_ref(), limit).unwrap();
            states.into_iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(None, 10), ["a", "ab", "b"]);
        assert_eq!(ids(Some("a"), 1), ["ab"]);
        let keys = |before: Option<&str>, limit| {
            let rows = partition_store.rows_before(&id("a"), "entry/", before, limit).unwrap();
            rows.into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(keys(None, 10), ["entry/3", "entry/2", "entry/1"]);
        assert_eq!(keys(Some("entry/3"), 1), ["entry/2"]);
        assert_eq!(keys(Some("a"), 1), Vec::<String>::new());
    }

    /// Many checkpoints of few entities, so that runs are merged again and again, against a map.
    #[test]
    fn what_was_written_last_is_read_whatever_was_merged_and_reopened_in_between() {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let mut partition_store = store.partition(0).unwrap();
        let (mut states, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for cursor in 1..=1_500_u64 {
            let mut changes = Delta::default();
            for _ in 0..rng.usize(0..12) {
                let (of, row) = (id(&format!("user-{}", rng.u8(0..40))), format!("entry/{:03}", rng.u16(0..300)));
                let length = if rng.u8(0..100) == 0 { 40_000 } else { rng.usize(0..400) };
                let noise = std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect::<String>();
                let value = bytes::Bytes::from(format!("{cursor} {noise}"));
                states.insert(of.clone(), value.clone());
                rows.insert((of.clone(), row.clone()), value.clone());
                changes.insert(Changed { id: of, state: Some(value.clone()), rows: vec![(row.into(), value)] });
            }
            // Some that sort by time, whose blocks are taken over by a merge.
            for order in 0..rng.usize(0..200) {
                let (of, value) = (id(&format!("order-{cursor:05}-{order:03}")), bytes::Bytes::from(vec![b'o'; 200]));
                states.insert(of.clone(), value.clone());
                changes.insert(Changed { id: of, state: Some(value), rows: vec![] });
            }
            let written = Checkpoint { changes: changes.into(), ..checkpoint(cursor, &[], &[]) };
            partition_store.write(&written).unwrap();
            partition_store.tidy().unwrap();
            if rng.u8(0..40) == 0 {
                partition_store = store.partition(0).unwrap();
                assert_eq!(partition_store.meta().unwrap(), Some(written.meta));
            }
            let of = match rng.bool() {
                true => id(&format!("user-{}", rng.u8(0..40))),
                false => id(&format!("order-{:05}-{:03}", rng.u64(0..cursor + 9), rng.u8(0..200))),
            };
            assert_eq!(partition_store.state(&of).unwrap(), states.get(&of).cloned());
            let row = format!("entry/{:03}", rng.u16(0..300));
            assert_eq!(partition_store.row(&of, &row).unwrap(), rows.get(&(of.clone(), row.clone())).cloned());
            let limit = rng.usize(1..20);
            let after: Vec<_> = states.iter().filter(|(id, _)| **id > of).take(limit).collect();
            let found = partition_store.states_after(Some(&of), limit).unwrap();
            assert_eq!(found.iter().map(|(id, state)| (id, state)).collect::<Vec<_>>(), after);
            let before = rows.iter().rev().filter(|((id, at), _)| *id == of && *at < row).take(limit);
            let before: Vec<_> = before.map(|((_, at), value)| (at.as_str(), value)).collect();
            let found = partition_store.rows_before(&of, "entry/", Some(&row), limit).unwrap();
            assert_eq!(found.iter().map(|(at, value)| (&**at, value)).collect::<Vec<_>>(), before);
        }
    }

    fn run_files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder.join("order/runs/0")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Changes one byte of the only run, at a place counted from its end or, if negative, from its start.
    fn damage(folder: &Path, from_end: i64) {
        let [path] = &run_files(folder)[..] else { panic!("there is one run") };
        let mut bytes = fs::read(path).unwrap();
        let place = if from_end < 0 { -from_end } else { bytes.len() as i64 - from_end };
        bytes[place as usize] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_run_that_is_damaged_or_missing_at_the_start_is_built_again() {
        let damages: [fn(&Path); 5] = [
            |folder| damage(folder, 1),
            |folder| damage(folder, 30),
            |folder| fs::write(&run_files(folder)[0], "short").unwrap(),
            |folder| fs::write(&run_files(folder)[0], "").unwrap(),
            |folder| fs::remove_file(&run_files(folder)[0]).unwrap(),
        ];
        for damage in damages {
            let folder = tempfile::tempdir().unwrap();
            let store = SledStore::open(folder.path(), Kind::Order).unwrap();
            store.partition(0).unwrap().write(&checkpoint(17, &["a", "b"], &[])).unwrap();
            damage(folder.path());
            let partition_store = store.partition(0).unwrap();
            assert_eq!(partition_store.meta().unwrap(), None);
            assert_eq!(partition_store.state(&id("a")).unwrap(), None);
            assert_eq!(run_files(folder.path()), Vec::<PathBuf>::new());
            partition_store.write(&checkpoint(3, &["a"], &[])).unwrap();
            assert!(partition_store.state(&id("a")).unwrap().is_some());
        }
    }

    #[test]
    fn a_run_that_turns_out_to_be_damaged_is_never_believed_nor_listed_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        let partition_store = store.partition(0).unwrap();
        partition_store.write(&checkpoint(17, &["a", "b"], &[])).unwrap();
        damage(folder.path(), -8);
        assert!(matches!(partition_store.state(&id("a")), Err(StoreError::Damaged(0))));
        assert!(matches!(partition_store.write(&checkpoint(18, &["c"], &[])), Err(StoreError::Damaged(0))));
        assert_eq!(store.partition(0).unwrap().meta().unwrap(), None);
    }

    #[test]
    fn a_run_that_turns_out_to_be_damaged_when_all_is_read_is_never_listed_again_either() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        let partition_store = store.partition(0).unwrap();
        partition_store.write(&checkpoint(17, &["a", "b"], &[])).unwrap();
        damage(folder.path(), -8);
        let read = partition_store.freeze().unwrap().unwrap().each(&mut |_| Ok(()));
        assert!(matches!(read, Err(ItemsError::Store(StoreError::Damaged(0)))), "{read:?}");
        assert!(matches!(partition_store.write(&checkpoint(18, &["c"], &[])), Err(StoreError::Damaged(0))));
        assert!(matches!(partition_store.freeze(), Err(StoreError::Damaged(0))));
        let partition_store = store.partition(0).unwrap();
        assert_eq!(partition_store.meta().unwrap(), None);
        partition_store.write(&checkpoint(3, &["a"], &[])).unwrap();
        assert!(
            partition_store.state(&id("a")).unwrap().is_some() && partition_store.state(&id("b")).unwrap().is_none()
        );
    }

    fn cursor(partition_store: &SharedPartitionStore) -> Option<u64> {
        partition_store.meta().unwrap().map(|meta| meta.cursor)
    }

    /// As tasks of partitions do that were given up, and whoever looks at an old view.
    #[test]
    fn whoever_had_opened_a_checkpoint_before_reads_on_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        let old = store.partition(0).unwrap();
        (1..=40).for_each(|cursor| old.write(&checkpoint(cursor, &[&format!("old-{cursor:02}")], &[])).unwrap());
        let held = old.freeze().unwrap().unwrap();

        let new = store.partition(0).unwrap();
        assert!(matches!(old.tidy(), Err(StoreError::Superseded)), "what it merges is not listed");
        for cursor in 41..=100 {
            new.write(&checkpoint(cursor, &[&format!("new-{cursor:02}")], &[])).unwrap();
            new.tidy().unwrap();
        }
        assert!(run_files(folder.path()).len() < 40, "those that the old one reads are gone");
        assert!(matches!(old.write(&checkpoint(150, &["late"], &[])), Err(StoreError::Superseded)));

        let frozen = old.freeze().unwrap().unwrap();
        assert_eq!((cursor(&old), frozen.meta().cursor), (Some(40), 40));
        assert!(old.state(&id("old-01")).unwrap().is_some() && old.state(&id("new-41")).unwrap().is_none());
        for frozen in [held, frozen] {
            let mut ids = Vec::new();
            let read = frozen.each(&mut |item| {
                ids.push(item.id.to_string());
                Ok(())
            });
            read.unwrap();
            assert_eq!(ids, (1..=40).map(|cursor| format!("old-{cursor:02}")).collect::<Vec<_>>());
        }
        for partition_store in [new, store.partition(0).unwrap()] {
            assert_eq!(cursor(&partition_store), Some(100));
            assert!(["old-01", "new-41", "new-100"].iter().all(|of| partition_store.state(&id(of)).unwrap().is_some()));
            assert_eq!(partition_store.state(&id("late")).unwrap(), None);
        }
        store.flush().unwrap();
        drop((old, store));
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        assert_eq!(cursor(&store.partition(0).unwrap()), Some(100));
    }

    #[test]
    fn whoever_still_reads_a_checkpoint_that_was_forgotten_does_no_harm_to_the_one_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        let old = store.partition(0).unwrap();
        old.write(&checkpoint(17, &["a"], &[])).unwrap();
        store.forget(&[2]).unwrap();
        let new = store.partition(0).unwrap();
        assert_eq!(cursor(&new), None);
        new.write(&checkpoint(3, &["b"], &[])).unwrap();
        assert!(matches!(old.state(&id("a")), Err(StoreError::Damaged(0))));
        assert!(matches!(old.write(&checkpoint(18, &["a"], &[])), Err(StoreError::Superseded)));
        assert_eq!(cursor(&store.partition(0).unwrap()), Some(3));
        store.flush().unwrap();
        drop((old, new, store));
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        assert_eq!(cursor(&store.partition(0).unwrap()), Some(3));
    }

    #[test]
    fn what_a_crash_left_behind_of_a_run_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        store.partition(0).unwrap().write(&checkpoint(17, &["a"], &[])).unwrap();
        fs::write(folder.path().join("order/runs/0/1.run"), "half a run").unwrap();
        let partition_store = store.partition(0).unwrap();
        assert_eq!(run_files(folder.path()), [folder.path().join("order/runs/0/0.run")]);
        partition_store.write(&checkpoint(18, &["b"], &[])).unwrap();
        let partition_store = store.partition(0).unwrap();
        assert_eq!(partition_store.meta().unwrap().map(|meta| meta.cursor), Some(18));
        assert!(
            partition_store.state(&id("a")).unwrap().is_some() && partition_store.state(&id("b")).unwrap().is_some()
        );
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _store = SledStore::open(folder.path(), Kind::Order).unwrap();
        assert!(matches!(SledStore::open(folder.path(), Kind::Order), Err(StoreError::InUse(_))));
        assert!(SledStore::open(folder.path(), Kind::Wallet).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_owner_of_a_folder_is_waited_for_but_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        let limit = Duration::from_secs(1);
        let refused = SledStore::open_within(folder.path(), Kind::Order, limit).await;
        assert!(matches!(refused, Err(StoreError::InUse(_))));
        let (opened, ()) = tokio::join!(SledStore::open_within(folder.path(), Kind::Order, limit), async {
            sleep(limit / 2).await;
            drop(store);
        });
        opened.unwrap();
    }

    #[test]
    fn a_folder_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(SledStore::open(folder.path(), Kind::Order).unwrap());
        fs::write(folder.path().join("order/FORMAT"), "shop-actors store 99\n").unwrap();
        let error = SledStore::open(folder.path(), Kind::Order).unwrap_err();
        assert!(error.to_string().contains("store 99"), "{error}");
    }

    #[test]
    fn a_database_that_cannot_be_read_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("order")).unwrap();
        fs::write(folder.path().join("order/sled"), "no database").unwrap();
        let store = SledStore::open(folder.path(), Kind::Order).unwrap();
        assert_eq!(store.partition(0).unwrap().meta().unwrap(), None);
        let aside = fs::read_dir(folder.path().join("order")).unwrap();
        let names: Vec<_> = aside.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with("sled-unreadable-")), "{names:?}");
    }
}
