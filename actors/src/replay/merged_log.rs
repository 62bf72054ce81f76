//! Logs as one: every record of some kinds from the first one on, or of each partition from behind
//! its snapshot on, in the order of their times, up to where the logs ended when they were looked at.
//! Read-only.

use std::{collections::BTreeMap, time::Duration};

use shop_domain::kind::Kind;
use shop_nats::log::{Identity, LogError, Logs, PartitionId, Record, SharedLog};
use tokio::{sync::mpsc, time::timeout};

/// How long a record that the log says it has may take to arrive. Longer than a reader needs to
/// be made anew a few times.
const RECORD_WAIT_MAX: Duration = Duration::from_secs(30);

/// The records of some kinds.
#[derive(Debug)]
pub struct MergedLog {
    log: SharedLog,
    tracks: Vec<Track>,
}

/// One kind's part of it.
#[derive(Debug)]
struct Track {
    kind: Kind,
    identity: Identity,
    records: mpsc::Receiver<Result<Record, LogError>>,
    /// What is known already of some partitions: up to there.
    known: BTreeMap<u16, u64>,
    /// What was read and not handed out.
    next: Option<Record>,
    /// The sequence up to which records were read.
    read: u64,
    /// The sequence up to which records are wanted.
    end: u64,
}

/// Why a merged log does not go on.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that should be there does not come.
    #[error("the log of {kind} goes to sequence {end}, but nothing came after {after} within {RECORD_WAIT_MAX:?}")]
    Silent {
        /// Whose log.
        kind: Kind,
        /// The last sequence that was read.
        after: u64,
        /// The last sequence of the log.
        end: u64,
    },
    /// Records were taken out of the log: what follows from them cannot be told.
    #[error("the log of {kind} has nothing between sequence {after} and {found}: it cannot be replayed")]
    Gap {
        /// Whose log.
        kind: Kind,
        /// The last sequence before the gap.
        after: u64,
        /// The first one behind it.
        found: u64,
    },
}

impl MergedLog {
    /// The logs of these kinds from their beginning, up to where they end now.
    pub async fn open(log: SharedLog, kinds: &[Kind]) -> Result<Self, TapeError> {
        let mut logs = Logs::new();
        for kind in kinds {
            logs.insert(*kind, log.identity(*kind).await?);
        }
        Ok(Self::behind(log, &logs, &BTreeMap::new()))
    }

    /// What these logs hold, up to where they end.
    pub fn of_all_that_is_there(log: SharedLog, logs: &Logs) -> Self {
        let known = logs.keys().map(|kind| ((*kind, 0), 0)).collect();
        Self::behind(log, logs, &known)
    }

    /// These logs from behind what is known already of their partitions. A log of which nothing is
    /// known is read from its beginning.
    pub fn behind(log: SharedLog, logs: &Logs, known: &BTreeMap<PartitionId, u64>) -> Self {
        let track = |(kind, identity): (&Kind, &Identity)| {
            let of_kind = known.iter().filter(|((of, _), _)| of == kind);
            let known: BTreeMap<u16, u64> = of_kind.map(|((_, partition), cursor)| (*partition, *cursor)).collect();
            // Where little comes to a partition, the log may have been cut far behind what is known of it.
            let cut_off = if known.is_empty() { 0 } else { identity.first_sequence - 1 };
            let read = known.values().copied().min().unwrap_or(0).max(cut_off);
            let records = log.read(*kind, identity.epoch, read);
            Track { kind: *kind, identity: *identity, records, known, next: None, read, end: identity.last_sequence }
        };
        Self { tracks: logs.iter().map(track).collect(), log }
    }

    /// Goes on to where the logs end now.
    pub async fn extend(&mut self) -> Result<(), TapeError> {
        for track in &mut self.tracks {
            track.end = self.log.last_sequence(track.kind).await?;
        }
        Ok(())
    }

    /// Goes on for ever, waiting for what comes.
    pub fn follow(&mut self) {
        self.tracks.iter_mut().for_each(|track| track.end = u64::MAX);
    }

    /// The record that the logs took next; none at the end.
    pub async fn next(&mut self) -> Result<Option<(Kind, Record)>, TapeError> {
        for track in &mut self.tracks {
            track.fill().await?;
        }
        let time = |track: &Track| track.next.as_ref().map(|record| record.time);
        let earliest = self.tracks.iter_mut().filter(|track| track.next.is_some()).min_by_key(|track| time(track));
        Ok(earliest.and_then(|track| Some((track.kind, track.next.take()?))))
    }

    /// Which logs these are.
    pub fn logs(&self) -> Logs {
        self.tracks.iter().map(|track| (track.kind, track.identity)).collect()
    }

    /// How many records there are to read.
    pub fn remaining(&self) -> u64 {
        self.tracks.iter().map(|track| track.end.saturating_sub(track.read)).sum()
    }

    /// For every kind, the sequence up to which it is read.
    pub fn ends(&self) -> impl Iterator<Item = (Kind, u64)> {
        self.tracks.iter().map(|track| (track.kind, track.end))
    }
}

impl Track {
    /// Reads the next record, if there is to be one.
    async fn fill(&mut self) -> Result<(), TapeError> {
        let (kind, end) = (self.kind, self.end);
        while self.next.is_none() && self.read < end {
            let after = self.read;
            let received = if end == u64::MAX {
                self.records.recv().await
            } else {
                let received = timeout(RECORD_WAIT_MAX, self.records.recv()).await;
                received.map_err(|_| TapeError::Silent { kind, after, end })?
            };
            let record = received.ok_or(TapeError::Silent { kind, after, end })??;
            if record.sequence > after + 1 {
                return Err(TapeError::Gap { kind, after, found: record.sequence });
            }
            // A reader may bring a record twice.
            if record.sequence > after {
                self.read = record.sequence;
                let is_known = self.known.get(&record.partition).is_some_and(|cursor| record.sequence <= *cursor);
                self.next = Some(record).filter(|_| !is_known);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shop_nats::memory::{Calm, MemoryLog};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tape_ends_where_the_logs_ended_and_can_go_on() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        log.store(Kind::Wallet, 0, "a".into());
        tokio::time::advance(Duration::from_millis(2)).await;
        log.store(Kind::Order, 0, "b".into());
        tokio::time::advance(Duration::from_millis(2)).await;
        log.store(Kind::Wallet, 0, "c".into());
        let mut merged_log = MergedLog::open(Arc::new(log.clone()), &Kind::ALL).await.unwrap();
        log.store(Kind::Product, 0, "d".into());
        let rest = async |merged_log: &mut MergedLog| {
            let mut payloads = Vec::new();
            while let Some((_, record)) = merged_log.next().await.unwrap() {
                payloads.push(record.payload);
            }
            payloads
        };
        assert_eq!(rest(&mut merged_log).await, ["a", "b", "c"]);
        merged_log.extend().await.unwrap();
        assert_eq!(rest(&mut merged_log).await, ["d"]);
    }
}
