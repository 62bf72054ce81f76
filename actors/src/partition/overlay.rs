//! What a partition knows: its checkpoint, and on top of it what changed since. Reads see both.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use shop_domain::{id::Id, logic::Logic, rows::RowKey};

use crate::store::{
    SharedPartitionStore, StoreError,
    delta::{Changed, Delta},
};

/// The states and rows of one partition.
#[derive(Debug)]
pub struct Overlay {
    partition_store: SharedPartitionStore,
    fresh: RwLock<Fresh>,
}

/// What changed since the last checkpoint.
#[derive(Debug)]
struct Fresh {
    cursor: u64,
    /// How entities behave behind the cursor.
    logic: Logic,
    /// On the way into a checkpoint up to that cursor, oldest first.
    leaving: VecDeque<(u64, Arc<Delta>)>,
    /// Since then.
    newest: Delta,
}

impl Overlay {
    /// What a checkpoint up to `cursor` holds, behind which entities behave by the version `logic`.
    pub fn new(partition_store: SharedPartitionStore, cursor: u64, logic: Logic) -> Self {
        let (leaving, newest) = (VecDeque::new(), Delta::default());
        Self { partition_store, fresh: RwLock::new(Fresh { cursor, logic, leaving, newest }) }
    }

    /// Takes in a round, up to `cursor`, behind which entities behave by the version `logic`.
    pub fn apply(&self, cursor: u64, logic: Logic, changed: Vec<Changed>) {
        let mut fresh = self.write();
        (fresh.cursor, fresh.logic) = (cursor, logic);
        changed.into_iter().for_each(|changed| fresh.newest.insert(changed));
    }

    /// What changed since this was asked last, for a checkpoint. Reads see it here until the
    /// checkpoint is [`saved`](Self::saved).
    pub fn leave(&self) -> Arc<Delta> {
        let mut fresh = self.write();
        let changes = Arc::new(std::mem::take(&mut fresh.newest));
        let cursor = fresh.cursor;
        fresh.leaving.push_back((cursor, Arc::clone(&changes)));
        changes
    }

    /// A checkpoint up to `cursor` was written, and all before it.
    pub fn saved(&self, cursor: u64) {
        let mut fresh = self.write();
        let saved = fresh.leaving.partition_point(|(at, _)| *at <= cursor);
        let saved: Vec<_> = fresh.leaving.drain(..saved).collect();
        // What they held is freed without keeping anybody waiting.
        drop(fresh);
        drop(saved);
    }

    /// The sequence up to which it is.
    pub fn cursor(&self) -> u64 {
        self.read().cursor
    }

    /// Looks at one moment of the partition: what is read together belongs together.
    pub fn look<T>(&self, look: impl FnOnce(&Look<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let fresh = self.read();
        look(&Look { partition_store: &self.partition_store, fresh: &fresh })
    }

    fn read(&self) -> RwLockReadGuard<'_, Fresh> {
        self.fresh.read().expect("nobody panics while changing it")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Fresh> {
        self.fresh.write().expect("nobody panics while changing it")
    }
}

/// One moment of a partition.
#[derive(Debug)]
pub struct Look<'a> {
    partition_store: &'a SharedPartitionStore,
    fresh: &'a Fresh,
}

impl Look<'_> {
    /// The sequence up to which all of this is.
    pub fn cursor(&self) -> u64 {
        self.fresh.cursor
    }

    /// How entities behave behind all of this.
    pub fn logic(&self) -> Logic {
        self.fresh.logic
    }

    /// An entity's state.
    pub fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        match self.changes().find_map(|changes| changes.state(id)) {
            Some(state) => Ok(Some(state.clone())),
            None => self.partition_store.state(id),
        }
    }

    /// One row of an entity.
    pub fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        match self.changes().find_map(|changes| changes.row(id, row)) {
            Some(row) => Ok(Some(row.clone())),
            None => self.partition_store.row(id, row),
        }
    }

    /// At most `limit` states with ids after `after`, in order.
    pub fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        let mut states: BTreeMap<Id, Bytes> = self.partition_store.states_after(after, limit)?.into_iter().collect();
        for changes in self.changes().rev() {
            let later = changes.states().filter(|(id, _)| after.is_none_or(|after| *id > after));
            states.extend(later.map(|(id, state)| (id.clone(), state.clone())));
        }
        Ok(states.into_iter().take(limit).collect())
    }

    /// At most `limit` rows of an entity whose keys begin with `prefix` and sort before `before`, last first.
    pub fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        let mut rows: BTreeMap<RowKey, Bytes> =
            self.partition_store.rows_before(id, prefix, before, limit)?.into_iter().collect();
        for changes in self.changes().rev() {
            let earlier = changes.rows_of(id, prefix).filter(|(row, _)| before.is_none_or(|before| &***row < before));
            rows.extend(earlier.map(|(row, bytes)| (row.clone(), bytes.clone())));
        }
        Ok(rows.into_iter().rev().take(limit).collect())
    }

    /// What changed, newest first.
    fn changes(&self) -> impl DoubleEndedIterator<Item = &Delta> {
        let leaving = self.fresh.leaving.iter().rev().map(|(_, changes)| &**changes);
        std::iter::once(&self.fresh.newest).chain(leaving)
    }
}
