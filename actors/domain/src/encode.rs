//! How states, rows and messages become bytes: MessagePack with field names.

use std::cell::RefCell;

use serde::Serialize;

thread_local! {
    /// What is encoded grows in here, so that its bytes are asked for once and have their size.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Most bytes that a thread keeps for the next value.
const ROOM_MAX: usize = 64 * 1024;

/// The bytes of a value of the domain.
///
/// # Panics
/// When the value cannot be encoded, which none of the domain's is.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    ROOM.with_borrow_mut(|room| {
        room.clear();
        room.shrink_to(ROOM_MAX);
        rmp_serde::encode::write_named(room, value).expect("a value of the domain always encodes");
        room.as_slice().to_vec()
    })
}
