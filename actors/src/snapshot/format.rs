//! What a snapshot is in bytes: a line that says so, parts, and a digest.
//!
//! A part is its length (4 bytes, the least first), then so many bytes, which are LZ4. The first part
//! is the [`Header`], the others are items one behind the other, all in MessagePack. Behind the last one
//! come a length of 0 and the XXH3 (64 bit, 8 bytes, the least first) of all bytes before it.
//!
//! LZ4, because what is read for a snapshot was LZ4 in its run and compresses no worse here, and
//! because both directions are so fast that a restore waits for the disk and not for the processor.

use std::{
    hash::Hasher as _,
    io::{self, Read},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use shop_domain::{id::Id, kind::Kind, rows::RowKey};
use twox_hash::xxhash3_64::Hasher;

use super::SnapshotError;
use crate::store::{Frozen, Item, Meta};

/// What a snapshot begins with. Another version would be another line.
const FORMAT: &[u8; 16] = b"shop snapshot 1\n";
/// A part is closed once its items have so many bytes: what either side holds at a time.
const PART_BYTES: usize = 256 * 1024;
/// Most bytes of a part: an item is a state or a row, of which the largest are far below this.
const PART_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// Whose snapshot it is, and up to where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Whose.
    pub kind: Kind,
    /// Which partition's.
    pub partition: u16,
    /// Up to where.
    pub meta: Meta,
    /// How many items it may have.
    pub items_max: u64,
}

/// Writes a snapshot, part by part.
pub fn write(
    header: &Header,
    frozen: &dyn Frozen,
    take: &mut dyn FnMut(Bytes) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut writer = Writer { hasher: Hasher::new(), take };
    writer.write(FORMAT.to_vec())?;
    writer.part(&rmp_serde::to_vec_named(header).expect("a header always encodes"))?;
    let mut part = Vec::with_capacity(PART_BYTES * 2);
    frozen.each(&mut |Item { id, row, value }| {
        let item = (&id, row.as_deref(), serde_bytes::Bytes::new(&value));
        rmp_serde::encode::write(&mut part, &item).expect("an item always encodes");
        if part.len() >= PART_BYTES {
            writer.part(&part)?;
            part.clear();
        }
        Ok(())
    })?;
    if !part.is_empty() {
        writer.part(&part)?;
    }
    writer.write(0_u32.to_le_bytes().to_vec())?;
    let digest = writer.hasher.finish();
    writer.write(digest.to_le_bytes().to_vec())
}

struct Writer<'a> {
    hasher: Hasher,
    take: &'a mut dyn FnMut(Bytes) -> Result<(), SnapshotError>,
}

impl Writer<'_> {
    fn part(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let stored = lz4_flex::compress_prepend_size(bytes);
        self.write([&(stored.len() as u32).to_le_bytes()[..], &stored].concat())
    }

    fn write(&mut self, bytes: Vec<u8>) -> Result<(), SnapshotError> {
        self.hasher.write(&bytes);
        (self.take)(bytes.into())
    }
}

/// Reads a snapshot: its items, and last of all, as an error, that it is not as it was written.
pub struct Reader<R> {
    bytes: R,
    hasher: Hasher,
    header: Header,
    part: io::Cursor<Vec<u8>>,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads up to behind the header. It is to be believed once all items were read without an error.
    pub fn begin(mut bytes: R) -> Result<Self, SnapshotError> {
        let mut hasher = Hasher::new();
        let mut format = [0; FORMAT.len()];
        read(&mut bytes, &mut hasher, &mut format)?;
        if format != *FORMAT {
            return Err(damaged("it does not begin as a snapshot does"));
        }
        let header = part(&mut bytes, &mut hasher)?.ok_or_else(|| damaged("it has no header"))?;
        let header = rmp_serde::from_slice(&header).map_err(|error| damaged(format!("its header: {error}")))?;
        Ok(Self { bytes, hasher, header, part: io::Cursor::new(vec![]), is_over: false })
    }

    /// Whose snapshot it says to be.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read(&mut self) -> Result<Option<Item>, SnapshotError> {
        if self.part.position() as usize == self.part.get_ref().len() {
            match part(&mut self.bytes, &mut self.hasher)? {
                Some(next) => self.part = io::Cursor::new(next),
                None => return self.check_digest().map(|()| None),
            }
        }
        let item: Result<(Id, Option<RowKey>, ByteBuf), _> = rmp_serde::from_read(&mut self.part);
        let (id, row, value) = item.map_err(|error| damaged(format!("an item: {error}")))?;
        Ok(Some(Item { id, row, value: value.into_vec().into() }))
    }

    fn check_digest(&mut self) -> Result<(), SnapshotError> {
        let expected = self.hasher.finish();
        let mut digest = [0; 8];
        read(&mut self.bytes, &mut self.hasher, &mut digest)?;
        if u64::from_le_bytes(digest) != expected {
            return Err(damaged("its digest is another one"));
        }
        match self.bytes.read(&mut [0]).map_err(unreadable)? {
            0 => Ok(()),
            _ => Err(damaged("it goes on behind its digest")),
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Item, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let item = self.read().transpose();
        self.is_over = !matches!(item, Some(Ok(_)));
        item
    }
}

/// The next part; none at the end.
fn part(bytes: &mut impl Read, hasher: &mut Hasher) -> Result<Option<Vec<u8>>, SnapshotError> {
    let mut length = [0; 4];
    read(bytes, hasher, &mut length)?;
    match u32::from_le_bytes(length) {
        0 => Ok(None),
        length if length > PART_BYTES_MAX => Err(damaged(format!("a part of {length} bytes"))),
        length => {
            let mut stored = vec![0; length as usize];
            read(bytes, hasher, &mut stored)?;
            // It says first how long it was: a wrong number must not take all memory.
            let said = stored.first_chunk().map_or(u32::MAX, |said| u32::from_le_bytes(*said));
            if said > PART_BYTES_MAX {
                return Err(damaged("a part that is no LZ4"));
            }
            lz4_flex::decompress_size_prepended(&stored).map(Some).map_err(|error| damaged(error.to_string()))
        }
    }
}

fn read(bytes: &mut impl Read, hasher: &mut Hasher, into: &mut [u8]) -> Result<(), SnapshotError> {
    bytes.read_exact(into).map_err(unreadable)?;
    hasher.write(into);
    Ok(())
}

fn unreadable(error: io::Error) -> SnapshotError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        damaged("it ends too early")
    } else {
        SnapshotError::Store(error.to_string())
    }
}

fn damaged(how: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged(how.into())
}

#[cfg(test)]
mod tests {
    use shop_nats::log::Identity;

    use super::*;
    use crate::{
        changes::{Changed, Changes},
        store::{Checkpoint, Store, memory::MemoryStore},
    };

    fn snapshot(entities: usize) -> (Header, Vec<u8>) {
        let log =
            Identity { created_unix_ns: 1, epoch: 2, partitions: 1, logic: 1, first_sequence: 1, last_sequence: 9 };
        let meta = Meta { cursor: 7, ..Meta::new(&log) };
        let mut rng = fastrand::Rng::with_seed(3);
        let changed = |number: usize| {
            let value: Bytes = std::iter::repeat_with(|| rng.u8(b'a'..=b'z')).take(1_000).collect();
            Changed {
                id: format!("user-{number}").parse().unwrap(),
                state: Some(value.clone()),
                rows: vec![("entry/1".into(), value)],
            }
        };
        let changes: Changes = (0..entities).map(changed).collect();
        let shelf = MemoryStore::default().shelf(0).unwrap();
        shelf.write(&Checkpoint { meta: meta.clone(), changes: changes.into() }).unwrap();
        let frozen = shelf.freeze().unwrap().unwrap();
        let header = Header { kind: Kind::Wallet, partition: 0, meta, items_max: frozen.items_max() };
        let mut bytes = Vec::new();
        write(&header, &*frozen, &mut |part| {
            bytes.extend(part);
            Ok(())
        })
        .unwrap();
        (header, bytes)
    }

    fn read_all(bytes: &[u8]) -> Result<(Header, Vec<Item>), SnapshotError> {
        let mut reader = Reader::begin(bytes)?;
        let items = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        Ok((reader.header().clone(), items))
    }

    #[test]
    fn what_was_written_is_read_back_item_by_item() {
        for entities in [0, 1, 1_000] {
            let (header, bytes) = snapshot(entities);
            let (found, items) = read_all(&bytes).unwrap();
            assert_eq!((found, items.len()), (header, entities * 2));
            assert!(items.iter().take(entities).all(|item| item.row.as_deref() == Some("entry/1")));
            assert!(items.iter().skip(entities).all(|item| item.row.is_none() && item.value.len() == 1_000));
        }
    }

    #[test]
    fn whatever_byte_is_changed_missing_or_added_a_snapshot_is_not_believed() {
        let (_, bytes) = snapshot(40);
        let mut rng = fastrand::Rng::with_seed(4);
        let places = (0..64).chain(bytes.len() - 16..bytes.len());
        for place in places.chain(std::iter::repeat_with(|| rng.usize(0..bytes.len())).take(200).collect::<Vec<_>>()) {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << rng.u8(0..8);
            assert!(matches!(read_all(&changed), Err(SnapshotError::Damaged(_))), "a change at {place}");
            assert!(matches!(read_all(&bytes[..place]), Err(SnapshotError::Damaged(_))), "cut at {place}");
        }
        let more = [&bytes[..], b"x"].concat();
        assert!(matches!(read_all(&more), Err(SnapshotError::Damaged(_))));
        assert!(matches!(read_all(b""), Err(SnapshotError::Damaged(_))));
    }
}
