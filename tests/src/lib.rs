//! What tests of the whole shop are made of: its program as real processes, customers who use
//! HTTP, and the books that must balance whatever happened in between.
//!
//! Must not know how the shop works inside: everything here is seen through HTTP, NATS,
//! signals, exit codes and files.

pub mod balancer;
pub mod bench;
pub mod careful;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod fill;
pub mod folder;
pub mod issuer;
pub mod leaders;
pub mod load;
pub mod login;
pub mod machines;
pub mod market;
pub mod parts;
pub mod process;
pub mod program;
pub mod proxy;
pub mod rush;
pub mod seed;
pub mod servers;
pub mod siege;
pub mod wait;
