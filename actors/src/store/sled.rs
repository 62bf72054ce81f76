//! Checkpoints in sled: one database per kind, one tree per partition, one atomic batch per checkpoint.
//!
//! The folder may be deleted at any time, and what cannot be read is set aside and built again
//! from the log. No checkpoint needs an fsync for the same reason.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use shop_domain::{id::Id, kind::Kind, rows::RowKey};

use super::{Checkpoint, Meta, SharedShelf, Shelf, Store, StoreError};

/// The version of what is in the folder.
const FORMAT: &str = "shop-actors store 1\n";
/// sled's page cache for one kind, in bytes.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// How often sled writes out on its own, in milliseconds: bounds what is replayed after a crash.
const FLUSH_EVERY_MS: u64 = 1_000;

const META: &[u8] = b"m";
const STATE: u8 = b's';
const ROW: u8 = b'r';

/// The checkpoints of one kind.
#[derive(Debug)]
pub struct SledStore {
    kind: Kind,
    database: sled::Db,
    /// Held for as long as the folder is in use.
    _lock: File,
}

/// The checkpoint of one partition: a tree of its own.
#[derive(Clone, Debug)]
struct SledShelf {
    tree: sled::Tree,
}

impl SledStore {
    /// Opens, or makes, the folder of a kind in `data_dir`.
    pub fn open(data_dir: &Path, kind: Kind) -> Result<Self, StoreError> {
        let folder = data_dir.join(kind.as_str());
        let io = |source| StoreError::Io { folder: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        let lock = lock(&folder)?;
        check_format(&folder)?;
        let database = open_or_set_aside(&folder)?;
        Ok(Self { kind, database, _lock: lock })
    }
}

impl Store for SledStore {
    fn shelf(&self, partition: u16) -> Result<SharedShelf, StoreError> {
        Ok(Arc::new(SledShelf { tree: self.database.open_tree(format!("{}/{partition}", self.kind))? }))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.database.flush()?;
        Ok(())
    }
}

impl Shelf for SledShelf {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        let Some(bytes) = self.tree.get(META)? else { return Ok(None) };
        let name = || String::from_utf8_lossy(&self.tree.name()).into_owned();
        rmp_serde::from_slice(&bytes).map(Some).map_err(|error| StoreError::Meta(name(), error))
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tree.get(state_key(id))?.map(bytes))
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tree.get(row_key(id, row))?.map(bytes))
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        let start = after.map_or_else(|| vec![STATE], |after| [&state_key(after)[..], &[0]].concat());
        let mut states = Vec::new();
        for entry in self.tree.range(start..vec![STATE + 1]).take(limit) {
            let (key, state) = entry?;
            states.extend(id_in(&key[1..]).map(|id| (id, bytes(state))));
        }
        Ok(states)
    }

    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        let start = row_key(id, prefix);
        let end = before.map_or_else(|| [&start[..], &[0xff]].concat(), |before| row_key(id, before));
        if end <= start {
            return Ok(vec![]);
        }
        let head = row_key(id, "").len();
        let mut rows = Vec::new();
        for entry in self.tree.range(start..end).rev().take(limit) {
            let (key, row) = entry?;
            rows.push((String::from_utf8_lossy(&key[head..]).into(), bytes(row)));
        }
        Ok(rows)
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (id, state) in &checkpoint.states {
            batch.insert(state_key(id), &state[..]);
        }
        for ((id, row), bytes) in &checkpoint.rows {
            batch.insert(row_key(id, row), &bytes[..]);
        }
        let meta = rmp_serde::to_vec_named(&checkpoint.meta).expect("meta always encodes");
        batch.insert(META, meta);
        self.tree.apply_batch(batch)?;
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }
}

fn bytes(found: sled::IVec) -> Bytes {
    Bytes::copy_from_slice(&found)
}

fn state_key(id: &Id) -> Vec<u8> {
    [&[STATE], id.as_str().as_bytes()].concat()
}

fn row_key(id: &Id, row: &str) -> Vec<u8> {
    [&[ROW], id.as_str().as_bytes(), &[0], row.as_bytes()].concat()
}

fn id_in(key: &[u8]) -> Option<Id> {
    std::str::from_utf8(key).ok()?.parse().ok()
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
            let mut file = File::create(&path).map_err(io)?;
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
    use shop_nats::log::Identity;

    use super::*;

    fn id(id: &str) -> Id {
        id.parse().unwrap()
    }

    fn checkpoint(cursor: u64, states: &[&str], rows: &[(&str, &str)]) -> Checkpoint {
        let log =
            Identity { created_unix_ns: 1, epoch: 2, partitions: 1, logic: 1, first_sequence: 1, last_sequence: 3 };
        Checkpoint {
            meta: Meta { cursor, ..Meta::new(&log) },
            states: states.iter().map(|state| (id(state), (*state).to_owned().into())).collect(),
            rows: rows.iter().map(|(of, row)| ((id(of), (*row).into()), (*row).to_owned().into())).collect(),
        }
    }

    #[test]
    fn a_checkpoint_is_read_back_after_the_folder_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let written = checkpoint(17, &["a", "b"], &[("a", "entry/1")]);
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        store.shelf(0).unwrap().write(&written).unwrap();
        drop(store);
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let shelf = store.shelf(0).unwrap();
        assert_eq!(shelf.meta().unwrap(), Some(written.meta));
        assert_eq!(shelf.state(&id("a")).unwrap().as_deref(), Some(&b"a"[..]));
        assert_eq!(shelf.row(&id("a"), "entry/1").unwrap().as_deref(), Some(&b"entry/1"[..]));
        assert_eq!(shelf.row(&id("b"), "entry/1").unwrap(), None);
        assert_eq!(store.shelf(1).unwrap().meta().unwrap(), None);
    }

    #[test]
    fn states_come_in_order_of_their_ids_and_rows_last_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let shelf = store.shelf(0).unwrap();
        let rows = [("a", "entry/1"), ("a", "entry/2"), ("a", "entry/3"), ("a", "charge/o"), ("ab", "entry/9")];
        shelf.write(&checkpoint(1, &["b", "a", "ab"], &rows)).unwrap();
        let ids = |after: Option<&str>, limit| {
            let after = after.map(id);
            let states = shelf.states_after(after.as_ref(), limit).unwrap();
            states.into_iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(ids(None, 10), ["a", "ab", "b"]);
        assert_eq!(ids(Some("a"), 1), ["ab"]);
        let keys = |before: Option<&str>, limit| {
            let rows = shelf.rows_before(&id("a"), "entry/", before, limit).unwrap();
            rows.into_iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(keys(None, 10), ["entry/3", "entry/2", "entry/1"]);
        assert_eq!(keys(Some("entry/3"), 1), ["entry/2"]);
        assert_eq!(keys(Some("a"), 1), Vec::<String>::new());
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _store = SledStore::open(folder.path(), Kind::Order).unwrap();
        assert!(matches!(SledStore::open(folder.path(), Kind::Order), Err(StoreError::InUse(_))));
        assert!(SledStore::open(folder.path(), Kind::Wallet).is_ok());
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
        assert_eq!(store.shelf(0).unwrap().meta().unwrap(), None);
        let aside = fs::read_dir(folder.path().join("order")).unwrap();
        let names: Vec<_> = aside.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with("sled-unreadable-")), "{names:?}");
    }
}
