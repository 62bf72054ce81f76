//! Whether a host has caught up with the log of a kind, so that it may own partitions of it. It has not when it
//! begins, when its partitions had to begin again far behind, and when the others have not heard of it for a while.

use std::{sync::Arc, time::Duration};

use shop_domain::kind::Kind;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::kind_host::{
    View, caught_up,
    read_index::{End, ReadIndex},
};

/// How long partitions that begin again may take to catch up while the host goes on owning them: handing them over
/// would not be faster.
const RESTART_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether the log is read on.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the log may go on without a record of it coming, or say nothing at all: longer than an election takes, and
/// than a reader needs to be made anew a few times.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Pause before a log that did not say where it ends is asked again.
const RETRY: Duration = Duration::from_millis(250);

/// Where it is said whether a host is ready: after how many absences it has caught up, if it has.
pub type Ready = Option<u64>;

/// What a host's readiness depends on.
#[derive(Debug)]
pub struct Readiness {
    /// Of which kind.
    pub kind: Kind,
    /// What its partitions do.
    pub view: watch::Receiver<Arc<View>>,
    /// Where the log ends.
    pub read_index: ReadIndex,
    /// How often the others have not heard of it for so long that they did not count it any more.
    pub absences: watch::Receiver<u64>,
    /// Where it is said.
    pub ready: watch::Sender<Ready>,
}

impl Readiness {
    /// Says that the host has caught up, and then whenever that changes, until it is of no interest any more.
    pub fn keep(self) -> impl Future<Output = ()> + Send {
        self.ready.send_replace(Some(0));
        self.watch()
    }

    async fn watch(mut self) {
        loop {
            let Some(why) = self.lost().await else { return };
            tracing::warn!("{}: not ready any more: {why}; catching up", self.kind);
            self.ready.send_replace(None);
            let absences = *self.absences.borrow_and_update();
            let end = self.end().await;
            caught_up(self.view.clone(), end).await;
            tracing::info!("{}: ready again", self.kind);
            self.ready.send_replace(Some(absences));
        }
    }

    /// Returns why it has to catch up again; nothing when it has ended.
    async fn lost(&mut self) -> Option<&'static str> {
        let view = self.view.clone();
        loop {
            tokio::select! {
                absent = self.absences.changed() => return absent.ok().map(|()| "it was away for a while"),
                begun = self.view.changed() => {
                    begun.ok()?;
                    if timeout(RESTART_LIMIT, caught_up(self.view.clone(), 0)).await.is_err() {
                        return Some("its partitions began again far behind");
                    }
                }
                why = stalled(&view, &self.read_index) => return Some(why),
            }
        }
    }

    async fn end(&self) -> u64 {
        loop {
            match self.read_index.end().await {
                End::At(last) => return last,
                // Under another layout the host begins anew, and never gets ready under this one.
                End::OtherLog | End::Unknown => sleep(RETRY).await,
            }
        }
    }
}

/// Returns why nothing that is new in the log reaches the partitions, once that is so for long.
async fn stalled(view: &watch::Receiver<Arc<View>>, read_index: &ReadIndex) -> &'static str {
    let (mut read, mut since, mut answered) = (None, Instant::now(), Instant::now());
    loop {
        sleep(LOOK_INTERVAL).await;
        // Before the log is asked: it is behind only for what was there then.
        let now = dispatched(&view.borrow());
        match read_index.end().await {
            End::At(last) => {
                answered = Instant::now();
                if now.is_none_or(|now| now >= last) || now != read {
                    (read, since) = (now, answered);
                } else if since.elapsed() > STALL_MAX {
                    return "its log goes on, and nothing of that comes";
                }
            }
            End::Unknown if answered.elapsed() > STALL_MAX => return "its log does not answer",
            // The reader ends at another log.
            End::Unknown | End::OtherLog => {}
        }
    }
}

/// Up to where the log was read, if anything of it is.
fn dispatched(view: &View) -> Option<u64> {
    let is_read = !view.partitions.is_empty();
    view.dispatched.as_ref().filter(|_| is_read).map(|dispatched| *dispatched.borrow())
}
