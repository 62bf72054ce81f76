//! Not faster than need be: whoever writes or checks a snapshot does so beside orders.

use std::time::{Duration, Instant};

/// Bytes of a snapshot per second, compressed. Orders lose about a tenth of one processor to this while a snapshot is written, and a
/// partition of a million orders is done within a minute.
const BYTES_PER_SECOND: usize = 16 * 1024 * 1024;
/// So many bytes are done at once: 16 ms.
const BYTES_AT_ONCE: usize = 256 * 1024;

/// Keeps a thread for blocking work from being faster than it may be.
#[derive(Debug)]
pub struct Throttle {
    since: Instant,
    bytes: usize,
    is_limited: bool,
}

impl Throttle {
    /// As fast as may be beside orders.
    pub fn beside_orders() -> Self {
        Self { since: Instant::now(), bytes: 0, is_limited: true }
    }

    /// As fast as can be: somebody waits.
    pub fn at_once() -> Self {
        Self { is_limited: false, ..Self::beside_orders() }
    }

    /// So many bytes more are done.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.is_limited && self.bytes >= BYTES_AT_ONCE {
            let due = Duration::from_secs_f64(self.bytes as f64 / BYTES_PER_SECOND as f64);
            std::thread::sleep(due.saturating_sub(self.since.elapsed()));
            *self = Self::beside_orders();
        }
    }
}
