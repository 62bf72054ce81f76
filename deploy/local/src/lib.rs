//! The whole shop on one machine: a nats-server, the hosts of all kinds and the HTTP bridge.
//!
//! Owns processes, folders and the order in which things start and stop. Must not know what an
//! order is, except in [`demo`] and [`seed`], which are customers like any other and use HTTP.

pub mod banner;
pub mod demo;
pub mod folder;
pub mod http;
pub mod keygen;
pub mod keys;
pub mod nats_server;
pub mod options;
mod parts;
pub mod ports;
mod run;
pub mod seed;
mod service;
pub mod shop;

pub use nats_server::NatsServer;
pub use options::Options;
pub use run::run;
pub use shop::Shop;
