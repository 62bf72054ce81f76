//! Checkpoints in memory, for simulations: gone with the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use shop_domain::{id::Id, rows::RowKey};

use super::{
    Checkpoint, CheckpointView, Item, Items, ItemsError, Meta, PartitionStore, SharedPartitionStore, Store, StoreError,
};

/// The checkpoints of one kind, in memory. Clones share them, and so do all who have opened one: nobody goes on
/// writing here whose task was given up.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    partition_stores: Arc<Mutex<BTreeMap<u16, Arc<MemoryPartitionStore>>>>,
}

impl MemoryStore {
    /// Another store with the same checkpoints, which then go their own ways: a copy to go back to.
    pub fn snapshot(&self) -> Self {
        let partition_stores = self.partition_stores.lock().expect("nobody panics while changing it");
        let copies = partition_stores.iter().map(|(partition, partition_store)| {
            let saved = partition_store.saved().clone();
            (*partition, Arc::new(MemoryPartitionStore { saved: Mutex::new(saved) }))
        });
        Self { partition_stores: Arc::new(Mutex::new(copies.collect())) }
    }

    /// Forgets the checkpoints of these epochs, which the log had before it was cut into other partitions.
    pub fn forget(&self, epochs: &[u64]) {
        let mut partition_stores = self.partition_stores.lock().expect("nobody panics while changing it");
        let is_former = |partition_store: &MemoryPartitionStore| {
            partition_store.saved().meta.as_ref().is_some_and(|meta| epochs.contains(&meta.epoch))
        };
        partition_stores.retain(|_, partition_store| !is_former(partition_store));
    }
}

#[derive(Debug, Default)]
struct MemoryPartitionStore {
    saved: Mutex<Saved>,
}

#[derive(Clone, Debug, Default)]
struct Saved {
    meta: Option<Meta>,
    states: BTreeMap<Id, Bytes>,
    rows: BTreeMap<(Id, RowKey), Bytes>,
}

impl Store for MemoryStore {
    fn partition(&self, partition: u16) -> Result<SharedPartitionStore, StoreError> {
        let mut partition_stores = self.partition_stores.lock().expect("nobody panics while changing it");
        let partition_store: &Arc<MemoryPartitionStore> = partition_stores.entry(partition).or_default();
        Ok(Arc::clone(partition_store) as SharedPartitionStore)
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl MemoryPartitionStore {
    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().expect("nobody panics while changing it")
    }
}

impl PartitionStore for MemoryPartitionStore {
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

    fn freeze(&self) -> Result<Option<Box<dyn CheckpointView>>, StoreError> {
        let Saved { meta, states, rows } = self.saved().clone();
        Ok(meta.map(|meta| Box::new(FrozenMemory { meta, states, rows }) as Box<dyn CheckpointView>))
    }

    fn restore(&self, meta: &Meta, _: u64, items: &mut Items<'_>) -> Result<(), ItemsError> {
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

impl CheckpointView for FrozenMemory {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn items_max(&self) -> u64 {
        (self.states.len() + self.rows.len()) as u64
    }

    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), ItemsError>) -> Result<(), ItemsError> {
        let row = |((id, row), value): (&(Id, RowKey), &Bytes)| (id.clone(), Some(row.clone()), value.clone());
        let state = |(id, value): (&Id, &Bytes)| (id.clone(), None, value.clone());
        let mut items = self.rows.iter().map(row).chain(self.states.iter().map(state));
        items.try_for_each(|(id, row, value)| take(Item { id, row, value }))
    }
}
