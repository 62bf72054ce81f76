//! `shop restore`: puts a backup into an empty JetStream, from which hosts go on as after a crash.
//!
//! Records come back to their own sequences and with the times at which they were taken first, because states
//! follow from those. The logs are new ones nevertheless, with epochs of their own: no checkpoint and no snapshot
//! of the originals, which may be further, is taken for theirs. Links alone know them by the epochs that they had,
//! so that their numbers go on. Hosts take nothing of it until all of it is there; those of the shop that was there
//! before have to be gone, because they would append to it.

use std::{cell::RefCell, collections::BTreeMap, io::Write, process::ExitCode, time::Instant};

use clap::Args;
use futures::future::try_join_all;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{Connection, access::Access},
    jetstream::restore::{Original, Restoring, Stored},
    rpc::discovery::Announced,
    stream::topology::Topology,
    subject,
};
use tokio::sync::mpsc;

use super::{
    Answered, Common, OperatorError, Out, Progress,
    backup::{
        BackupError,
        check::{self, Contents},
        extent,
        file::{Header, Log, Reader},
        place::{self, Backup},
    },
    hosts, no, say, words,
};
use crate::{
    blob::object::{ObjectError, Received},
    cli::copies,
    joined::joined,
    snapshot::{self, Name, Snapshots},
    store::Meta,
};

/// Messages that wait between the file and the log.
const MESSAGES_WAITING: usize = 64;

/// Which backup, and where it is to go.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the backup is: a folder, or a URL.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Read all of the backup, say whether it is whole, and restore nothing.
    #[arg(long)]
    dry_run: bool,
    /// Copies of each stream: 1, 3 or 5 [default: 1 on a single server, 3 on a cluster].
    #[arg(long, env = "SHOP_REPLICAS", value_parser = copies)]
    replicas: Option<usize>,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { from, dry_run, replicas, common } = options;
    let start = Instant::now();
    let backup = Backup::find(&from)?;
    let contents = check::check(&backup).await?;
    let snapshots = common.named_snapshots();
    if !dry_run {
        let connection = common.connect("restore").await?;
        if let Err(why) = fill_empty(&connection, &backup, &contents, snapshots, replicas).await? {
            return Ok(no(&why));
        }
    }
    let done = if dry_run { "is whole" } else { "is restored" };
    tell(&contents, &from, done, start, common.json, out)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts a backup into the empty JetStream of a shop that is about to be started. Returns when the backup was made.
pub async fn put_back_all(from: &str, access: &Access, snapshots: Option<&str>) -> Result<String, OperatorError> {
    let backup = Backup::find(from)?;
    let contents = check::check(&backup).await?;
    let connection = Connection::connect(access, "shop restore").await?;
    let filled = fill_empty(&connection, &backup, &contents, snapshots, None).await?;
    filled.map(|()| contents.made).map_err(OperatorError::Refused)
}

/// Fills an empty JetStream, or says why not.
async fn fill_empty(
    connection: &Connection,
    backup: &Backup,
    contents: &Contents,
    snapshots: Option<&str>,
    replicas: Option<usize>,
) -> Result<Result<(), String>, OperatorError> {
    if let (Some(kind), None) = (contents.cut(), snapshots) {
        return Ok(Err(format!(
            "the log of {kind} was cut, and snapshots stand for what went; \
             say with --snapshots where they are to be"
        )));
    }
    let snapshots = snapshots.map(Snapshots::open).transpose()?;
    if snapshots.is_none() && !contents.snapshots.is_empty() {
        say(&"the snapshots of the backup are left out: --snapshots would say where they are to be");
    }
    if let Some(Announced { kind, id, version, .. }) = hosts(connection).await?.first() {
        let host = format!("a host of {kind} (version {version}, service id {id})");
        return Ok(Err(format!("{host} is still running: stop all hosts first; nothing was restored")));
    }
    let topology = Topology { partitions: None, replicas, log_max_bytes: None };
    put_back(connection, backup, contents, snapshots.as_ref(), topology).await?;
    Ok(Ok(()))
}

async fn put_back(
    connection: &Connection,
    backup: &Backup,
    contents: &Contents,
    snapshots: Option<&Snapshots>,
    topology: Topology,
) -> Result<(), OperatorError> {
    let restore = connection.begin_restore(topology).await?;
    // All of them before any of them is filled, so that no host makes one meanwhile.
    let mut logs = BTreeMap::new();
    for (kind, (log, header)) in &contents.logs {
        let (kind, first_sequence) = (*kind, header.first);
        let (link_epoch, partitions, logic) = (log.link_epoch, log.partitions, log.logic);
        let original = Original { kind, link_epoch, partitions, logic, first_sequence };
        logs.insert(kind, restore.log(original).await?);
    }
    let mut letters = restore.dead_letters(contents.letters.first).await?;
    for (place, header) in &contents.snapshots {
        let (Some(snapshots), Some(log)) = (snapshots, logs.get(&place.0)) else { continue };
        let meta = Meta { epoch: log.epoch, created_unix_ns: log.created_unix_ns, ..header.meta.clone() };
        let stored = open(backup, &place::snapshot(*place)).await?;
        snapshots.adopt(stored, snapshot::Header { meta, ..header.clone() }).await?;
    }
    let epoch = |kind| logs.get(&kind).map(|log: &Restoring| log.epoch);
    let epochs: Epochs =
        contents.logs.values().filter_map(|(log, _)| Some((log.kind, (log.epoch, epoch(log.kind)?)))).collect();
    let progress = RefCell::new(Progress::new("restoring the logs", contents.messages()));
    let as_it_is = |record| {
        progress.borrow_mut().step();
        record
    };
    try_join_all(logs.iter_mut().map(|(kind, log)| fill(backup, place::log(*kind), log, as_it_is))).await?;
    drop(progress);
    fill(backup, place::LETTERS.to_owned(), &mut letters, |letter| of_the_new_log(letter, &epochs)).await?;
    // The logs last: hosts begin when all of these are open.
    for stream in [letters].into_iter().chain(logs.into_values()) {
        stream.open().await?;
    }
    Ok(())
}

/// Fills a stream from a file of the backup.
async fn fill(
    backup: &Backup,
    name: String,
    stream: &mut Restoring,
    change: impl Fn(Stored) -> Stored,
) -> Result<(), OperatorError> {
    let stored = open(backup, &name).await?;
    let (messages, mut read) = mpsc::channel(MESSAGES_WAITING);
    let reading = tokio::task::spawn_blocking(move || {
        for message in Reader::begin(stored)? {
            if messages.blocking_send(message?).is_err() {
                break;
            }
        }
        Ok(())
    });
    while let Some(message) = read.recv().await {
        stream.put(change(message)).await?;
    }
    let read: Result<(), ObjectError> = joined(reading).await;
    read.map_err(|error| BackupError::File { file: name, error })?;
    Ok(stream.settle().await?)
}

async fn open(backup: &Backup, name: &str) -> Result<Received, BackupError> {
    let failed = |error| BackupError::File { file: name.to_owned(), error };
    backup.open(name).await.map_err(failed)
}

/// Of each kind the epoch that its log had, and the one that it has.
type Epochs = BTreeMap<Kind, (u64, u64)>;

/// The same dead letter, from the same place in the log that is there instead.
fn of_the_new_log(letter: Stored, epochs: &Epochs) -> Stored {
    match subject::origin_of_dead(&letter.subject) {
        Some((kind, epoch, sequence)) => match epochs.get(&kind) {
            Some((then, now)) if *then == epoch => Stored { subject: subject::dead(kind, *now, sequence), ..letter },
            Some(_) | None => letter,
        },
        None => letter,
    }
}

fn tell(
    contents: &Contents,
    from: &str,
    done: &str,
    start: Instant,
    json: bool,
    out: &mut Out,
) -> Result<(), OperatorError> {
    let Contents { made, logs, letters, snapshots } = contents;
    let took = start.elapsed().as_secs_f64();
    if json {
        let log =
            |(log, header): &(Log, Header)| json!({ "log": log.kind, "first": header.first, "last": header.last });
        let logs: Vec<_> = logs.values().map(log).collect();
        let (letters, snapshots) = (letters.messages(), snapshots.len());
        let line = json!({
            "backup": from,
            "made": made,
            "done": done,
            "logs": logs,
            "dead_letters": letters,
            "snapshots": snapshots,
            "seconds": took,
        });
        return Ok(writeln!(out, "{line}")?);
    }
    for (kind, (_, header)) in logs {
        writeln!(out, "{:<9} {}", kind.as_str(), extent(header))?;
        for ((_, partition), header) in snapshots.iter().filter(|((of, _), _)| of == kind) {
            let place = words::place((*kind, *partition));
            writeln!(out, "  {place:<12} {} is with it", Name::of(&header.meta))?;
        }
    }
    writeln!(out, "letters   {}", letters.messages())?;
    writeln!(out, "\nthe backup in {from} of {made} {done}; it took {took:.1} s")?;
    Ok(())
}
