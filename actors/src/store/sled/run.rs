//! A run: entries sorted by their keys, cut into blocks, and never changed once it is written.
//!
//! A small key costs sled some ten microseconds wherever it goes, a kilobyte in larger values three
//! (measured with sled 0.34.7): so entries are not put into sled one by one. Values are not larger
//! either than [`PIECE_BYTES`], because of a page beyond 128 KiB sled makes a file of its own, which
//! is slow, and which on a full disk lets sled wait for itself for ever.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    block::{Block, BlockWriter, Entry},
    filter::{Filter, Fingerprint},
};
use crate::store::StoreError;

/// A block is closed once its entries have so many bytes: a read of one entry reads one block.
const BLOCK_BYTES: usize = 16 * 1024;
/// Most bytes of one value in sled, of which up to 17 make a page.
const PIECE_BYTES: usize = 6 * 1024;

/// What the keys begin with under which a run is stored: this, then its number, then what follows.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// A block: its number.
    Block = b'b' as isize,
    /// The filter.
    Filter = b'f' as isize,
    /// The index.
    Index = b'i' as isize,
}

/// In which order a run is removed: what finds it goes first, blocks last.
const PARTS: [Part; 3] = [Part::Index, Part::Filter, Part::Block];

/// One run, as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunInfo {
    /// Its number, which no other run has that is listed.
    pub(super) number: u64,
    /// How often its entries were merged.
    pub(super) level: u32,
    /// How many entries it has.
    pub(super) entries: u64,
}

/// One run, ready to be read.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) info: RunInfo,
    index: Index,
    filter: Filter,
}

/// Where a run has what.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// The first key of each block.
    first_keys: Vec<ByteBuf>,
    /// How the first and the last key of each sort begin. Ids often grow with time, so that nearly
    /// all runs end before a key that is new.
    bounds: Vec<(Beginning, Beginning)>,
}

/// The first 16 bytes of a key as a number, the first byte the most significant: of two keys the
/// smaller one has no larger number. The first byte, the key's sort, is that of the number.
type Beginning = u128;

fn beginning(key: &[u8]) -> Beginning {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

const fn sort(beginning: Beginning) -> u8 {
    beginning.to_be_bytes()[0]
}

impl Run {
    /// Reads what is kept at hand of a run.
    pub(super) fn open(tree: &sled::Tree, info: RunInfo) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged(info.number);
        let index = read(tree, info.number, Part::Index, 0)?.ok_or_else(damaged)?;
        let index = rmp_serde::from_slice(&index).map_err(|_| damaged())?;
        let filter = read(tree, info.number, Part::Filter, 0)?.ok_or_else(damaged)?;
        Ok(Self { info, index, filter: Filter::from_bytes(&filter).ok_or_else(damaged)? })
    }

    /// The value of a key.
    pub(super) fn get(&self, tree: &sled::Tree, key: &[u8], print: Fingerprint) -> Result<Option<Bytes>, StoreError> {
        if !self.index.may_hold(key) || !self.filter.may_hold(print) {
            return Ok(None);
        }
        let Some(number) = self.blocks_until(|first| first <= key).checked_sub(1) else { return Ok(None) };
        Ok(self.block(tree, number)?.get(key))
    }

    /// The entries from `start` on and before `end`, by key.
    pub(super) fn range<'a>(
        &'a self,
        tree: &'a sled::Tree,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = Result<Entry, StoreError>> + 'a {
        let first = self.blocks_until(|key| key <= start).saturating_sub(1);
        let behind = self.blocks_until(|key| key < end);
        (first..behind.max(first)).flat_map(move |number| match self.block(tree, number) {
            Ok(block) => block.range(start, end).into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// How many blocks it has.
    pub(super) fn blocks(&self) -> usize {
        self.index.first_keys.len()
    }

    /// One of its blocks.
    pub(super) fn block(&self, tree: &sled::Tree, number: usize) -> Result<Block, StoreError> {
        let stored = read(tree, self.info.number, Part::Block, number as u32)?;
        stored.and_then(|stored| Block::read(&stored)).ok_or(StoreError::Damaged(self.info.number))
    }

    /// How many blocks begin with a key that is `before`, which all are up to some block.
    fn blocks_until(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        self.index.first_keys.partition_point(|first| before(first))
    }
}

impl Index {
    /// Whether the key may be in the run, as far as can be told from the first and last ones.
    fn may_hold(&self, key: &[u8]) -> bool {
        let key = beginning(key);
        self.bounds.iter().any(|(first, last)| *first <= key && key <= *last)
    }

    /// Takes in the next key.
    fn extend(&mut self, key: &[u8]) {
        let key = beginning(key);
        match self.bounds.last_mut() {
            Some((first, last)) if sort(*first) == sort(key) => *last = key,
            Some(_) | None => self.bounds.push((key, key)),
        }
    }
}

/// Removes all there is of the run with that number; whoever looks for it afterwards finds nothing.
pub(super) fn remove(tree: &sled::Tree, run: u64) -> Result<(), StoreError> {
    for part in PARTS {
        for key in tree.range(key(part, run, 0, 0)..key(part, run + 1, 0, 0)).keys() {
            tree.remove(key?)?;
        }
    }
    Ok(())
}

/// The numbers of all runs that have left a block behind, in ascending order.
pub(super) fn numbers(tree: &sled::Tree) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    let mut next = key(Part::Block, 0, 0, 0);
    while let Some(found) = tree.range(next..vec![Part::Block as u8 + 1]).keys().next() {
        let number = found?.get(1..9).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
        let Some(number) = number else { break };
        numbers.push(number);
        next = key(Part::Block, number + 1, 0, 0);
    }
    Ok(numbers)
}

/// Writes a run, block by block, as its entries come.
#[derive(Debug)]
pub(super) struct RunWriter {
    tree: sled::Tree,
    info: RunInfo,
    block: BlockWriter,
    index: Index,
    filter: Filter,
}

impl RunWriter {
    /// A run with this number, of a level, and of at most so many entries.
    pub(super) fn new(tree: &sled::Tree, number: u64, level: u32, entries_max: u64) -> Self {
        let (block, filter) = (BlockWriter::default(), Filter::for_keys(entries_max));
        let info = RunInfo { number, level, entries: 0 };
        Self { tree: tree.clone(), info, block, index: Index::default(), filter }
    }

    /// The next entry, whose key is larger than the one before.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if self.block.is_empty() {
            self.index.first_keys.push(ByteBuf::from(key));
        }
        self.index.extend(key);
        self.filter.insert(Fingerprint::of(key));
        self.info.entries += 1;
        self.block.push(key, value);
        if self.block.bytes() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    /// The run, complete.
    pub(super) fn finish(mut self) -> Result<Run, StoreError> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        let index = rmp_serde::to_vec(&self.index).expect("an index always encodes");
        write(&self.tree, self.info.number, Part::Index, 0, index)?;
        write(&self.tree, self.info.number, Part::Filter, 0, self.filter.to_bytes())?;
        let Self { info, index, filter, .. } = self;
        Ok(Run { info, index, filter })
    }

    fn close_block(&mut self) -> Result<(), StoreError> {
        let number = self.index.first_keys.len() as u32 - 1;
        write(&self.tree, self.info.number, Part::Block, number, self.block.finish())
    }
}

/// Writes bytes as pieces, each of which ends with whether another one follows.
fn write(tree: &sled::Tree, run: u64, part: Part, number: u32, mut bytes: Vec<u8>) -> Result<(), StoreError> {
    for piece in 0.. {
        let rest = if bytes.len() < PIECE_BYTES { vec![] } else { bytes.split_off(PIECE_BYTES - 1) };
        bytes.push(u8::from(!rest.is_empty()));
        tree.insert(key(part, run, number, piece), bytes)?;
        if rest.is_empty() {
            break;
        }
        bytes = rest;
    }
    Ok(())
}

/// The bytes that were written, unless some of them are missing.
fn read(tree: &sled::Tree, run: u64, part: Part, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    for piece in 0.. {
        let Some(found) = tree.get(key(part, run, number, piece))? else { return Ok(None) };
        let Some((more, found)) = found.split_last() else { return Ok(None) };
        bytes.extend_from_slice(found);
        if *more == 0 {
            break;
        }
    }
    Ok(Some(bytes))
}

fn key(part: Part, run: u64, number: u32, piece: u32) -> Vec<u8> {
    [&[part as u8][..], &run.to_be_bytes(), &number.to_be_bytes(), &piece.to_be_bytes()].concat()
}
