//! The real programs as processes: started, killed, stopped, starved and started again.

mod access;
mod answers;
mod crashes;
mod fates;
mod kinds;
mod local;
mod privacy;
mod refusals;
mod restarts;
mod rolling;
mod servers;
mod several;
mod spread;
mod standby;
mod waiting;
