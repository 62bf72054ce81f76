//! What a snapshot is in bytes: [parts](crate::blob::container), of which the first is the [`Header`]; the others are items
//! one behind the other. All is MessagePack.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use shop_domain::{encode, id::Id, kind::Kind, rows::RowKey};

use super::SnapshotError;
use crate::{
    blob::{
        container::{self, Line, PART_BYTES, Writer},
        object::{ObjectError, Take},
    },
    store::{CheckpointView, Item, ItemsError, Meta},
};

const LINE: &Line = b"shop snapshot 1\n";

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
pub fn write(header: &Header, frozen: &dyn CheckpointView, take: Take<'_>) -> Result<(), SnapshotError> {
    let mut writer = Writer::begin(LINE, take)?;
    writer.part(&header.encode())?;
    let mut part = Vec::with_capacity(PART_BYTES * 2);
    frozen.each(&mut |Item { id, row, value }| {
        let item = (&id, row.as_deref(), serde_bytes::Bytes::new(&value));
        rmp_serde::encode::write(&mut part, &item).expect("an item always encodes");
        if part.len() >= PART_BYTES {
            writer.part(&part).map_err(ItemsError::other)?;
            part.clear();
        }
        Ok(())
    })?;
    if !part.is_empty() {
        writer.part(&part)?;
    }
    writer.end()?;
    Ok(())
}

/// Copies a snapshot under another header, if it is as it was written; returns the digest of the copy.
pub fn copy(
    bytes: impl Read,
    change: impl FnOnce(Header) -> Result<Header, ObjectError>,
    take: Take<'_>,
) -> Result<u64, ObjectError> {
    let mut reader = Reader::begin(bytes)?;
    let mut writer = Writer::begin(LINE, take)?;
    writer.part(&change(reader.header)?.encode())?;
    while let Some(part) = reader.parts.stored_part()? {
        writer.stored_part(&part)?;
    }
    writer.end()
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a header always encodes")
    }
}

/// Reads a snapshot: its items, and last of all, as an error, that it is not as it was written.
pub struct Reader<R> {
    parts: container::Reader<R>,
    header: Header,
    part: io::Cursor<Vec<u8>>,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads up to behind the header. It is to be believed once all items were read without an error.
    pub fn begin(bytes: R) -> Result<Self, ObjectError> {
        let mut parts = container::Reader::begin(LINE, "a snapshot", bytes)?;
        let header = parts.part()?.ok_or_else(|| ObjectError::damaged("it has no header"))?;
        let header = encode::decode(&header);
        let header: Header = header.map_err(|error| ObjectError::damaged(format!("its header: {error}")))?;
        if !header.meta.is_possible() {
            return Err(ObjectError::damaged("it goes further than any log"));
        }
        Ok(Self { parts, header, part: io::Cursor::new(vec![]), is_over: false })
    }

    /// Whose snapshot it says to be.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The digest that it has, once all items were read.
    pub fn digest(&self) -> u64 {
        self.parts.digest()
    }

    fn read(&mut self) -> Result<Option<Item>, ObjectError> {
        if self.part.position() as usize == self.part.get_ref().len() {
            match self.parts.part()? {
                Some(next) => self.part = io::Cursor::new(next),
                None => return Ok(None),
            }
        }
        let item: Result<(Id, Option<RowKey>, ByteBuf), _> = encode::decode_next(&mut self.part);
        let (id, row, value) = item.map_err(|error| ObjectError::damaged(format!("an item: {error}")))?;
        Ok(Some(Item { id, row, value: value.into_vec().into() }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Item, ItemsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let item = self.read().map_err(ItemsError::other).transpose();
        self.is_over = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shop_nats::log::Identity;

    use super::*;
    use crate::store::{
        Checkpoint, Store,
        delta::{Changed, Delta},
        memory::MemoryStore,
    };

    fn snapshot(entities: usize) -> (Header, Vec<u8>) {
        let meta = Meta { cursor: 7, ..Meta::new(&Identity::new(2)) };
        let mut rng = fastrand::Rng::with_seed(3);
        let changed = |number: usize| {
            let value: Bytes = std::iter::repeat_with(|| rng.u8(b'a'..=b'z')).take(1_000).collect();
            Changed {
                id: format!("user-{number}").parse().unwrap(),
                state: Some(value.clone()),
                rows: vec![("entry/1".into(), value)],
            }
        };
        let changes: Delta = (0..entities).map(changed).collect();
        let partition_store = MemoryStore::default().partition(0).unwrap();
        partition_store.write(&Checkpoint { meta: meta.clone(), changes: changes.into() }).unwrap();
        let frozen = partition_store.freeze().unwrap().unwrap();
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
