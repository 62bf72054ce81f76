//! The runs that one partition's checkpoint consists of, as sled lists them, and who may change that.
//!
//! All partition_stores of a partition share it, whenever they were opened. Only the one that was opened last changes what
//! is listed: of those before it, tasks that were given up may still be writing. Whoever reads keeps the
//! runs that he has begun with, because they are the same for all: a file is held open before its name goes.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use super::{
    files::RunFolder,
    sorted_run::{Run, RunInfo},
};
use crate::store::{Meta, StoreError};

const LIST: &[u8] = b"m";

/// The runs of one partition.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Holds the list.
    tree: sled::Tree,
    pub(super) folder: RunFolder,
    /// The number of the next run.
    next_number: AtomicU64,
    state: Mutex<State>,
}

/// What is listed right now.
#[derive(Debug)]
struct State {
    listed: Arc<Listed>,
    /// How often a partition_store was opened.
    openings: u64,
    /// A listed run that could not be read: then sled lists nothing, until a partition_store is opened that begins anew.
    damaged: Option<u64>,
}

/// A checkpoint, which does not change any more.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// None when there is no checkpoint.
    pub(super) meta: Option<Meta>,
    /// Oldest first.
    pub(super) runs: Vec<Arc<Run>>,
}

/// The same as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    meta: Meta,
    runs: Vec<RunInfo>,
}

/// Who may change what is listed, as long as nobody else is after him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening(u64);

impl Manifest {
    /// Reads what `tree` lists, and the runs of it in `folder`.
    pub(super) fn read(tree: sled::Tree, folder: RunFolder) -> Result<Self, StoreError> {
        let listed = match list(&tree)? {
            Some(List { meta, runs }) => {
                let runs = runs.into_iter().map(|info| Run::open(&folder, info).map(Arc::new));
                Listed { meta: Some(meta), runs: runs.collect::<Result<_, _>>()? }
            }
            None => Listed::default(),
        };
        let next_number = listed.runs.iter().map(|run| run.info.number + 1).max().unwrap_or(0).into();
        let state = Mutex::new(State { listed: Arc::new(listed), openings: 0, damaged: None });
        Ok(Self { tree, folder, next_number, state })
    }

    /// What is listed, for somebody who alone may change it from now on. What is not listed is removed: whoever
    /// was before him, or a crash, left that half written.
    pub(super) fn open(&self) -> Result<(Opening, Arc<Listed>), StoreError> {
        let mut state = self.state();
        state.openings += 1;
        if state.damaged.take().is_some() {
            state.listed = Arc::default();
        }
        let numbers: Vec<u64> = state.listed.runs.iter().map(|run| run.info.number).collect();
        self.folder.keep(&numbers)?;
        Ok((Opening(state.openings), Arc::clone(&state.listed)))
    }

    /// The epoch of the log that the checkpoint is of, if there is one.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.state().listed.meta.as_ref().map(|meta| meta.epoch)
    }

    /// The number of the next run.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Relaxed)
    }

    /// Lists another checkpoint in the place of the one before, and removes those runs that it has no more.
    pub(super) fn list(&self, by: Opening, meta: Meta, runs: Vec<Arc<Run>>) -> Result<Arc<Listed>, StoreError> {
        let mut state = self.state();
        if let Some(run) = state.damaged {
            return Err(StoreError::Damaged(run));
        }
        if by.0 != state.openings {
            return Err(StoreError::Superseded);
        }
        self.folder.sync()?;
        let list = List { meta, runs: runs.iter().map(|run| run.info).collect() };
        self.tree.insert(LIST, rmp_serde::to_vec_named(&list).expect("a list always encodes"))?;
        let listed = Arc::new(Listed { meta: Some(list.meta), runs });
        let before = std::mem::replace(&mut state.listed, Arc::clone(&listed));
        let is_gone = |run: &&Arc<Run>| !listed.holds(run.info.number);
        let gone: Vec<_> = before.runs.iter().filter(is_gone).collect();
        if !gone.is_empty() {
            // Whatever happens from here on, nobody finds a list that names them.
            self.tree.flush()?;
        }
        gone.into_iter().try_for_each(|run| {
            run.keep_open()?;
            self.folder.remove(run.info.number)
        })?;
        Ok(listed)
    }

    /// Notices a run that cannot be read: nothing is listed any more, so that whoever opens the partition next
    /// finds no checkpoint, and builds all of it again.
    pub(super) fn noticed<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged(run)) = outcome {
            let mut state = self.state();
            // What is not listed is read only by those who were before the last one.
            if state.damaged.is_none() && state.listed.holds(run) {
                self.tree.remove(LIST)?;
                self.tree.flush()?;
                state.damaged = Some(run);
            }
        }
        outcome
    }

    /// Whether all that is listed can be read, as far as anybody knows.
    pub(super) fn is_whole(&self) -> Result<(), StoreError> {
        self.state().damaged.map_or(Ok(()), |run| Err(StoreError::Damaged(run)))
    }

    /// Removes all that there is. Whoever still reads it is told that it is not there.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        state.openings += 1;
        self.tree.remove(LIST)?;
        self.tree.flush()?;
        (state.listed, state.damaged) = (Arc::default(), None);
        self.folder.keep(&[])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while changing the list")
    }
}

impl Listed {
    fn holds(&self, number: u64) -> bool {
        self.runs.iter().any(|run| run.info.number == number)
    }
}

fn list(tree: &sled::Tree) -> Result<Option<List>, StoreError> {
    let Some(bytes) = tree.get(LIST)? else { return Ok(None) };
    let name = || String::from_utf8_lossy(&tree.name()).into_owned();
    shop_domain::encode::decode(&bytes).map(Some).map_err(|error| StoreError::Meta(name(), error))
}
