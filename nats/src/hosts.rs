//! What hosts and tools tell all hosts of a kind: who is there, and that doors are to pause.

pub mod membership;
pub mod pause;
