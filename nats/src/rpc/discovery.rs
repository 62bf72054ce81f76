//! Each kind as a NATS service: answers `nats micro ls`, `info` and `stats` (ADR-32).
//!
//! The client's own service module counts a request when its handler answers. Here an answer may
//! come much later and from another process, so the door counts, and these answers tell.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use shop_domain::{kind::Kind, logic::Logic, timestamp::Timestamp};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{Connection, inbox, queue::QUEUE_GROUP},
    subject,
};

/// The metadata by which a host says up to which logic version it can go.
const LOGIC: &str = "logic";

/// The metadata by which a host says where it keeps snapshots, and looks for them when the shop is repartitioned.
const SNAPSHOTS: &str = "snapshots";

/// The metadata by which a host says under the layout of which generation it serves.
const LAYOUT: &str = "layout";

/// What the door of a kind has done since it was opened.
pub struct Stats {
    server: Server,
    started: SystemTime,
    requests: AtomicU64,
    errors: AtomicU64,
    busy_ns: AtomicU64,
    describe: OnceLock<Box<Describe>>,
}

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name that it has from its start to its end.
    pub host: String,
    /// Where it keeps snapshots, if anywhere.
    pub snapshots: Option<String>,
    /// The generation of the layout under which it serves.
    pub layout: u32,
}

/// What the owner of a kind adds to its statistics.
type Describe = dyn Fn() -> Value + Send + Sync;

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats").field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Stats {
    /// Nothing yet, of this host.
    pub fn new(server: Server) -> Self {
        Self {
            server,
            started: SystemTime::now(),
            requests: 0.into(),
            errors: 0.into(),
            busy_ns: 0.into(),
            describe: OnceLock::new(),
        }
    }

    /// A request was let in, or answered at once, after `busy`.
    pub fn request(&self, busy: Duration) {
        self.requests.fetch_add(1, Relaxed);
        self.busy_ns.fetch_add(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Adds to the statistics, as their `data`, what this tells whenever they are asked for.
    pub fn describe(&self, describe: impl Fn() -> Value + Send + Sync + 'static) {
        // A kind has one owner.
        let _ = self.describe.set(Box::new(describe));
    }

    /// An error answer was given.
    pub fn error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }
}

/// A host that serves a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// What it serves.
    pub kind: Kind,
    /// Its id as a service.
    pub id: String,
    /// The version of the program.
    pub version: String,
    /// The number of the newest logic version that it knows, if it says so.
    pub logic: Option<u32>,
    /// Where it keeps snapshots; nowhere, or it is of a version that does not say so.
    pub snapshots: Option<String>,
    /// The generation of the layout under which it serves.
    pub layout: u32,
}

/// One host's presence as a service.
struct Service {
    kind: Kind,
    id: String,
    stats: Arc<Stats>,
}

impl Connection {
    /// Answers the discovery requests of a kind for as long as the connection lives. What it returns is cancelled when
    /// that ends.
    pub(crate) async fn announce(&self, kind: Kind, stats: Arc<Stats>) -> Result<CancellationToken, String> {
        let service = Service { kind, id: stats.server.host.clone(), stats };
        let client = self.client().clone();
        let mut questions = Vec::new();
        for verb in ["PING", "INFO", "STATS"] {
            let name = service.name();
            let subjects =
                [format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{}", service.id)];
            for subject in subjects {
                let asked = client.subscribe(subject).await.map_err(|error| error.to_string())?;
                questions.push(asked.map(move |message| (verb, message)).boxed());
            }
        }
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _ends = ends;
            let mut questions = stream::select_all(questions);
            while let Some((verb, message)) = questions.next().await {
                let Some(inbox) = message.reply.filter(|reply| inbox::is_a_callers(reply)) else { continue };
                let answer = match verb {
                    "PING" => service.ping(),
                    "INFO" => service.info(),
                    _ => service.stats(),
                };
                if let Err(error) = client.publish(inbox, answer.to_string().into()).await {
                    tracing::warn!("a discovery request could not be answered: {error}");
                }
            }
        });
        Ok(ended)
    }
}

impl Connection {
    /// All hosts that answer within `wait`, by kind.
    pub async fn hosts(&self, wait: Duration) -> Result<Vec<Announced>, String> {
        let client = self.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let asked = client.publish_with_reply("$SRV.PING", inbox, "".into()).await;
        asked.map_err(|error| error.to_string())?;
        let (mut hosts, deadline) = (Vec::new(), tokio::time::Instant::now() + wait);
        while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
            hosts.extend(announced(&answer.payload));
        }
        hosts.sort_by(|one, other| (one.kind, &one.id).cmp(&(other.kind, &other.id)));
        Ok(hosts)
    }
}

/// Reads a service's answer to a ping; none when it is not one of the shop's.
fn announced(answer: &[u8]) -> Option<Announced> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Announced {
        kind: answer["name"].as_str()?.strip_prefix("shop-")?.parse().ok()?,
        id: text(&answer["id"])?,
        version: text(&answer["version"])?,
        logic: answer["metadata"][LOGIC].as_str().and_then(|logic| logic.parse().ok()),
        snapshots: text(&answer["metadata"][SNAPSHOTS]).filter(|place| !place.is_empty()),
        layout: answer["metadata"][LAYOUT].as_str().and_then(|layout| layout.parse().ok()).unwrap_or(0),
    })
}

impl Service {
    fn name(&self) -> String {
        format!("shop-{}", self.kind)
    }

    fn ping(&self) -> Value {
        let Server { host: _, snapshots, layout } = &self.stats.server;
        json!({
            "type": "io.nats.micro.v1.ping_response",
            "name": self.name(),
            "id": self.id,
            "version": env!("CARGO_PKG_VERSION"),
            "metadata": {
                LOGIC: Logic::NEWEST.to_string(),
                SNAPSHOTS: snapshots.as_deref().unwrap_or_default(),
                LAYOUT: layout.to_string(),
            },
        })
    }

    fn info(&self) -> Value {
        let mut info = self.ping();
        info["type"] = json!("io.nats.micro.v1.info_response");
        info["description"] = json!(format!("the shop's door to every {}", self.kind));
        info["endpoints"] = json!([self.endpoint()]);
        info
    }

    fn stats(&self) -> Value {
        let Stats { server: _, started, requests, errors, busy_ns, describe } = &*self.stats;
        let (requests, busy_ns) = (requests.load(Relaxed), busy_ns.load(Relaxed));
        let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut endpoint = self.endpoint();
        endpoint["num_requests"] = json!(requests);
        endpoint["num_errors"] = json!(errors.load(Relaxed));
        endpoint["last_error"] = json!("");
        endpoint["processing_time"] = json!(busy_ns);
        endpoint["average_processing_time"] = json!(busy_ns / requests.max(1));
        if let Some(describe) = describe.get() {
            endpoint["data"] = describe();
        }
        let mut stats = self.ping();
        stats["type"] = json!("io.nats.micro.v1.stats_response");
        stats["started"] = json!(Timestamp::from_unix_ms(started.as_millis() as u64));
        stats["endpoints"] = json!([endpoint]);
        stats
    }

    fn endpoint(&self) -> Value {
        json!({
            "name": self.kind.as_str(),
            "subject": subject::doors(self.kind)[0].0,
            "queue_group": QUEUE_GROUP,
            "metadata": {},
        })
    }
}
