//! The whole shop, seen from outside.

mod processes;
mod readme;
