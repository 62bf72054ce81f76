//! The checkpoint of one partition: in sled a list of runs, newest last, and up to where they go.
//!
//! Every checkpoint adds a run; runs that were merged equally often are merged into one, so that there are
//! few of them and each entry is written again only a few times (a log-structured merge tree with
//! tiers: O'Neil et al., 1996). A run is listed once it is complete and on the disk, and removed once
//! a list without it is: so whatever a crash leaves behind, all that is listed is there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shop_domain::{id::Id, rows::RowKey};

use super::{
    block::Entry,
    bounds::{Bounds, Shape},
    files::RunFolder,
    frozen::{self, FrozenRuns},
    key::{self, STATE},
    merge::{Merge, Progress},
    run::{Run, RunInfo, RunWriter, Wanted},
};
use crate::{
    snapshot::SnapshotError,
    store::{Checkpoint, Frozen, Items, Meta, Shelf, StoreError},
};

/// So many runs of a level are merged into one of the next. More would be written less often, and
/// each look would go through more filters.
const RUNS_OF_A_LEVEL: usize = 32;
/// How much is merged after a checkpoint, as a multiple of what it wrote, so that merging keeps up
/// with it; and at least, in bytes.
const MERGED_PER_WRITTEN: usize = 4;
const MERGED_BYTES_MIN: usize = 1024 * 1024;

const LIST: &[u8] = b"m";

/// The checkpoint of one partition.
#[derive(Debug)]
pub(super) struct RunShelf {
    /// Holds the list.
    tree: sled::Tree,
    folder: RunFolder,
    /// Oldest first. Whoever reads holds the lock, so that what is removed is read by nobody.
    runs: RwLock<Vec<Arc<Run>>>,
    /// The number of the next run.
    next_number: AtomicU64,
    /// How many bytes may be merged before the next checkpoint.
    allowance: AtomicU64,
    merge: Mutex<Option<Merge>>,
    /// A run that could not be read: then nothing is listed any more.
    damaged: OnceLock<u64>,
}

/// What a checkpoint consists of, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    meta: Meta,
    /// Oldest first.
    runs: Vec<RunInfo>,
}

impl RunShelf {
    /// Opens the checkpoint that is listed in `tree`, and removes what a crash left half written in `folder`.
    pub(super) fn open(tree: sled::Tree, folder: RunFolder) -> Result<Self, StoreError> {
        let listed = list(&tree)?.map(|list| list.runs).unwrap_or_default();
        let numbers: Vec<u64> = listed.iter().map(|run| run.number).collect();
        folder.keep(&numbers)?;
        let next_number = numbers.iter().map(|number| number + 1).max().unwrap_or(0).into();
        let runs = listed.into_iter().map(|info| Run::open(&folder, info).map(Arc::new)).collect::<Result<_, _>>()?;
        let (runs, allowance, merge) = (RwLock::new(runs), AtomicU64::new(0), Mutex::new(None));
        Ok(Self { tree, folder, runs, next_number, allowance, merge, damaged: OnceLock::new() })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let wanted = Wanted::new(key);
        for run in self.read().iter().rev() {
            if let Some(value) = self.noticed(run.get(wanted))? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// At most `limit` entries of a range, from its start or from its end.
    fn range(&self, start: &[u8], end: &[u8], limit: usize, from: From) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
        let mut found = BTreeMap::new();
        // The newest run is last, and what it says of a key replaces what others said.
        for run in self.read().iter() {
            let entries = run.range(start, end);
            match from {
                From::Start => self.noticed(extend(&mut found, entries.take(limit)))?,
                From::End => self.noticed(extend(&mut found, entries.rev().take(limit)))?,
            }
        }
        Ok(found)
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Run>>> {
        self.runs.read().expect("nobody panics while changing the list")
    }

    /// Notices a run that cannot be read: the next start finds no list, and builds all of it again.
    fn noticed<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged(run)) = outcome {
            self.damaged.get_or_init(|| run);
            self.tree.remove(LIST)?;
            self.tree.flush()?;
        }
        outcome
    }

    /// Lists these runs: first in sled, then here.
    fn list(&self, runs: Vec<Arc<Run>>, meta: Meta) -> Result<(), StoreError> {
        self.folder.sync()?;
        let list = List { meta, runs: runs.iter().map(|run| run.info).collect() };
        self.tree.insert(LIST, rmp_serde::to_vec_named(&list).expect("a list always encodes"))?;
        if let Some(run) = self.damaged.get() {
            return self.noticed(Err(StoreError::Damaged(*run)));
        }
        *self.runs.write().expect("nobody panics while changing the list") = runs;
        Ok(())
    }

    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Relaxed)
    }

    /// The runs that are due to be merged: the newest ones up to some level, once they are many.
    fn due(&self) -> Option<Vec<Arc<Run>>> {
        let runs = self.read();
        let highest = runs.iter().map(|run| run.info.level).max()?;
        let up_to = |level| runs.iter().rev().take_while(|run| run.info.level <= level).count();
        let count = (0..=highest).map(up_to).find(|count| *count >= RUNS_OF_A_LEVEL)?;
        Some(runs[runs.len() - count..].to_vec())
    }

    /// Puts what came of a merge in the place of what was merged.
    fn merged(&self, old: &[Arc<Run>], new: Run) -> Result<(), StoreError> {
        let Some(List { meta, .. }) = list(&self.tree)? else { return Ok(()) };
        let mut runs = self.read().clone();
        let is_old = |run: &Arc<Run>| old.iter().any(|old| old.info.number == run.info.number);
        let place = runs.iter().position(is_old).unwrap_or(0);
        runs.retain(|run| !is_old(run));
        runs.insert(place, Arc::new(new));
        self.list(runs, meta)?;
        // Whatever happens from here on, nobody finds a list that names the old ones.
        self.tree.flush()?;
        old.iter().try_for_each(|old| {
            old.keep_open()?;
            self.folder.remove(old.info.number)
        })
    }
}

impl Shelf for RunShelf {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(list(&self.tree)?.map(|list| list.meta))
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
        let mut runs = self.read().clone();
        if !entries.is_empty() {
            let bounds: Bounds = entries.iter().map(|(key, _)| Shape::of(key)).collect();
            let mut writer = RunWriter::new(&self.folder, self.next_number(), 0, entries.len() as u64, bounds)?;
            for (key, value) in &entries {
                writer.push(key, value)?;
            }
            runs.push(Arc::new(writer.finish()?));
        }
        let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.allowance.store((bytes * MERGED_PER_WRITTEN).max(MERGED_BYTES_MIN) as u64, Relaxed);
        self.list(runs, checkpoint.meta.clone())
    }

    fn tidy(&self) -> Result<(), StoreError> {
        // A merge that failed is gone, and begun anew.
        let mut merge = self.merge.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = match merge.take() {
            Some(begun) => begun,
            None => match self.due() {
                Some(runs) => self.noticed(Merge::new(&self.folder, runs, self.next_number()))?,
                None => return Ok(()),
            },
        };
        match self.noticed(begun.go_on(self.allowance.swap(0, Relaxed) as usize))? {
            Progress::Begun(begun) => *merge = Some(begun),
            Progress::Done(old, new) => self.merged(&old, new)?,
        }
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }

    fn freeze(&self) -> Result<Option<Box<dyn Frozen>>, StoreError> {
        loop {
            let Some(List { meta, runs: listed }) = list(&self.tree)? else { return Ok(None) };
            let runs = self.read().clone();
            let run = |info: &RunInfo| runs.iter().find(|run| run.info.number == info.number).cloned();
            // A list that is just being written is in sled first: it is a matter of microseconds.
            match listed.iter().map(run).collect::<Option<Vec<_>>>() {
                Some(runs) => return Ok(Some(Box::new(FrozenRuns::new(meta, runs)))),
                None => std::thread::yield_now(),
            }
        }
    }

    fn restore(&self, meta: &Meta, items_max: u64, items: &mut Items<'_>) -> Result<(), SnapshotError> {
        let run = frozen::write(&self.folder, self.next_number(), items_max, items)?;
        let old = self.read().clone();
        self.list(run.into_iter().map(Arc::new).collect(), meta.clone())?;
        self.tree.flush().map_err(StoreError::from)?;
        Ok(old.iter().try_for_each(|old| self.folder.remove(old.info.number))?)
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

fn list(tree: &sled::Tree) -> Result<Option<List>, StoreError> {
    let Some(bytes) = tree.get(LIST)? else { return Ok(None) };
    let name = || String::from_utf8_lossy(&tree.name()).into_owned();
    rmp_serde::from_slice(&bytes).map(Some).map_err(|error| StoreError::Meta(name(), error))
}
