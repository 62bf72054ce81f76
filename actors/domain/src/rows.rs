//! Rows: what grows with time beside an entity's small state.
//!
//! The host loads the rows that a message names before the message is handled, and writes back
//! those that changed. Keys sort as text, so that numbered rows are padded with zeros.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use crate::encode::{self, encode};

/// The name of a row within its entity, for example `charge/o-1`.
pub type RowKey = Box<str>;

/// The rows that are at hand while messages are handled.
#[derive(Debug, Default)]
pub struct Rows {
    slots: BTreeMap<RowKey, Slot>,
}

#[derive(Debug)]
struct Slot {
    bytes: Option<Vec<u8>>,
    changed: bool,
}

impl Rows {
    /// Brings a stored row, or the knowledge that there is none, within reach.
    pub fn load(&mut self, key: RowKey, bytes: Option<Vec<u8>>) {
        self.slots.entry(key).or_insert(Slot { bytes, changed: false });
    }

    /// Whether the row is within reach, or known not to be there.
    pub fn is_loaded(&self, key: &str) -> bool {
        self.slots.contains_key(key)
    }

    /// The row, if there is one.
    ///
    /// # Panics
    /// When the row was not named by the message, or its bytes are not a `T`: both are bugs.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let slot = self.slots.get(key).unwrap_or_else(|| panic!("row {key} was not named by the message"));
        let bytes = slot.bytes.as_deref()?;
        Some(decode_row(bytes))
    }

    /// Writes a row, which need not have been loaded.
    pub fn put<T: Serialize>(&mut self, key: RowKey, value: &T) {
        self.replace(key, value);
    }

    /// The same; whether something else, or nothing, was known to be there.
    pub fn replace<T: Serialize>(&mut self, key: RowKey, value: &T) -> bool {
        let bytes = Some(encode(value));
        let is_other = self.slots.get(&key).is_none_or(|slot| slot.bytes != bytes);
        self.slots.insert(key, Slot { bytes, changed: true });
        is_other
    }

    /// The rows that were written.
    pub fn into_changed(self) -> impl Iterator<Item = (RowKey, Vec<u8>)> {
        self.slots.into_iter().filter(|(_, slot)| slot.changed).filter_map(|(key, slot)| Some((key, slot.bytes?)))
    }
}

/// Reads a row's bytes.
///
/// # Panics
/// When the bytes are not a `T`: rows are written by this code only.
pub fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> T {
    encode::decode(bytes).expect("a stored row decodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: u64) -> Option<Vec<u8>> {
        Some(rmp_serde::to_vec_named(&value).unwrap())
    }

    #[test]
    fn only_rows_that_were_written_are_written_back() {
        let mut rows = Rows::default();
        rows.load("none".into(), None);
        rows.load("read".into(), bytes(1));
        rows.put("written".into(), &2);
        assert_eq!((rows.get::<u64>("none"), rows.get("read"), rows.get("written")), (None, Some(1), Some(2)));
        assert_eq!(rows.into_changed().collect::<Vec<_>>(), [("written".into(), bytes(2).unwrap())]);
    }

    #[test]
    fn a_row_that_was_written_is_not_loaded_over() {
        let mut rows = Rows::default();
        rows.load("row".into(), bytes(1));
        rows.put("row".into(), &2);
        rows.load("row".into(), bytes(1));
        assert_eq!(rows.get::<u64>("row"), Some(2));
        assert_eq!(rows.into_changed().collect::<Vec<_>>(), [("row".into(), bytes(2).unwrap())]);
    }

    #[test]
    #[should_panic(expected = "row other was not named by the message")]
    fn a_row_that_the_message_did_not_name_is_a_bug_and_never_taken_for_none() {
        Rows::default().get::<u64>("other");
    }
}
