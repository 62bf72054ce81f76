//! The partitions of one kind that this host holds, the one reader that feeds them, and their restarts.

pub mod attach_retry;
mod dispatch;
pub mod read_index;
pub mod readiness;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures::future::{FusedFuture, FutureExt, pending};
use shop_domain::{entity::Reply, id::Id, kind::Kind};
use shop_nats::log::{Identity, LogError, Logs, SharedLog};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::dispatch::{Routes, dispatch};
pub use self::view::{Parked, PartitionView, View, caught_up};
use crate::{
    admissions::{Admissions, Known},
    partition::{
        AttachError, Outlet, Partition, PartitionError, Throttle, entities::ApplyError, role::RoleWatch,
        settle::Settled,
    },
    snapshot::{SnapshotError, Snapshots},
    store::{SharedPartitionStore, Store, StoreError},
};

/// Records that wait for one partition. Small: the reader ahead of it buffers as well.
const PARTITION_BUFFER: usize = 64;
/// Panics at one sequence after which a partition is parked: a bug that repeats will not go away.
const PANICS_MAX: u32 = 3;
/// How long partitions may take to settle and to write their last checkpoints. Without the log
/// they cannot; what is cut off is repeated from the checkpoint before.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// How long a partition may take to say why it has ended whose messages are not sent any more.
const UNSENT_WAIT: Duration = Duration::from_millis(250);

/// Pause before partitions that could not be taken up beside others are tried again.
const TAKE_UP_RETRY: Duration = Duration::from_secs(2);

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
    pub roles: Vec<RoleWatch>,
    /// Which partitions it is to hold.
    pub held: watch::Receiver<BTreeSet<u16>>,
    /// Where the door is told what became of what it appends, if there is one.
    pub admissions: Option<Arc<Admissions>>,
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
    /// What sends its messages to other logs has panicked: nothing would be answered any more.
    #[error("the messages of {0} to other logs are not sent any more: what sends them has ended")]
    Unsent(Kind),
    /// A task panicked that is not an entity.
    #[error("a task of {0} panicked: {1}")]
    Bug(Kind, JoinError),
}

impl KindError {
    /// Whether it may come of the kind having been cut into other partitions, which this host has missed: its log is
    /// another one then, its snapshots are gone, and nothing that it still sends is taken.
    pub const fn may_come_of_a_cut(&self) -> bool {
        match self {
            Self::Attach(_) | Self::Log(_) | Self::Snapshot(_) | Self::Stuck(_) => true,
            Self::Store(_) | Self::Partition(_) | Self::Unsent(_) | Self::Bug(..) => false,
        }
    }

    /// Whether its log, or a checkpoint, says that a partition behaves in a way that only a newer program knows.
    pub const fn needs_a_newer_program(&self) -> bool {
        matches!(self, Self::Attach(AttachError::Logic(..)) | Self::Partition(PartitionError::Logic { .. }))
    }

    /// Whether it ends the host also when it befalls partitions that are only to run beside others. What keeps
    /// one from the log or from its snapshots would keep the next host from them as well.
    fn ends_the_host(&self) -> bool {
        match self {
            Self::Attach(_) | Self::Log(_) | Self::Snapshot(_) | Self::Stuck(_) => false,
            Self::Store(error) => !matches!(error, StoreError::Damaged(_)),
            Self::Partition(_) | Self::Unsent(_) | Self::Bug(..) => true,
        }
    }
}

/// How one attempt to run the partitions ended.
enum Ended {
    Stopped,
    /// The host is to hold other partitions, these.
    Changed(BTreeSet<u16>),
    Panicked {
        partition: u16,
        id: Id,
        sequence: u64,
        last: u64,
    },
}

type PartitionTasks = JoinSet<(u16, Result<(), PartitionError>)>;
type SettlerTasks = JoinSet<Result<Settled, StoreError>>;

/// Partitions that were started.
struct Running {
    tasks: PartitionTasks,
    settlers: SettlerTasks,
    routes: Routes,
    view: View,
    /// The sequence after which the first of them goes on.
    after: u64,
    /// What they are known to let in.
    known: BTreeMap<u16, Known>,
}

/// Where partitions that were started are seen.
#[derive(Clone, Copy)]
struct Sight<'a> {
    seen_in: &'a watch::Sender<Arc<View>>,
    /// None of those that only catch up: what they read, the others have read.
    admissions: Option<&'a Admissions>,
}

/// What went wrong in this process.
#[derive(Debug, Default)]
struct Troubles {
    panics: BTreeMap<u16, Panicked>,
    parked: BTreeMap<u16, Parked>,
}

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
        let mut troubles = Troubles::default();
        // Only those that have caught up beside the others join them, whatever it is to hold meanwhile.
        let mut holding = self.held.borrow().clone();
        loop {
            let numbers = troubles.wanted(&holding);
            let change = async |stop| self.change(&numbers, &troubles, stop).await;
            let sight = Sight { seen_in: &self.view, admissions: self.admissions.as_deref() };
            match self.attempt(&numbers, &troubles, sight, change, &stop).await {
                Err(KindError::Store(error @ StoreError::Damaged(_))) if !stop.is_cancelled() => {
                    tracing::error!("{}: {error}", self.kind);
                }
                Err(error) => return Err(error),
                Ok(Ended::Stopped) => return Ok(self.store.flush()?),
                Ok(Ended::Changed(wanted)) => holding = wanted,
                Ok(Ended::Panicked { partition, id, sequence, last }) => {
                    if troubles.panicked(partition, sequence, last) >= PANICS_MAX {
                        let reason = format!("{} {id} panicked {PANICS_MAX} times", self.kind);
                        tracing::error!("{}/{partition} is parked at sequence {sequence}: {reason}", self.kind);
                        troubles.parked.insert(partition, Parked { sequence, reason });
                    }
                }
            }
        }
    }

    /// Returns which other partitions than these this host is to hold, once those that are new to it have caught up
    /// with the log beside them; or when it is stopped. Whatever keeps the new ones from that, these go on.
    async fn change(
        &self,
        running: &BTreeSet<u16>,
        troubles: &Troubles,
        stop: CancellationToken,
    ) -> Result<BTreeSet<u16>, KindError> {
        let mut held = self.held.clone();
        loop {
            let wanted = tokio::select! {
                Ok(held) = held.wait_for(|held| troubles.wanted(held) != *running) => troubles.wanted(&held),
                () = stop.cancelled() => return Ok(running.clone()),
            };
            let new = &wanted - running;
            if !new.is_empty() {
                tracing::info!("{}: catching up with {new:?}", self.kind);
            }
            let given_up = async {
                let is_undecided = held.wait_for(|held| troubles.wanted(held) != wanted).await.is_err();
                if is_undecided {
                    // Nobody will say so any more.
                    pending().await
                }
            };
            match self.catch_up(&new, troubles, given_up, &stop).await {
                Ok(true) => {
                    tracing::info!("{}: holding {wanted:?} from now on", self.kind);
                    return Ok(wanted);
                }
                Ok(false) => {}
                Err(error) if error.ends_the_host() => return Err(error),
                Err(error) => {
                    tracing::error!("{}: cannot take up {new:?}, trying again: {error}", self.kind);
                    tokio::select! {
                        () = sleep(TAKE_UP_RETRY) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Lets partitions catch up with the log, and stop there. Not done when it is `given_up` before, or stopped.
    async fn catch_up(
        &self,
        numbers: &BTreeSet<u16>,
        troubles: &Troubles,
        given_up: impl Future<Output = ()>,
        stop: &CancellationToken,
    ) -> Result<bool, KindError> {
        if numbers.is_empty() {
            return Ok(true);
        }
        let (view, seen) = watch::channel(Arc::default());
        let prepared = async |_| {
            caught_up(seen, 0).await;
            Ok(numbers.clone())
        };
        let catching_up = stop.child_token();
        let sight = Sight { seen_in: &view, admissions: None };
        let mut attempt = pin!(self.attempt(numbers, troubles, sight, prepared, &catching_up));
        let ended = tokio::select! {
            ended = &mut attempt => ended,
            () = given_up => {
                catching_up.cancel();
                attempt.await
            }
        };
        // A panic meanwhile comes again, and is dealt with, when all run together.
        ended.map(|ended| !matches!(ended, Ended::Stopped))
    }

    /// Runs some partitions until `stop`, until one of them cannot go on, or until `change` is done.
    async fn attempt(
        &self,
        numbers: &BTreeSet<u16>,
        troubles: &Troubles,
        Sight { seen_in, admissions }: Sight<'_>,
        change: impl AsyncFnOnce(CancellationToken) -> Result<BTreeSet<u16>, KindError>,
        stop: &CancellationToken,
    ) -> Result<Ended, KindError> {
        let attempt = stop.child_token();
        let Running { mut tasks, mut settlers, routes, view, after, known } =
            match self.start(numbers, troubles, &attempt).await {
                Err(_) if stop.is_cancelled() => return Ok(Ended::Stopped),
                started => started?,
            };
        let (dispatched, dispatched_to) = watch::channel(after);
        seen_in.send_replace(Arc::new(View { dispatched: Some(dispatched_to), ..view }));

        let records = self.log.read(self.kind, self.identity.epoch, after);
        let mut change = pin!(change(attempt.clone()).fuse());
        // A door wants to know of its frames also where all partitions are held by others.
        let (is_fed, cut) = (!routes.is_empty() || admissions.is_some(), (self.kind, self.identity.partitions));
        if let Some(admissions) = admissions {
            admissions.read_behind(after, known);
        }
        let ended = tokio::select! {
            biased;
            () = attempt.cancelled() => Ok(Ended::Stopped),
            Some(ended) = tasks.join_next() => self.ended(ended),
            error = failed(self.kind, &mut settlers) => Err(error),
            changed = &mut change => changed.map(Ended::Changed),
            error = dispatch(records, &routes, cut, &dispatched, admissions), if is_fed => Err(error.into()),
        };
        attempt.cancel();
        drop(routes);
        let finish = async {
            // What catches up beside them must not go on alone.
            let beside = if change.is_terminated() { Ok(()) } else { change.await.map(drop) };
            self.finish(tasks, settlers).await.and(beside)
        };
        match timeout(STOP_LIMIT, finish).await {
            Ok(finished) => finished.and(ended),
            // A checkpoint may still be being written, which nobody may read before it is.
            Err(_) if !stop.is_cancelled() => Err(KindError::Stuck(self.kind)),
            Err(_) => {
                tracing::warn!("{} stops without a last checkpoint: the log does not take its messages", self.kind);
                ended
            }
        }
    }

    /// Starts some partitions from their checkpoints.
    async fn start(
        &self,
        numbers: &BTreeSet<u16>,
        Troubles { panics, parked }: &Troubles,
        attempt: &CancellationToken,
    ) -> Result<Running, KindError> {
        let partition_stores = numbers.iter().map(|number| Ok((*number, self.store.partition(*number)?)));
        let partition_stores = partition_stores.collect::<Result<Vec<_>, StoreError>>()?;
        // A partition that starts again may have a checkpoint beyond what the log held at the first start.
        let furthest = furthest(&partition_stores, &self.identity)?;
        let Identity { epoch, first_sequence, last_sequence, .. } =
            attach_retry::identity(&self.log, self.kind, furthest, attempt).await?;
        if epoch != self.identity.epoch {
            // Cut into other partitions since this host began: where it begins now says nothing of the log as it was.
            let reason = format!("its epoch is {epoch:016x} instead of {:016x}", self.identity.epoch);
            return Err(LogError::OtherLog { kind: self.kind, reason }.into());
        }
        let identity = Identity { first_sequence, last_sequence, ..self.identity };
        let mut tasks = PartitionTasks::new();
        let mut settlers = SettlerTasks::new();
        let (mut routes, mut known) = (Routes::new(), BTreeMap::new());
        let counts = Arc::clone(&self.view.borrow().counts);
        let mut after = identity.last_sequence;
        let mut view = View { began_at: after, parked: parked.clone(), counts: Arc::clone(&counts), ..View::default() };
        for (number, partition_store) in partition_stores {
            let place = (self.kind, number);
            if let Some(snapshots) = &self.snapshots {
                attach_retry::restored(snapshots, &self.log, place, &partition_store, &identity, attempt).await?;
            }
            let attached = attach_retry::attached(&self.log, place, &partition_store, &identity, attempt).await?;
            let cursor = attached.0.cursor;
            after = after.min(cursor);
            known.insert(number, Known { cursor, links: attached.0.links.clone() });
            let assigned = Arc::new(AtomicU64::new(cursor));
            let throttle =
                panics.get(&number).map_or(Throttle::WhatIsThere, |panicked| Throttle::RecordByRecord(panicked.until));
            let (log, logs) = (self.log.clone(), self.logs.clone());
            let role = self.roles[usize::from(number)].clone();
            let outlet = Outlet { replies: self.replies.clone(), counts: Arc::clone(&counts), role };
            let (partition, settler, handle) =
                Partition::new(self.kind, number, log, Arc::clone(&partition_store), attached, logs, outlet);
            let (records, received) = mpsc::channel(PARTITION_BUFFER);
            let run = partition.run(received, throttle, attempt.clone());
            tasks.spawn(async move { (number, run.await) });
            settlers.spawn(settler);
            routes.insert(number, (records, Arc::clone(&assigned)));
            view.partitions
                .insert(number, PartitionView { handle, assigned, partition_store, snapshot: Arc::default() });
        }
        // What a log was cut off of is in the checkpoints, so nobody waits for it.
        let after = after.max(identity.first_sequence.saturating_sub(1));
        Ok(Running { tasks, settlers, routes, view, after, known })
    }

    /// Waits until all partitions have written their last checkpoints, whatever becomes of one of them: who starts
    /// again must not find another one at work on what it reads.
    async fn finish(&self, mut tasks: PartitionTasks, mut settlers: SettlerTasks) -> Result<(), KindError> {
        let mut outcome = Ok(());
        while let Some(task) = tasks.join_next().await {
            match task {
                Ok((_, Ok(()))) => {}
                Ok((_, Err(error))) => tracing::error!("{}: {error}", self.kind),
                Err(error) if error.is_cancelled() => {}
                Err(panic) => outcome = outcome.and(Err(KindError::Bug(self.kind, panic))),
            }
        }
        while let Some(settler) = settlers.join_next().await {
            if settler.as_ref().is_err_and(JoinError::is_cancelled) {
                continue;
            }
            let settled = settler.map_err(|panic| KindError::Bug(self.kind, panic));
            // What is sent ends with its partition.
            outcome = outcome.and(settled.and_then(|settled| Ok(settled.map(drop)?)));
        }
        outcome
    }

    fn ended(&self, task: Result<(u16, Result<(), PartitionError>), JoinError>) -> Result<Ended, KindError> {
        // Only the end of the process cancels one.
        if task.as_ref().is_err_and(JoinError::is_cancelled) {
            return Ok(Ended::Stopped);
        }
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

impl Troubles {
    /// Of the partitions that a host is to hold, those that it can run.
    fn wanted(&self, held: &BTreeSet<u16>) -> BTreeSet<u16> {
        held.iter().filter(|number| !self.parked.contains_key(number)).copied().collect()
    }

    /// Notes a panic; how many there were at that place.
    fn panicked(&mut self, partition: u16, sequence: u64, last: u64) -> u32 {
        let before = self.panics.get(&partition).filter(|before| before.sequence == sequence);
        let times = before.map_or(0, |before| before.times) + 1;
        self.panics.insert(partition, Panicked { sequence, times, until: last });
        times
    }
}

/// The sequence up to which the log goes at least, if it is the one that the checkpoints are of.
fn furthest(partition_stores: &[(u16, SharedPartitionStore)], identity: &Identity) -> Result<u64, StoreError> {
    let mut furthest = 0;
    for (_, partition_store) in partition_stores {
        let meta = partition_store.meta()?.filter(|meta| meta.epoch == identity.epoch);
        furthest = furthest.max(meta.map_or(0, |meta| meta.cursor));
    }
    Ok(furthest)
}

/// Returns when a settler cannot go on; one that has nothing to do any more is none of those.
async fn failed(kind: Kind, settlers: &mut SettlerTasks) -> KindError {
    while let Some(settler) = settlers.join_next().await {
        match settler {
            Ok(Ok(Settled::All)) => {}
            Ok(Ok(Settled::Unsent)) => {
                // If only because its partition has ended, that is known in a moment.
                sleep(UNSENT_WAIT).await;
                return KindError::Unsent(kind);
            }
            Ok(Err(error)) => return error.into(),
            Err(error) if error.is_cancelled() => {}
            Err(panic) => return KindError::Bug(kind, panic),
        }
    }
    pending().await
}

#[cfg(test)]
mod tests;
