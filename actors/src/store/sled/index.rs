//! Where a run has what: kept in memory for each run, so it is small.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::bounds::Bounds;

/// Where a run has what.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// The first keys of all blocks, one behind the other.
    first_keys: ByteBuf,
    blocks: Vec<BlockHandle>,
    /// From where to where its keys go.
    pub(super) bounds: Bounds,
}

/// Where a block is in the file, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlockHandle {
    /// Where it begins, in bytes.
    pub(super) start: u64,
    /// How many bytes it has.
    pub(super) bytes: u32,
    /// XXH3 (64 bit) of them.
    pub(super) checksum: u64,
    /// Where its first key begins among the first keys, in bytes, and how many it has.
    first_key: (u32, u32),
}

impl Index {
    /// The index of a run without blocks, whose keys will lie within these bounds.
    pub(super) fn within(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Takes in the next block.
    pub(super) fn push(&mut self, first_key: &[u8], bytes: u32, checksum: u64) {
        let first = (self.first_keys.len() as u32, first_key.len() as u32);
        self.first_keys.extend_from_slice(first_key);
        self.blocks.push(BlockHandle { start: self.bytes(), bytes, checksum, first_key: first });
    }

    /// The blocks, in the order of their keys.
    pub(super) fn blocks(&self) -> &[BlockHandle] {
        &self.blocks
    }

    /// How many bytes all blocks have.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.last().map_or(0, |last| last.start + u64::from(last.bytes))
    }

    /// How many blocks begin with a key that is `before`, which all are up to some block.
    pub(super) fn blocks_until(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        self.blocks.partition_point(|BlockHandle { first_key: (start, length), .. }| {
            before(&self.first_keys[*start as usize..][..*length as usize])
        })
    }
}
