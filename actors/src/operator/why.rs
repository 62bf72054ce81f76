//! `shop-actors why`: an order's fate in a paragraph, with the facts and where they stand in the logs.

use std::{collections::BTreeMap, io::Write};

use clap::Args;
use serde_json::{Value, json};
use shop_domain::{
    entity::State,
    id::{Id, OrderId},
    kind::Kind,
    message::Message,
    order::{self, Order, Phase, Placed},
    product,
    refusal::Refusal,
    timestamp::Timestamp,
    wallet,
};

use super::{
    Answered, Common, Out, Progress,
    begin::Wanted,
    name_parked, no, say,
    trace::{Moment, Outcome, look},
    words,
};
use crate::replay::{Content, Handled, Step};

/// Which order.
#[derive(Debug, Args)]
pub struct Options {
    /// The order's id.
    order: OrderId,
    #[command(flatten)]
    common: Common,
}

/// A message that others had to reckon with.
#[derive(Clone, Debug)]
struct Winner {
    order: Option<OrderId>,
    sequence: u64,
    time: Timestamp,
}

/// What was found out by reading the logs.
#[derive(Default)]
struct Findings {
    /// By product, who took from it last.
    taken: BTreeMap<Id, Winner>,
    /// By product, what set its price last.
    priced: BTreeMap<Id, Winner>,
    /// By wallet, who was paid from it last.
    charged: BTreeMap<Id, Winner>,
    /// Refusals of the order: where each was made, and what had come before.
    refused: Vec<(Refusal, Kind, Winner, Option<Winner>)>,
    cancel: Option<Winner>,
    confirmed: Option<Winner>,
    undone: Vec<String>,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { order, common } = options;
    let connection = common.connect("why").await?;
    let beginning = common.begin(&connection, &Kind::ALL, Wanted::Entities).await?;
    let cut = words::cut(beginning.cut());
    let (mut tape, mut replay) = beginning.replay()?;
    let mut findings = Findings::default();
    let mut progress = Progress::of(&tape);
    while let Some((kind, record)) = tape.next().await? {
        progress.step();
        let step = replay.apply_and_look(kind, &record, |handled, entity| look(handled, entity, &order))?;
        findings.enter(&step);
    }
    drop(progress);
    let id = Id::from(order.clone());
    let Some(State::Order(Order::Placed(placed))) = replay.entity(Kind::Order, &id).map(|entity| &entity.state) else {
        return Ok(no(&format!("there is no order {order}")));
    };
    if let Some(cut) = cut {
        say(&format_args!("what came before is not told: {cut}"));
    }
    let text = findings.explain(&order, placed);
    if common.json {
        writeln!(out, "{}", findings.for_programs(&order, placed, &text))?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(name_parked(&replay))
}

impl Findings {
    fn enter(&mut self, step: &Step<(Handled, Option<Outcome>)>) {
        let Content::Frame { messages, .. } = &step.content else { return };
        for (handled, outcome) in messages.iter().filter(|(handled, _)| handled.is_handled()) {
            if let Some(outcome) = outcome {
                self.of_the_order(Moment::new(step, handled, outcome));
            }
            self.of_any_order(step, handled);
        }
    }

    /// Remembers who won what.
    fn of_any_order<M>(&mut self, step: &Step<M>, handled: &Handled) {
        let winner =
            |order: Option<&OrderId>| Winner { order: order.cloned(), sequence: step.sequence, time: step.time };
        let id = || handled.arrival.envelope.to.clone();
        let answers = |is: fn(&order::Message) -> bool| {
            handled.sent.iter().any(|sent| matches!(&sent.envelope.message, Message::Order(message) if is(message)))
        };
        match &handled.arrival.envelope.message {
            Message::Wallet(wallet::Message::Charge { order, .. }) => {
                if answers(|message| *message == order::Message::Charged) {
                    self.charged.insert(id(), winner(Some(order)));
                }
            }
            Message::Product(product::Message::Take { order, .. }) => {
                if answers(|message| matches!(message, order::Message::Taken { .. })) {
                    self.taken.insert(id(), winner(Some(order)));
                }
            }
            Message::Product(product::Message::Create { .. } | product::Message::Change { price: Some(_), .. }) => {
                self.priced.insert(id(), winner(None));
            }
            Message::Wallet(
                wallet::Message::Open { .. } | wallet::Message::TopUp { .. } | wallet::Message::Refund { .. },
            )
            | Message::Product(
                product::Message::Restock { .. }
                | product::Message::Change { price: None, .. }
                | product::Message::PutBack { .. },
            )
            | Message::Order(_)
            | Message::Delivery(_)
            | Message::Mypage(_) => {}
        }
    }

    fn of_the_order(&mut self, moment: Moment) {
        let Moment { time, place: (kind, sequence, _), entity, message, outcome, refusal, .. } = moment;
        let here = || Winner { order: None, sequence, time };
        // A cancel that came before the order was refused.
        let is_known = outcome.is_some();
        let is_confirmed = outcome.as_ref().is_some_and(|outcome| *outcome == order::Status::Confirmed.to_string());
        // Where it was made: by whom the order asked, or by the order itself because of a quote.
        let is_made_here = !matches!(&message, Message::Order(message) if !matches!(message, order::Message::Place(_)));
        if let Some(refusal) = refusal.filter(|_| is_made_here) {
            let before = match &refusal {
                Refusal::OutOfStock { product, .. } => self.taken.get(&product.clone().into()),
                Refusal::PriceChanged { product, .. } => self.priced.get(&product.clone().into()),
                Refusal::InsufficientBalance { .. } => self.charged.get(&entity),
                Refusal::NotFound { .. }
                | Refusal::AlreadyExists { .. }
                | Refusal::NotCancellable { .. }
                | Refusal::NotDispatchable { .. }
                | Refusal::NotDeliverable { .. }
                | Refusal::IdempotencyKeyReused
                | Refusal::LimitExceeded { .. }
                | Refusal::Invalid { .. } => None,
            };
            self.refused.push((refusal, kind, here(), before.cloned()));
        }
        if let (true, Some(outcome)) = (words::is_undo(&message), outcome) {
            self.undone.push(format!("{kind} {entity}: {outcome} (sequence {sequence} of the {kind} log)"));
        }
        match message {
            Message::Order(order::Message::Cancel { .. }) if is_known => drop(self.cancel.get_or_insert_with(here)),
            Message::Order(order::Message::Taken { .. }) if is_confirmed => {
                self.confirmed.get_or_insert_with(here);
            }
            Message::Order(_)
            | Message::Wallet(_)
            | Message::Product(_)
            | Message::Delivery(_)
            | Message::Mypage(_) => {}
        }
    }

    fn explain(&self, order: &OrderId, placed: &Placed) -> String {
        let who = format!("Order {order} of {}", placed.user);
        let at = |winner: &Option<Winner>| {
            winner
                .as_ref()
                .map(|Winner { sequence, time, .. }| format!(" at sequence {sequence} of the order log ({time})"))
        };
        match &placed.phase {
            Phase::Paying => format!("{who} is under way: it waits for its wallet to pay {}.", placed.amount),
            Phase::Taking { answers } => {
                let (answered, lines) = (answers.len(), placed.lines.len());
                format!("{who} is under way: it is paid, and {answered} of {lines} products have answered.")
            }
            Phase::Stopping => format!("{who} is being cancelled: it waits for its delivery to be stopped."),
            Phase::Confirmed => {
                let (at, amount) = (at(&self.confirmed).unwrap_or_default(), placed.amount);
                format!("{who} is CONFIRMED: {amount} were paid, and the last product was taken{at}.")
            }
            Phase::Cancelled => {
                let reason = placed.cancel_reason.as_ref().map(|reason| format!(", because \"{reason}\""));
                let (at, reason) = (at(&self.cancel).unwrap_or_default(), reason.unwrap_or_default());
                format!("{who} is CANCELLED: that was asked for{at}{reason}.{}", self.undone_in_words())
            }
            Phase::Rejected(refusal) => {
                let (code, detail) = (refusal.code().name, refusal.problem().detail);
                let mut text = format!("{who} is REJECTED with {code}: {detail}.");
                if let Some((_, kind, here, before)) = self.found(refusal) {
                    let Winner { sequence, time, .. } = here;
                    text += &format!(" It was refused at sequence {sequence} of the {kind} log ({time}).");
                    text += &before.as_ref().map(|winner| won(refusal, winner)).unwrap_or_default();
                }
                text + &self.undone_in_words()
            }
        }
    }

    fn found(&self, refusal: &Refusal) -> Option<&(Refusal, Kind, Winner, Option<Winner>)> {
        self.refused.iter().find(|(found, ..)| found == refusal)
    }

    fn undone_in_words(&self) -> String {
        match self.undone.as_slice() {
            [] => " Nothing had to be undone.".to_owned(),
            undone => format!(" What was done is undone: {}.", undone.join("; ")),
        }
    }

    fn for_programs(&self, order: &OrderId, placed: &Placed, text: &str) -> Value {
        let refused = match &placed.phase {
            Phase::Rejected(refusal) => Some(refusal),
            Phase::Paying | Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Cancelled => None,
        };
        let refusal = refused.map(|refusal| {
            let problem = refusal.problem();
            let found = self.found(refusal);
            let before = found.and_then(|(.., before)| before.as_ref());
            json!({
                "code": problem.code.name,
                "detail": problem.detail,
                "facts": problem.facts,
                "log": found.map(|(_, kind, ..)| kind),
                "sequence": found.map(|(_, _, here, _)| here.sequence),
                "won_by": before.map(|Winner { order, sequence, time }| {
                    json!({ "order": order, "sequence": sequence, "time": time })
                }),
            })
        });
        let (user, status) = (&placed.user, placed.status());
        json!({ "order": order, "user": user, "status": status, "refusal": refusal, "undone": self.undone, "why": text })
    }
}

/// What had come before a refusal.
fn won(refusal: &Refusal, Winner { order, sequence, time }: &Winner) -> String {
    let order = order.as_ref().map(|order| format!("order {order}")).unwrap_or_default();
    match refusal {
        Refusal::OutOfStock { product, .. } => {
            format!(
                " The last to take {product} before was {order}, at sequence {sequence} of the product log ({time})."
            )
        }
        Refusal::InsufficientBalance { .. } => {
            format!(
                " The last to be paid from it before was {order}, at sequence {sequence} of the wallet log ({time})."
            )
        }
        Refusal::PriceChanged { .. } => {
            format!(" The price was set at sequence {sequence} of the product log ({time}).")
        }
        Refusal::NotFound { .. }
        | Refusal::AlreadyExists { .. }
        | Refusal::NotCancellable { .. }
        | Refusal::NotDispatchable { .. }
        | Refusal::NotDeliverable { .. }
        | Refusal::IdempotencyKeyReused
        | Refusal::LimitExceeded { .. }
        | Refusal::Invalid { .. } => String::new(),
    }
}
