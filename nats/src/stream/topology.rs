//! The streams: made at the first start, verified at every other.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind, RequestError, RequestErrorKind},
    stream::{Config, DiscardPolicy, StorageType},
};
use shop_domain::{kind::Kind, logic::Logic};
use tokio::time::sleep;

use crate::{
    connection::{Connection, start::Wait},
    log::Identity,
    stream::layout::{self, KindLayout},
    subject,
};

/// Partitions of a kind on a single server, where every frame costs an fsync.
const PARTITIONS_SINGLE: u16 = 1;
/// Partitions of a kind on a cluster, which syncs once per group of appends.
const PARTITIONS_CLUSTER: u16 = 12;
/// Copies of a stream on a cluster: any one server may be lost.
const REPLICAS_CLUSTER: usize = 3;
/// Most partitions: each has a task, a window and a batch of its own.
pub const PARTITIONS_MAX: u16 = 256;
/// No log comes that far, and nothing overflows that is added to it.
pub(crate) const SEQUENCE_MAX: u64 = 1 << 62;

const EPOCH: &str = "shop.epoch";
/// The epoch by which links know it, where that is another one.
const LINK_EPOCH: &str = "shop.link-epoch";
const PARTITIONS: &str = "shop.partitions";
/// The logic version that the log begins with.
const LOGIC: &str = "shop.logic";
/// The sequence from which on it is read, if that is not its first: snapshots stand for what came before.
const BEGINS: &str = "shop.begins";
const FORMAT: &str = "shop.format";
/// The format of what is in the log.
const FORMAT_VERSION: &str = "1";
/// What is there instead until all of a backup is restored.
const FORMAT_RESTORING: &str = "restoring";
/// A number that all streams have which were made by one restore.
const RESTORE: &str = "shop.restore";

/// A stream without a limit, as its configuration says it.
const UNLIMITED: i64 = -1;

/// How long one answer of a single server may take until it is asked again: it may be reading a long log.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer of a cluster may take until it is asked again: whoever asks while a leader
/// is being elected, or wants to make a stream that another host is just making, gets none.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a stream is looked for once more that should be there.
const FIND_PAUSE: Duration = Duration::from_secs(1);

/// How the streams are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Partitions of each kind; none: as they are, or the default for a new stream.
    pub partitions: Option<u16>,
    /// Copies of each new stream (1, 3 or 5); none: 3 on a cluster, 1 on a single server.
    pub replicas: Option<usize>,
    /// How large each log may become, in bytes, 0 for without limit; none: as they are, or without limit. One
    /// that has no room refuses.
    pub log_max_bytes: Option<u64>,
}

/// Why the streams are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server did not do what it was asked.
    #[error("cannot make or read the stream {stream}: {reason}")]
    Server {
        /// Which stream.
        stream: String,
        /// Why.
        reason: String,
    },
    /// The stream has another number of partitions.
    #[error(
        "the log of {kind} has {found} partitions, but {expected} are configured; \
         start with --partitions {found} or without, or change the count: shop repartition"
    )]
    Partitions {
        /// Whose log.
        kind: Kind,
        /// As it is.
        found: u16,
        /// As configured.
        expected: u16,
    },
    /// The stream has another number of copies.
    #[error(
        "the stream {stream} has {found} copies, but {expected} are configured; start with --replicas {found}, \
         or change the stream first: nats stream edit {stream} --replicas {expected}"
    )]
    Replicas {
        /// Which stream.
        stream: String,
        /// As it is.
        found: usize,
        /// As configured.
        expected: usize,
    },
    /// A number of copies that cannot agree.
    #[error("{0} copies of each stream are configured; there can be 1, 3 or 5")]
    ReplicaCount(usize),
    /// There are not several servers to keep copies.
    #[error("{0} copies of each stream are configured, but this nats-server is not part of a cluster: it can keep 1")]
    NoCluster(usize),
    /// The server keeps nothing.
    #[error(
        "the nats-server does not offer JetStream, which keeps the logs ({0}); switch it on there: \
         nats-server --jetstream --store_dir <folder>, or start it with nats/server/local.conf"
    )]
    NoJetStream(String),
    /// More partitions than there can be, or none.
    #[error("{0} partitions are configured; there must be 1 to {PARTITIONS_MAX}")]
    PartitionCount(u16),
    /// What is in a stream is not all of it yet.
    #[error(
        "a backup is being restored into the stream {0}, or that was interrupted: start when `shop restore` has \
         come to its end, or run it again"
    )]
    Restoring(String),
    /// A log that was there once.
    #[error(
        "there is no stream {0}, but SHOP_LAYOUT says how it is cut, so there was one. If the shop is to begin afresh, \
         stop all hosts and remove all of its streams, SHOP_LAYOUT as well: nats stream rm SHOP_LAYOUT. If not, the \
         log is lost: restore a backup"
    )]
    Lost(String),
    /// A log that was there once, of a shop that is there still.
    #[error(
        "there is no stream {stream}, though {trace}: there was one, and its log is lost. Restore a backup: stop all \
         hosts, remove all streams of the shop (nats stream rm), and run `shop restore`. To begin afresh without a \
         backup, do the same but for the last"
    )]
    Missing {
        /// Which stream.
        stream: String,
        /// What is left of the shop.
        trace: String,
    },
    /// A stream of that name that the shop did not make.
    #[error("the stream {stream} was not made by the shop, or by another version of it: its metadata say {found:?}")]
    Foreign {
        /// Which stream.
        stream: String,
        /// Its metadata.
        found: String,
    },
}

impl Connection {
    /// Whether there is a log of a kind.
    pub async fn has_log(&self, kind: Kind) -> Result<bool, TopologyError> {
        let (context, mut wait) = (jetstream::new(self.client().clone()), Wait::begin());
        loop {
            match find(&context, &subject::stream(kind)).await {
                Err(error @ TopologyError::Server { .. }) if wait.goes_on(&error).await => {}
                outcome => return outcome.map(|found| found.is_some()),
            }
        }
    }

    /// Makes the log of a kind unless it exists, and verifies that it is as it should be. None is made where there was
    /// one: an empty one would answer that nothing was ever there.
    pub async fn ensure_log(&self, kind: Kind, topology: Topology) -> Result<Identity, TopologyError> {
        let default = if self.is_clustered() { PARTITIONS_CLUSTER } else { PARTITIONS_SINGLE };
        let partitions = topology.partitions.unwrap_or(default);
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(TopologyError::PartitionCount(partitions));
        }
        let (logic, replicas) = (Logic::NEWEST.number(), self.replicas(topology)?);
        let max_bytes = topology.log_max_bytes.map_or(UNLIMITED, max_bytes);
        let config = Config { max_bytes, ..log(kind, random(), partitions, logic, replicas) };
        let info = self.ensure_stream(config, topology).await?;
        let identity = identity_of(&info)?;
        self.ensure_room(&info.config, topology).await?;
        match topology.partitions {
            Some(expected) if expected != identity.partitions => {
                Err(TopologyError::Partitions { kind, found: identity.partitions, expected })
            }
            Some(_) | None => Ok(identity),
        }
    }

    /// Makes the stream of dead letters unless it exists.
    pub async fn ensure_dead_letters(&self, topology: Topology) -> Result<(), TopologyError> {
        let config = dead_letters(self.replicas(topology)?);
        self.ensure_stream(config, topology).await.map(drop)
    }

    pub(crate) fn replicas(&self, topology: Topology) -> Result<usize, TopologyError> {
        match topology.replicas {
            None => Ok(if self.is_clustered() { REPLICAS_CLUSTER } else { 1 }),
            Some(1) => Ok(1),
            Some(count @ (3 | 5)) if self.is_clustered() => Ok(count),
            Some(count @ (3 | 5)) => Err(TopologyError::NoCluster(count)),
            Some(count) => Err(TopologyError::ReplicaCount(count)),
        }
    }

    /// Makes a stream unless it exists, and verifies that it has the copies that are configured.
    async fn ensure_stream(
        &self,
        config: Config,
        topology: Topology,
    ) -> Result<jetstream::stream::Info, TopologyError> {
        let info = self.make_or_find_stream(config).await?;
        let (stream, found) = (info.config.name.clone(), info.config.num_replicas);
        match topology.replicas {
            Some(expected) if expected != found => Err(TopologyError::Replicas { stream, found, expected }),
            Some(_) | None => Ok(info),
        }
    }

    /// Gives a log another limit than the one that it has. Nothing that is in it goes because of that.
    async fn ensure_room(&self, config: &Config, topology: Topology) -> Result<(), TopologyError> {
        let Some(wanted) = topology.log_max_bytes.map(max_bytes).filter(|wanted| *wanted != config.max_bytes) else {
            return Ok(());
        };
        tracing::info!("the stream {} may have {wanted} bytes from now on (-1: without limit)", config.name);
        let context = jetstream::new(self.client().clone());
        let mut wait = Wait::begin();
        loop {
            match give_room(&context, &config.name, wanted).await {
                Err(error @ TopologyError::Server { .. }) if wait.goes_on(&error).await => {}
                outcome => return outcome,
            }
        }
    }

    /// Asks again what was not answered or not possible yet.
    async fn make_or_find_stream(&self, config: Config) -> Result<jetstream::stream::Info, TopologyError> {
        let is_clustered = self.is_clustered();
        let mut context = jetstream::new(self.client().clone());
        context.set_timeout(if is_clustered { CLUSTER_TIMEOUT } else { SERVER_TIMEOUT });
        let mut wait = Wait::begin();
        loop {
            match find_or_make(&context, &config).await {
                Err(error @ TopologyError::Server { .. }) if wait.goes_on(&error).await => {}
                outcome => return outcome,
            }
        }
    }
}

async fn give_room(context: &jetstream::Context, name: &str, max_bytes: i64) -> Result<(), TopologyError> {
    let failed = |reason: String| TopologyError::Server { stream: name.to_owned(), reason };
    // Whatever else is changed with it, and the shop may have been repartitioned since it was found.
    let found = context.get_stream(name).await.map_err(|error| failed(error.to_string()))?;
    let now = found.cached_info().config.clone();
    let changed = context.update_stream(Config { max_bytes, ..now }).await;
    changed.map(drop).map_err(|error| failed(error.to_string()))
}

/// As a stream's configuration says it.
fn max_bytes(bytes: u64) -> i64 {
    if bytes == 0 { UNLIMITED } else { i64::try_from(bytes).unwrap_or(i64::MAX) }
}

/// What the server says of a stream; none when there is none.
pub(crate) async fn find(
    context: &jetstream::Context,
    name: &str,
) -> Result<Option<jetstream::stream::Info>, TopologyError> {
    let error = match context.get_stream(name).await {
        Ok(stream) => return Ok(Some(stream.cached_info().clone())),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        GetStreamErrorKind::JetStream(error) if is_off(error.error_code()) => {
            Err(TopologyError::NoJetStream(error.to_string()))
        }
        GetStreamErrorKind::Request if nobody_answers(&error) => Err(TopologyError::NoJetStream(error.to_string())),
        GetStreamErrorKind::JetStream(_)
        | GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::Request
        | GetStreamErrorKind::InvalidStreamName => {
            Err(TopologyError::Server { stream: name.to_owned(), reason: error.to_string() })
        }
    }
}

async fn find_or_make(context: &jetstream::Context, config: &Config) -> Result<jetstream::stream::Info, TopologyError> {
    let name = &config.name;
    let failed = |reason: String| TopologyError::Server { stream: name.clone(), reason };
    if let Some(info) = find(context, name).await? {
        return Ok(info);
    }
    let decided = layout::decided(context).await.map_err(|error| failed(error.to_string()))?;
    let of_kind = Kind::ALL.into_iter().find(|kind| subject::stream(*kind) == *name);
    if of_kind.is_some_and(|kind| decided.of(kind).is_some()) {
        return Err(TopologyError::Lost(name.clone()));
    }
    if let (Some(_), Some(trace)) = (of_kind, trace(context, name).await?) {
        // Once more, because hosts that start at once make the logs at once: whatever left that trace had all of them
        // before. And twice, because a server may not have heard of all of them yet.
        for _ in 0..2 {
            if let Some(info) = find(context, name).await? {
                return Ok(info);
            }
            sleep(FIND_PAUSE).await;
        }
        return Err(TopologyError::Missing { stream: name.clone(), trace });
    }
    match context.create_stream(config.clone()).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        // Another host was faster.
        Err(error) if is_name_taken(&error.kind()) => {
            let stream = context.get_stream(name).await.map_err(|error| failed(error.to_string()))?;
            Ok(stream.cached_info().clone())
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// What shows that there is a shop already, which had all of its logs before it had that.
async fn trace(context: &jetstream::Context, missing: &str) -> Result<Option<String>, TopologyError> {
    if find(context, subject::DEAD_STREAM).await?.is_some() {
        return Ok(Some(format!("{} is there, which is made when all logs are", subject::DEAD_STREAM)));
    }
    for stream in Kind::ALL.map(subject::stream).into_iter().filter(|stream| *stream != missing) {
        let found = find(context, &stream).await?;
        if found.is_some_and(|info| info.state.last_sequence > 0) {
            return Ok(Some(format!("something is in {stream}")));
        }
    }
    Ok(None)
}

/// Whether an error says that JetStream is not there: not on this server, or not for this account.
fn is_off(error: ErrorCode) -> bool {
    [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&error)
}

/// Whether no server of the whole system takes requests to JetStream.
fn nobody_answers(error: &(dyn std::error::Error + 'static)) -> bool {
    let failed = error.source().and_then(|source| source.downcast_ref::<RequestError>());
    failed.is_some_and(|failed| failed.kind() == RequestErrorKind::NoResponders)
}

pub(crate) fn is_name_taken(error: &CreateStreamErrorKind) -> bool {
    matches!(error, CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

/// A number that tells a new log, or a restore, from all others.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// The stream of a kind's log.
pub(crate) fn log(kind: Kind, epoch: u64, partitions: u16, logic: u32, replicas: usize) -> Config {
    Config {
        description: Some(format!("the shop's log of every {kind}")),
        // One by one, so that nothing is taken that is for no partition.
        subjects: subject::logs(kind, 0, partitions),
        // A log that is full refuses; it never forgets.
        discard: DiscardPolicy::New,
        max_bytes: UNLIMITED,
        deny_delete: true,
        // Only from its beginning on, and only what snapshots stand for: `shop trim`.
        deny_purge: false,
        metadata: HashMap::from([
            (EPOCH.into(), format!("{epoch:016x}")),
            (PARTITIONS.into(), partitions.to_string()),
            (LOGIC.into(), logic.to_string()),
            (FORMAT.into(), FORMAT_VERSION.into()),
        ]),
        ..stream(subject::stream(kind), replicas)
    }
}

/// The stream of dead letters.
pub(crate) fn dead_letters(replicas: usize) -> Config {
    Config {
        description: Some("what was in the shop's logs and could not be read, with the reason".into()),
        subjects: vec!["shop.dead.>".into()],
        // Nothing is dropped without a word: neither when there are many, nor by hand.
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        ..stream(subject::DEAD_STREAM.into(), replicas)
    }
}

/// A stream that no host uses yet, because a backup is being restored into it.
pub(crate) fn closed(mut config: Config, restore: u64) -> Config {
    config.metadata.extend([(FORMAT.into(), FORMAT_RESTORING.into()), (RESTORE.into(), format!("{restore:016x}"))]);
    config
}

/// The same stream when all of the backup is there.
pub(crate) fn opened(mut config: Config) -> Config {
    config.metadata.insert(FORMAT.into(), FORMAT_VERSION.into());
    config
}

/// Whether a backup is being restored into a stream, or that was interrupted.
pub(crate) fn is_closed(config: &Config) -> bool {
    config.metadata.get(FORMAT).is_some_and(|format| format == FORMAT_RESTORING)
}

/// Which restore has made a stream, if one has.
pub(crate) fn restored_by(config: &Config) -> Option<&str> {
    config.metadata.get(RESTORE).map(String::as_str)
}

/// A stream whose links are known by the epoch of the log that it is made from.
pub(crate) fn linked(mut config: Config, link_epoch: u64) -> Config {
    config.metadata.insert(LINK_EPOCH.into(), format!("{link_epoch:016x}"));
    config
}

fn stream(name: String, replicas: usize) -> Config {
    Config { name, storage: StorageType::File, num_replicas: replicas, allow_direct: true, ..Config::default() }
}

/// Says in a stream's metadata how its log is cut.
pub(crate) fn describe(metadata: &mut HashMap<String, String>, cut: &KindLayout) {
    metadata.extend([
        (EPOCH.into(), format!("{:016x}", cut.epoch)),
        (PARTITIONS.into(), cut.partitions.to_string()),
        (LOGIC.into(), cut.logic.to_string()),
        (BEGINS.into(), cut.begins_at.to_string()),
    ]);
    // Links count anew.
    metadata.remove(LINK_EPOCH);
}

/// Reads which log a stream is.
pub(crate) fn identity_of(info: &jetstream::stream::Info) -> Result<Identity, TopologyError> {
    let log = described(&info.config)?;
    Ok(Identity {
        created_unix_ns: info.created.unix_timestamp_nanos(),
        // One that never had a record says 0.
        first_sequence: info.state.first_sequence.max(log.first_sequence),
        oldest_sequence: info.state.first_sequence.max(1),
        last_sequence: info.state.last_sequence,
        ..log
    })
}

/// Which log a stream is, as far as its metadata say so: what is in it is another matter.
pub(crate) fn described(config: &Config) -> Result<Identity, TopologyError> {
    let metadata = &config.metadata;
    let get = |name: &str| metadata.get(name).map(String::as_str);
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let epoch = get(EPOCH).and_then(number);
    let link_epoch = get(LINK_EPOCH).map_or(epoch, number);
    let partitions = get(PARTITIONS).and_then(|partitions| partitions.parse().ok());
    let partitions = partitions.filter(|count| (1..=PARTITIONS_MAX).contains(count));
    // A log that does not say so was begun before there was a second version.
    let logic = get(LOGIC).map_or(Some(Logic::V1.number()), |logic| logic.parse().ok());
    let begins = get(BEGINS).map_or(Some(1), |begins| begins.parse().ok());
    let begins = begins.filter(|begins| (1..=SEQUENCE_MAX).contains(begins));
    match (epoch.zip(link_epoch), partitions, logic, begins, get(FORMAT)) {
        (Some((epoch, link_epoch)), Some(partitions), Some(logic), Some(begins), Some(FORMAT_VERSION)) => {
            Ok(Identity { link_epoch, partitions, logic, first_sequence: begins, ..Identity::new(epoch) })
        }
        (_, _, _, _, Some(FORMAT_RESTORING)) => Err(TopologyError::Restoring(config.name.clone())),
        (_, _, _, _, _) => Err(TopologyError::Foreign { stream: config.name.clone(), found: format!("{metadata:?}") }),
    }
}
