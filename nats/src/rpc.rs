//! Requests and their answers over NATS: from callers to doors, and from host to host.

pub(crate) mod bundle;
pub mod discovery;
pub mod holders;
pub mod multiplexer;
pub mod request;
pub mod service;
