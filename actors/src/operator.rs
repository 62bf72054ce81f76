//! Tools for whoever runs a shop: what its logs hold, and whether all of it adds up.
//!
//! They read the logs and ask the doors, like anybody; they need no host's data folder and may run
//! beside a live shop. Only `upgrade`, `dead requeue`, `dead skip`, `link repair`, `trim`, `restore` and `repartition` change anything. They exit
//! with 0, with 1 when the answer is a no (differences, nothing of that name), and with 2 when they could not find out,
//! also because they were interrupted.

pub mod at;
pub mod audit;
pub mod backup;
mod begin;
mod consent;
pub mod dead;
pub mod link;
pub mod log;
mod progress;
pub mod repartition;
pub mod restore;
pub mod trace;
pub mod trim;
pub mod upgrade;
mod verdict;
pub mod why;
mod words;

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, Stdout, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use futures::future::LocalBoxFuture;
use shop_nats::{
    connection::{ConnectError, Connection, access::Access},
    jetstream::{dead::DeadError, restore::RestoreError},
    log::{AppendError, LogError, TrimError},
    rpc::discovery::Announced,
    stream::layout::LayoutError,
};
use tokio_util::sync::CancellationToken;

use self::{backup::BackupError, progress::Progress};
use crate::{
    replay::{Replay, ReplayError, merged_log::TapeError},
    snapshot::{SnapshotError, Snapshots},
};

/// What one may want to know.
#[derive(Debug, Subcommand)]
pub enum Tool {
    /// Print the messages of a kind's log, one a line.
    Log(log::Options),
    /// Replay all logs and name whatever does not add up.
    Audit(audit::Options),
    /// Follow one order through all logs.
    Trace(trace::Options),
    /// Say in a paragraph why an order is as it is.
    Why(why::Options),
    /// Show an entity as callers would have seen it at some moment.
    At(at::Options),
    /// Look at the dead letters, and put them back: what was in a log and could not be read.
    Dead(dead::Options),
    /// Repair links between partitions, under whose numbers somebody else has appended to a log.
    Link(link::Options),
    /// Let all entities behave by a newer logic version from now on; there is no way back.
    ///
    /// Asks all hosts first whether they know it, and writes nothing while one does not. Then each partition whose
    /// entities do not behave by it already gets one record in its log, and switches over there, in every replay and for
    /// good: neither this tool nor an older program takes that back.
    Upgrade(upgrade::Options),
    /// Cut the beginnings of the logs off, as far as snapshots stand for them.
    Trim(trim::Options),
    /// Cut kinds into another number of partitions, while the shop goes on.
    ///
    /// Follows all logs first, which nobody notices. Then the doors hold what changes something, for about a second and as
    /// long as it takes to write everything; orders are kept meanwhile (202). It is in force with one append at the
    /// very end: until then everything stays as it was, whatever is killed. The hosts begin anew by themselves.
    Repartition(repartition::Options),
    /// Copy all logs to another place, beside a running shop.
    ///
    /// The shop goes on meanwhile, and the copies end where they belong together. With --snapshots, which is needed
    /// once the logs were cut, the newest snapshots are in the backup as well. It is complete when it has its
    /// manifest.json, which is written last.
    Backup(backup::Options),
    /// Put a backup into an empty JetStream.
    ///
    /// Reads all of the backup first, and restores nothing if it is damaged or not all there. No host starts on what is
    /// restored until all of it is there. Then start the hosts without their old data folders, and with the same
    /// --snapshots as here.
    Restore(restore::Options),
}

/// Where the shop is, and how to answer.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    access: Access,
    /// Answer in JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Where the snapshots are: a folder or a URL. Needed once the logs were cut [default: where the hosts that run say
    /// that they keep theirs].
    #[arg(long, env = "SHOP_SNAPSHOTS", value_name = "URL")]
    snapshots: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no connection to NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A log cannot be read.
    #[error("{0} (has a shop been started on this nats-server?)")]
    Log(#[from] LogError),
    /// A log cannot be read to its end.
    #[error(transparent)]
    MergedLog(#[from] TapeError),
    /// A log cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The dead letters cannot be read.
    #[error("{0} (has a shop been started on this nats-server?)")]
    Dead(#[from] DeadError),
    /// What was to be written is not in the log.
    #[error("{0}; what is not in the log yet can be tried again")]
    Append(#[from] AppendError),
    /// A log was cut, and neither a host nor whoever asks says where its snapshots are.
    #[error(
        "{gap}: what came before is in snapshots, and no host that runs says where these are; say it with --snapshots"
    )]
    Missing {
        /// What of which log is missing.
        gap: String,
    },
    /// A log was cut, and its snapshots are not there.
    #[error("{gap}, but no snapshot of {place} in {url} goes up to there")]
    NoSnapshot {
        /// What of which log is missing.
        gap: String,
        /// Of which partition there is none.
        place: String,
        /// Where they should be.
        url: String,
    },
    /// Hosts keep their snapshots in several places.
    #[error("the hosts keep their snapshots in several places, {0}: say with --snapshots which of them is meant")]
    SeveralPlaces(String),
    /// The snapshots are not where a host says that they are.
    #[error("{error}; a host keeps its snapshots in {place}, as it says: say with --snapshots where that is from here")]
    NotHere {
        /// Where they should be.
        place: String,
        /// Why they are not.
        error: SnapshotError,
    },
    /// There is no snapshot to be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is no backup, or it is of no use.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A backup is not restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A backup is not restored because of what is there already.
    #[error("{0}")]
    Refused(String),
    /// A log was not cut.
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// Nobody says into how many partitions the logs are cut.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Nobody says who serves.
    #[error("cannot ask who serves: {0}")]
    Hosts(String),
    /// Nobody takes the answer.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// How long hosts may take to say that they are there, and what they can.
const HOSTS_WAIT: Duration = Duration::from_secs(1);

/// Exits with 1: the answer is a no.
const NO: u8 = 1;
/// Exits with 2: there is no answer.
const UNKNOWN: u8 = 2;

impl Tool {
    /// Answers on standard output, unless it is told to `stop` before.
    pub fn run(self, stop: CancellationToken) -> LocalBoxFuture<'static, ExitCode> {
        // Boxed, so that the tools are compiled with this crate, and not with the program.
        Box::pin(self.run_until(stop))
    }

    async fn run_until(self, stop: CancellationToken) -> ExitCode {
        // What has no end is not interrupted by being ended.
        let is_endless = matches!(&self, Self::Log(options) if options.follow);
        tokio::select! {
            code = self.answer() => code,
            () = stop.cancelled() => {
                if is_endless {
                    return ExitCode::SUCCESS;
                }
                say(&"interrupted");
                ExitCode::from(UNKNOWN)
            }
        }
    }

    async fn answer(self) -> ExitCode {
        let mut out = io::BufWriter::new(io::stdout());
        let answered = match self {
            Self::Log(options) => log::run(options, &mut out).await,
            Self::Audit(options) => audit::run(options, &mut out).await,
            Self::Trace(options) => trace::run(options, &mut out).await,
            Self::Why(options) => why::run(options, &mut out).await,
            Self::At(options) => at::run(options, &mut out).await,
            Self::Dead(options) => dead::run(options, &mut out).await,
            Self::Link(options) => link::run(options, &mut out).await,
            Self::Upgrade(options) => upgrade::run(options, &mut out).await,
            Self::Trim(options) => trim::run(options, &mut out).await,
            Self::Repartition(options) => repartition::run(options, &mut out).await,
            Self::Backup(options) => backup::run(options, &mut out).await,
            Self::Restore(options) => restore::run(options, &mut out).await,
        };
        match answered.and_then(|code| Ok(out.flush().map(|()| code)?)) {
            Ok(code) => code,
            // Whoever read it has read enough: `shop log wallet | head`.
            Err(OperatorError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                say(&error);
                ExitCode::from(UNKNOWN)
            }
        }
    }
}

/// The hosts that there are.
async fn hosts(connection: &Connection) -> Result<Vec<Announced>, OperatorError> {
    connection.hosts(HOSTS_WAIT).await.map_err(OperatorError::Hosts)
}

/// The snapshots where these hosts keep theirs, if they do.
fn snapshots_of(hosts: &[Announced]) -> Result<Option<Snapshots>, OperatorError> {
    let places: BTreeSet<_> = hosts.iter().filter_map(|host| host.snapshots.as_deref()).collect();
    let [place] = places.iter().copied().collect::<Vec<_>>()[..] else {
        let named = Vec::from_iter(places).join(", ");
        return if named.is_empty() { Ok(None) } else { Err(OperatorError::SeveralPlaces(named)) };
    };
    let not_here = |error| OperatorError::NotHere { place: place.to_owned(), error };
    Snapshots::find(place).map(Some).map_err(not_here)
}

type Out = io::BufWriter<Stdout>;
type Answered = Result<ExitCode, OperatorError>;

impl Common {
    async fn connect(&self, tool: &str) -> Result<Connection, OperatorError> {
        Ok(Connection::connect(&self.access, &format!("shop {tool}")).await?)
    }

    /// The snapshots, if whoever asks or a host says where they are.
    async fn snapshots(&self, connection: &Connection) -> Result<Option<Snapshots>, OperatorError> {
        match self.named_snapshots() {
            Some(url) => Ok(Some(Snapshots::find(url)?)),
            None => snapshots_of(&hosts(connection).await?),
        }
    }

    /// Where whoever asks says that the snapshots are.
    fn named_snapshots(&self) -> Option<&str> {
        self.snapshots.as_deref().filter(|url| !url.is_empty())
    }
}

/// Says that there is nothing of that name.
fn no(what: &str) -> ExitCode {
    say(&what);
    ExitCode::from(NO)
}

/// Says something beside the answer, to whoever sits there.
fn say(what: &dyn fmt::Display) {
    eprintln!("shop: {what}");
}

/// Says which partitions are parked: of these, only what came before is known.
fn name_parked(replay: &Replay) -> ExitCode {
    for (place, parked) in replay.parked() {
        say(&words::parked(*place, parked));
    }
    if replay.parked().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}
