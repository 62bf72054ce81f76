//! When snapshots are written: every so many records or minutes, and when a host stops. One at a time for each
//! kind, beside the partitions, of checkpoints that these have written anyway; of each partition by its owner.
//! And when the log is cut behind them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::Acquire},
    time::Duration,
};

use shop_domain::kind::Kind;
use shop_nats::log::{Identity, SharedLog};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    kind_host::{PartitionView, View},
    partition::role::Role,
    snapshot::{
        Kept, SnapshotError, Snapshots, Throttle,
        retention::{self, Retention},
    },
    store::{CheckpointView, Item, ItemsError, Meta},
};

/// How often is looked whether a snapshot is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after one that could not be written: what is wrong with an object store takes its time.
const RETRY: Duration = Duration::from_secs(30);
/// How long a stopping host may take for its last snapshots. What is cut off was not needed: the log
/// still holds it.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// A stopping host leaves a snapshot if it saves replaying so many records at least, as a part of all
/// items: it takes far longer to replay a record than to write an item.
const ITEMS_PER_RECORD: u64 = 10;

/// How often, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// After so many records of the kind's log.
    pub records: u64,
    /// After so long, if there was any.
    pub interval: Duration,
    /// So many of each partition are kept.
    pub keep: usize,
    /// How much of the log is kept behind them; all when nobody says.
    pub retention: Option<Retention>,
}

/// Writes the snapshots of one kind on this host.
pub struct Keeper {
    kind: Kind,
    identity: Identity,
    log: SharedLog,
    snapshots: Snapshots,
    schedule: Schedule,
    view: watch::Receiver<Arc<View>>,
    /// Of each partition that this host owns or owned: another one may have written newer ones since.
    last: BTreeMap<u16, Last>,
    /// The epochs that the log had before the shop was repartitioned, as long as there may be snapshots of them.
    former: Vec<u64>,
}

/// The last snapshot of a partition.
#[derive(Clone, Copy, Debug)]
struct Last {
    kept: Option<Kept>,
    /// When it was written, or when this host began.
    at: Instant,
}

impl Last {
    fn complete_to(&self) -> u64 {
        self.kept.map_or(0, |kept| kept.name.complete_to)
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Writes the snapshots of the partitions that are seen there.
    pub fn new(
        kind: Kind,
        identity: Identity,
        log: SharedLog,
        (snapshots, schedule): (Snapshots, Schedule),
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self { kind, identity, log, snapshots, schedule, view, last: BTreeMap::new(), former: vec![] }
    }

    /// Removes those of these epochs, which the log had before, once hosts have written newer ones of all partitions.
    #[must_use]
    pub fn forgetting(self, former: &[u64]) -> Self {
        Self { former: former.to_vec(), ..self }
    }

    /// Writes snapshots until `stop`, which comes when the partitions have written their last checkpoints;
    /// then the last ones.
    pub async fn run(mut self, stop: CancellationToken) {
        let write = async {
            loop {
                sleep(LOOK_INTERVAL).await;
                if !self.write_due().await {
                    sleep(RETRY).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = write => {}
        }
        if timeout(STOP_LIMIT, self.write_last()).await.is_err() {
            tracing::warn!("{} stops without a last snapshot: it takes longer than {STOP_LIMIT:?}", self.kind);
        }
    }

    /// Writes the snapshots that are due, and cuts the log behind them; returns whether all could be written.
    pub(crate) async fn write_due(&mut self) -> bool {
        let mut is_all = true;
        for number in self.numbers() {
            if let Err(error) = self.write_if_due(number).await {
                tracing::error!("{}/{number} has no new snapshot: {error}; trying again in {RETRY:?}", self.kind);
                is_all = false;
            }
        }
        is_all
    }

    async fn write_if_due(&mut self, number: u16) -> Result<(), SnapshotError> {
        let Some((view, partition)) = self.seen(number) else { return Ok(()) };
        if partition.handle.role.now() == Role::Standby {
            partition.snapshot.clear();
            return Ok(());
        }
        let last = self.last(number).await?;
        last.kept.iter().for_each(|kept| partition.snapshot.set(*kept));
        let advanced = complete_to(&view, &partition).saturating_sub(last.complete_to());
        let is_due = advanced >= self.schedule.records || last.at.elapsed() >= self.schedule.interval;
        if advanced > 0 && is_due {
            self.write(&view, number, &partition, Throttle::beside_orders()).await?;
            if number == retention::DECIDES {
                self.cut_log().await;
                if let Err(error) = self.forget_former().await {
                    tracing::warn!("{}: snapshots from before the repartitioning stay for now: {error}", self.kind);
                }
            }
        }
        Ok(())
    }

    /// The partitions that run here right now.
    fn numbers(&self) -> Vec<u16> {
        self.view.borrow().partitions.keys().copied().collect()
    }

    /// A partition as it is now, if it runs here: those before it took their time, and it may have started again.
    fn seen(&self, number: u16) -> Option<(Arc<View>, PartitionView)> {
        let view = self.view.borrow().clone();
        let partition = view.partitions.get(&number).cloned()?;
        Some((view, partition))
    }

    /// Removes the snapshots of former epochs, if there is one of each partition that a host has written since. Those
    /// from when the shop was repartitioned end before the log begins.
    async fn forget_former(&mut self) -> Result<(), SnapshotError> {
        if self.former.is_empty() {
            return Ok(());
        }
        for partition in 0..self.identity.partitions {
            let kept = self.snapshots.list((self.kind, partition), self.identity.epoch).await?;
            if kept.first().is_none_or(|newest| newest.name.complete_to < self.identity.first_sequence) {
                return Ok(());
            }
        }
        self.snapshots.forget(self.kind, &self.former).await?;
        self.former.clear();
        Ok(())
    }

    async fn cut_log(&self) {
        let Some(retention) = self.schedule.retention else { return };
        if let Err(error) = retention.enforce(&self.log, &self.snapshots, self.kind).await {
            tracing::error!("the log of {} stays as it is: {error}", self.kind);
        }
    }

    /// Also of partitions that it has handed over because it stops: whoever comes next may need them.
    async fn write_last(&mut self) {
        for number in self.numbers() {
            if let Err(error) = self.write_if_worth_it(number).await {
                tracing::warn!("{}/{number} stops without a last snapshot: {error}", self.kind);
            }
        }
    }

    async fn write_if_worth_it(&mut self, number: u16) -> Result<(), SnapshotError> {
        let Some((view, partition)) = self.seen(number) else { return Ok(()) };
        if partition.handle.role.now() == Role::Standby && !self.last.contains_key(&number) {
            return Ok(());
        }
        let last = self.last(number).await?;
        let advanced = complete_to(&view, &partition).saturating_sub(last.complete_to());
        let items = partition.partition_store.freeze()?.map_or(0, |frozen| frozen.items_max());
        if advanced > 0 && advanced.saturating_mul(ITEMS_PER_RECORD) >= items {
            self.write(&view, number, &partition, Throttle::at_once()).await?;
        }
        Ok(())
    }

    async fn write(
        &mut self,
        view: &View,
        number: u16,
        partition: &PartitionView,
        throttle: Throttle,
    ) -> Result<(), SnapshotError> {
        let place = (self.kind, number);
        let Some(frozen) = freeze(view, partition, &self.identity)? else { return Ok(()) };
        let kept = self.snapshots.write(place, frozen, throttle).await?;
        partition.snapshot.set(kept);
        self.last.insert(number, Last { kept: Some(kept), at: Instant::now() });
        tracing::debug!("{}/{number}: wrote {}, {} bytes", self.kind, kept.name, kept.bytes);
        self.snapshots.prune(place, self.identity.epoch, self.schedule.keep).await
    }

    /// The last snapshot of a partition, whoever has written it.
    async fn last(&mut self, number: u16) -> Result<Last, SnapshotError> {
        if let Some(last) = self.last.get(&number) {
            return Ok(*last);
        }
        let kept = self.snapshots.list((self.kind, number), self.identity.epoch).await?.first().copied();
        let last = Last { kept, at: Instant::now() };
        self.last.insert(number, last);
        Ok(last)
    }
}

/// The sequence up to which a snapshot would be complete that is written now.
fn complete_to(view: &View, partition: &PartitionView) -> u64 {
    let dispatched = view.dispatched.as_ref().map_or(0, |dispatched| *dispatched.borrow());
    let assigned = partition.assigned.load(Acquire);
    let saved = *partition.handle.saved.borrow();
    if saved >= assigned { saved.max(dispatched) } else { saved }
}

/// A partition's checkpoint, and up to where it is known to be complete.
///
/// A partition learns only of its own records, and the log may be cut far behind the last one of them. That
/// others had the last word is known to whoever hands the records out: first it is looked how far that
/// has come, then which record the partition got last. If the checkpoint goes up to that one, all
/// that was handed out is in it.
fn freeze(
    view: &View,
    partition: &PartitionView,
    identity: &Identity,
) -> Result<Option<Box<dyn CheckpointView>>, SnapshotError> {
    let dispatched = view.dispatched.as_ref().map_or(0, |dispatched| *dispatched.borrow());
    let assigned = partition.assigned.load(Acquire);
    let frozen = partition.partition_store.freeze()?;
    let mut meta = match &frozen {
        Some(frozen) => frozen.meta().clone(),
        None if assigned == 0 => Meta::new(identity),
        None => return Ok(None),
    };
    if meta.cursor >= assigned {
        meta.complete_to = meta.complete_to.max(dispatched);
    }
    Ok(Some(Box::new(Complete { meta, frozen })))
}

/// A checkpoint, or that of a partition to which nothing has come yet, and up to where it is complete.
#[derive(Debug)]
struct Complete {
    meta: Meta,
    frozen: Option<Box<dyn CheckpointView>>,
}

impl CheckpointView for Complete {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn items_max(&self) -> u64 {
        self.frozen.as_ref().map_or(0, |frozen| frozen.items_max())
    }

    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), ItemsError>) -> Result<(), ItemsError> {
        self.frozen.iter().try_for_each(|frozen| frozen.each(take))
    }
}
