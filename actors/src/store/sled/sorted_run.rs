//! A run: entries sorted by their keys, cut into blocks, and never changed once it is written.
//!
//! Its file holds block after block, then the index and the filter, then where these are: three
//! numbers of 8 bytes, the least first, which are the lengths of index and filter and the XXH3 (64
//! bit) of both. Whatever is read is checked, because a state that is wrong would be believed.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shop_nats::private;
use twox_hash::XxHash3_64;

use super::{
    block::{Block, BlockWriter, Entry},
    bounds::{Bounds, Shape},
    files::{RunFolder, failed},
    filter::{Filter, Fingerprint},
    index::{BlockHandle, Index},
};
use crate::store::StoreError;

/// A block is closed once its entries have so many bytes: a read of one entry reads one block.
const BLOCK_BYTES: usize = 16 * 1024;
/// So many bytes are handed to the system at a time.
const BUFFER_BYTES: usize = 256 * 1024;
/// What the file of a run ends with, in bytes.
const TRAILER_BYTES: u64 = 24;

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
    /// Opened for each block that is read, because there may be more runs than files a process may have open.
    path: PathBuf,
    /// The file of a run that was removed while somebody may still read it.
    removed: OnceLock<File>,
    index: Index,
    filter: Filter,
}

/// A key that is looked for in many runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    key: &'a [u8],
    shape: Shape,
    print: Fingerprint,
}

impl<'a> Wanted<'a> {
    /// What is to be known of a key to look for it.
    pub(super) fn new(key: &'a [u8]) -> Self {
        Self { key, shape: Shape::of(key), print: Fingerprint::of(key) }
    }
}

impl Run {
    /// Reads what is kept at hand of a run.
    pub(super) fn open(folder: &RunFolder, info: RunInfo) -> Result<Self, StoreError> {
        let path = folder.path(info.number);
        let (index, filter) = read_tail(&path).map_err(|error| unreadable(info.number, &path, error))?;
        Ok(Self { info, path, removed: OnceLock::new(), index, filter })
    }

    /// Keeps the file at hand, because its name is about to be removed: whoever holds the run reads on.
    pub(super) fn keep_open(&self) -> Result<(), StoreError> {
        let file = File::open(&self.path).map_err(|error| unreadable(self.info.number, &self.path, error))?;
        self.removed.get_or_init(|| file);
        Ok(())
    }

    /// The value of a key.
    pub(super) fn get(&self, Wanted { key, shape, print }: Wanted<'_>) -> Result<Option<Bytes>, StoreError> {
        if !self.index.bounds.may_hold(shape) || !self.filter.may_hold(print) {
            return Ok(None);
        }
        let Some(number) = self.index.blocks_until(|first| first <= key).checked_sub(1) else { return Ok(None) };
        Ok(self.block(number)?.get(key))
    }

    /// The entries from `start` on and before `end`, by key.
    pub(super) fn range<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = Result<Entry, StoreError>> + 'a {
        let first = self.index.blocks_until(|key| key <= start).saturating_sub(1);
        let behind = self.index.blocks_until(|key| key < end);
        (first..behind.max(first)).flat_map(move |number| match self.block(number) {
            Ok(block) => block.range(start, end).into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// How many blocks it has.
    pub(super) fn blocks(&self) -> usize {
        self.index.blocks().len()
    }

    /// From where to where its keys go.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.index.bounds
    }

    /// One of its blocks.
    pub(super) fn block(&self, number: usize) -> Result<Block, StoreError> {
        self.block_as_stored(number).map(|(_, block)| block)
    }

    /// One of its blocks, beside the bytes that it is stored in.
    pub(super) fn block_as_stored(&self, number: usize) -> Result<(Vec<u8>, Block), StoreError> {
        let BlockHandle { start, bytes, checksum, .. } = self.index.blocks()[number];
        let read = || {
            let mut stored = vec![0; bytes as usize];
            match File::open(&self.path) {
                Ok(file) => file.read_exact_at(&mut stored, start)?,
                Err(error) => self.removed.get().ok_or(error)?.read_exact_at(&mut stored, start)?,
            }
            checked(&stored, checksum)?;
            let block = Block::read(&stored).ok_or_else(not_as_written)?;
            Ok((stored, block))
        };
        read().map_err(|error| unreadable(self.info.number, &self.path, error))
    }
}

/// The index and the filter at the end of a file.
fn read_tail(path: &Path) -> io::Result<(Index, Filter)> {
    let file = File::open(path)?;
    let mut trailer = [0; TRAILER_BYTES as usize];
    let end = file.metadata()?.len().checked_sub(TRAILER_BYTES).ok_or_else(not_as_written)?;
    file.read_exact_at(&mut trailer, end)?;
    let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("eight bytes"));
    let (index_bytes, filter_bytes, checksum) = (number(0), number(8), number(16));
    let bytes = index_bytes.checked_add(filter_bytes).filter(|bytes| *bytes <= end).ok_or_else(not_as_written)?;
    let mut tail = vec![0; bytes as usize];
    file.read_exact_at(&mut tail, end - bytes)?;
    checked(&tail, checksum)?;
    let (index, filter) = tail.split_at(index_bytes as usize);
    let index: Index = shop_domain::encode::decode(index).map_err(|_| not_as_written())?;
    if index.bytes() != end - bytes {
        return Err(not_as_written());
    }
    Ok((index, Filter::from_bytes(filter).ok_or_else(not_as_written)?))
}

fn checked(bytes: &[u8], checksum: u64) -> io::Result<()> {
    if XxHash3_64::oneshot(bytes) == checksum { Ok(()) } else { Err(not_as_written()) }
}

fn not_as_written() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// What it means that a run cannot be read: that it is damaged, or that nothing can be read right now.
fn unreadable(run: u64, path: &Path, error: io::Error) -> StoreError {
    let damages = [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData];
    if damages.contains(&error.kind()) { StoreError::Damaged(run) } else { failed(path, error) }
}

/// Writes a run, block by block, as its entries come.
#[derive(Debug)]
pub(super) struct RunWriter {
    info: RunInfo,
    path: PathBuf,
    file: BufWriter<File>,
    block: BlockWriter,
    /// The first key in the block.
    first_key: Vec<u8>,
    index: Index,
    filter: Filter,
}

impl RunWriter {
    /// A run with this number, of a level, of at most so many entries, and with keys within these bounds.
    pub(super) fn new(
        folder: &RunFolder,
        number: u64,
        level: u32,
        entries_max: u64,
        bounds: Bounds,
    ) -> Result<Self, StoreError> {
        let path = folder.path(number);
        let file =
            BufWriter::with_capacity(BUFFER_BYTES, private::make_file(&path).map_err(|error| failed(&path, error))?);
        let info = RunInfo { number, level, entries: 0 };
        let (index, filter) = (Index::within(bounds), Filter::for_keys(entries_max));
        Ok(Self { info, path, file, block: BlockWriter::default(), first_key: Vec::new(), index, filter })
    }

    /// The next entry, whose key is larger than the one before.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if self.block.is_empty() {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        self.filter.insert(Fingerprint::of(key));
        self.info.entries += 1;
        self.block.push(key, value);
        if self.block.bytes() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    /// The next entry, whose key may be beyond the bounds that were given.
    pub(super) fn push_beyond(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.index.bounds.extend(Shape::of(key));
        self.push(key, value)
    }

    /// A whole block of another run, whose keys are all larger than the one before, as it is stored there.
    pub(super) fn push_block(&mut self, block: &Block, stored: &[u8]) -> Result<(), StoreError> {
        self.close_block()?;
        for place in 0..block.len() {
            self.filter.insert(Fingerprint::of(block.key(place)));
        }
        self.info.entries += block.len() as u64;
        self.index.push(block.key(0), stored.len() as u32, XxHash3_64::oneshot(stored));
        self.write(stored)
    }

    /// Hands to the disk what was written so far, so that it has less to do at the end.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(|error| failed(&self.path, error))
    }

    /// The run, complete and on the disk.
    pub(super) fn finish(mut self) -> Result<Run, StoreError> {
        self.close_block()?;
        let mut tail = rmp_serde::to_vec(&self.index).expect("an index always encodes");
        let index_bytes = tail.len() as u64;
        tail.extend(self.filter.to_bytes());
        let numbers = [index_bytes, tail.len() as u64 - index_bytes, XxHash3_64::oneshot(&tail)];
        tail.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.write(&tail)?;
        self.sync()?;
        let Self { info, path, index, filter, .. } = self;
        Ok(Run { info, path, removed: OnceLock::new(), index, filter })
    }

    /// Writes the block that was begun, if one was.
    fn close_block(&mut self) -> Result<(), StoreError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let stored = self.block.finish();
        self.index.push(&self.first_key, stored.len() as u32, XxHash3_64::oneshot(&stored));
        self.write(&stored)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, error))
    }
}
