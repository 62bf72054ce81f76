//! The checkpoint of one partition: a list of runs, newest last, and up to where they go.
//!
//! Every checkpoint adds a run; runs that were merged equally often are merged into one, so that there are
//! few of them and each entry is written again only a few times (a log-structured merge tree with
//! tiers: O'Neil et al., 1996). A run is listed once it is complete and on the disk, and removed once
//! a list without it is: so whatever a crash leaves behind, all that is listed is there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use shop_domain::{id::Id, rows::RowKey};

use super::{
    block::Entry,
    bounds::{Bounds, Shape},
    checkpoint_view::{self, FrozenRuns},
    key::{self, STATE},
    manifest::{Listed, Manifest, Opening},
    merge::{Merge, Progress},
    sorted_run::{Run, RunWriter, Wanted},
};
use crate::store::{Checkpoint, CheckpointView, Items, ItemsError, Meta, PartitionStore, StoreError};

/// So many runs of a level are merged into one of the next. More would be written less often, and
/// each look would go through more filters.
const RUNS_OF_A_LEVEL: usize = 32;
/// How much is merged after a checkpoint, as a multiple of what it wrote, so that merging keeps up
/// with it; and at least, in bytes.
const MERGED_PER_WRITTEN: usize = 4;
const MERGED_BYTES_MIN: usize = 1024 * 1024;

/// The checkpoint of one partition, as whoever opened it sees it and changes it.
#[derive(Debug)]
pub(super) struct SledPartitionStore {
    manifest: Arc<Manifest>,
    opening: Opening,
    /// Up to where it goes and its runs, which belong together: nothing that is read comes from elsewhere.
    listed: RwLock<Arc<Listed>>,
    /// How many bytes may be merged before the next checkpoint.
    allowance: AtomicU64,
    merge: Mutex<Option<Merge>>,
}

impl SledPartitionStore {
    /// Opens what is listed. Whoever has opened it before changes it no more.
    pub(super) fn open(manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        let (opening, listed) = manifest.open()?;
        let (listed, allowance, merge) = (RwLock::new(listed), AtomicU64::new(0), Mutex::new(None));
        Ok(Self { manifest, opening, listed, allowance, merge })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let wanted = Wanted::new(key);
        for run in self.listed().runs.iter().rev() {
            if let Some(value) = self.manifest.noticed(run.get(wanted))? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// At most `limit` entries of a range, from its start or from its end.
    fn range(&self, start: &[u8], end: &[u8], limit: usize, from: From) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
        let mut found = BTreeMap::new();
        // The newest run is last, and what it says of a key replaces what others said.
        for run in &self.listed().runs {
            let entries = run.range(start, end);
            self.manifest.noticed(match from {
                From::Start => extend(&mut found, entries.take(limit)),
                From::End => extend(&mut found, entries.rev().take(limit)),
            })?;
        }
        Ok(found)
    }

    fn listed(&self) -> Arc<Listed> {
        Arc::clone(&self.listed.read().expect("nobody panics while changing the list"))
    }

    /// Lists these runs: first for all, then here.
    fn list(&self, meta: Meta, runs: Vec<Arc<Run>>) -> Result<(), StoreError> {
        let listed = self.manifest.list(self.opening, meta, runs)?;
        *self.listed.write().expect("nobody panics while changing the list") = listed;
        Ok(())
    }

    /// The runs that are due to be merged: the newest ones up to some level, once they are many.
    fn due(&self) -> Option<Vec<Arc<Run>>> {
        let listed = self.listed();
        let runs = &listed.runs;
        let highest = runs.iter().map(|run| run.info.level).max()?;
        let up_to = |level| runs.iter().rev().take_while(|run| run.info.level <= level).count();
        let count = (0..=highest).map(up_to).find(|count| *count >= RUNS_OF_A_LEVEL)?;
        Some(runs[runs.len() - count..].to_vec())
    }

    /// Puts what came of a merge in the place of what was merged.
    fn merged(&self, old: &[Arc<Run>], new: Run) -> Result<(), StoreError> {
        let listed = self.listed();
        let Some(meta) = listed.meta.clone() else { return Ok(()) };
        let mut runs = listed.runs.clone();
        let is_old = |run: &Arc<Run>| old.iter().any(|old| old.info.number == run.info.number);
        let place = runs.iter().position(is_old).unwrap_or(0);
        runs.retain(|run| !is_old(run));
        runs.insert(place, Arc::new(new));
        self.list(meta, runs)
    }
}

impl PartitionStore for SledPartitionStore {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(self.listed().meta.clone())
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        self.get(&key::of_state(id))
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        self.get(&key::of_row(id, row))
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        let start = after.map_or_else(|| vec![STATE], |after| [&key::of_state(after)[..], &[0]].concat());
        let found = self.range(&start, &[STATE + 1], limit, From::Start)?;
        let states = found.into_iter().filter_map(|(key, state)| Some((key::id_in(&key)?, state)));
        Ok(states.take(limit).collect())
    }

    fn rows_before(
        &self,
        id: &Id,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Bytes)>, StoreError> {
        let start = key::of_row(id, prefix);
        let end = before.map_or_else(|| [&start[..], &[0xff]].concat(), |before| key::of_row(id, before));
        if end <= start {
            return Ok(vec![]);
        }
        let head = key::of_row(id, "").len();
        let rows = self.range(&start, &end, limit, From::End)?.into_iter().rev();
        Ok(rows.take(limit).map(|(key, row)| (String::from_utf8_lossy(&key[head..]).into(), row)).collect())
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let rows = checkpoint.changes.rows().map(|(id, row, bytes)| (key::of_row(id, row), bytes));
        let states = checkpoint.changes.states().map(|(id, bytes)| (key::of_state(id), bytes));
        let mut entries: Vec<(Vec<u8>, &Bytes)> = rows.chain(states).collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut runs = self.listed().runs.clone();
        if !entries.is_empty() {
            let bounds: Bounds = entries.iter().map(|(key, _)| Shape::of(key)).collect();
            let mut writer =
                RunWriter::new(&self.manifest.folder, self.manifest.next_number(), 0, entries.len() as u64, bounds)?;
            for (key, value) in &entries {
                writer.push(key, value)?;
            }
            runs.push(Arc::new(writer.finish()?));
        }
        let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.allowance.store((bytes * MERGED_PER_WRITTEN).max(MERGED_BYTES_MIN) as u64, Relaxed);
        self.list(checkpoint.meta.clone(), runs)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        // A merge that failed is gone, and begun anew.
        let mut merge = self.merge.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = match merge.take() {
            Some(begun) => begun,
            None => match self.due() {
                Some(runs) => {
                    let begun = Merge::new(&self.manifest.folder, runs, self.manifest.next_number());
                    self.manifest.noticed(begun)?
                }
                None => return Ok(()),
            },
        };
        match self.manifest.noticed(begun.go_on(self.allowance.swap(0, Relaxed) as usize))? {
            Progress::Begun(begun) => *merge = Some(begun),
            Progress::Done(old, new) => self.merged(&old, new)?,
        }
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }

    fn freeze(&self) -> Result<Option<Box<dyn CheckpointView>>, StoreError> {
        self.manifest.is_whole()?;
        Ok(FrozenRuns::new(Arc::clone(&self.manifest), self.listed())
            .map(|frozen| Box::new(frozen) as Box<dyn CheckpointView>))
    }

    fn restore(&self, meta: &Meta, items_max: u64, items: &mut Items<'_>) -> Result<(), ItemsError> {
        let run = checkpoint_view::write(&self.manifest.folder, self.manifest.next_number(), items_max, items)?;
        Ok(self.list(meta.clone(), run.into_iter().map(Arc::new).collect())?)
    }
}

/// Where a range begins to be read.
#[derive(Clone, Copy)]
enum From {
    Start,
    End,
}

fn extend(
    found: &mut BTreeMap<Bytes, Bytes>,
    entries: impl Iterator<Item = Result<Entry, StoreError>>,
) -> Result<(), StoreError> {
    for entry in entries {
        let (key, value) = entry?;
        found.insert(key, value);
    }
    Ok(())
}
