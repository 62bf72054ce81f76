//! The newest snapshot of a partition in numbers, for whoever looks at a host.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use super::Kept;

/// The newest snapshot of a partition, in numbers; all 0 when there is none, or another host writes them.
#[derive(Debug, Default)]
pub struct NewestSnapshot {
    written_unix_s: AtomicU64,
    /// How large it is.
    pub bytes: AtomicU64,
    /// The sequence up to which it goes.
    pub sequence: AtomicU64,
}

impl NewestSnapshot {
    pub(crate) fn set(&self, Kept { name, bytes, written }: Kept) {
        let unix = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.bytes.store(bytes, Relaxed);
        self.sequence.store(name.complete_to, Relaxed);
        self.written_unix_s.store(unix.as_secs(), Relaxed);
    }

    /// It is no business of this host any more.
    pub(crate) fn clear(&self) {
        for number in [&self.written_unix_s, &self.bytes, &self.sequence] {
            number.store(0, Relaxed);
        }
    }

    /// How long ago it was written, if there is one.
    pub fn age(&self) -> Option<Duration> {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(self.written_unix_s.load(Relaxed));
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        (written > SystemTime::UNIX_EPOCH).then_some(age)
    }
}
