//! Everything the shop knows about NATS; no other crate knows `async-nats`.
//!
//! Owns subjects, streams, frames, links and requests. Must not know what a message means.

pub mod connection;
pub mod header;
pub mod request;
pub mod subject;
