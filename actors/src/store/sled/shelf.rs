//! The checkpoint of one partition in sled: a list of runs, newest last, and up to where they go.
//!
//! Every checkpoint adds a run; runs of about the same size are merged into one, so that there are
//! few of them and each entry is written again only a few times (a log-structured merge tree with
//! tiers: O'Neil et al., 1996). The list is changed together with what it lists, in one batch.

use std::{
    collections::BTreeMap,
    iter::Peekable,
    sync::{RwLock, RwLockReadGuard},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shop_domain::{id::Id, rows::RowKey};

use super::{
    filter::Fingerprint,
    run::{self, Entry, Run, RunInfo, RunWriter},
};
use crate::store::{Checkpoint, Meta, Shelf, StoreError};

/// So many runs of about the same size are merged into one, which is of the next size.
const RUNS_OF_A_SIZE: usize = 8;

const LIST: &[u8] = b"m";
const STATE: u8 = b's';
const ROW: u8 = b'r';

/// The checkpoint of one partition.
#[derive(Debug)]
pub(super) struct RunShelf {
    tree: sled::Tree,
    /// Oldest first. Whoever reads holds the lock, so that what is removed is read by nobody.
    runs: RwLock<Vec<Run>>,
}

/// What a checkpoint consists of, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    meta: Meta,
    /// Oldest first.
    runs: Vec<RunInfo>,
}

impl RunShelf {
    /// Opens the checkpoint in `tree`, and removes what a crash left half written.
    pub(super) fn open(tree: sled::Tree) -> Result<Self, StoreError> {
        let listed = list(&tree)?.map(|list| list.runs).unwrap_or_default();
        for number in run::numbers(&tree)? {
            if listed.iter().all(|run| run.number != number) {
                run::remove(&tree, number)?;
            }
        }
        let runs = listed.into_iter().map(|info| Run::open(&tree, info)).collect::<Result<_, _>>()?;
        Ok(Self { tree, runs: RwLock::new(runs) })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let print = Fingerprint::of(key);
        for run in self.read().iter().rev() {
            if let Some(value) = run.get(&self.tree, key, print)? {
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
            let entries = run.range(&self.tree, start, end);
            match from {
                From::Start => extend(&mut found, entries.take(limit))?,
                From::End => extend(&mut found, entries.rev().take(limit))?,
            }
        }
        Ok(found)
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Run>> {
        self.runs.read().expect("nobody panics while changing the list")
    }

    /// Puts `run` in the place of the newest `merged` ones: first in sled, then here.
    fn replace(&self, run: Run, merged: usize, meta: &Meta, mut batch: sled::Batch) -> Result<Vec<Run>, StoreError> {
        let kept = {
            let runs = self.read();
            let kept = runs.len() - merged;
            let infos = runs[..kept].iter().chain([&run]).map(|run| run.info).collect();
            let list = List { meta: meta.clone(), runs: infos };
            batch.insert(LIST, rmp_serde::to_vec_named(&list).expect("a list always encodes"));
            kept
        };
        self.tree.apply_batch(batch)?;
        let mut runs = self.runs.write().expect("nobody panics while changing the list");
        let replaced = runs.split_off(kept);
        runs.push(run);
        Ok(replaced)
    }

    fn next_number(&self) -> u64 {
        self.read().iter().map(|run| run.info.number).max().unwrap_or(0) + 1
    }

    /// Merges the newest `count` runs into one.
    fn merge(&self, count: usize) -> Result<(), StoreError> {
        let merged = {
            let runs = self.read();
            let newest = &runs[runs.len() - count..];
            let put = |key: Vec<u8>, value: Vec<u8>| Ok(self.tree.insert(key, value).map(drop)?);
            let mut writer = RunWriter::new(newest.last().map_or(0, |run| run.info.number) + 1, put);
            let entries = newest.iter().map(|run| run.entries(&self.tree).peekable()).collect();
            for entry in Merged(entries) {
                let (key, value) = entry?;
                writer.push(&key, &value)?;
            }
            writer.finish()?
        };
        let Some(List { meta, .. }) = list(&self.tree)? else { return Ok(()) };
        for run in self.replace(merged, count, &meta, sled::Batch::default())? {
            run.remove(&self.tree)?;
        }
        Ok(())
    }
}

impl Shelf for RunShelf {
    fn meta(&self) -> Result<Option<Meta>, StoreError> {
        Ok(list(&self.tree)?.map(|list| list.meta))
    }

    fn state(&self, id: &Id) -> Result<Option<Bytes>, StoreError> {
        self.get(&state_key(id))
    }

    fn row(&self, id: &Id, row: &str) -> Result<Option<Bytes>, StoreError> {
        self.get(&row_key(id, row))
    }

    fn states_after(&self, after: Option<&Id>, limit: usize) -> Result<Vec<(Id, Bytes)>, StoreError> {
        let start = after.map_or_else(|| vec![STATE], |after| [&state_key(after)[..], &[0]].concat());
        let found = self.range(&start, &[STATE + 1], limit, From::Start)?;
        let states = found.into_iter().filter_map(|(key, state)| Some((id_in(&key[1..])?, state)));
        Ok(states.take(limit).collect())
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
        let rows = self.range(&start, &end, limit, From::End)?.into_iter().rev();
        Ok(rows.take(limit).map(|(key, row)| (String::from_utf8_lossy(&key[head..]).into(), row)).collect())
    }

    fn write(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let rows = checkpoint.rows.iter().map(|((id, row), bytes)| (row_key(id, row), bytes));
        let states = checkpoint.states.iter().map(|(id, bytes)| (state_key(id), bytes));
        let entries: BTreeMap<Vec<u8>, &Bytes> = rows.chain(states).collect();
        let mut batch = sled::Batch::default();
        let put = |key: Vec<u8>, value: Vec<u8>| {
            batch.insert(key, value);
            Ok(())
        };
        let mut writer = RunWriter::new(self.next_number(), put);
        for (key, value) in &entries {
            writer.push(key, value)?;
        }
        let run = writer.finish()?;
        self.replace(run, 0, &checkpoint.meta, batch).map(drop)
    }

    fn tidy(&self) -> Result<(), StoreError> {
        loop {
            let sizes: Vec<u64> = self.read().iter().map(|run| run.info.entries).collect();
            match due(&sizes) {
                Some(count) => self.merge(count)?,
                None => return Ok(()),
            }
        }
    }

    fn blocks(&self) -> bool {
        true
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

/// How many of the newest runs are to be merged, if any: as many as there are up to some size, once
/// that is [`RUNS_OF_A_SIZE`].
fn due(sizes: &[u64]) -> Option<usize> {
    let size_of = |entries: &u64| entries.max(&1).ilog2() / RUNS_OF_A_SIZE.ilog2();
    let largest = sizes.iter().map(size_of).max()?;
    (0..=largest)
        .map(|size| sizes.iter().rev().take_while(|entries| size_of(entries) <= size).count())
        .find(|count| *count >= RUNS_OF_A_SIZE)
}

/// The entries of several runs, oldest run first, by key; of a key that several have, the newest value.
struct Merged<I: Iterator<Item = Result<Entry, StoreError>>>(Vec<Peekable<I>>);

impl<I: Iterator<Item = Result<Entry, StoreError>>> Iterator for Merged<I> {
    type Item = Result<Entry, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let failed = self.0.iter_mut().find_map(|run| run.next_if(Result::is_err));
        if failed.is_some() {
            return failed;
        }
        let key = |entry: &Result<Entry, StoreError>| entry.as_ref().ok().map(|(key, _)| key.clone());
        let smallest = self.0.iter_mut().filter_map(|run| key(run.peek()?)).min()?;
        let is_smallest = |entry: &Result<Entry, StoreError>| entry.as_ref().is_ok_and(|(key, _)| *key == smallest);
        // The last one to say something of the key is the newest.
        self.0.iter_mut().fold(None, |newest, run| run.next_if(is_smallest).or(newest))
    }
}

fn list(tree: &sled::Tree) -> Result<Option<List>, StoreError> {
    let Some(bytes) = tree.get(LIST)? else { return Ok(None) };
    let name = || String::from_utf8_lossy(&tree.name()).into_owned();
    rmp_serde::from_slice(&bytes).map(Some).map_err(|error| StoreError::Meta(name(), error))
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
