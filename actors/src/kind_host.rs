//! All partitions of one kind on this host, the one reader that feeds them, and their restarts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use shop_domain::{entity::Reply, id::Id, kind::Kind};
use shop_nats::log::{Identity, LogError, Record, SharedLog};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    counts::SharedCounts,
    entities::ApplyError,
    outbox::Logs,
    partition::{AttachError, Handle, Outlet, Pace, Partition, PartitionError},
    patience,
    snapshot::{SnapshotError, Snapshots, keeper::NewestSnapshot, restore},
    store::{SharedShelf, Store, StoreError},
    turn::{Role, Turn},
};

/// Records that wait for one partition. Small: the reader ahead of it buffers as well.
const PARTITION_BUFFER: usize = 64;
/// Panics at one sequence after which a partition is parked: a bug that repeats will not go away.
const PANICS_MAX: u32 = 3;
/// How long partitions may take to settle and to write their last checkpoints. Without the log
/// they cannot; what is cut off is repeated from the checkpoint before.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// One kind on this host.
#[derive(Debug)]
pub struct KindHost {
    /// Which kind.
    pub kind: Kind,
    /// The logs.
    pub log: SharedLog,
    /// Which log this kind has.
    pub identity: Identity,
    /// Which log each kind has.
    pub logs: Logs,
    /// Where checkpoints go.
    pub store: Arc<dyn Store>,
    /// Where snapshots are, if there are any.
    pub snapshots: Option<Snapshots>,
    /// Where answers go.
    pub replies: mpsc::Sender<Reply>,
    /// Where others see what is going on.
    pub view: watch::Sender<Arc<View>>,
    /// Whether it is this host's turn to send and to answer, for each partition.
    pub turns: Vec<Turn>,
}

/// What others see of a kind on this host.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its partitions, by number; a parked one is missing.
    pub partitions: BTreeMap<u16, PartitionView>,
    /// Partitions that are stopped until somebody mends the bug.
    pub parked: BTreeMap<u16, Parked>,
    /// The sequence up to which the log was read and handed to the partitions.
    pub dispatched: Option<watch::Receiver<u64>>,
    /// What the kind has done since it started.
    pub counts: SharedCounts,
}

impl View {
    /// The kind and each of its partitions, in JSON.
    pub fn describe(&self, kind: Kind) -> Value {
        let running = self.partitions.values().map(|PartitionView { handle, .. }| {
            let (settled, saved) = (*handle.settled.borrow(), *handle.saved.borrow());
            let role = match handle.turn.role() {
                Role::Owner => "owner",
                Role::Standby => "standby",
            };
            json!({ "partition": handle.number, "role": role, "settled": settled, "checkpoint": saved })
        });
        let parked = self.parked.iter().map(|(number, Parked { sequence, reason })| {
            json!({ "partition": number, "parked_at": sequence, "reason": reason })
        });
        let status = if self.parked.is_empty() { "ready" } else { "parked" };
        json!({ "kind": kind, "status": status, "partitions": running.chain(parked).collect::<Vec<_>>() })
    }
}

/// A partition that is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The sequence at which it stopped.
    pub sequence: u64,
    /// Why.
    pub reason: String,
}

/// What others see of a partition.
#[derive(Clone, Debug)]
pub struct PartitionView {
    /// What it knows and how far it is.
    pub handle: Handle,
    /// The sequence of the last record that was handed to it.
    pub assigned: Arc<AtomicU64>,
    /// Its checkpoint.
    pub shelf: SharedShelf,
    /// Its newest snapshot, as far as this host knows.
    pub snapshot: Arc<NewestSnapshot>,
}

/// Why a kind cannot be served any more.
#[derive(Debug, thiserror::Error)]
pub enum KindError {
    /// A partition does not start.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Checkpoints cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What it needs of a snapshot is not to be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A partition cannot go on.
    #[error(transparent)]
    Partition(PartitionError),
    /// What was begun could not be finished.
    #[error("{0} cannot start again: what it had begun does not come to an end")]
    Stuck(Kind),
    /// A task panicked that is not an entity.
    #[error("a task of {0} panicked: {1}")]
    Bug(Kind, JoinError),
}

/// How one attempt to run the partitions ended.
enum Ended {
    Stopped,
    Panicked { partition: u16, id: Id, sequence: u64, last: u64 },
}

type PartitionTasks = JoinSet<(u16, Result<(), PartitionError>)>;
type SettlerTasks = JoinSet<Result<(), StoreError>>;

/// Panics seen, by partition.
type Panics = BTreeMap<u16, Panicked>;

/// The last panic of a partition.
#[derive(Debug)]
struct Panicked {
    sequence: u64,
    /// How often it came at that sequence.
    times: u32,
    /// The sequence up to which it is to be looked for record by record.
    until: u64,
}

impl KindHost {
    /// Serves the kind until `stop`. A partition whose entity panics starts again from its
    /// checkpoint; one that panics at the same place again and again is parked. One whose checkpoint
    /// turns out to be damaged starts again from the log.
    pub async fn run(self, stop: CancellationToken) -> Result<(), KindError> {
        let mut panics = Panics::new();
        let mut parked = BTreeMap::new();
        loop {
            match self.attempt(&panics, &parked, &stop).await {
                Err(KindError::Store(error @ StoreError::Damaged(_))) if !stop.is_cancelled() => {
                    tracing::error!("{}: {error}", self.kind);
                }
                Err(error) => return Err(error),
                Ok(Ended::Stopped) => return Ok(self.store.flush()?),
                Ok(Ended::Panicked { partition, id, sequence, last }) => {
                    let before = panics.get(&partition).filter(|before| before.sequence == sequence);
                    let times = before.map_or(0, |before| before.times) + 1;
                    panics.insert(partition, Panicked { sequence, times, until: last });
                    if times >= PANICS_MAX {
                        let reason = format!("{} {id} panicked {times} times", self.kind);
                        tracing::error!("{}/{partition} is parked at sequence {sequence}: {reason}", self.kind);
                        parked.insert(partition, Parked { sequence, reason });
                    }
                }
            }
        }
    }

    async fn attempt(
        &self,
        panics: &Panics,
        parked: &BTreeMap<u16, Parked>,
        stop: &CancellationToken,
    ) -> Result<Ended, KindError> {
        let numbers = (0..self.identity.partitions).filter(|number| !parked.contains_key(number));
        let shelves = numbers.map(|number| Ok((number, self.store.shelf(number)?)));
        let shelves = shelves.collect::<Result<Vec<_>, StoreError>>()?;
        // A partition that starts again may have a checkpoint beyond what the log held at the first start.
        let furthest = furthest(&shelves, &self.identity)?;
        let Identity { first_sequence, last_sequence, .. } = patience::identity(&self.log, self.kind, furthest).await?;
        let identity = Identity { first_sequence, last_sequence, ..self.identity };
        let attempt = stop.child_token();
        let mut tasks = PartitionTasks::new();
        let mut settlers = SettlerTasks::new();
        let mut routes = BTreeMap::new();
        let counts = Arc::clone(&self.view.borrow().counts);
        let mut view = View { parked: parked.clone(), counts: Arc::clone(&counts), ..View::default() };
        let mut after = identity.last_sequence;
        for (number, shelf) in shelves {
            if let Some(snapshots) = &self.snapshots {
                restore::where_needed(snapshots, &self.log, (self.kind, number), &shelf, &identity).await?;
            }
            let attached = patience::attached(&self.log, self.kind, number, &shelf, &identity).await?;
            let cursor = attached.0.cursor;
            after = after.min(cursor);
            let assigned = Arc::new(AtomicU64::new(cursor));
            let pace = panics.get(&number).map_or(Pace::WhatIsThere, |panicked| Pace::RecordByRecord(panicked.until));
            let (log, logs) = (self.log.clone(), self.logs.clone());
            let turn = self.turns[usize::from(number)].clone();
            let outlet = Outlet { replies: self.replies.clone(), counts: Arc::clone(&counts), turn };
            let (partition, settler, handle) =
                Partition::new(self.kind, number, log, Arc::clone(&shelf), attached, logs, outlet);
            let (records, received) = mpsc::channel(PARTITION_BUFFER);
            let run = partition.run(received, pace, attempt.clone());
            tasks.spawn(async move { (number, run.await) });
            settlers.spawn(settler);
            routes.insert(number, (records, Arc::clone(&assigned)));
            view.partitions.insert(number, PartitionView { handle, assigned, shelf, snapshot: Arc::default() });
        }
        // What a log was cut off of is in the checkpoints, so nobody waits for it.
        let after = after.max(identity.first_sequence.saturating_sub(1));
        let (dispatched, dispatched_to) = watch::channel(after);
        view.dispatched = Some(dispatched_to);
        self.view.send_replace(Arc::new(view));

        let records = self.log.read(self.kind, identity.epoch, after);
        let ended = tokio::select! {
            biased;
            () = attempt.cancelled() => Ok(Ended::Stopped),
            Some(ended) = tasks.join_next() => self.ended(ended),
            error = failed(self.kind, &mut settlers) => Err(error),
            error = dispatch(records, &routes, &dispatched), if !routes.is_empty() => Err(error.into()),
        };
        attempt.cancel();
        drop(routes);
        match timeout(STOP_LIMIT, self.finish(tasks, settlers)).await {
            Ok(finished) => finished.and(ended),
            // A checkpoint may still be being written, which nobody may read before it is.
            Err(_) if !stop.is_cancelled() => Err(KindError::Stuck(self.kind)),
            Err(_) => {
                tracing::warn!("{} stops without a last checkpoint: the log does not take its messages", self.kind);
                ended
            }
        }
    }

    /// Waits until the partitions have written their last checkpoints.
    async fn finish(&self, mut tasks: PartitionTasks, mut settlers: SettlerTasks) -> Result<(), KindError> {
        while let Some(task) = tasks.join_next().await {
            let (_, outcome) = task.map_err(|error| KindError::Bug(self.kind, error))?;
            if let Err(error) = outcome {
                tracing::error!("{}: {error}", self.kind);
            }
        }
        while let Some(settler) = settlers.join_next().await {
            settler.map_err(|error| KindError::Bug(self.kind, error))??;
        }
        Ok(())
    }

    fn ended(&self, task: Result<(u16, Result<(), PartitionError>), JoinError>) -> Result<Ended, KindError> {
        match task.map_err(|error| KindError::Bug(self.kind, error))? {
            (_, Ok(())) => Ok(Ended::Stopped),
            (partition, Err(PartitionError::Apply(ApplyError::Panicked { kind, id, sequence, last }))) => {
                tracing::error!("{kind} {id} panicked at sequence {sequence}; starting again from the checkpoint");
                self.view.borrow().counts.panics.add(1);
                Ok(Ended::Panicked { partition, id, sequence, last })
            }
            (_, Err(PartitionError::Apply(ApplyError::Store(error)) | PartitionError::Store(error))) => {
                Err(error.into())
            }
            (_, Err(error @ PartitionError::Logic { .. })) => Err(KindError::Partition(error)),
        }
    }
}

/// The sequence up to which the log goes at least, if it is the one that the checkpoints are of.
fn furthest(shelves: &[(u16, SharedShelf)], identity: &Identity) -> Result<u64, StoreError> {
    let mut furthest = 0;
    for (_, shelf) in shelves {
        let meta = shelf.meta()?.filter(|meta| meta.epoch == identity.epoch);
        furthest = furthest.max(meta.map_or(0, |meta| meta.cursor));
    }
    Ok(furthest)
}

/// Returns when a settler cannot go on; one that has nothing to do any more is none of those.
async fn failed(kind: Kind, settlers: &mut SettlerTasks) -> KindError {
    while let Some(settler) = settlers.join_next().await {
        match settler {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(panic) => return KindError::Bug(kind, panic),
        }
    }
    std::future::pending().await
}

type Routes = BTreeMap<u16, (mpsc::Sender<Record>, Arc<AtomicU64>)>;

/// Hands every record to its partition; returns when the log cannot be read any more.
async fn dispatch(
    mut records: mpsc::Receiver<Result<Record, LogError>>,
    routes: &Routes,
    dispatched: &watch::Sender<u64>,
) -> LogError {
    loop {
        let record = match records.recv().await {
            Some(Ok(record)) => record,
            Some(Err(error)) => return error,
            // The reader ends only after its last error, or with the process.
            None => std::future::pending().await,
        };
        let sequence = record.sequence;
        // A parked partition has no route: it reads on from its checkpoint once it is mended.
        if let Some((partition, assigned)) = routes.get(&record.partition)
            && partition.send(record).await.is_ok()
        {
            assigned.store(sequence, Ordering::Release);
        }
        dispatched.send_replace(sequence);
    }
}

#[cfg(test)]
mod tests;
