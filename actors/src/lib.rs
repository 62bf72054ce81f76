//! The host: runs the shop's entities as actors over the log, and keeps their state at hand.
//!
//! A request comes in at the [`door`], which appends it to the log of its kind. The reader in
//! [`kind_host`] hands records to their [`partition`], whose [`entities`] handle the messages;
//! what they send leaves through the [`outbox`], and once the logs have that, the round is
//! [settled](settle): callers are answered, and a checkpoint may be kept in the [`store`].
//!
//! Beside it stand the [`operator`]'s tools, which [`replay`] the logs without a host.

pub mod admissions;
pub mod blob;
pub mod cli;
pub mod counts;
pub mod door;
pub mod host;
pub mod joined;
pub mod kind_host;
pub mod link;
pub mod observe;
pub mod operator;
pub mod partition;
pub mod query;
pub mod repartition;
pub mod replay;
pub mod snapshot;
pub mod store;
