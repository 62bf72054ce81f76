//! Writes all entities of a kind, with all their rows, as the snapshots of other partitions.
//!
//! They are read once, in their order, and put down in heaps, one for each new partition; a heap that is large
//! enough becomes part of that partition's checkpoint in a folder of its own, which sorts and merges as
//! checkpoints do. So memory is bounded however many entities there are.

use std::{hash::Hasher as _, sync::Arc};

use shop_domain::kind::Kind;
use shop_nats::subject::partition_of;
use twox_hash::xxhash3_64::Hasher;

use super::{GetsOn, RepartitionError, Written};
use crate::{
    joined::joined,
    snapshot::{SnapshotError, Snapshots, Throttle},
    store::{
        Checkpoint, Item, Items, Meta, SharedPartitionStore, Store, StoreError,
        delta::{Changed, Delta},
    },
};

/// All heaps together may have so many bytes of items.
const HEAPS_BYTES: usize = 32 * 1024 * 1024;
/// After so many items it is said that it gets on.
const ITEMS_A_PIECE: u64 = 4_096;
/// About what an item takes beside its key and its value.
const ITEM_BYTES: usize = 128;

/// One kind, from where to where.
pub(super) struct Rewrite {
    pub(super) kind: Kind,
    pub(super) before: Vec<SharedPartitionStore>,
    /// Where they are sorted.
    pub(super) after: Arc<dyn Store>,
    pub(super) partitions: u16,
    /// Where each partition begins.
    pub(super) begin: Meta,
}

/// What tells whether the same items were written that were read, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    items: u64,
    entities: u64,
    /// Of the hashes of all items.
    sum: u64,
}

/// What goes into one new partition next.
struct Heap {
    partition_store: SharedPartitionStore,
    changes: Delta,
    bytes: usize,
}

impl Rewrite {
    pub(super) async fn run(self, snapshots: &Snapshots, gets_on: &GetsOn) -> Result<Written, RepartitionError> {
        let Self { kind, before, after, partitions, begin } = self;
        let sorting_on = Arc::clone(gets_on);
        let sorted = tokio::task::spawn_blocking(move || sort(&before, &*after, partitions, &begin, &*sorting_on));
        let (read, partition_stores) = joined(sorted).await?;
        let (mut found, mut bytes) = (Tally::default(), 0);
        for (partition, partition_store) in (0..).zip(partition_stores) {
            let frozen = partition_store.freeze()?.ok_or(RepartitionError::Different(kind))?;
            let kept = snapshots.write((kind, partition), frozen, Throttle::at_once()).await?;
            bytes += kept.bytes;
            gets_on();
            let reading_on = Arc::clone(gets_on);
            let count = move |_: &_, items: &mut Items<'_>| Tally::of(items, partition, partitions, &*reading_on);
            found = found.and(snapshots.read((kind, partition), kept.name, count).await?);
        }
        if found != read {
            return Err(RepartitionError::Different(kind));
        }
        Ok(Written { items: read.items, entities: read.entities, bytes })
    }
}

/// Puts all items where they belong.
fn sort(
    before: &[SharedPartitionStore],
    after: &dyn Store,
    partitions: u16,
    begin: &Meta,
    gets_on: &dyn Fn(),
) -> Result<(Tally, Vec<SharedPartitionStore>), SnapshotError> {
    let partition_stores =
        (0..partitions).map(|partition| after.partition(partition)).collect::<Result<Vec<_>, _>>()?;
    let heap = |partition_store: &SharedPartitionStore| Heap {
        partition_store: Arc::clone(partition_store),
        changes: Delta::default(),
        bytes: 0,
    };
    let mut heaps: Vec<_> = partition_stores.iter().map(heap).collect();
    let bytes_max = HEAPS_BYTES / usize::from(partitions);
    let mut tally = Tally::default();
    for partition_store in before {
        let Some(frozen) = partition_store.freeze()? else { continue };
        frozen.each(&mut |item| {
            tally.count(&item);
            tally.is_a_piece().then(gets_on);
            let heap = &mut heaps[usize::from(partition_of(&item.id, partitions))];
            heap.put(item);
            if heap.bytes >= bytes_max { Ok(heap.write(begin)?) } else { Ok(()) }
        })?;
    }
    for heap in &mut heaps {
        // Also one into which nothing came: it is known to be empty.
        heap.write(begin)?;
    }
    Ok((tally, partition_stores))
}

impl Heap {
    fn put(&mut self, Item { id, row, value }: Item) {
        self.bytes += id.as_str().len() + row.as_ref().map_or(0, |row| row.len()) + value.len() + ITEM_BYTES;
        self.changes.insert(match row {
            Some(row) => Changed { id, state: None, rows: vec![(row, value)] },
            None => Changed { id, state: Some(value), rows: vec![] },
        });
    }

    fn write(&mut self, begin: &Meta) -> Result<(), StoreError> {
        let changes = Arc::new(std::mem::take(&mut self.changes));
        self.bytes = 0;
        self.partition_store.write(&Checkpoint { meta: begin.clone(), changes })?;
        self.partition_store.tidy()
    }
}

impl Tally {
    /// Of what a new partition has, as far as it belongs there.
    fn of(items: &mut Items<'_>, partition: u16, partitions: u16, gets_on: &dyn Fn()) -> Result<Self, SnapshotError> {
        let mut tally = Self::default();
        for item in items {
            let item = item?;
            if partition_of(&item.id, partitions) == partition {
                tally.count(&item);
                tally.is_a_piece().then(gets_on);
            }
        }
        Ok(tally)
    }

    fn is_a_piece(&self) -> bool {
        self.items.is_multiple_of(ITEMS_A_PIECE)
    }

    fn count(&mut self, Item { id, row, value }: &Item) {
        let mut hasher = Hasher::new();
        for part in [id.as_str().as_bytes(), row.as_deref().unwrap_or_default().as_bytes(), value] {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        self.items += 1;
        self.entities += u64::from(row.is_none());
        self.sum = self.sum.wrapping_add(hasher.finish());
    }

    fn and(self, other: Self) -> Self {
        Self {
            items: self.items + other.items,
            entities: self.entities + other.entities,
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use shop_nats::log::Identity;

    use super::*;
    use crate::store::{memory::MemoryStore, sled::SledStore};

    fn meta(cursor: u64) -> Meta {
        Meta { cursor, ..Meta::new(&Identity::new(2)) }
    }

    /// So many entities in so many partitions, with up to four rows each.
    fn partition_stores(entities: usize, partitions: u16) -> Vec<SharedPartitionStore> {
        let store = MemoryStore::default();
        let partition_stores: Vec<_> = (0..partitions).map(|partition| store.partition(partition).unwrap()).collect();
        for number in 0..entities {
            let id = format!("user-{number}").parse().unwrap();
            let row = |row: usize| (format!("entry/{row}").into(), format!("{number} {row}").into());
            let partition_store = &partition_stores[usize::from(partition_of(&id, partitions))];
            let rows = (0..number % 5).map(row).collect();
            let changes: Delta = [Changed { id, state: Some(number.to_string().into()), rows }].into_iter().collect();
            partition_store.write(&Checkpoint { meta: meta(3), changes: changes.into() }).unwrap();
        }
        partition_stores
    }

    fn items(partition_store: &SharedPartitionStore) -> Vec<Item> {
        let mut items = Vec::new();
        let mut take = |item| {
            items.push(item);
            Ok(())
        };
        partition_store.freeze().unwrap().iter().for_each(|frozen| frozen.each(&mut take).unwrap());
        items
    }

    #[test]
    fn every_state_and_row_is_where_it_belongs_whatever_the_counts() {
        for (from, to) in [(1, 1), (1, 12), (12, 1), (5, 3), (3, 64)] {
            let before = partition_stores(1_000, from);
            let folder = tempfile::tempdir().unwrap();
            let after = SledStore::open(folder.path(), Kind::Wallet).unwrap();
            let (tally, partition_stores) = sort(&before, &after, to, &meta(7), &|| ()).unwrap();
            assert_eq!((tally.items, tally.entities), (3_000, 1_000));
            let (mut expected, mut found) = (Vec::new(), Vec::new());
            before.iter().for_each(|partition_store| expected.extend(items(partition_store)));
            for (partition, partition_store) in (0..).zip(&partition_stores) {
                assert_eq!(partition_store.meta().unwrap(), Some(meta(7)));
                let items = items(partition_store);
                assert!(items.iter().all(|item| partition_of(&item.id, to) == partition));
                found.extend(items);
            }
            let key = |item: &Item| (item.id.clone(), item.row.clone());
            expected.sort_by_key(key);
            found.sort_by_key(key);
            assert_eq!(found, expected, "from {from} to {to}");
        }
    }

    #[test]
    fn what_is_missing_changed_twice_or_elsewhere_is_noticed() {
        let before = items(&partition_stores(50, 1)[0]);
        let of = |items: &[Item]| Tally::of(&mut items.iter().cloned().map(Ok), 0, 1, &|| ()).unwrap();
        assert_eq!(of(&before), of(&before.iter().rev().cloned().collect::<Vec<_>>()), "in whatever order");
        let mut twice = before.clone();
        twice[0] = twice[1].clone();
        let mut changed = before.clone();
        changed[0].value = "other".into();
        for other in [&before[1..], &twice, &changed] {
            assert_ne!(of(other), of(&before));
        }
        let elsewhere = Tally::of(&mut before.iter().cloned().map(Ok), 0, 2, &|| ()).unwrap();
        assert!(elsewhere.items < of(&before).items);
    }
}
