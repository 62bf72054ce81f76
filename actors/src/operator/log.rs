//! `shop log`: the messages of one kind's log, and what became of each.
//!
//! Whether a message counts depends on all those before it on its link, so the log is read from
//! its beginning, whatever is printed of it.

use std::{io::Write, process::ExitCode};

use clap::Args;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::log::frame::{Origin, Source};

use super::{Answered, Common, Out, Progress, say, verdict::Verdict, words};
use crate::replay::{Arrival, Content, Entity, Fate, Handled, Step};

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
    let beginning = common.begin(&connection, &[kind]).await?;
    for (kind, gap) in beginning.gaps() {
        say(&format_args!("{}; it is printed from its oldest snapshots on", gap.of_kind(*kind)));
    }
    let (mut merged_log, mut replay) = beginning.replay()?;
    if follow {
        merged_log.follow();
    }
    if !common.json {
        let [sequence, time, partition, source] = ["sequence", "time", "partition", "source"];
        writeln!(out, "{sequence:>8}  {time:<24}  {partition:>9}  {source:<11}  {:>6}  entity  message", "number")?;
        out.flush()?;
    }
    // Only of what is read and not printed: the messages themselves show how far it is.
    let mut progress = (from > 1).then(|| Progress::new("reading the log", from - 1));
    while let Some((kind, record)) = merged_log.next().await? {
        let step = replay.apply_and_look(kind, &record, look)?;
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

/// A message that came, and what became of it if it was let in.
type Seen = (Arrival, Option<Verdict>);

/// What became of a message.
pub(super) fn look(handled: Handled, entity: Option<&Entity>) -> Seen {
    let verdict = (handled.arrival.fate == Fate::Accepted).then(|| Verdict::of(&handled, entity));
    (handled.arrival, verdict)
}

/// What a record holds, a line per message.
pub(super) fn one(step: &Step<Seen>, json: bool, out: &mut Out) -> std::io::Result<()> {
    if json { for_programs(step, out) } else { for_people(step, out) }
}

fn for_people(step: &Step<Seen>, out: &mut Out) -> std::io::Result<()> {
    let Step { sequence, partition, time, cut_into, mended_to, content, .. } = step;
    let place = format!("{sequence:>8}  {time}  {partition:>9}");
    if let (Content::Frame { source, messages }, Some(number)) = (content, mended_to) {
        let (source, count) = (words::source(*source), messages.len());
        let next = number.saturating_add(1);
        writeln!(
            out,
            "{place}  [repair: number {next} comes next from {source}, {count} message(s) of it had been swallowed]"
        )?;
        if messages.is_empty() {
            return Ok(());
        }
    }
    match (content, cut_into) {
        (Content::Dead { reason, bytes }, _) => writeln!(out, "{place}  [dead: {bytes} bytes, {reason}]"),
        (Content::Upgrade(_), Some(partitions)) => {
            writeln!(out, "{place}  [repartition: {partitions} partition(s) from here on, and links count anew]")
        }
        (Content::Upgrade(logic), None) => {
            writeln!(out, "{place}  [upgrade: logic version {logic} from here on]")
        }
        (Content::Frame { source, messages }, _) if messages.is_empty() => {
            writeln!(out, "{place}  {:<11}  [no messages]", words::source(*source))
        }
        (Content::Frame { source, messages }, _) => messages.iter().try_for_each(|(arrival, verdict)| {
            let Arrival { number, fate, envelope } = arrival;
            let mark = match fate {
                Fate::Accepted => "",
                Fate::Duplicate => "  [duplicate: skipped]",
                Fate::BeyondHole => "  [beyond a hole: ignored]",
            };
            let verdict = verdict.as_ref().map(ToString::to_string).unwrap_or_default();
            let (source, message) = (words::source(*source), words::line_of(&envelope.message));
            let by = words::by(words::caller(envelope));
            writeln!(out, "{place}  {source:<11}  {number:>6}  {}  {message}{by}{verdict}{mark}", envelope.to)
        }),
    }
}

fn for_programs(step: &Step<Seen>, out: &mut Out) -> std::io::Result<()> {
    let Step { kind, sequence, partition, time, cut_into, mended_to, content, .. } = step;
    let place = json!({ "log": kind, "sequence": sequence, "time": time, "partition": partition });
    let mut line = |more: serde_json::Value| {
        let mut line = place.clone();
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        writeln!(out, "{line}")
    };
    if let (Content::Frame { source, .. }, Some(number)) = (content, mended_to) {
        line(json!({ "repair": { "source": source_for_programs(*source), "accepted": number } }))?;
    }
    match (content, cut_into) {
        (Content::Dead { reason, bytes }, _) => line(json!({ "dead": { "reason": reason, "bytes": bytes } })),
        (Content::Upgrade(logic), Some(partitions)) => {
            line(json!({ "repartition": { "partitions": partitions, "logic": logic.number() } }))
        }
        (Content::Upgrade(logic), None) => line(json!({ "upgrade": { "logic": logic.number() } })),
        (Content::Frame { source, messages }, _) => messages.iter().try_for_each(|(arrival, verdict)| {
            let Arrival { number, fate, envelope } = arrival;
            let mut message = json!({
                "source": source_for_programs(*source),
                "number": number,
                "fate": words::fate(*fate),
                "entity": envelope.to,
                "key": envelope.request.as_ref().and_then(|request| request.key.as_ref()),
                "caller": words::caller(envelope).map(|caller| &caller.name),
                "message": words::json_of(&envelope.message),
            });
            verdict.clone().unwrap_or_default().add_to(&mut message);
            line(message)
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
