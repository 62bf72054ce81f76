//! A checkpoint that is read from its first to its last item while others are written, and one that is
//! written in one go.
//!
//! Runs never change. Whoever holds one can read it to its end, though it was merged and its file
//! removed meanwhile, by whichever partition_store of the partition; so a list of runs is a checkpoint for as long as it
//! is held. Only a partition that is cleared, or begun anew, takes its files away from everybody.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    bounds::Bounds,
    files::RunFolder,
    key,
    manifest::{Listed, Manifest},
    sorted_run::{Run, RunWriter},
};
use crate::store::{CheckpointView, Item, Items, ItemsError, Meta, StoreError};

/// Before and behind all keys.
const ALL: (&[u8], &[u8]) = (&[0], &[0xff]);
/// The level of a run that is a whole checkpoint: as if all before it had been merged a few times,
/// so that it is not merged again with the first few that come.
const WHOLE_LEVEL: u32 = 3;

/// Runs that belong to one list.
#[derive(Debug)]
pub(super) struct FrozenRuns {
    /// Is told of what cannot be read, and shares its runs with whoever opens the partition meanwhile.
    manifest: Arc<Manifest>,
    meta: Meta,
    listed: Arc<Listed>,
}

impl FrozenRuns {
    /// The checkpoint that is listed there, if there is one.
    pub(super) fn new(manifest: Arc<Manifest>, listed: Arc<Listed>) -> Option<Self> {
        let meta = listed.meta.clone()?;
        Some(Self { manifest, meta, listed })
    }
}

impl CheckpointView for FrozenRuns {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn items_max(&self) -> u64 {
        self.listed.runs.iter().map(|run| run.info.entries).sum()
    }

    /// Of each run, one block is at hand at a time.
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), ItemsError>) -> Result<(), ItemsError> {
        let mut entries: Vec<_> = self.listed.runs.iter().map(|run| run.range(ALL.0, ALL.1)).collect();
        // The smallest key first, and of a key that several runs have, the newest run's.
        let mut heads: BinaryHeap<Reverse<(Bytes, Reverse<usize>, Bytes)>> = BinaryHeap::new();
        for (age, entries) in entries.iter_mut().enumerate() {
            let head = self.manifest.noticed(entries.next().transpose())?;
            heads.extend(head.map(|(key, value)| Reverse((key, Reverse(age), value))));
        }
        let mut last = Bytes::new();
        while let Some(mut head) = heads.peek_mut() {
            let age = head.0.1.0;
            let (key, value) = match self.manifest.noticed(entries[age].next().transpose())? {
                Some((key, value)) => {
                    let Reverse((key, _, value)) = std::mem::replace(&mut *head, Reverse((key, Reverse(age), value)));
                    (key, value)
                }
                None => {
                    let Reverse((key, _, value)) = PeekMut::pop(head);
                    (key, value)
                }
            };
            if key != last {
                let damaged = || StoreError::Damaged(self.listed.runs[age].info.number);
                let (id, row) = self.manifest.noticed(key::read(&key).ok_or_else(damaged))?;
                take(Item { id, row, value })?;
                last = key;
            }
        }
        Ok(())
    }
}

/// Writes a whole checkpoint as one run; none when it has no items. What an error leaves half written is removed.
pub(super) fn write(
    folder: &RunFolder,
    number: u64,
    items_max: u64,
    items: &mut Items<'_>,
) -> Result<Option<Run>, ItemsError> {
    let Some(first) = items.next() else { return Ok(None) };
    let mut writer = RunWriter::new(folder, number, WHOLE_LEVEL, items_max, Bounds::default())?;
    let pushed = std::iter::once(first).chain(items).try_for_each(|item| {
        let Item { id, row, value } = item?;
        let key = row.map_or_else(|| key::of_state(&id), |row| key::of_row(&id, &row));
        Ok(writer.push_beyond(&key, &value)?)
    });
    if let Err(error) = pushed {
        drop(writer);
        folder.remove(number)?;
        return Err(error);
    }
    Ok(Some(writer.finish()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shop_domain::kind::Kind;
    use shop_nats::log::Identity;

    use super::*;
    use crate::store::{
        Checkpoint, SharedPartitionStore, Store,
        delta::{Changed, Delta},
        sled::SledStore,
    };

    type Written = BTreeMap<(String, Option<String>), Bytes>;

    /// A checkpoint of a few entities; enters what it writes.
    fn write(partition_store: &SharedPartitionStore, rng: &mut fastrand::Rng, cursor: u64, written: &mut Written) {
        let mut changes = Delta::default();
        for _ in 0..rng.usize(1..8) {
            let (of, row) = (format!("user-{}", rng.u8(0..40)), format!("entry/{:03}", rng.u16(0..300)));
            let value = Bytes::from(format!("{cursor} {}", rng.u64(..)));
            written.insert((of.clone(), None), value.clone());
            written.insert((of.clone(), Some(row.clone())), value.clone());
            let rows = vec![(row.into(), value.clone())];
            changes.insert(Changed { id: of.parse().unwrap(), state: Some(value), rows });
        }
        partition_store
            .write(&Checkpoint { meta: Meta { cursor, ..Meta::new(&Identity::new(2)) }, changes: changes.into() })
            .unwrap();
        partition_store.tidy().unwrap();
    }

    fn items(frozen: &dyn CheckpointView) -> Vec<Item> {
        let mut items = Vec::new();
        frozen
            .each(&mut |item| {
                items.push(item);
                Ok(())
            })
            .unwrap();
        items
    }

    fn by_key(items: &[Item]) -> Written {
        let key = |item: &Item| (item.id.to_string(), item.row.as_deref().map(str::to_owned));
        items.iter().map(|item| (key(item), item.value.clone())).collect()
    }

    /// Several are held, each while so many more checkpoints are written that its runs are merged and removed.
    #[test]
    fn a_frozen_checkpoint_stays_as_it_was_while_its_runs_are_merged_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let partition_store = store.partition(0).unwrap();
        let (mut rng, mut written) = (fastrand::Rng::with_seed(11), Written::new());
        assert!(partition_store.freeze().unwrap().is_none());
        let mut held = Vec::new();
        for cursor in 1..=2_100_u64 {
            write(&partition_store, &mut rng, cursor, &mut written);
            if rng.u8(0..100) == 0 {
                held.push((partition_store.freeze().unwrap().unwrap(), written.clone()));
            }
        }
        assert!(held.len() > 10);
        for (frozen, written) in &held {
            let found = items(&**frozen);
            assert_eq!(found.len(), written.len(), "each item comes once");
            assert_eq!(by_key(&found), *written);
            assert!(found.len() as u64 <= frozen.items_max());
        }
    }

    #[test]
    fn a_restored_checkpoint_is_the_one_that_was_frozen_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), Kind::Wallet).unwrap();
        let (from, to) = (store.partition(0).unwrap(), store.partition(1).unwrap());
        let (mut rng, mut written) = (fastrand::Rng::with_seed(12), Written::new());
        write(&to, &mut rng, 1_000, &mut Written::new());
        (1..=50).for_each(|cursor| write(&from, &mut rng, cursor, &mut written));
        let frozen = from.freeze().unwrap().unwrap();
        let before = to.freeze().unwrap().unwrap();

        // What ends with an error changes nothing.
        let mut broken =
            items(&*frozen).into_iter().take(9).map(Ok).chain([Err(ItemsError::other(std::io::Error::other("so")))]);
        assert!(to.restore(frozen.meta(), 9, &mut broken).is_err());
        assert_eq!(to.meta().unwrap().as_ref(), Some(before.meta()));
        assert_eq!(by_key(&items(&*to.freeze().unwrap().unwrap())), by_key(&items(&*before)));

        to.restore(frozen.meta(), frozen.items_max(), &mut items(&*frozen).into_iter().map(Ok)).unwrap();
        let to = store.partition(1).unwrap();
        assert_eq!(to.meta().unwrap().as_ref(), Some(frozen.meta()));
        for cursor in 51..=200 {
            write(&to, &mut rng, cursor, &mut written);
        }
        assert_eq!(by_key(&items(&*to.freeze().unwrap().unwrap())), written);
    }
}
