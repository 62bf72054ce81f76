//! What a partition knows: its checkpoint, and on top of it what changed since. Reads see both.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use shop_domain::{id::Id, rows::RowKey};

use crate::store::{SharedShelf, StoreError};

/// The states and rows of one partition.
#[derive(Debug)]
pub struct Memory {
    shelf: SharedShelf,
    fresh: RwLock<Fresh>,
}

/// What changed since the last checkpoint.
#[derive(Debug, Default)]
struct Fresh {
    cursor: u64,
    states: BTreeMap<Id, Change>,
    rows: BTreeMap<(Id, RowKey), Change>,
}

#[derive(Debug)]
struct Change {
    bytes: Bytes,
    /// The cursor of the round that made it.
    at: u64,
}

/// What one entity changed in one round.
#[derive(Debug)]
pub struct Changed {
    /// The entity.
    pub id: Id,
    /// Its new state, unless that is as it was.
    pub state: Option<Bytes>,
    /// The rows that it wrote.
    pub rows: Vec<(RowKey, Bytes)>,
}

/// States and rows that no checkpoint holds yet.
pub type Unsaved = (Vec<(Id, Bytes)>, Vec<((Id, RowKey), Bytes)>);

impl Memory {
    /// What a checkpoint up to `cursor` holds.
    pub fn new(shelf: SharedShelf, cursor: u64) -> Self {
        Self { shelf, fresh: RwLock::new(Fresh { cursor, ..Fresh::default() }) }
    }

    /// Takes in a round, up to `cursor`.
    pub fn apply(&self, cursor: u64, changed: Vec<Changed>) {
        let mut fresh = self.write();
        fresh.cursor = cursor;
        for Changed { id, state, rows } in changed {
            for (row, bytes) in rows {
                fresh.rows.insert((id.clone(), row), Change { bytes, at: cursor });
            }
            if let Some(bytes) = state {
                fresh.states.insert(id, Change { bytes, at: cursor });
            }
        }
    }

    /// What no checkpoint holds yet.
    pub fn unsaved(&self) -> Unsaved {
        let fresh = self.read();
        let states = fresh.states.iter().map(|(id, change)| (id.clone(), change.bytes.clone())).collect();
        let rows = fresh.rows.iter().map(|(key, change)| (key.clone(), change.bytes.clone())).collect();
        (states, rows)
    }

    /// A checkpoint up to `cursor` was written.
    pub fn saved(&self, cursor: u64) {
        let mut fresh = self.write();
        fresh.states.retain(|_, change| change.at > cursor);
        fresh.rows.retain(|_, change| change.at > cursor);
    }

    /// The sequence up to which it is.
    pub fn cursor(&self) -> u64 {
        self.read().cursor
    }

    /// Looks at one moment of the partition: what is read together belongs together.
    pub fn look<T>(&self, look: impl FnOnce(&Look<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let fresh = self.read();
        look(&Look { shelf: &self.shelf, fresh: &fresh })
    }

    fn read(&self) -> RwLockReadGuard<'_, Fresh> {
        self.fresh.read().expect("nobody panics while changing the memory")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Fresh> {
        self.fresh.write().expect("nobody panics while changing the memory")
    }
}

/// One moment of a partition.
#[derive(Debug)]
pub struct Look<'a> {
    shelf: &'a SharedShelf,
    fresh: &'a Fresh,
}

impl Look<'_> {
    /// The sequence up to which all of this is.
    pub fn cursor(&self) -> u64 {
        self.fresh.cursor
    }

    /// An entity's state.
    pub fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        match self.fresh.states.get(id) {
            Some(change) => Ok(Some(change.bytes.clone())),
            None => self.shelf.state(id),
        }
    }

    /// One row of an entity.
    pub fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        match self.fresh.rows.get(&(id.clone(), row.into())) {
            Some(change) => Ok(Some(change.bytes.clone())),
            None => self.shelf.row(id, row),
        }
    }

    /// At most `limit` states with ids after `after`, in order.
    pub fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        let mut states: BTreeMap<Id, Bytes> = self.shelf.states_after(after, limit)?.into_iter().collect();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let fresh = self.fresh.states.range((start, Bound::Unbounded)).take(limit);
        states.extend(fresh.map(|(id, change)| (id.clone(), change.bytes.clone())));
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
            self.shelf.rows_before(id, prefix, before, limit)?.into_iter().collect();
        let start = (id.clone(), RowKey::from(prefix));
        let fresh = self.fresh.rows.range(start..).take_while(|((of, row), _)| of == id && row.starts_with(prefix));
        let fresh = fresh.filter(|((_, row), _)| before.is_none_or(|before| &**row < before));
        rows.extend(fresh.map(|((_, row), change)| (row.clone(), change.bytes.clone())));
        Ok(rows.into_iter().rev().take(limit).collect())
    }
}
