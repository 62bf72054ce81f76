//! `shop-actors dead`: bytes that were in a log and are no frame, with the reason.

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use shop_nats::dead::DeadLetter;

use super::{Answered, Common, Out, no};

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
    /// All dead letters, one a line: sequence, time, origin, bytes, reason.
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
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    match options.look {
        Look::List { common } => list(&common, out).await,
        Look::Show { sequence, common } => show(&common, sequence, out).await,
    }
}

async fn list(common: &Common, out: &mut Out) -> Answered {
    let dead = common.connect("dead").await?.dead_letters().await?;
    let mut letters = stream::iter(dead.first..=dead.last).map(|sequence| dead.get(sequence)).buffered(READ_AHEAD);
    let mut count = 0;
    while let Some(letter) = letters.try_next().await? {
        let Some(letter) = letter else { continue };
        count += 1;
        if common.json {
            writeln!(out, "{}", for_programs(&letter))?;
        } else {
            let DeadLetter { sequence, time, origin, reason, payload } = letter;
            writeln!(out, "{sequence:>8}  {time}  from {origin:<14}  {:>6} bytes  {reason}", payload.len())?;
        }
    }
    if count == 0 && !common.json {
        writeln!(out, "no dead letters")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(common: &Common, sequence: u64, out: &mut Out) -> Answered {
    let dead = common.connect("dead").await?.dead_letters().await?;
    let Some(letter) = dead.get(sequence).await? else {
        return Ok(no(&format!("there is no dead letter {sequence}")));
    };
    if common.json {
        let mut value = for_programs(&letter);
        let hex: String = letter.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        value["hex"] = json!(hex);
        writeln!(out, "{value}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let DeadLetter { sequence, time, origin, reason, payload } = letter;
    writeln!(out, "dead letter {sequence}, put aside at {time}")?;
    writeln!(out, "from        {origin} (log and sequence)")?;
    writeln!(out, "reason      {reason}")?;
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

fn for_programs(letter: &DeadLetter) -> Value {
    let DeadLetter { sequence, time, origin, reason, payload } = letter;
    json!({ "sequence": sequence, "time": time, "origin": origin, "reason": reason, "bytes": payload.len() })
}
