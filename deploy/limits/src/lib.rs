//! What a process of the shop takes at a time: connections, and work that waits its turn.
//!
//! Owns limits that a bridge and a host have in common. Must not know what is asked over a connection.

pub mod files;
pub mod listener;
pub mod turns;
