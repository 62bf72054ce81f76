//! The host: connects, makes sure of the logs, and runs kinds behind their doors until it is told to stop.

pub mod config;
pub mod pause;
pub mod placement;
pub mod snapshotter;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, FusedFuture, OptionFuture, select_all},
};
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{ConnectError, Connection},
    hosts::pause::{DeafError, Signals},
    jetstream::JetStreamLog,
    log::{LogError, Logs, SharedLog},
    private,
    rpc::{
        discovery::{Server, Stats},
        service::ListenError,
    },
    stream::{
        layout::{Decided, LayoutError},
        topology::TopologyError,
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    config::Config,
    pause::Watching,
    placement::Here,
    snapshotter::{Keeper, Schedule},
};
use crate::{
    admissions::Admissions,
    door::{Door, answers::Answers},
    joined::unless_cancelled,
    kind_host::{KindError, KindHost, View, caught_up, read_index::ReadIndex, readiness::Readiness},
    observe::{Connected, Hosts, Observed},
    partition::{AttachError, role::RoleWatch},
    query::{Holders, Local, Reads},
    snapshot::{SnapshotError, Snapshots},
    store::{Store, StoreError, sled::SledStore},
};

/// Answers of one kind that wait to be sent.
const REPLIES_MAX: usize = 4_096;
/// How long the door may take to finish what came in; without the log it cannot.
const DOOR_STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long a data folder may still be held by a host that is just ending.
const FOLDER_LIMIT: Duration = Duration::from_secs(1);
/// Pause before a host connects anew whose connection has ended.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// Pause before a kind is tried again that has stopped at what only a newer program knows: an operator may have let that be
/// skipped meanwhile.
const NEWER_PAUSE: Duration = Duration::from_secs(2);
/// How long what is on its way may take to leave when the host stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Why a host does not run.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no connection to NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams are not as they should be.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Checkpoints cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no place for snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A kind cannot be served.
    #[error(transparent)]
    Kind(#[from] KindError),
    /// Nobody can look at it there.
    #[error("cannot answer whoever looks at this host on {address}: {source} (use --observe-addr for another address)")]
    Observe {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Requests cannot be listened to.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It cannot be found out how the logs are cut.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A log that was there once.
    #[error(
        "there is no log of {kind}, but there are snapshots of one in {place}: that log is lost. Restore a backup (shop \
         restore). To begin afresh, remove those snapshots, or give another place for them (--snapshots)"
    )]
    Lost {
        /// Whose log.
        kind: Kind,
        /// Where the snapshots are.
        place: String,
    },
    /// Something that a kind cannot be served without has ended.
    #[error("{kind} is not served any more: {what} has ended")]
    Broken {
        /// Which kind.
        kind: Kind,
        /// What.
        what: &'static str,
    },
    /// Nobody here would hear that the shop is repartitioned.
    #[error(transparent)]
    Deaf(#[from] DeafError),
}

/// What all kinds of a host share. The client runs each connection in one task, so what is read,
/// what is appended and what comes in at the doors go over three.
struct Shared {
    /// Its name, from its start to its end.
    host: String,
    log: SharedLog,
    reading: Connection,
    publishing: Connection,
    doors: Connection,
    logs: Logs,
    observed: Arc<Observed>,
    /// Where snapshots are, and how often they are written.
    snapshots: Option<(Snapshots, Schedule)>,
    /// Hosts that hold a partition beside its owner, if there are so many.
    standbys: usize,
    /// The layout under which it began.
    decided: Decided,
    /// Another one is in force: nothing of this one is of use any more.
    is_over: CancellationToken,
    /// Whether the doors are to hold what changes something.
    held: watch::Receiver<bool>,
}

/// Runs the host until `stop`: first the doors close and what came in is appended, then the
/// partitions write a last checkpoint. When the shop is repartitioned it does the same, and begins anew.
pub fn run(config: Config, stop: CancellationToken) -> BoxFuture<'static, Result<(), HostError>> {
    // Boxed, so that all of it is compiled with this crate, once, and not with each that runs a host.
    Box::pin(run_and_show(config, stop))
}

async fn run_and_show(config: Config, stop: CancellationToken) -> Result<(), HostError> {
    let unusable = |source| StoreError::Io { folder: config.data_dir.clone(), source };
    private::make_data_folder(&config.data_dir).map_err(unusable)?;
    let observed = Observed::new(&config.kinds);
    // Ends with this function.
    let _looking = match &config.observe_addr {
        Some(address) => Some(observe(address, &observed).await?),
        None => None,
    };
    run_under_layouts(config, observed, stop).await
}

/// The same, where others can see how it is, and have it answered themselves.
pub fn run_observed(
    config: Config,
    observed: Arc<Observed>,
    stop: CancellationToken,
) -> BoxFuture<'static, Result<(), HostError>> {
    Box::pin(run_under_layouts(config, observed, stop))
}

async fn run_under_layouts(
    mut config: Config,
    observed: Arc<Observed>,
    stop: CancellationToken,
) -> Result<(), HostError> {
    // Once: sled lets nobody in before the last one who reads is gone, and some look at old views for a while.
    let mut stores = Stores::new();
    for kind in &config.kinds {
        let store = SledStore::open_within(&config.data_dir, *kind, FOLDER_LIMIT).await?;
        stores.insert(*kind, Arc::new(store));
    }
    loop {
        match run_under_one_layout(&config, &stores, &observed, &stop).await? {
            Ended::Stopped => return Ok(()),
            Ended::Repartitioned => {
                tracing::info!("the shop was repartitioned; beginning anew");
                if let Some(partitions) = config.topology.partitions.take() {
                    tracing::warn!("--partitions {partitions} is not so any more; leave it out at the next start");
                }
            }
            Ended::Disconnected => {
                tracing::error!("a connection to NATS has ended for good; beginning anew");
                // Whatever it was may come again at once.
                let _stopped = timeout(CONNECT_PAUSE, stop.cancelled()).await;
            }
        }
    }
}

/// Where the checkpoints of each kind are.
type Stores = BTreeMap<Kind, Arc<SledStore>>;

/// Why a host does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was told so.
    Stopped,
    /// Another layout is in force.
    Repartitioned,
    /// One of its connections has ended, and not only been lost.
    Disconnected,
}

async fn run_under_one_layout(
    config: &Config,
    stores: &Stores,
    observed: &Arc<Observed>,
    stop: &CancellationToken,
) -> Result<Ended, HostError> {
    let (shared, watching, words) = tokio::select! {
        begun = Shared::begin(config, observed) => begun?,
        // Whatever it still waits for, it needs no more.
        () = stop.cancelled() => return Ok(Ended::Stopped),
    };
    let shared = Arc::new(shared);
    let over = async {
        tokio::select! {
            () = watching.until_repartitioned(words) => Ended::Repartitioned,
            () = shared.disconnected() => Ended::Disconnected,
        }
    };
    let served = serve_all(stores, &shared, over, stop).await;
    // Whatever else has come of that: a connection that has ended takes a moment to be known as such.
    let is_unasked = !stop.is_cancelled() && !matches!(served, Ok(Ended::Repartitioned));
    let is_cut = is_unasked && timeout(CONNECT_PAUSE, shared.disconnected()).await.is_ok();
    let outcome = match served {
        _ if is_cut => Ok(Ended::Disconnected),
        Err(HostError::Kind(error))
            if error.may_come_of_a_cut() && !stop.is_cancelled() && shared.is_cut_anew().await =>
        {
            tracing::info!("{error}");
            Ok(Ended::Repartitioned)
        }
        outcome => outcome,
    };
    let connections = [&shared.reading, &shared.publishing, &shared.doors];
    futures::future::join_all(connections.map(|one| one.close(CLOSE_LIMIT))).await;
    match outcome {
        Ok(_) if stop.is_cancelled() => Ok(Ended::Stopped),
        // It was to end anyway, and lost nothing: what it needs at its next start it asks for then.
        Err(error) if stop.is_cancelled() && error.is_unanswered() => {
            tracing::info!("stopped before it was served: {error}");
            Ok(Ended::Stopped)
        }
        outcome => outcome,
    }
}

impl HostError {
    /// Whether a nats-server could not be asked for what was needed to begin.
    const fn is_unanswered(&self) -> bool {
        matches!(
            self,
            Self::Connect(ConnectError::Unreachable { .. })
                | Self::Topology(TopologyError::Server { .. })
                | Self::Layout(LayoutError::Server { .. })
                | Self::Kind(
                    KindError::Log(LogError::Failed { .. })
                        | KindError::Attach(AttachError::Log(LogError::Failed { .. }))
                        | KindError::Snapshot(SnapshotError::Log(LogError::Failed { .. }))
                )
        )
    }
}

impl Shared {
    async fn begin(config: &Config, observed: &Arc<Observed>) -> Result<(Self, Watching, Signals), HostError> {
        let names: Vec<_> = config.kinds.iter().map(|kind| kind.as_str()).collect();
        let names = names.join(",");
        let connect =
            async |role: &str| Connection::connect_patiently(&config.nats, &format!("shop serve {names} {role}")).await;
        let reading = connect("reader").await?;
        let (publishing, doors) = (connect("publisher").await?, connect("doors").await?);
        // Before it is asked which layout is in force: nothing is missed in between.
        let words = publishing.words().await?;
        let decided = publishing.conform().await?;
        let snapshots = snapshots(config)?;
        for kind in Kind::ALL {
            refuse_without_log(&publishing, kind, snapshots.as_ref().map(|(snapshots, _)| snapshots)).await?;
        }
        let mut logs = Logs::new();
        for kind in Kind::ALL {
            logs.insert(kind, publishing.ensure_log(kind, config.topology).await?);
        }
        publishing.ensure_dead_letters(config.topology).await?;
        let log: SharedLog = Arc::new(JetStreamLog::of_generation(decided.generation(), &reading, &publishing));
        let connections = [("reader", reading.clone()), ("publisher", publishing.clone()), ("doors", doors.clone())];
        observed.connected(Connected { log: log.clone(), connections });
        let (hold, held) = watch::channel(false);
        observed.holds(false);
        let (generation, observed_by) = (decided.generation(), Arc::clone(observed));
        let watching = Watching { connection: publishing.clone(), generation, held: hold, observed: observed_by };
        let shared = Self {
            host: uuid::Uuid::new_v4().simple().to_string(),
            log,
            reading,
            publishing,
            doors,
            logs,
            observed: Arc::clone(observed),
            snapshots,
            standbys: config.standbys,
            decided,
            is_over: CancellationToken::new(),
            held,
        };
        Ok((shared, watching, words))
    }

    /// Whether another layout is in force than the one under which it began, as far as that can be found out.
    async fn is_cut_anew(&self) -> bool {
        let decided = self.publishing.decided().await;
        decided.is_ok_and(|decided| decided.generation() != self.decided.generation())
    }

    /// Returns when a connection has ended for good.
    async fn disconnected(&self) {
        // What is read over is made anew where it is read.
        let connections = [&self.publishing, &self.doors];
        select_all(connections.map(|connection| connection.ended().boxed())).await;
    }

    /// What it says of itself.
    fn server(&self) -> Server {
        let snapshots = self.snapshots.as_ref().map(|(snapshots, _)| snapshots.place());
        Server { host: self.host.clone(), snapshots, layout: self.decided.generation() }
    }
}

/// Serves all kinds until `stop`, until one of them cannot be served, or until it is `over` with these connections.
async fn serve_all(
    stores: &Stores,
    shared: &Arc<Shared>,
    over: impl Future<Output = Ended>,
    stop: &CancellationToken,
) -> Result<Ended, HostError> {
    let mut kinds = JoinSet::new();
    let end = stop.child_token();
    for (kind, store) in stores {
        store.forget(shared.decided.former(*kind))?;
        kinds.spawn(serve_patiently(*kind, Arc::clone(store), Arc::clone(shared), end.clone()));
    }
    let mut over = pin!(over.fuse());
    let mut outcome = Ok(Ended::Stopped);
    loop {
        let ended = tokio::select! {
            ended = kinds.join_next() => ended,
            why = &mut over => {
                if why == Ended::Repartitioned {
                    shared.is_over.cancel();
                }
                end.cancel();
                outcome = outcome.map(|_| why);
                continue;
            }
        };
        let Some(ended) = ended else { return outcome };
        if let Some(Err(error)) = unless_cancelled(ended) {
            // A host that cannot serve one of its kinds ends, so that somebody notices.
            end.cancel();
            outcome = outcome.and(Err(error));
        }
    }
}

/// Serves one kind until `stop`. One that comes to what only a newer program knows stops there, and is tried again now and
/// then; the others go on.
async fn serve_patiently(
    kind: Kind,
    store: Arc<SledStore>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> Result<(), HostError> {
    loop {
        match serve(kind, Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&shared), stop.clone()).await {
            Err(HostError::Kind(error)) if error.needs_a_newer_program() && !stop.is_cancelled() => {
                shared.observed.stopped(kind, &error.to_string());
            }
            served => return served,
        }
        tokio::select! {
            () = tokio::time::sleep(NEWER_PAUSE) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Where snapshots are, if anywhere, and how often they are written.
fn snapshots(config: &Config) -> Result<Option<(Snapshots, Schedule)>, SnapshotError> {
    let snapshots = config.snapshots.snapshots.as_deref().filter(|url| !url.is_empty()).map(Snapshots::open);
    if snapshots.is_none() && config.snapshots.trim_after_days.is_some() {
        tracing::warn!("no log will be cut: there are no snapshots to stand for it (--snapshots)");
    }
    Ok(snapshots.transpose()?.map(|snapshots| (snapshots, config.snapshots.schedule())))
}

/// Refuses to begin where there are snapshots of a log, and no log. The snapshots are looked for first: hosts that start
/// at once make the logs at once, and then write snapshots.
async fn refuse_without_log(
    connection: &Connection,
    kind: Kind,
    snapshots: Option<&Snapshots>,
) -> Result<(), HostError> {
    let Some(snapshots) = snapshots else { return Ok(()) };
    if !snapshots.has_some_of(kind).await? || connection.has_log(kind).await? {
        return Ok(());
    }
    Err(HostError::Lost { kind, place: snapshots.place() })
}

/// Answers whoever looks at the host, until what it returns is dropped.
async fn observe(address: &str, observed: &Arc<Observed>) -> Result<AbortOnDropHandle<()>, HostError> {
    let failed = |source| HostError::Observe { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let hosts = Hosts(vec![Arc::clone(observed)]);
    tracing::info!("how this host is can be seen on http://{address}/readyz and http://{address}/metrics");
    Ok(AbortOnDropHandle::new(tokio::spawn(shop_metrics::serve(listener, vec![Arc::new(hosts)]))))
}

/// Serves one kind: partitions first, and once they have caught up with the log, the door.
async fn serve(
    kind: Kind,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> Result<(), HostError> {
    let identity = *shared.logs.get(&kind).expect("every kind has a log");
    let stats = Arc::new(Stats::new(shared.server()));
    let (view, seen) = watch::channel(Arc::new(View::default()));
    let counts = Arc::clone(&seen.borrow().counts);
    let answers = Answers { connection: shared.doors.clone(), stats: Arc::clone(&stats), counts };
    let (replies, to_send) = mpsc::channel(REPLIES_MAX);
    let logs = shared.logs.clone();
    let log = shared.log.clone();
    let snapshots = shared.snapshots.as_ref().map(|(snapshots, _)| snapshots.clone());
    let (decisions, roles) = (0..identity.partitions).map(|_| RoleWatch::new()).unzip();
    let ((ready_to, ready), (absences, absences_of)) = (watch::channel(None), watch::channel(0));
    let (hold, held) = watch::channel(BTreeSet::new());
    let (host, epoch, standbys) = (shared.host.clone(), identity.epoch, shared.standbys);
    let (view_of, ready_of) = (seen.clone(), ready.clone());
    let here = Here { host, kind, epoch, ready: ready_of, absences, view: view_of, standbys, decisions, held: hold };
    let membership = here.join(shared.publishing.clone(), stop.clone()).await?;
    // Ends with this function: whoever hears nothing more of this host takes over.
    let mut membership = AbortOnDropHandle::new(tokio::spawn(membership));
    let admissions = Arc::new(Admissions::new(kind, identity.partitions));
    let told = Some(Arc::clone(&admissions));
    let host = KindHost { kind, log, identity, logs, store, snapshots, replies, view, roles, held, admissions: told };
    let stop_partitions = CancellationToken::new();
    let mut running = tokio::spawn(host.run(stop_partitions.clone()));
    let mut sending = tokio::spawn(answers.clone().run(to_send)).fuse();

    let stop_keeping = CancellationToken::new();
    let keeping = shared.snapshots.clone().map(|snapshots| {
        let keeper = Keeper::new(kind, identity, shared.log.clone(), snapshots, seen.clone());
        let keeper = keeper.forgetting(shared.decided.former(kind));
        tokio::spawn(keeper.run(stop_keeping.clone()))
    });
    let abort_keeping = keeping.as_ref().map(tokio::task::JoinHandle::abort_handle);
    let mut keeping = OptionFuture::from(keeping).fuse();
    let read_index = ReadIndex::new(shared.log.clone(), kind, identity.epoch);
    let readiness =
        Readiness { kind, view: seen.clone(), read_index: read_index.clone(), absences: absences_of, ready: ready_to };
    let is_open = shared.observed.begins(kind, seen.clone(), ready.clone());
    let described = seen.clone();
    stats.describe(move || described.borrow().describe(kind));
    let local = Local::new(kind, identity.partitions, read_index.clone(), seen.clone(), ready);
    let holders = Holders::new(kind, shared.decided.generation(), Arc::new(shared.doors.clone()));
    let reads = Reads::new(kind, &identity, local.clone(), holders.clone());
    let opened = async {
        let listening = async {
            caught_up(seen.clone(), 0).await;
            shared.doors.listen(kind, &stats).await
        };
        let listener = tokio::select! {
            listener = listening => listener?,
            () = stop.cancelled() => return Ok(()),
        };
        tracing::info!("{kind} is served: {} partition(s)", identity.partitions);
        // Ends with this future.
        let mut readiness = AbortOnDropHandle::new(tokio::spawn(readiness.keep()));
        is_open.store(true, Ordering::Relaxed);
        shared.observed.goes_on(kind);
        let door =
            Door::new((kind, identity.partitions), &shared.log, &admissions, reads, answers, shared.held.clone());
        let waiting = door.waiting();
        let served = async {
            let serving = stop.child_token();
            let in_and_out = async {
                door.run(listener, stop.clone()).await;
                serving.cancel();
            };
            tokio::join!(in_and_out, holders.serve(shared.doors.clone(), local, serving.clone()));
        };
        tokio::select! {
            () = served => {}
            Err(_) = &mut readiness => return Err(HostError::Broken { kind, what: "what says whether it has caught up" }),
            () = async { stop.cancelled().await; tokio::time::sleep(DOOR_STOP_LIMIT).await } => {
                let count = waiting.load(Ordering::Relaxed);
                if count > 0 {
                    let limit = DOOR_STOP_LIMIT;
                    tracing::warn!("{kind}: the log has not said within {limit:?} that it has {count} of what came in");
                }
            }
        }
        match stop.is_cancelled() {
            true => Ok(()),
            false => Err(HostError::Broken { kind, what: "its door" }),
        }
    };
    let broken = async {
        let what = tokio::select! {
            Err(_) = &mut sending => "what sends its answers",
            Some(Err(_)) = &mut keeping => "what writes its snapshots",
            _ = &mut membership => "what tells the other hosts that this one is there",
            () = read_index.ended() => "what asks where its log ends",
        };
        HostError::Broken { kind, what }
    };
    let (outcome, ended) = tokio::select! {
        biased;
        // Before it was told to: nothing can be served without it.
        ended = &mut running => (Ok(()), Some(ended)),
        opened = opened => (opened, None),
        broken = broken => (Err(broken), None),
    };
    is_open.store(false, Ordering::Relaxed);
    stop_partitions.cancel();
    let ended = match ended {
        Some(ended) => flatten(ended),
        None => flatten(running.await),
    };
    stop_keeping.cancel();
    if ended.is_err() || shared.is_over.is_cancelled() {
        // There is nothing to keep, or there is something newer.
        abort_keeping.iter().for_each(tokio::task::AbortHandle::abort);
    }
    if !keeping.is_terminated()
        && let Some(Err(panic)) = keeping.await
        && panic.is_panic()
    {
        tracing::error!("snapshots of {kind} could not be written: {panic}");
    }
    if !sending.is_terminated()
        && let Err(panic) = sending.await
        && panic.is_panic()
    {
        tracing::error!("answers of {kind} could not all be sent: {panic}");
    }
    tracing::info!("{kind} has stopped");
    outcome.and(ended)
}

fn flatten(ended: Result<Result<(), KindError>, tokio::task::JoinError>) -> Result<(), HostError> {
    Ok(unless_cancelled(ended).unwrap_or(Ok(()))?)
}
