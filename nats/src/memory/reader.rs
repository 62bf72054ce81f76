//! A reader of the logs in memory: it is lost, late and made anew as one on a nats-server is, and believes as little.

use std::time::Duration;

use shop_domain::kind::Kind;
use tokio::{sync::mpsc, time::sleep};

use super::{Delivery, MemoryLog};
use crate::{
    log::{LogError, Record},
    stream::layout::Standing,
};

/// How long a reader waits that does not know what to make of a record.
const RETRY: Duration = Duration::from_millis(20);

/// Reads the log of that epoch, from behind `after` on.
pub(crate) struct Reader {
    log: MemoryLog,
    kind: Kind,
    epoch: u64,
    after: u64,
    /// Whether it was made anew since the last record.
    is_new: bool,
    /// Whether the last record was appended under a later layout, which may have come into force since.
    is_behind_later: bool,
}

impl Reader {
    pub(crate) const fn new(log: MemoryLog, kind: Kind, epoch: u64, after: u64) -> Self {
        Self { log, kind, epoch, after, is_new: true, is_behind_later: false }
    }

    pub(crate) async fn run(mut self, records: mpsc::Sender<Result<Record, LogError>>) {
        let mut appended = {
            let logs = self.log.logs();
            let log = logs.get(&self.kind).expect("every kind has a log");
            log.appended.observe(log.last_sequence())
        };
        loop {
            let has_more = async { appended.wait_for(|last| *last > self.after).await.is_ok() };
            tokio::select! {
                biased;
                () = records.closed() => return,
                more = has_more => if !more { return },
            }
            let (record, copies) = match self.next().await {
                Ok(Some(read)) => read,
                Ok(None) => {
                    self.is_new = true;
                    continue;
                }
                Err(error) => {
                    let _nobody_reads = records.send(Err(error)).await;
                    return;
                }
            };
            for _ in 0..copies {
                if records.send(Ok(record.clone())).await.is_err() {
                    return;
                }
            }
            self.after = record.sequence;
        }
    }

    /// The next record, and how often it comes; none if the reader is lost.
    async fn next(&mut self) -> Result<Option<(Record, usize)>, LogError> {
        let (kind, log) = (self.kind, &self.log);
        let other = |reason: String| LogError::OtherLog { kind, reason };
        if std::mem::take(&mut self.is_new) {
            log.thawed().await;
            log.verify(kind, self.epoch)?;
        }
        let found = log.record_at(kind, self.after + 1);
        let (generation, record) = found.ok_or_else(|| other(format!("sequence {} is missing", self.after + 1)))?;
        let (delay, copies) = match log.chaos.deliver(kind, &record) {
            Delivery::Comes { delay, copies } => (delay, copies.max(1)),
            Delivery::ReaderLost(pause) => (pause, 0),
            Delivery::Failed => return Err(other(format!("it does not go on after {}", self.after))),
        };
        if delay > Duration::ZERO {
            sleep(delay).await;
        }
        log.thawed().await;
        if copies == 0 {
            return Ok(None);
        }
        let own = log.own_generation();
        let is_later = generation > own;
        if is_later || self.is_behind_later {
            match Standing::of(own, log.generation(), generation, &record.payload) {
                Standing::Counts => {}
                Standing::CutAnew => {
                    return Err(other(format!("from sequence {} on it is cut into other partitions", record.sequence)));
                }
                Standing::Unknown => {
                    sleep(RETRY).await;
                    return Ok(None);
                }
            }
        }
        self.is_behind_later = is_later;
        Ok(Some((record, copies)))
    }
}
