//! `shop trace`: one order through all logs, every message of its life in the order of time.
//!
//! Times are in milliseconds, and a message is often taken within the millisecond of its cause:
//! among those, the cause comes first. The replay knows it by the number on the link.

use std::{collections::BTreeSet, io::Write, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use shop_domain::{
    caller::Caller,
    id::{Id, OrderId},
    kind::Kind,
    message::Message,
    timestamp::Timestamp,
};
use shop_nats::log::{PartitionId, frame::Origin};

use super::{Answered, Common, OperatorError, Out, Progress, name_parked, no, say, verdict::Verdict, words};
use crate::replay::{Content, Entity, Fate, Handled, Layout, Replay, Step, merged_log::MergedLog};

/// Which order.
#[derive(Debug, Args)]
pub struct Options {
    /// The order's id.
    order: OrderId,
    #[command(flatten)]
    common: Common,
}

/// A message of an order's life, and what it did.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) time: Timestamp,
    /// The log, the sequence and the partition.
    pub(super) place: (Kind, u64, u16),
    pub(super) entity: Id,
    pub(super) message: Message,
    /// For whom it was asked, if that is known; none of what other entities have sent.
    caller: Option<Caller>,
    pub(super) verdict: Verdict,
    /// The link and the number that it came with; none from a door.
    came: Option<Numbered>,
    sent: Vec<Numbered>,
}

/// A message by its link, under one layout, and its number there.
type Numbered = (Layout, PartitionId, PartitionId, u64);

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { order, common } = options;
    let connection = common.connect("trace").await?;
    let beginning = common.begin(&connection, &Kind::ALL).await?;
    let cut = words::gaps(beginning.gaps());
    let (merged_log, replay) = beginning.replay()?;
    let (life, duplicates, code) = life(merged_log, replay, &order).await?;
    if life.is_empty() {
        let since = cut.map(|cut| format!(" any more: {cut}"));
        return Ok(no(&format!("no log knows of an order {order}{}", since.unwrap_or_default())));
    }
    if let Some(cut) = cut {
        say(&format_args!("what came before is not told: {cut}"));
    }
    if !common.json {
        let [time, since, log, sequence] = ["time", "since", "log", "sequence"];
        writeln!(out, "{time:<24}  {since:>9}  {log:<8}  {sequence:>8}  partition  entity  message")?;
    }
    let mut before = None;
    for moment in &life {
        let since = moment.time.unix_ms().saturating_sub(before.unwrap_or(moment.time).unix_ms());
        before = Some(moment.time);
        if common.json { writeln!(out, "{}", moment.for_programs(since))? } else { moment.for_people(since, out)? }
    }
    if duplicates > 0 && !common.json {
        writeln!(out, "({duplicates} more came twice and were skipped)")?;
    }
    Ok(code)
}

/// The messages of an order's life, causes first, how many came again, and how to exit.
async fn life(
    mut merged_log: MergedLog,
    mut replay: Replay,
    order: &OrderId,
) -> Result<(Vec<Moment>, u64, ExitCode), OperatorError> {
    let (mut moments, mut duplicates) = (Vec::new(), 0);
    let mut progress = Progress::of(&merged_log);
    while let Some((kind, record)) = merged_log.next().await? {
        progress.step();
        let step = replay.apply_and_look(kind, &record, |handled, entity| look(handled, entity, order))?;
        let Content::Frame { messages, .. } = &step.content else { continue };
        for (handled, verdict) in messages {
            match verdict {
                Some(verdict) if handled.arrival.fate == Fate::Accepted => {
                    moments.push(Moment::new(&step, handled, verdict));
                }
                Some(_) => duplicates += 1,
                None => {}
            }
        }
    }
    drop(progress);
    Ok((causes_first(moments), duplicates, name_parked(&replay)))
}

/// What became of a message of this order; nothing of a message that belongs to another.
pub(super) fn look(handled: Handled, entity: Option<&Entity>, order: &OrderId) -> (Handled, Option<Verdict>) {
    let is_of_the_order = words::order_of(&handled.arrival.envelope) == Some(order.as_str());
    let verdict = is_of_the_order.then(|| Verdict::of(&handled, entity));
    (handled, verdict)
}

/// Takes moments in the order of time, but none before the one that caused it.
fn causes_first(mut waiting: Vec<Moment>) -> Vec<Moment> {
    waiting.sort_by_key(|moment| moment.time);
    let mut unsent: BTreeSet<_> = waiting.iter().flat_map(|moment| moment.sent.iter().copied()).collect();
    let mut life = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let is_caused = |moment: &Moment| moment.came.is_none_or(|came| !unsent.contains(&came));
        let next = waiting.iter().position(is_caused).unwrap_or(0);
        let moment = waiting.remove(next);
        unsent.retain(|sent| !moment.sent.contains(sent));
        life.push(moment);
    }
    life
}

impl Moment {
    pub(super) fn new<M>(step: &Step<M>, handled: &Handled, verdict: &Verdict) -> Self {
        let (here, layout) = ((step.kind, step.partition), step.layout);
        let envelope = &handled.arrival.envelope;
        let came = match &step.content {
            Content::Frame { source, .. } => match source.origin {
                Origin::Door => None,
                Origin::Partition(kind, partition) => Some((layout, (kind, partition), here, handled.arrival.number)),
            },
            Content::Dead { .. } | Content::Upgrade(_) => None,
        };
        Self {
            time: step.time,
            place: (step.kind, step.sequence, step.partition),
            entity: envelope.to.clone(),
            message: envelope.message.clone(),
            caller: words::caller(envelope).cloned(),
            verdict: verdict.clone(),
            came,
            sent: handled.sent.iter().map(|sent| (layout, here, sent.to, sent.number)).collect(),
        }
    }

    fn for_people(&self, since_ms: u64, out: &mut Out) -> std::io::Result<()> {
        let (kind, sequence, partition) = self.place;
        let Self { time, entity, message, caller, verdict, .. } = self;
        let undo = if words::is_undo(message) { "undo: " } else { "" };
        write!(out, "{time}  +{since_ms:>5} ms  {:<8}  {sequence:>8}  {partition:>9}  ", kind.as_str())?;
        writeln!(out, "{entity}  {undo}{}{}{verdict}", words::line_of(message), words::by(caller.as_ref()))
    }

    fn for_programs(&self, since_ms: u64) -> Value {
        let (kind, sequence, partition) = self.place;
        let mut line = json!({
            "time": self.time,
            "since_ms": since_ms,
            "log": kind,
            "sequence": sequence,
            "partition": partition,
            "entity": self.entity,
            "message": words::json_of(&self.message),
            "caller": self.caller.as_ref().map(|caller| &caller.name),
            "undo": words::is_undo(&self.message),
        });
        self.verdict.add_to(&mut line);
        line
    }
}
