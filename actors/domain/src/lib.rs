//! The shop's rules as pure state machines.
//!
//! Nothing here knows a clock, a random number, a thread, a file or a socket: the same state
//! and the same message with the same context make the same new state and the same effects.

pub mod caller;
pub mod delivery;
pub mod encode;
pub mod entity;
pub mod id;
pub mod invariant;
pub mod kind;
pub mod logic;
pub mod message;
pub mod money;
pub mod mypage;
pub mod order;
pub mod problem;
pub mod product;
pub mod refusal;
pub mod rows;
pub mod text;
pub mod ticket;
pub mod timestamp;
pub mod version;
pub mod wallet;
