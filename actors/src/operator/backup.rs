//! `shop backup`: copies the logs of all kinds, up to positions that belong together, beside a running shop.
//!
//! A backup holds the records as they are, with their times, the newest snapshots, and the dead letters.
//! What it holds is a state in which the shop could have been, had all its hosts died: what was on its way there is
//! sent again after a restore.

pub(crate) mod check;
mod cut;
pub(crate) mod file;
mod make;
pub(crate) mod place;

use std::{io::Write, process::ExitCode, sync::Arc, time::Instant};

use clap::Args;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::{
    jetstream::{JetStreamLog, dead::DeadError},
    log::{LogError, SharedLog, frame::Cause},
};

use self::{file::Header, make::Made, place::Backup};
use super::{Answered, Common, OperatorError, Out, words};
use crate::{
    blob::{address::AddressError, object::ObjectError},
    replay::merged_log::TapeError,
    snapshot::SnapshotError,
};

/// Where to put a backup.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the backup is to be: an empty folder, or a URL.
    #[arg(long, value_name = "URL")]
    to: String,
    #[command(flatten)]
    common: Common,
}

/// Why there is no backup, or why one is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The address says nothing.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// There is something at that address.
    #[error("there is something in {0} already, and every backup needs a place of its own")]
    Taken(String),
    /// There is no backup at that address.
    #[error("there is no backup in {0}: it has no manifest.json, which is written last")]
    None(String),
    /// It does not say what it holds.
    #[error("the manifest.json of the backup in {url} cannot be read: {reason}")]
    Manifest {
        /// Where the backup is.
        url: String,
        /// Why not.
        reason: String,
    },
    /// A file is not there, though its log needs it.
    #[error("the backup is not complete: its manifest.json names no file {0}")]
    Missing(String),
    /// A file cannot be read.
    #[error("the file {file} of the backup cannot be used: {error}")]
    File {
        /// Which file.
        file: String,
        /// Why not.
        error: ObjectError,
    },
    /// A file is whole, but not the one that belongs there.
    #[error("the file {file} of the backup is not the one that belongs there: {why}")]
    Wrong {
        /// Which file.
        file: String,
        /// Why not.
        why: String,
    },
    /// Something in it follows from something that is not.
    #[error(
        "the logs of the backup do not belong together: sequence {sequence} of {kind} follows from sequence {cause} of \
         {of}, which ends at {last}"
    )]
    Torn {
        /// In whose log.
        kind: Kind,
        /// Where there.
        sequence: u64,
        /// From whose log it follows.
        of: Kind,
        /// From what there.
        cause: u64,
        /// Where that log ends.
        last: u64,
    },
    /// A log was made anew while its end was looked for.
    #[error("the log of {0} was made anew meanwhile")]
    MadeAnew(Kind),
    /// A host is of a version whose frames do not say what they follow from.
    #[error(
        "sequence {sequence} of {place} does not say what it follows from: a host of {sender} is of an older version. \
         Back up when all hosts are of this one, or while nothing is ordered"
    )]
    NoCause {
        /// Of which partition.
        place: String,
        /// Where in the log.
        sequence: u64,
        /// Whose message it is.
        sender: Kind,
    },
    /// A log was cut, and there is no snapshot that stands for what went.
    #[error(
        "the log of {kind} was cut, and begins at sequence {first}, but no snapshot of {place} goes up to there; \
         say where they are with --snapshots, or begin again if it was cut just now"
    )]
    NoSnapshot {
        /// Whose log.
        kind: Kind,
        /// Where it begins.
        first: u64,
        /// Of which partition there is none.
        place: String,
    },
    /// A dead letter is not there any more.
    #[error("dead letter {0} is not there any more")]
    NoLetter(u64),
    /// An object store did not do it.
    #[error("cannot read or write the backup: {0}")]
    Object(#[from] ObjectError),
    /// There is no snapshot to be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A log cannot be read.
    #[error("{0} (has a shop been started on this nats-server?)")]
    Log(#[from] LogError),
    /// A log cannot be read to its end.
    #[error("{0}; if it was cut meanwhile, begin again")]
    MergedLog(#[from] TapeError),
    /// The dead letters cannot be read.
    #[error("{0} (has a shop been started on this nats-server?)")]
    Dead(#[from] DeadError),
}

/// Whether what a record follows from is in a log that ends at `last`.
fn belongs(kind: Kind, sequence: u64, cause: Cause, last: u64) -> Result<(), BackupError> {
    match cause.sequence {
        Some(at) if at > last => Err(BackupError::Torn { kind, sequence, of: cause.kind, cause: at, last }),
        Some(_) | None => Ok(()),
    }
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { to, common } = options;
    let start = Instant::now();
    let connection = common.connect("backup").await?;
    let log: SharedLog = Arc::new(JetStreamLog::open(&connection, &connection).await?);
    let snapshots = common.snapshots(&connection).await?;
    let backup = Backup::begin(&to).await?;
    let made = make::make(&connection, &log, snapshots.as_ref(), &backup).await?;
    if common.json {
        for_programs(&made, &backup, out)?;
    } else {
        for_people(&made, &backup, start, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn for_people(made: &Made, backup: &Backup, start: Instant, out: &mut Out) -> Result<(), OperatorError> {
    let Made { manifest, logs, snapshots, letters } = made;
    for (kind, log) in logs {
        let (first, last) = (log.first_sequence, log.last_sequence);
        writeln!(out, "{:<9} {}", kind.as_str(), extent(&Header { log: None, first, last }))?;
        for ((_, partition), name) in snapshots.iter().filter(|((of, _), _)| of == kind) {
            writeln!(out, "  {:<12} {name} is with it", words::place((*kind, *partition)))?;
        }
    }
    writeln!(out, "letters   {letters}")?;
    let (bytes, took) = (manifest.files.values().map(|file| file.bytes).sum::<u64>(), start.elapsed().as_secs_f64());
    writeln!(out, "\nthe backup is in {}: {bytes} bytes, made in {took:.1} s", backup.url())?;
    Ok(())
}

/// What a backup has of a log.
pub(super) fn extent(header: &Header) -> String {
    match header.messages() {
        0 => "no records".to_owned(),
        1 => format!("{}..{}: 1 record", header.first, header.last),
        records => format!("{}..{}: {records} records", header.first, header.last),
    }
}

fn for_programs(made: &Made, backup: &Backup, out: &mut Out) -> Result<(), OperatorError> {
    let Made { manifest, logs, snapshots, letters } = made;
    let log = |(kind, log): (&Kind, &shop_nats::log::Identity)| {
        let of_kind = snapshots.iter().filter(|((of, _), _)| of == kind);
        let snapshots = of_kind.map(|((_, partition), name)| json!({ "partition": partition, "cursor": name.cursor }));
        let snapshots: Vec<_> = snapshots.collect();
        json!({ "log": kind, "first": log.first_sequence, "last": log.last_sequence, "snapshots": snapshots })
    };
    let logs: Vec<_> = logs.iter().map(log).collect();
    let line = json!({
        "backup": backup.url(),
        "made": manifest.made,
        "bytes": manifest.files.values().map(|file| file.bytes).sum::<u64>(),
        "logs": logs,
        "dead_letters": letters,
    });
    Ok(writeln!(out, "{line}")?)
}
