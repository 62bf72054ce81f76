//! Checkpoints in memory, for simulations: gone with the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use shop_domain::{id::Id, rows::RowKey};

use super::{Checkpoint, Frozen, Item, Items, Meta, SharedShelf, Shelf, Store, StoreError};
use crate::snapshot::SnapshotError;

/// The checkpoints of one kind, in memory. Clones share them, and so do all who have opened one: nobody goes on
/// writing here whose task was given up.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shelves: Arc<Mutex<BTreeMap<u16, Arc<MemoryShelf>>>>,
}

impl MemoryStore {
    /// Another store with the same checkpoints, which then go their own ways: a copy to go back to.
    pub fn snapshot(&self) -> Self {
        let shelves = self.shelves.lock().expect("nobody panics while changing it");
        let copies = shelves.iter().map(|(partition, shelf)| {
            let saved = shelf.saved().clone();
            (*partition, Arc::new(MemoryShelf { saved: Mutex::new(saved) }))
        });
        Self { shelves: Arc::new(Mutex::new(copies.collect())) }
    }

    /// Forgets the checkpoints of these epochs, which the log had before it was cut into other partitions.
    pub fn forget(&self, epochs: &[u64]) {
        let mut shelves = self.shelves.lock().expect("nobody panics while changing it");
        let is_former =
            |shelf: &MemoryShelf| shelf.saved().meta.as_ref().is_some_and(|meta| epochs.contains(&meta.epoch));
        shelves.retain(|_, shelf| !is_former(shelf));
    }
}

#[derive(Debug, Default)]
struct MemoryShelf {
    saved: Mutex<Saved>,
}

#[derive(Clone, Debug, Default)]
struct Saved {
    meta: Option<Meta>,
    states: BTreeMap<Id, Bytes>,
    rows: BTreeMap<(Id, RowKey), Bytes>,
}

impl Store for MemoryStore {
    fn shelf(&self, partition: u16) -> Result<SharedShelf, StoreError> {
        let mut shelves = self.shelves.lock().expect("nobody panics while changing it");
        let shelf: &Arc<MemoryShelf> = shelves.entry(partition).or_default();
        Ok(Arc::clone(shelf) as SharedShelf)
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl MemoryShelf {
    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().expect("nobody panics while changing it")
    }
}

impl Shelf for MemoryShelf {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(self.saved().meta.clone())
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        Ok(self.saved().states.get(id).cloned())
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.saved().rows.get(&(id.clone(), row.into())).cloned())
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        let saved = self.saved();
        let later = saved.states.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        Ok(later.take(limit).map(|(id, state)| (id.clone(), state.clone())).collect())
    }

    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        let saved = self.saved();
        let rows = saved.rows.iter().rev().filter(|((of, row), _)| of == id && row.starts_with(prefix));
        let earlier = rows.filter(|((_, row), _)| before.is_none_or(|before| &**row < before));
        Ok(earlier.take(limit).map(|((_, row), bytes)| (row.clone(), bytes.clone())).collect())
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut saved = self.saved();
        saved.meta = Some(checkpoint.meta.clone());
        let changes = &checkpoint.changes;
        saved.states.extend(changes.states().map(|(id, state)| (id.clone(), state.clone())));
        saved.rows.extend(changes.rows().map(|(id, row, bytes)| ((id.clone(), row.clone()), bytes.clone())));
        Ok(())
    }

    fn tidy(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }

    fn freeze(&self) -> Result<Option<Box<dyn Frozen>>, StoreError> {
        let Saved { meta, states, rows } = self.saved().clone();
        Ok(meta.map(|meta| Box::new(FrozenMemory { meta, states, rows }) as Box<dyn Frozen>))
    }

    fn restore(&self, meta: &Meta, _: u64, items: &mut Items<'_>) -> Result<(), SnapshotError> {
        let mut restored = Saved { meta: Some(meta.clone()), ..Saved::default() };
        for item in items {
            match item? {
                Item { id, row: Some(row), value } => drop(restored.rows.insert((id, row), value)),
                Item { id, row: None, value } => drop(restored.states.insert(id, value)),
            }
        }
        *self.saved() = restored;
        Ok(())
    }
}

/// A copy.
#[derive(Debug)]
struct FrozenMemory {
    meta: Meta,
    states: BTreeMap<Id, Bytes>,
    rows: BTreeMap<(Id, RowKey), Bytes>,
}

impl Frozen for FrozenMemory {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn items_max(&self) -> u64 {
        (self.states.len() + self.rows.len()) as u64
    }

    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), SnapshotError>) -> Result<(), SnapshotError> {
        let row = |((id, row), value): (&(Id, RowKey), &Bytes)| (id.clone(), Some(row.clone()), value.clone());
        let state = |(id, value): (&Id, &Bytes)| (id.clone(), None, value.clone());
        let mut items = self.rows.iter().map(row).chain(self.states.iter().map(state));
        items.try_for_each(|(id, row, value)| take(Item { id, row, value }))
    }
}
