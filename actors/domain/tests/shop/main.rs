//! The shop's rules, tried in memory: the saga from end to end, and every case that others got wrong.

mod always;
mod callers;
mod contract;
mod golden;
mod idempotency;
mod interleavings;
mod invariant;
mod saga;
mod storm;
mod tickets;
mod versions;
mod wallet_and_stock;
mod world;
