//! Files and objects outside the logs, which snapshots and backups are made of: where they may be, how they are read and
//! written piece by piece, and what they are in bytes.

pub mod address;
pub mod container;
pub mod object;
