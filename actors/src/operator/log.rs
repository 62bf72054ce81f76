//! `shop log`: the messages of one kind's log.
//!
//! Whether a message counts depends on all those before it on its link, so the log is read from
//! its beginning, whatever is printed of it.

use std::{io::Write, process::ExitCode};

use clap::Args;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::frame::{Origin, Source};

use super::{Answered, Common, Out, Progress, begin::Wanted, say, words};
use crate::replay::{Arrival, Content, Fate, Step};

/// What to print.
#[derive(Debug, Args)]
pub struct Options {
    /// wallet, product, order, delivery or mypage.
    kind: Kind,
    /// The sequence to begin at.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long)]
    pub(super) follow: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { kind, from, follow, common } = options;
    let connection = common.connect("log").await?;
    let beginning = common.begin(&connection, &[kind], Wanted::Links).await?;
    for (kind, first) in beginning.cut() {
        let from = "it is printed from its oldest snapshots on";
        say(&format_args!("the log of {kind} was cut, and begins at sequence {first}; {from}"));
    }
    let (mut tape, mut acceptor) = beginning.acceptor()?;
    if follow {
        tape.follow();
    }
    if !common.json {
        let [sequence, time, partition, source] = ["sequence", "time", "partition", "source"];
        writeln!(out, "{sequence:>8}  {time:<24}  {partition:>9}  {source:<11}  {:>6}  entity  message", "number")?;
        out.flush()?;
    }
    // Only of what is read and not printed: the messages themselves show how far it is.
    let mut progress = (from > 1).then(|| Progress::new("reading the log", from - 1));
    while let Some((kind, record)) = tape.next().await? {
        let step = acceptor.read(kind, &record)?;
        progress.iter_mut().for_each(Progress::step);
        if step.sequence >= from {
            progress = None;
            one(&step, common.json, out)?;
        }
        if follow {
            out.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a record holds, a line per message.
pub(super) fn one(step: &Step<Arrival>, json: bool, out: &mut Out) -> std::io::Result<()> {
    if json { for_programs(step, out) } else { for_people(step, out) }
}

fn for_people(step: &Step<Arrival>, out: &mut Out) -> std::io::Result<()> {
    let Step { sequence, partition, time, content, .. } = step;
    let place = format!("{sequence:>8}  {time}  {partition:>9}");
    match content {
        Content::Dead { reason, bytes } => writeln!(out, "{place}  [dead: {bytes} bytes, {reason}]"),
        Content::Upgrade(logic) => writeln!(out, "{place}  [upgrade: logic version {logic} from here on]"),
        Content::Frame { source, messages } if messages.is_empty() => {
            writeln!(out, "{place}  {:<11}  [no messages]", words::source(*source))
        }
        Content::Frame { source, messages } => messages.iter().try_for_each(|Arrival { number, fate, envelope }| {
            let mark = match fate {
                Fate::Accepted => "",
                Fate::Duplicate => "  [duplicate: skipped]",
                Fate::BeyondHole => "  [beyond a hole: ignored]",
            };
            let (source, message) = (words::source(*source), words::line_of(&envelope.message));
            writeln!(out, "{place}  {source:<11}  {number:>6}  {}  {message}{mark}", envelope.to)
        }),
    }
}

fn for_programs(step: &Step<Arrival>, out: &mut Out) -> std::io::Result<()> {
    let Step { kind, sequence, partition, time, content } = step;
    let place = json!({ "log": kind, "sequence": sequence, "time": time, "partition": partition });
    let mut line = |more: serde_json::Value| {
        let mut line = place.clone();
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        writeln!(out, "{line}")
    };
    match content {
        Content::Dead { reason, bytes } => line(json!({ "dead": { "reason": reason, "bytes": bytes } })),
        Content::Upgrade(logic) => line(json!({ "upgrade": { "logic": logic.number() } })),
        Content::Frame { source, messages } => messages.iter().try_for_each(|Arrival { number, fate, envelope }| {
            line(json!({
                "source": source_for_programs(*source),
                "number": number,
                "fate": words::fate(*fate),
                "entity": envelope.to,
                "key": envelope.request.as_ref().and_then(|request| request.key.as_ref()),
                "message": words::json_of(&envelope.message),
            }))
        }),
    }
}

/// The epoch is hexadecimal: as a number it would be beyond what every JSON reader can hold.
fn source_for_programs(Source { origin, epoch }: Source) -> serde_json::Value {
    let epoch = format!("{epoch:016x}");
    match origin {
        Origin::Door => json!({ "door": true, "epoch": epoch }),
        Origin::Partition(kind, partition) => json!({ "kind": kind, "partition": partition, "epoch": epoch }),
    }
}
