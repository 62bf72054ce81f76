//! The host: runs the shop's entities as actors over the log, and keeps their state at hand.

pub mod config;
pub mod entities;
pub mod entity_actor;
pub mod link;
pub mod memory;
pub mod outbox;
pub mod partition;
pub mod settle;
pub mod store;
