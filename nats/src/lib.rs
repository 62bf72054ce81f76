//! Everything the shop knows about NATS; no other crate knows `async-nats`.
//!
//! Owns subjects, streams, frames, the way into and out of the logs, and requests. Must not know
//! what a message means.

pub mod access;
mod bundle;
pub mod connection;
mod cut_off;
pub mod dead;
pub mod discovery;
mod disruption;
pub mod door;
pub mod frame;
pub mod header;
pub mod hold;
pub mod holders;
mod inbox;
pub mod jetstream;
mod lasting;
pub mod layout;
pub mod log;
pub mod membership;
pub mod memory;
pub mod multiplexer;
pub mod permissions;
pub mod private;
pub mod publisher;
mod queue;
pub mod request;
pub mod restore;
pub mod server;
mod start;
mod stored;
pub mod subject;
pub mod topology;
pub mod trim;
