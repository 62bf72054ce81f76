//! Everything the shop knows about NATS; no other crate knows `async-nats`.
//!
//! Owns subjects, streams, frames, the way into and out of the logs, and requests. Must not know
//! what a message means.

pub mod connection;
pub mod header;
pub mod hosts;
pub mod jetstream;
pub mod log;
pub mod memory;
pub mod private;
pub mod rpc;
pub mod server;
pub mod stream;
pub mod subject;
