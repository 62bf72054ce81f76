//! `shop dead`: what was in a log and could not be read, with the reason.

mod requeue;
mod skip;

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use shop_nats::jetstream::dead::{DeadLetter, Kept};

use super::{Answered, Common, Out, Progress, consent::Consent, no};

/// Dead letters asked for at a time.
const READ_AHEAD: usize = 32;
/// Bytes on one line of a dump, as `xxd` has it.
const DUMP_COLUMNS: usize = 16;
/// Most bytes that are dumped for people; programs get all.
const DUMP_BYTES_MAX: usize = 4096;

/// What to look at.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    look: Look,
}

#[derive(Debug, Subcommand)]
enum Look {
    /// All dead letters, one a line: sequence, time, origin, bytes, reason, and where it was put back.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// One dead letter, with its bytes.
    Show {
        /// Its sequence among the dead letters.
        sequence: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Put a dead letter back into its log, if it can be read now and would be accepted.
    ///
    /// A dead letter can be read now if it is of a newer form that this program knows and an older
    /// one did not, or if it was put into the wrong part of its log: then it goes to the right one.
    /// Nothing happens twice by it: messages are numbered by who sent them, and those that have
    /// come before, or that come before others that are missing, are not accepted. If none would
    /// be, nothing is put back. The dead letter stays, with a note of where it is in the log now.
    /// Prints its messages as `log` does.
    Requeue {
        /// Its sequence among the dead letters.
        sequence: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Make a dead letter of a record at which a kind stops: an upgrade to a version that no program of this shop knows.
    ///
    /// Such a record is written by `upgrade` of a newer program: then use that program, and do not skip it. If there is
    /// none, somebody has forged it. Says first what it will do, and does not do it while a host runs that knows the
    /// version, or where a snapshot was written behind the record. It is skipped for good, by all hosts and tools, in
    /// every replay and in what is restored from a backup; it is noted among the dead letters. The hosts go on by
    /// themselves.
    Skip {
        /// Where it is: wallet/17.
        at: skip::Position,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    match options.look {
        Look::List { common } => list(&common, out).await,
        Look::Show { sequence, common } => show(&common, sequence, out).await,
        Look::Requeue { sequence, common } => requeue::run(&common, sequence, out).await,
        Look::Skip { at, consent, common } => skip::run(&common, at, consent, out).await,
    }
}

async fn list(common: &Common, out: &mut Out) -> Answered {
    let dead = common.connect("dead").await?.dead_letters().await?;
    let mut kept = stream::iter(dead.first..=dead.last).map(|sequence| dead.get(sequence)).buffered(READ_AHEAD);
    let (mut letters, mut requeued) = (Vec::new(), BTreeMap::new());
    let mut progress = Progress::new("reading dead letters", (dead.last + 1).saturating_sub(dead.first));
    while let Some(one) = kept.try_next().await? {
        progress.step();
        match one {
            // Without its bytes: there may be many.
            Some(Kept::Letter(letter)) => {
                letters.push((letter.payload.len(), DeadLetter { payload: Bytes::new(), ..letter }));
            }
            Some(Kept::Requeued { subject, place, .. }) => drop(requeued.insert(subject, place)),
            None => {}
        }
    }
    drop(progress);
    for (bytes, letter) in &letters {
        let DeadLetter { sequence, subject, time, origin, reason, .. } = letter;
        let requeued = requeued.get(subject).map(String::as_str);
        if common.json {
            writeln!(out, "{}", for_programs(letter, *bytes, requeued))?;
        } else {
            let mark = requeued.map(|place| format!("  [put back: {place}]")).unwrap_or_default();
            writeln!(out, "{sequence:>8}  {time}  from {origin:<14}  {bytes:>6} bytes  {reason}{mark}")?;
        }
    }
    if letters.is_empty() && !common.json {
        writeln!(out, "no dead letters")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(common: &Common, sequence: u64, out: &mut Out) -> Answered {
    let dead = common.connect("dead").await?.dead_letters().await?;
    let letter = match dead.get(sequence).await? {
        Some(Kept::Letter(letter)) => letter,
        Some(Kept::Requeued { .. }) | None => return Ok(no(&format!("there is no dead letter {sequence}"))),
    };
    let requeued = dead.requeued(&letter).await?;
    if common.json {
        let mut value = for_programs(&letter, letter.payload.len(), requeued.as_deref());
        let hex: String = letter.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        value["hex"] = json!(hex);
        writeln!(out, "{value}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let DeadLetter { sequence, time, origin, reason, payload, .. } = letter;
    writeln!(out, "dead letter {sequence}, put aside at {time}")?;
    writeln!(out, "from        {origin} (log and sequence)")?;
    writeln!(out, "reason      {reason}")?;
    if let Some(place) = requeued {
        writeln!(out, "put back    {place} (log and sequence)")?;
    }
    writeln!(out, "bytes       {}", payload.len())?;
    for (row, bytes) in payload.chunks(DUMP_COLUMNS).take(DUMP_BYTES_MAX / DUMP_COLUMNS).enumerate() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String =
            bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        writeln!(out, "{:08x}  {hex:<48} {text}", row * DUMP_COLUMNS)?;
    }
    if payload.len() > DUMP_BYTES_MAX {
        writeln!(out, "… and {} bytes more (--json has all)", payload.len() - DUMP_BYTES_MAX)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn for_programs(letter: &DeadLetter, bytes: usize, requeued: Option<&str>) -> Value {
    let DeadLetter { sequence, time, origin, reason, .. } = letter;
    json!({
        "sequence": sequence,
        "time": time,
        "origin": origin,
        "reason": reason,
        "bytes": bytes,
        "put_back": requeued,
    })
}
