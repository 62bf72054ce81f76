//! What a measurement of the shop is made of, without measuring: what the load tools say, the
//! figures, what they should be, and how they are shown. The measuring itself is in `tests/bench`.

pub mod pgbench;
pub mod picture;
pub mod report;
pub mod table;
pub mod targets;
pub mod text;
pub mod wrk;
