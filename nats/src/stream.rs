//! The streams of the shop: how they are made and verified, and into how many partitions each log is cut.

pub mod layout;
pub(crate) mod stored;
pub mod topology;
