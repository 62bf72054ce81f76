//! `shop trace`: one order through all logs, every message of its life in the order of time.
//!
//! Times are in milliseconds, and a message is often taken within the millisecond of its cause:
//! among those, the cause comes first. The replay knows it by the number on the link.

use std::{collections::BTreeSet, io::Write, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use shop_domain::{
    entity::State,
    id::{Id, OrderId},
    kind::Kind,
    message::Message,
    order::{self, Order, Phase},
    problem::Code,
    product::{self, Product, Take},
    refusal::Refusal,
    timestamp::Timestamp,
    wallet::{self, Charge, Wallet},
};
use shop_nats::frame::Origin;

use super::{Answered, Common, OperatorError, Out, Progress, begin::Wanted, name_parked, no, say, words};
use crate::{
    replay::{Content, Entity, Fate, Handled, Place, Replay, Step},
    tape::Tape,
};

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
    /// In words, what changed.
    pub(super) outcome: Option<String>,
    pub(super) refusal: Option<Refusal>,
    /// Whether it waits, because its partition is parked.
    waits: bool,
    /// The code of an error answer that a caller got.
    answered: Option<Code>,
    /// The link and the number that it came with; none from a door.
    came: Option<(Place, Place, u64)>,
    sent: Vec<(Place, Place, u64)>,
}

/// What a message has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// In words.
    text: Option<String>,
    /// What the order was told, or why it is rejected.
    refusal: Option<Refusal>,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { order, common } = options;
    let connection = common.connect("trace").await?;
    let beginning = common.begin(&connection, &Kind::ALL, Wanted::Entities).await?;
    let cut = words::cut(beginning.cut());
    let (tape, replay) = beginning.replay()?;
    let (life, duplicates, code) = life(tape, replay, &order).await?;
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
    mut tape: Tape,
    mut replay: Replay,
    order: &OrderId,
) -> Result<(Vec<Moment>, u64, ExitCode), OperatorError> {
    let (mut moments, mut duplicates) = (Vec::new(), 0);
    let mut progress = Progress::of(&tape);
    while let Some((kind, record)) = tape.next().await? {
        progress.step();
        let step = replay.apply_and_look(kind, &record, |handled, entity| look(handled, entity, order))?;
        let Content::Frame { messages, .. } = &step.content else { continue };
        for (handled, outcome) in messages {
            match outcome {
                Some(outcome) if handled.arrival.fate == Fate::Accepted => {
                    moments.push(Moment::new(&step, handled, outcome));
                }
                Some(_) => duplicates += 1,
                None => {}
            }
        }
    }
    drop(progress);
    Ok((causes_first(moments), duplicates, name_parked(&replay)))
}

/// What a message of this order has done; nothing of a message that belongs to another.
pub(super) fn look(handled: Handled, entity: Option<&Entity>, order: &OrderId) -> (Handled, Option<Outcome>) {
    let envelope = &handled.arrival.envelope;
    let is_of_the_order = words::order_of(envelope) == Some(order.as_str());
    let outcome = is_of_the_order.then(|| entity.map(|entity| outcome(&envelope.message, &envelope.to, entity)));
    (handled, outcome.map(Option::unwrap_or_default))
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
    pub(super) fn new<M>(step: &Step<M>, handled: &Handled, outcome: &Outcome) -> Self {
        let here = (step.kind, step.partition);
        let envelope = &handled.arrival.envelope;
        let came = match &step.content {
            Content::Frame { source, .. } => match source.origin {
                Origin::Door => None,
                Origin::Partition(kind, partition) => Some(((kind, partition), here, handled.arrival.number)),
            },
            Content::Dead { .. } | Content::Upgrade(_) => None,
        };
        let in_reply = handled.sent.iter().find_map(|sent| words::refusal_in(&sent.envelope.message));
        Self {
            time: step.time,
            place: (step.kind, step.sequence, step.partition),
            entity: envelope.to.clone(),
            message: envelope.message.clone(),
            refusal: in_reply.or(outcome.refusal.as_ref()).filter(|_| !handled.waits).cloned(),
            outcome: outcome.text.clone().filter(|_| in_reply.is_none() && !handled.waits),
            waits: handled.waits,
            answered: handled.replies.iter().find_map(|reply| reply.answer.code()),
            came,
            sent: handled.sent.iter().map(|sent| (here, sent.to, sent.number)).collect(),
        }
    }

    fn for_people(&self, since_ms: u64, out: &mut Out) -> std::io::Result<()> {
        let (kind, sequence, partition) = self.place;
        let message = words::line_of(&self.message);
        let undo = if words::is_undo(&self.message) { "undo: " } else { "" };
        write!(out, "{}  +{since_ms:>5} ms  {:<8}  {sequence:>8}  {partition:>9}  ", self.time, kind.as_str())?;
        write!(out, "{}  {undo}{message}", self.entity)?;
        if self.waits {
            return writeln!(out, "  ✗ waits: its partition is parked");
        }
        if let Some(outcome) = &self.outcome {
            write!(out, "  → {outcome}")?;
        }
        match (&self.refusal, self.answered) {
            (Some(refusal), _) => writeln!(out, "  ✗ {}: {}", refusal.code().name, refusal.problem().detail),
            (None, Some(code)) => writeln!(out, "  ✗ answered {}", code.name),
            (None, None) => writeln!(out),
        }
    }

    fn for_programs(&self, since_ms: u64) -> Value {
        let (kind, sequence, partition) = self.place;
        let refusal = self.refusal.as_ref().map(|refusal| {
            let problem = refusal.problem();
            json!({ "code": problem.code.name, "detail": problem.detail, "facts": problem.facts })
        });
        json!({
            "time": self.time,
            "since_ms": since_ms,
            "log": kind,
            "sequence": sequence,
            "partition": partition,
            "entity": self.entity,
            "message": words::json_of(&self.message),
            "undo": words::is_undo(&self.message),
            "outcome": self.outcome,
            "refusal": refusal,
            "answered": self.answered.map(|code| code.name),
            "waits": self.waits,
        })
    }
}

fn outcome(message: &Message, id: &Id, entity: &Entity) -> Outcome {
    let text = match (message, &entity.state) {
        (
            Message::Wallet(wallet::Message::Charge { order, .. } | wallet::Message::Refund { order }),
            State::Wallet(Wallet::Open(wallet)),
        ) => entity.row(&wallet::charge_row(order)).map(|charge| match charge {
            Charge::Charged(amount) => format!("{amount} charged, {} left", wallet.balance),
            Charge::Refunded(amount) => format!("{amount} given back, {} there now", wallet.balance),
            Charge::Void => "nothing had been charged".to_owned(),
        }),
        (
            Message::Product(product::Message::Take { order, .. } | product::Message::PutBack { order }),
            State::Product(Product::OnSale(product)),
        ) => entity.row(&product::take_row(order)).map(|take| match take {
            Take::Taken(quantity) => format!("{quantity} taken, {} left", product.stock),
            Take::PutBack(quantity) => format!("{quantity} put back, {} there now", product.stock),
            Take::Void => "nothing had been taken".to_owned(),
        }),
        (Message::Order(_), State::Order(Order::Placed(order))) => {
            let refusal = match &order.phase {
                Phase::Rejected(refusal) => Some(refusal.clone()),
                Phase::Paying | Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Cancelled => None,
            };
            let refusal = words::refusal_in(message).cloned().or(refusal);
            let late = match (message, &order.cancel_refused) {
                (Message::Order(order::Message::DeliveryKept { .. }), Some(late)) => {
                    format!(": the cancel came too late, the delivery is {}", late.delivery_status)
                }
                (_, Some(_) | None) => String::new(),
            };
            return Outcome { text: Some(format!("{}{late}", order.status())), refusal };
        }
        (Message::Delivery(_), State::Delivery(delivery)) => {
            let view = delivery.view(id).and_then(|view| serde_json::to_value(view).ok());
            view.and_then(|view| view["status"].as_str().map(str::to_owned))
        }
        (
            Message::Wallet(_)
            | Message::Product(_)
            | Message::Order(_)
            | Message::Delivery(_)
            | Message::Mypage(_)
            | Message::Void(_),
            _,
        ) => None,
    };
    Outcome { text, refusal: None }
}
