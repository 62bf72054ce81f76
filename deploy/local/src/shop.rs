//! The shop as one value: starts its parts in order, watches them, stops them in reverse.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use shop_actors::{
    observe::{Hosts, Observed},
    operator::{OperatorError, restore::put_back_all},
};
use shop_bridge_http::{
    self as bridge_http,
    auth::{AuthError, Guard, check_address},
};
use shop_domain::kind::Kind;
use shop_metrics::Observable;
use shop_nats::{
    connection::{
        ConnectError, Connection,
        access::{Access, NatsUrl},
    },
    server::permissions::Role,
};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Options,
    folder::{FolderError, FolderLock},
    http::Http,
    keys::{KeyName, Keys, KeysError, take_over_logs},
    nats_server::{NatsServer, NatsServerError, Setup},
    parts::{self, Settings},
    service::{Service, ServiceError},
};

/// How long until every kind must be ready: hosts replay what came after their checkpoints,
/// and all of a log whose checkpoints were deleted.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How often the bridge is asked until then.
const READY_INTERVAL: Duration = Duration::from_millis(10);
/// How long the bridge may answer what it has begun: a little more than the 10 seconds that it
/// gives itself. Less than the longest wait that a caller can ask for: who stops the shop does
/// not wait for somebody else's patience.
const BRIDGE_STOP_LIMIT: Duration = Duration::from_secs(12);
/// How long a host may take to acknowledge, answer and checkpoint. Being cut off costs only
/// time: it replays from its last checkpoint.
const HOST_STOP_LIMIT: Duration = Duration::from_secs(25);
/// How long the data folder may still be held by a shop that is just ending.
const FOLDER_LIMIT: Duration = Duration::from_secs(1);
/// A nats-server that ends sooner than this after it was started counts as a failed start.
const NATS_RUN_MIN: Duration = Duration::from_secs(5);
/// So many of those in a row, and the shop gives up.
const NATS_FAILED_STARTS_MAX: u32 = 3;

/// A running shop. [`Shop::stop`] ends it in good order; dropping it cuts everything off.
#[derive(Debug)]
pub struct Shop {
    // In the order in which they are dropped.
    bridge: Service,
    hosts: BTreeMap<Kind, Service>,
    /// Where it can be seen how bridge and hosts are.
    observing: Option<(SocketAddr, AbortOnDropHandle<()>)>,
    nats: Nats,
    keys: Option<Keys>,
    settings: Settings,
    address: SocketAddr,
    folder: PathBuf,
    http: Http,
    restored: Option<Restored>,
    failures: (mpsc::Sender<ServiceError>, mpsc::Receiver<ServiceError>),
    _lock: FolderLock,
}

/// A backup that was put back.
#[derive(Debug)]
struct Restored {
    backup: String,
    made: String,
}

#[derive(Debug)]
enum Nats {
    Own(Box<NatsServer>),
    Foreign(NatsUrl),
}

/// Why the shop does not run.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// HTTP cannot be served there.
    #[error("cannot serve HTTP on {address}: {source} (use --http-addr for another address)")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// How bridge and hosts are cannot be shown there.
    #[error("cannot show how bridge and hosts are on {address}: {source} (use --observe-addr for another address)")]
    Observe {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no nats-server.
    #[error(transparent)]
    Nats(#[from] NatsServerError),
    /// There are no keys for it.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It ends each time it is started.
    #[error("the nats-server ended {NATS_FAILED_STARTS_MAX} times right after its start; its log is {}", .log.display())]
    NatsUnstable {
        /// Its log file.
        log: PathBuf,
    },
    /// A backup is not put back.
    #[error("cannot put the backup back: {0}")]
    Restore(#[from] OperatorError),
    /// There is a shop already, where a backup was to be put.
    #[error(
        "there are checkpoints of another shop in {}: start without --restore-from, or with an empty --data-dir",
        .folder.display()
    )]
    NotEmpty {
        /// Where.
        folder: PathBuf,
    },
    /// There is no connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It cannot be known who asks, or must be.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A part ended, or did not.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Not every kind became ready in time.
    #[error("the shop is not ready after {READY_LIMIT:?}; its bridge says: {answer}")]
    NotReady {
        /// The last answer.
        answer: String,
    },
}

impl Shop {
    /// Starts nats-server, then the hosts, then the bridge, and waits until all kinds are ready.
    pub async fn start(options: Options) -> Result<Self, ShopError> {
        // What can be refused at once comes first: folder and address.
        let lock = FolderLock::take_within(&options.data_dir, FOLDER_LIMIT).await?;
        let unusable = |source| FolderError::Unusable { folder: options.data_dir.clone(), source };
        let folder = options.data_dir.canonicalize().map_err(unusable)?;
        let restore_from = options.restore_from.filter(|backup| !backup.is_empty());
        if restore_from.is_some() && folder.join("hosts").exists() {
            return Err(ShopError::NotEmpty { folder });
        }
        let (listener, address) = listen(&options.http_addr).await?;
        check_address(address, &options.auth)?;
        let guard = Guard::open(&options.auth).await?;
        let observed: BTreeMap<_, _> = Kind::ALL.into_iter().map(|kind| (kind, Observed::new(&[kind]))).collect();
        let bridge_observed = bridge_http::Observed::new();
        let observing = match &*options.observe_addr {
            "" => None,
            address => {
                let hosts = Hosts(observed.values().cloned().collect());
                let bridge: Arc<bridge_http::Observed> = Arc::clone(&bridge_observed);
                Some(show(address, vec![Arc::new(hosts), bridge]).await?)
            }
        };

        let (nats, keys) = match options.nats_url.filter(|url| !url.is_empty()) {
            Some(url) => (Nats::Foreign(url), None),
            None => own_nats(&folder, options.nats_port, options.secure).await?,
        };
        let access = |role| match &keys {
            Some(keys) => keys.access(role, nats.url()),
            None => Ok(Access { url: nats.url(), credentials: options.credentials.clone() }),
        };
        let settings = Settings {
            nats: access(Role::Host)?,
            bridge_nats: access(Role::Bridge)?,
            operator_nats: access(Role::Operator)?,
            hosts_folder: folder.join("hosts"),
            partitions: options.partitions,
            log_max_bytes: options.log_max_bytes,
            snapshots: options.snapshots.or_in(&folder.join("snapshots")),
            observed,
            bridge_observed,
            guard,
            cors_origins: options.cors_origins,
            allow_hosts: options.allow_hosts,
            limits: options.limits,
        };
        if let Nats::Foreign(_) = nats {
            // Here once, so that not every part of the shop says that it waits.
            drop(Connection::connect_patiently(&settings.nats, "shop").await?);
        }
        let restored = match restore_from {
            Some(backup) => Some(restore(backup, &settings).await?),
            None => None,
        };
        // One failure ends the shop, so one place is enough.
        let failures = mpsc::channel(1);
        let host = |kind| Ok((kind, spawn_host(kind, &settings, &failures.0)?));
        let hosts = Kind::ALL.into_iter().map(host).collect::<Result<_, ServiceError>>()?;
        let bridge = Service::spawn("the HTTP bridge".to_owned(), failures.0.clone(), |shutdown| {
            parts::bridge(settings.clone(), listener, shutdown)
        });

        let http = Http::new(address);
        let mut shop = Self {
            bridge,
            hosts,
            observing,
            nats,
            keys,
            settings,
            address,
            folder,
            http,
            restored,
            failures,
            _lock: lock,
        };
        shop.wait_until_ready().await?;
        Ok(shop)
    }

    /// Watches the parts, and returns when the shop cannot go on. A nats-server of our own that
    /// ends is started again: hosts and bridge reconnect and resend by themselves.
    pub async fn watch(&mut self) -> ShopError {
        let mut failed_starts = 0;
        loop {
            let start = Instant::now();
            let status = tokio::select! {
                Some(failure) = self.failures.1.recv() => return failure.into(),
                status = self.nats.ended() => status,
            };
            let Nats::Own(server) = &mut self.nats else { continue };
            match status {
                Ok(status) => tracing::error!("the nats-server ended ({status}), starting it again"),
                Err(error) => tracing::error!("the nats-server is lost ({error}), starting it again"),
            }
            failed_starts = if start.elapsed() < NATS_RUN_MIN { failed_starts + 1 } else { 0 };
            if failed_starts >= NATS_FAILED_STARTS_MAX {
                return ShopError::NatsUnstable { log: server.log() };
            }
            if let Err(error) = server.start_again().await {
                return error.into();
            }
        }
    }

    /// Stops the bridge, then the hosts, then the nats-server, each within its limit. Goes on
    /// when one of them does not stop, and returns the first thing that went wrong.
    pub async fn stop(self) -> Result<(), ShopError> {
        let mut outcomes = vec![self.bridge.stop(BRIDGE_STOP_LIMIT).await];
        let hosts: Vec<_> = self.hosts.into_values().map(|host| tokio::spawn(host.stop(HOST_STOP_LIMIT))).collect();
        for host in hosts {
            outcomes.push(host.await.unwrap_or_else(|error| {
                Err(ServiceError::Unfinished { name: "a host".to_owned(), reason: error.to_string() })
            }));
        }
        if let Nats::Own(mut server) = self.nats {
            server.stop().await;
        }
        Ok(outcomes.into_iter().collect::<Result<(), _>>()?)
    }

    /// Stops the process that serves one kind; the others go on. Does nothing when it is stopped.
    pub async fn stop_kind(&mut self, kind: Kind) -> Result<(), ShopError> {
        match self.hosts.remove(&kind) {
            Some(host) => Ok(host.stop(HOST_STOP_LIMIT).await?),
            None => Ok(()),
        }
    }

    /// Starts it again. When that makes the shop complete, waits until it is ready.
    pub async fn start_kind(&mut self, kind: Kind) -> Result<(), ShopError> {
        if let Entry::Vacant(stopped) = self.hosts.entry(kind) {
            stopped.insert(spawn_host(kind, &self.settings, &self.failures.0)?);
        }
        if self.hosts.len() == Kind::ALL.len() { self.wait_until_ready().await } else { Ok(()) }
    }

    /// Where HTTP is served.
    pub fn http_address(&self) -> SocketAddr {
        self.address
    }

    /// Where it can be seen how bridge and hosts are, if anywhere.
    pub fn observe_address(&self) -> Option<SocketAddr> {
        self.observing.as_ref().map(|(address, _)| *address)
    }

    /// A client for where HTTP is served.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Where NATS is, as anybody may see it.
    pub fn nats_url(&self) -> String {
        self.nats.url().to_string()
    }

    /// The keys that its nats-server knows, if it lets in nobody else.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// Where everything is kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The backup that was put back when it was started, if one was, and when it was made.
    pub fn restored(&self) -> Option<(&str, &str)> {
        self.restored.as_ref().map(|Restored { backup, made }| (&**backup, &**made))
    }

    /// The shop's own nats-server, if it has one.
    pub fn nats_server(&self) -> Option<&NatsServer> {
        match &self.nats {
            Nats::Own(server) => Some(server),
            Nats::Foreign(_) => None,
        }
    }

    /// The same, to stop, kill and start it again.
    pub fn nats_server_mut(&mut self) -> Option<&mut NatsServer> {
        match &mut self.nats {
            Nats::Own(server) => Some(server),
            Nats::Foreign(_) => None,
        }
    }

    /// Waits until the bridge says of every kind that it is ready.
    async fn wait_until_ready(&mut self) -> Result<(), ShopError> {
        let mut answer = "nothing yet".to_owned();
        let ready = async {
            loop {
                let (_, readiness) = self.settings.bridge_observed.readiness().await;
                if is_complete(&readiness, &self.settings.observed) {
                    return;
                }
                answer = readiness.to_string();
                sleep(READY_INTERVAL).await;
            }
        };
        let outcome = tokio::select! {
            Some(failure) = self.failures.1.recv() => return Err(failure.into()),
            ready = timeout(READY_LIMIT, ready) => ready,
        };
        outcome.map_err(|_| ShopError::NotReady { answer })
    }
}

/// Whether all kinds are served that can be: one whose log needs a newer program waits for an operator, who needs the
/// nats-server for that.
fn is_complete(readiness: &Value, observed: &BTreeMap<Kind, Arc<Observed>>) -> bool {
    let is_stopped = |kind: &Kind| observed.get(kind).is_some_and(|host| host.is_stopped(*kind));
    Kind::ALL.iter().all(|kind| readiness["kinds"][kind.as_str()] == "ready" || is_stopped(kind))
}

impl Nats {
    fn url(&self) -> NatsUrl {
        match self {
            Self::Own(server) => server.url().into(),
            Self::Foreign(url) => url.clone(),
        }
    }

    async fn ended(&mut self) -> io::Result<std::process::ExitStatus> {
        match self {
            Self::Own(server) => server.ended().await,
            Self::Foreign(_) => std::future::pending().await,
        }
    }
}

/// Starts a nats-server of the shop's own. With keys, if that is wanted, or if it once was: whoever forgets to say so
/// does not open the shop to everybody.
async fn own_nats(folder: &Path, port: u16, secure: bool) -> Result<(Nats, Option<Keys>), ShopError> {
    let (nats_folder, keys_folder) = (folder.join("nats"), folder.join("keys"));
    if !secure && !keys_folder.exists() {
        return Ok((Nats::Own(Box::new(NatsServer::start(&nats_folder, port).await?)), None));
    }
    let keys = Keys::make(&keys_folder, &KeyName::of_all_roles())?;
    take_over_logs(&nats_folder)?;
    let server = NatsServer::start_as(Setup::alone(port).with_keys(&keys)?, &nats_folder).await?;
    Ok((Nats::Own(Box::new(server)), Some(keys)))
}

async fn restore(backup: String, settings: &Settings) -> Result<Restored, OperatorError> {
    let made = put_back_all(&backup, &settings.operator_nats, settings.snapshots.snapshots.as_deref()).await?;
    Ok(Restored { backup, made })
}

fn spawn_host(kind: Kind, settings: &Settings, failures: &mpsc::Sender<ServiceError>) -> Result<Service, ServiceError> {
    Service::spawn_on_thread(format!("the host of {kind}"), failures.clone(), |shutdown| {
        parts::host(kind, settings.clone(), shutdown)
    })
}

async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), ShopError> {
    let failed = |source| ShopError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Shows how these parts are, until what it returns is dropped.
async fn show(
    address: &str,
    parts: Vec<Arc<dyn Observable>>,
) -> Result<(SocketAddr, AbortOnDropHandle<()>), ShopError> {
    let failed = |source| ShopError::Observe { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((local, AbortOnDropHandle::new(tokio::spawn(shop_metrics::serve(listener, parts)))))
}
