//! The shop's rules as pure state machines.
//!
//! Nothing here knows a clock, a random number, a thread, a file or a socket: the same state
//! and the same message with the same context make the same new state and the same effects.

pub mod id;
pub mod kind;
pub mod money;
pub mod problem;
pub mod timestamp;
