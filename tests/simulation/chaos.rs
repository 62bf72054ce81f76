//! What goes wrong, drawn from one seed.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shop_domain::kind::Kind;
use shop_nats::memory::{Chaos, Delivery, Fate};

/// Faults drawn from a seed, until they are switched off.
#[derive(Debug)]
pub(crate) struct Seeded {
    chance: Mutex<fastrand::Rng>,
    /// Of a hundred frames, so many are refused, lost, or stored without an acknowledgement.
    faults_percent: u32,
    off: AtomicBool,
}

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        // Every third run has a quiet log, so that crashes are also tried on their own.
        let faults_percent = if chance.u8(0..3) == 0 { 0 } else { chance.u32(1..30) };
        Self { chance: Mutex::new(chance), faults_percent, off: AtomicBool::new(false) }
    }

    /// From here on nothing goes wrong.
    pub(crate) fn switch_off(&self) {
        self.off.store(true, Ordering::Relaxed);
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> Option<T> {
        let quiet = self.off.load(Ordering::Relaxed);
        (!quiet).then(|| draw(&mut self.chance.lock().expect("drawing does not panic")))
    }
}

impl Chaos for Seeded {
    fn append(&self, _: Kind, _: u16) -> Fate {
        let drawn = self.draw(|chance| {
            let after = Duration::from_millis(chance.u64(0..4));
            if chance.u32(0..100) >= self.faults_percent {
                return Fate::Stored(after);
            }
            match chance.u8(0..3) {
                0 => Fate::Refused(after),
                1 => Fate::Unacknowledged,
                _ => Fate::Lost,
            }
        });
        drawn.unwrap_or(Fate::Stored(Duration::ZERO))
    }

    fn deliver(&self, _: Kind, _: u64) -> Delivery {
        let drawn = self.draw(|chance| {
            let slow = chance.u8(0..20) == 0;
            let delay = Duration::from_millis(if slow { chance.u64(0..500) } else { chance.u64(0..2) });
            Delivery { delay, copies: if chance.u8(0..10) == 0 { 2 } else { 1 } }
        });
        drawn.unwrap_or(Delivery { delay: Duration::ZERO, copies: 1 })
    }
}
