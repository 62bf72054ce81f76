//! How states and rows are keyed: `s`, then the id; or `r`, the id, a zero byte, and the row's own key.

use shop_domain::{id::Id, rows::RowKey};

/// What the keys of states begin with.
pub(super) const STATE: u8 = b's';
/// What the keys of rows begin with.
const ROW: u8 = b'r';
/// What ends an id; no id has it.
const END: u8 = 0;

/// The key of an entity's state.
pub(super) fn of_state(id: &Id) -> Vec<u8> {
    [&[STATE], id.as_str().as_bytes()].concat()
}

/// The key of one of its rows.
pub(super) fn of_row(id: &Id, row: &str) -> Vec<u8> {
    [&[ROW], id.as_str().as_bytes(), &[END], row.as_bytes()].concat()
}

/// The id in a key and, unless it is a state's, the row's own key.
pub(super) fn read(key: &[u8]) -> Option<(Id, Option<RowKey>)> {
    let (id, row) = parts(key);
    let row = match key.first()? {
        &ROW => Some(std::str::from_utf8(row).ok()?.into()),
        _ => None,
    };
    Some((std::str::from_utf8(id).ok()?.parse().ok()?, row))
}

/// The id in the key of a state.
pub(super) fn id_in(key: &[u8]) -> Option<Id> {
    std::str::from_utf8(key.get(1..)?).ok()?.parse().ok()
}

/// The id in a key, and the row's own key, which is empty for a state.
pub(super) fn parts(key: &[u8]) -> (&[u8], &[u8]) {
    let rest = key.get(1..).unwrap_or_default();
    match rest.iter().position(|byte| *byte == END) {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, &[]),
    }
}
