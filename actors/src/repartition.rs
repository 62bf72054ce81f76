//! Repartitioning: cuts kinds into another number of partitions while the shop goes on.
//!
//! Whoever does it is a standby of everything: it holds all partitions of all kinds, applies what the logs
//! hold, and sends nothing. Once the doors hold and all is settled, it has every entity as of one moment at
//! which no message is under way between any two partitions. It writes them as snapshots under a new epoch, each
//! entity and its rows where they belong under the new count, and then brings the layout into force that
//! says so (see [`shop_nats::stream::layout`]).
//!
//! All kinds get a new epoch, also those whose count stays: a message's number counts on the link between two
//! partitions, so when one end changes, the other one must count anew as well, and do so again
//! whenever it replays. With a new epoch nothing is replayed from before, and all links begin with 1 at both
//! ends. It costs writing everything once.
//!
//! Nothing is changed before the layout is in force, and nothing is removed at all: the records before it stay
//! in the logs until they are trimmed. The layout says how each log was cut before, so that a replay can follow it from
//! the first record on (see [`crate::replay`]).

mod links;
mod rewrite;
mod standby;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shop_domain::{
    kind::Kind,
    logic::{Logic, UnknownLogic},
    timestamp::Timestamp,
};
use shop_nats::{
    connection::{ConnectError, Connection, access::Access},
    jetstream::JetStreamLog,
    log::{Identity, LogError, Logs, PartitionId, SharedLog},
    stream::layout::{Decided, KindLayout, Layout, LayoutError, Layouts},
};
use tokio::time::{Instant, sleep};

use self::{rewrite::Rewrite, standby::Standby};
use crate::{
    kind_host::KindError,
    snapshot::{SnapshotError, Snapshots},
    store::{Meta, SharedPartitionStore, Store, StoreError, sled::SledStore},
};

/// How long nothing may have come to any log before the doors are taken to hold: several times what one
/// needs to append what it had let in.
const CALM: Duration = Duration::from_millis(500);
/// How long all that is under way may take to settle once the doors hold. Orders take milliseconds; what
/// takes longer waits for a host that is not there.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How often is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What is to be done, and where.
#[derive(Debug)]
pub struct Options {
    /// Where NATS is, and what lets us in.
    pub nats: Access,
    /// Where the snapshots are: those that there are, and those that are written.
    pub snapshots: Snapshots,
    /// A folder of its own, for the checkpoints of the standby and for what is sorted anew.
    pub folder: PathBuf,
    /// Into how many partitions; kinds that are not named stay as they are.
    pub partitions: BTreeMap<Kind, u16>,
}

/// With what it is done, and what is to come of it.
#[derive(Debug)]
pub struct Parts {
    /// The logs under the layout in force.
    pub log: SharedLog,
    /// Where it is decided.
    pub layouts: Layouts,
    /// What was decided last.
    pub decided: Decided,
    /// Where the snapshots are.
    pub snapshots: Snapshots,
    /// Where the standby of each kind keeps its checkpoints.
    pub before: Stores,
    /// Where what each kind has is sorted anew.
    pub after: Stores,
    /// Into how many partitions; kinds that are not named stay as they are.
    pub partitions: BTreeMap<Kind, u16>,
    /// The epoch of all logs from then on, which none has had before.
    pub epoch: u64,
}

/// Is called whenever a piece of the work is done.
pub type GetsOn = Arc<dyn Fn() + Send + Sync>;

/// The checkpoints of each kind.
pub type Stores = BTreeMap<Kind, Arc<dyn Store>>;

/// Why the shop is cut as before; or, of one of them, that nobody knows whether it is.
#[derive(Debug, thiserror::Error)]
pub enum RepartitionError {
    /// There is no connection to NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It could not be decided, or somebody else has decided.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no folder to work in.
    #[error("cannot make a folder to work in: {0} (say where with --work-dir)")]
    Folder(std::io::Error),
    /// Checkpoints could not be kept in the folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Snapshots could not be read or written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A kind cannot be followed.
    #[error(transparent)]
    Kind(#[from] KindError),
    /// Something is under way, and stays so.
    #[error("not all that is under way settles: {0}")]
    Unsettled(String),
    /// Upgraded only in part.
    #[error("{0} behaves by several logic versions; finish that first: shop upgrade")]
    Upgrading(Kind),
    /// This program does not know how entities behave.
    #[error("{0}: {1}")]
    Logic(Kind, UnknownLogic),
    /// What was written is not what there was. A bug.
    #[error("what was written of {0} is not what there was; it will not be used")]
    Different(Kind),
    /// It may have come into force before the nats-server could not be asked any more.
    #[error(
        "{error}; whether the shop is cut anew is not known, because after that: {unanswered}. The hosts go on under \
         whichever layout is in force; the same command says, or does it, once the nats-server answers"
    )]
    InDoubt {
        /// What went wrong first.
        error: Box<RepartitionError>,
        /// Why nobody could find out.
        unanswered: LayoutError,
    },
}

impl RepartitionError {
    /// Whether all could be found out, and the answer is a no.
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Unsettled(_) | Self::Upgrading(_) => true,
            Self::Layout(error) => matches!(error, LayoutError::Overtaken | LayoutError::WentOn(_)),
            Self::Connect(_)
            | Self::Log(_)
            | Self::Folder(_)
            | Self::Store(_)
            | Self::Snapshot(_)
            | Self::Kind(_)
            | Self::Logic(..)
            | Self::Different(_)
            | Self::InDoubt { .. } => false,
        }
    }
}

/// A repartitioning under way. Dropping it changes nothing, before [`Ready::commit`].
#[derive(Debug)]
pub struct Repartition {
    log: SharedLog,
    layouts: Layouts,
    decided: Decided,
    snapshots: Snapshots,
    after: Stores,
    partitions: BTreeMap<Kind, u16>,
    epoch: u64,
    logs: Logs,
    standbys: BTreeMap<Kind, Standby>,
}

/// Everything of one moment, at which nothing is under way.
#[derive(Debug)]
pub struct Settled {
    repartition: Repartition,
    next: Layout,
}

/// All is written, and can come into force.
#[derive(Debug)]
pub struct Ready {
    layouts: Layouts,
    snapshots: Snapshots,
    decided: Decided,
    next: Layout,
    /// What was written of each kind.
    pub written: BTreeMap<Kind, Written>,
}

/// What was written of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// States and rows.
    pub items: u64,
    /// States alone.
    pub entities: u64,
    /// As they are stored.
    pub bytes: u64,
}

impl Repartition {
    /// Begins to follow everything; what it decides it says over that connection. The shop goes on.
    pub async fn begin(connection: &Connection, options: Options) -> Result<Self, RepartitionError> {
        let Options { nats, snapshots, folder, partitions } = options;
        let reading = Connection::connect(&nats, "shop repartition reader").await?;
        connection.ensure_layout_stream().await?;
        let decided = connection.conform().await?;
        let log: SharedLog = Arc::new(JetStreamLog::for_a_tool(decided.generation(), &reading, connection));
        let (layouts, epoch) = (connection.layouts(), uuid::Uuid::new_v4().as_u64_pair().0);
        let (before, after) = (stores(&folder.join("before"))?, stores(&folder.join("after"))?);
        Self::of(Parts { log, layouts, decided, snapshots, before, after, partitions, epoch }).await
    }

    /// The same over whatever logs there are.
    pub async fn of(parts: Parts) -> Result<Self, RepartitionError> {
        let Parts { log, layouts, decided, snapshots, before, after, partitions, epoch } = parts;
        let mut logs = Logs::new();
        for kind in Kind::ALL {
            logs.insert(kind, log.identity(kind).await?);
        }
        let follow = |(kind, store)| (kind, Standby::begin(kind, &log, &logs, store, &snapshots));
        let standbys = before.into_iter().map(follow).collect();
        Ok(Self { log, layouts, decided, snapshots, after, partitions, epoch, logs, standbys })
    }

    /// Which log each kind has now.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Whether all kinds are cut as they should be already.
    pub fn changes_nothing(&self) -> bool {
        self.partitions.iter().all(|(kind, partitions)| self.logs[kind].partitions == *partitions)
    }

    /// Waits until it has applied all that the logs held when this was asked.
    pub async fn catch_up(&mut self) -> Result<(), RepartitionError> {
        let lasts = self.lasts().await?;
        while !self.is_at(&lasts)? {
            self.still_follows().await?;
        }
        Ok(())
    }

    /// Waits until nothing is under way any more, and stops following. The doors must hold.
    pub async fn settle(mut self) -> Result<Settled, RepartitionError> {
        let begin = Instant::now();
        let (mut calm, mut lasts) = (Instant::now(), self.lasts().await?);
        loop {
            self.still_follows().await?;
            let now = self.lasts().await?;
            if now != lasts {
                (calm, lasts) = (Instant::now(), now);
            }
            let obstacle = match self.is_at(&lasts)? {
                true => links::under_way(&self.logs, &self.metas()?),
                false => Some("the logs are still being read".to_owned()),
            };
            match obstacle {
                None if calm.elapsed() >= CALM => break,
                Some(obstacle) if begin.elapsed() > SETTLE_LIMIT => {
                    return Err(RepartitionError::Unsettled(obstacle));
                }
                None if begin.elapsed() > SETTLE_LIMIT => {
                    let who = "the logs go on: a host does not hold its doors, or is of an older version";
                    return Err(RepartitionError::Unsettled(who.to_owned()));
                }
                None | Some(_) => {}
            }
        }
        for standby in self.standbys.values_mut() {
            standby.stop().await?;
        }
        let metas = self.metas()?;
        // Beyond that, something came at the last moment.
        let is_beyond = |((kind, _), meta): (&PartitionId, &Meta)| meta.cursor > lasts[kind];
        if let Some(obstacle) = links::under_way(&self.logs, &metas) {
            return Err(RepartitionError::Unsettled(obstacle));
        }
        if let Some(((kind, _), _)) = metas.iter().find(|one| is_beyond(*one)) {
            return Err(LayoutError::WentOn(*kind).into());
        }
        let next = self.next(&lasts, &metas)?;
        Ok(Settled { repartition: self, next })
    }

    /// The layout that follows on the one in force.
    fn next(
        &self,
        lasts: &BTreeMap<Kind, u64>,
        metas: &BTreeMap<PartitionId, Meta>,
    ) -> Result<Layout, RepartitionError> {
        let cut = |(kind, last): (&Kind, &u64)| {
            let mut versions = metas.iter().filter(|((of, _), _)| of == kind).map(|(_, meta)| meta.logic);
            let logic = versions.next().expect("a kind has a partition");
            if versions.any(|other| other != logic) {
                return Err(RepartitionError::Upgrading(*kind));
            }
            Logic::try_from(logic).map_err(|unknown| RepartitionError::Logic(*kind, unknown))?;
            let log = &self.logs[kind];
            let partitions = self.partitions.get(kind).copied().unwrap_or(log.partitions);
            Ok((*kind, KindLayout::behind(log, self.decided.of(*kind), partitions, self.epoch, *last, logic)))
        };
        let kinds = lasts.iter().map(cut).collect::<Result<_, _>>()?;
        Ok(Layout { generation: self.decided.generation() + 1, kinds })
    }

    async fn lasts(&self) -> Result<BTreeMap<Kind, u64>, LogError> {
        let mut lasts = BTreeMap::new();
        for kind in Kind::ALL {
            lasts.insert(kind, self.log.last_sequence(kind).await?);
        }
        Ok(lasts)
    }

    /// Whether the checkpoints of all partitions hold all that the logs hold up to there.
    fn is_at(&self, lasts: &BTreeMap<Kind, u64>) -> Result<bool, RepartitionError> {
        for (kind, standby) in &self.standbys {
            if let Some(parked) = standby.parked() {
                return Err(RepartitionError::Unsettled(parked));
            }
            if !standby.is_at(lasts[kind], self.logs[kind].partitions) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The checkpoints of all partitions.
    fn metas(&self) -> Result<BTreeMap<PartitionId, Meta>, StoreError> {
        let mut metas = BTreeMap::new();
        for (kind, log) in &self.logs {
            for partition in 0..log.partitions {
                let meta = self.standbys[kind].partition(partition)?.meta()?;
                metas.insert((*kind, partition), meta.unwrap_or_else(|| Meta::new(log)));
            }
        }
        Ok(metas)
    }

    /// Waits a moment; not when one of them cannot be followed any more.
    async fn still_follows(&mut self) -> Result<(), RepartitionError> {
        for standby in self.standbys.values_mut() {
            standby.still_follows()?;
        }
        sleep(LOOK_INTERVAL).await;
        Ok(())
    }
}

impl Settled {
    /// Writes everything as snapshots under the next layout.
    pub async fn rewrite(self) -> Result<Ready, RepartitionError> {
        self.rewrite_telling(Arc::new(|| ())).await
    }

    /// The same, and says again and again that it gets on.
    pub async fn rewrite_telling(self, gets_on: GetsOn) -> Result<Ready, RepartitionError> {
        let Self { repartition, next } = self;
        let Repartition { layouts, snapshots, after, decided, logs, standbys, .. } = repartition;
        let mut written = BTreeMap::new();
        for (kind, cut) in &next.kinds {
            let before = standbys[kind].partition_stores(logs[kind].partitions)?;
            let after = Arc::clone(&after[kind]);
            let begin = Meta { clock: latest(&before)?, ..beginning(&logs[kind], cut) };
            let rewrite = Rewrite { kind: *kind, before, after, partitions: cut.partitions, begin };
            match rewrite.run(&snapshots, &gets_on).await {
                Ok(done) => drop(written.insert(*kind, done)),
                Err(error) => {
                    forget(&snapshots, &next).await;
                    return Err(error);
                }
            }
        }
        Ok(Ready { layouts, snapshots, decided, next, written })
    }
}

impl Ready {
    /// Into what it will be cut.
    pub fn next(&self) -> &Layout {
        &self.next
    }

    /// Brings it into force. An error, unless it says that nobody knows, means that everything is as before.
    pub async fn commit(self) -> Result<(), RepartitionError> {
        let Self { layouts, snapshots, next, .. } = &self;
        let fenced = self.fence().await;
        let is_tried = fenced.is_ok();
        let changed = match fenced {
            Ok(()) => self.decide().await,
            refused => refused,
        };
        match (changed, layouts.conform().await) {
            (Ok(()), Ok(_)) => Ok(()),
            (Ok(()), Err(error)) => {
                tracing::warn!("{error}; it is in force, and the hosts see to the rest");
                Ok(())
            }
            (Err(_), Ok(now)) if now.layout.as_ref() == Some(next) => Ok(()),
            (Err(error), Err(unanswered)) if is_tried && !error.is_refusal() => {
                Err(RepartitionError::InDoubt { error: Box::new(error), unanswered })
            }
            (Err(error), _) => {
                forget(snapshots, next).await;
                Err(error)
            }
        }
    }

    /// The first step of [`Self::commit`]: nobody can append any more, and nobody has.
    pub async fn fence(&self) -> Result<(), RepartitionError> {
        self.layouts.fence(&self.next, self.decided.at).await?;
        Ok(self.layouts.seal(&self.next).await?)
    }

    /// The second step, before which everything is as before, and behind which it is not.
    pub async fn decide(&self) -> Result<(), RepartitionError> {
        self.layouts.decide(Some(&self.next), self.decided.at).await?;
        Ok(())
    }
}

/// The checkpoints of all kinds in a folder.
fn stores(folder: &Path) -> Result<Stores, StoreError> {
    let open = |kind| Ok((kind, Arc::new(SledStore::open(folder, kind)?) as Arc<dyn Store>));
    Kind::ALL.into_iter().map(open).collect()
}

/// Where a partition begins under the next layout, right behind the last record of the one before.
fn beginning(log: &Identity, cut: &KindLayout) -> Meta {
    let cursor = cut.begins_at - 1;
    Meta {
        logic: cut.logic,
        epoch: cut.epoch,
        created_unix_ns: log.created_unix_ns,
        cursor,
        cursor_hash: 0,
        links: crate::link::Links::default(),
        complete_to: cursor,
        clock: Timestamp::default(),
    }
}

/// The latest of some partitions' clocks: whichever of them an entity comes from, its time does not go back.
fn latest(partition_stores: &[SharedPartitionStore]) -> Result<Timestamp, StoreError> {
    let clocks: Result<Vec<_>, _> =
        partition_stores.iter().map(|partition_store| Ok(partition_store.meta()?.map(|meta| meta.clock))).collect();
    clocks.map(|clocks: Vec<_>| clocks.into_iter().flatten().max().unwrap_or_default())
}

/// Removes the snapshots of a layout that does not come into force.
async fn forget(snapshots: &Snapshots, layout: &Layout) {
    for (kind, cut) in &layout.kinds {
        if let Err(error) = snapshots.forget(*kind, &[cut.epoch]).await {
            tracing::warn!("what was written of {kind} for nothing stays there: {error}");
        }
    }
}
