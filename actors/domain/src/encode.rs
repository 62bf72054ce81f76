//! How states, rows and messages become bytes: MessagePack with field names. And back.

use std::{cell::RefCell, io::Read};

use rmp_serde::{Deserializer, decode::Error};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// How deep what is read may be nested: as deep as JSON may be here, and far deeper than anything of the shop's is. What
/// comes from outside may be nested without end, and a stack has one: rmp-serde's own limit (1024) is beyond that of a
/// small one.
const DEPTH_MAX: usize = 128;

/// Reads a value from its bytes, which may be anything.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    let mut deserializer = Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut deserializer)
}

/// Reads the next value of several that stand one behind the other.
pub fn decode_next<T: DeserializeOwned>(bytes: &mut impl Read) -> Result<T, Error> {
    let mut deserializer = Deserializer::new(bytes);
    deserializer.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut deserializer)
}
