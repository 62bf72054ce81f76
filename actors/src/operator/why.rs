//! `shop why`: an order's fate in a paragraph, with the facts and where they stand in the logs.
//!
//! What stood in the way of a refused order is what others still held at that moment: who has put it back is none of
//! those. What happened before the logs begin is said to be not known, and never taken for nothing.

mod holders;

use std::{collections::BTreeMap, io::Write};

use clap::Args;
use serde_json::{Value, json};
use shop_domain::{
    delivery::{self, Delivery},
    entity::State,
    id::{Id, OrderId},
    kind::Kind,
    message::Message,
    order::{self, Order, Phase, Placed},
    product::{self, Product, Take},
    refusal::Refusal,
    timestamp::Timestamp,
    wallet::{self, Charge, Wallet},
};

use self::holders::Holders;
use super::{
    Answered, Common, Out, Progress, name_parked, no, say,
    trace::{Moment, look},
    verdict::Verdict,
    words,
};
use crate::replay::{Content, Handled, Replay, Step};

/// Which order.
#[derive(Debug, Args)]
pub struct Options {
    /// The order's id.
    order: OrderId,
    #[command(flatten)]
    common: Common,
}

/// A place in some log.
#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    time: Timestamp,
}

/// Who or what had come before a refusal.
#[derive(Clone, Debug)]
enum Before {
    /// This order held what was missing, or nobody whom one could name set the price.
    Was(Option<OrderId>, Place),
    /// No order held anything of it.
    Nobody,
    /// It was before the logs begin.
    NotKnown,
}

/// A refusal of the order: where it was made, and what had come before.
#[derive(Debug)]
struct Refused {
    refusal: Refusal,
    kind: Kind,
    place: Place,
    before: Option<Before>,
}

/// What was found out by reading the logs.
#[derive(Default)]
struct Findings {
    /// By product, who holds pieces of it.
    taken: BTreeMap<Id, Holders>,
    /// By product, what set its price last.
    priced: BTreeMap<Id, Place>,
    /// By wallet, who was paid from it.
    charged: BTreeMap<Id, Holders>,
    refused: Vec<Refused>,
    cancel: Option<Place>,
    confirmed: Option<Place>,
    /// How far its delivery is, and since when.
    delivery: Option<(String, Place)>,
    /// What is known to be undone.
    undone: Vec<String>,
    /// Whether something was undone before the logs begin.
    is_undone_before: bool,
    /// What of the logs cannot be read.
    gaps: Option<String>,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { order, common } = options;
    let connection = common.connect("why").await?;
    let beginning = common.begin(&connection, &Kind::ALL).await?;
    let gaps = words::gaps(beginning.gaps());
    let (mut merged_log, mut replay) = beginning.replay()?;
    let is_undone_before = is_undone(&replay, &order);
    let mut findings = Findings { gaps, is_undone_before, ..Findings::default() };
    let mut progress = Progress::of(&merged_log);
    while let Some((kind, record)) = merged_log.next().await? {
        progress.step();
        let step = replay.apply_and_look(kind, &record, |handled, entity| look(handled, entity, &order))?;
        findings.enter(&step, &replay);
    }
    drop(progress);
    let id = Id::from(order.clone());
    let Some(State::Order(Order::Placed(placed))) = replay.entity(Kind::Order, &id).map(|entity| &entity.state) else {
        let since = findings.gaps.map(|gaps| format!(" any more: {gaps}")).unwrap_or_default();
        return Ok(no(&format!("no log knows of an order {order}{since}")));
    };
    if let Some(gaps) = &findings.gaps {
        say(&format_args!("what came before is not told: {gaps}"));
    }
    let delivery = status_of_the_delivery(&replay, &id);
    let text = findings.explain(&order, placed, delivery) + &words::too_late(placed);
    if common.json {
        writeln!(out, "{}", findings.for_programs(&order, placed, delivery, &text))?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(name_parked(&replay))
}

/// Whether something of an order is undone already where the logs begin.
fn is_undone(replay: &Replay, order: &OrderId) -> bool {
    let (charge, take) = (wallet::charge_row(order), product::take_row(order));
    let refunded = |charge| matches!(charge, Charge::Refunded(_) | Charge::Void);
    let put_back = |take| matches!(take, Take::PutBack(_) | Take::Void);
    replay.entities(Kind::Wallet).any(|(_, _, wallet)| wallet.row(&charge).is_some_and(refunded))
        || replay.entities(Kind::Product).any(|(_, _, product)| product.row(&take).is_some_and(put_back))
        || status_of_the_delivery(replay, &order.clone().into()) == Some(delivery::Status::Cancelled)
}

fn status_of_the_delivery(replay: &Replay, order: &Id) -> Option<delivery::Status> {
    match &replay.entity(Kind::Delivery, order)?.state {
        State::Delivery(Delivery::Made(made)) => Some(made.status),
        State::Delivery(Delivery::Void) => Some(delivery::Status::Cancelled),
        State::Delivery(Delivery::Absent)
        | State::Wallet(_)
        | State::Product(_)
        | State::Order(_)
        | State::Mypage(_) => None,
    }
}

/// Whether any order holds something of a product or a wallet.
fn is_held(replay: &Replay, kind: Kind, id: &Id) -> bool {
    match replay.entity(kind, id).map(|entity| &entity.state) {
        Some(State::Product(Product::OnSale(product))) => product.taken.get() > 0,
        Some(State::Wallet(Wallet::Open(wallet))) => wallet.charged.get() > 0,
        Some(
            State::Product(Product::Absent)
            | State::Wallet(Wallet::Absent)
            | State::Order(_)
            | State::Delivery(_)
            | State::Mypage(_),
        )
        | None => false,
    }
}

impl Findings {
    fn enter(&mut self, step: &Step<(Handled, Option<Verdict>)>, replay: &Replay) {
        let Content::Frame { messages, .. } = &step.content else { return };
        for (handled, verdict) in messages.iter().filter(|(handled, _)| handled.is_handled()) {
            if let Some(verdict) = verdict {
                self.of_the_order(Moment::new(step, handled, verdict), replay);
            }
            self.of_any_order(step, handled);
        }
    }

    /// Remembers who holds what.
    fn of_any_order<M>(&mut self, step: &Step<M>, handled: &Handled) {
        let here = Place { sequence: step.sequence, time: step.time };
        let id = || handled.arrival.envelope.to.clone();
        let answers = |is: fn(&order::Message) -> bool| {
            handled.sent.iter().any(|sent| matches!(&sent.envelope.message, Message::Order(message) if is(message)))
        };
        match &handled.arrival.envelope.message {
            Message::Wallet(wallet::Message::Charge { order, .. }) => {
                if answers(|message| *message == order::Message::Charged) {
                    self.charged.entry(id()).or_default().take(order, here);
                }
            }
            Message::Wallet(wallet::Message::Refund { order }) => {
                self.charged.entry(id()).or_default().give_back(order);
            }
            Message::Product(product::Message::Take { order, .. }) => {
                if answers(|message| matches!(message, order::Message::Taken { .. })) {
                    self.taken.entry(id()).or_default().take(order, here);
                }
            }
            Message::Product(product::Message::PutBack { order }) => {
                self.taken.entry(id()).or_default().give_back(order);
            }
            Message::Product(product::Message::Create { .. } | product::Message::Change { price: Some(_), .. }) => {
                if handled.replies.iter().all(|reply| reply.answer.code().is_none()) {
                    self.priced.insert(id(), here);
                }
            }
            Message::Wallet(wallet::Message::Open { .. } | wallet::Message::TopUp { .. })
            | Message::Product(product::Message::Restock { .. } | product::Message::Change { price: None, .. })
            | Message::Order(_)
            | Message::Delivery(_)
            | Message::Mypage(_)
            | Message::Void(_) => {}
        }
    }

    fn of_the_order(&mut self, moment: Moment, replay: &Replay) {
        let Moment { time, place: (kind, sequence, _), entity, message, verdict, .. } = moment;
        let Verdict { outcome, refusal, .. } = verdict;
        let place = Place { sequence, time };
        // A cancel that came before the order was refused.
        let is_known = outcome.is_some();
        let is_confirmed = outcome.as_ref().is_some_and(|outcome| *outcome == order::Status::Confirmed.to_string());
        // Where it was made: by whom the order asked, or by the order itself because of a quote.
        let is_made_here = !matches!(&message, Message::Order(message) if !matches!(message, order::Message::Place(_)));
        if let Some(refusal) = refusal.filter(|_| is_made_here) {
            let before = self.before(&refusal, &entity, replay);
            self.refused.push(Refused { refusal, kind, place, before });
        }
        // A delivery that was not to be stopped any more is not undone.
        let is_kept = kind == Kind::Delivery && outcome.as_ref() != Some(&delivery::Status::Cancelled.to_string());
        if let (true, Some(outcome)) = (words::is_undo(&message) && !is_kept, &outcome) {
            self.undone.push(format!("{kind} {entity}: {outcome} (sequence {sequence} of the {kind} log)"));
        }
        match message {
            Message::Order(order::Message::Cancel { .. }) if is_known => drop(self.cancel.get_or_insert(place)),
            Message::Order(order::Message::Taken { .. }) if is_confirmed => {
                self.confirmed.get_or_insert(place);
            }
            Message::Delivery(_) => {
                let status = outcome.filter(|new| self.delivery.as_ref().is_none_or(|(status, _)| status != new));
                self.delivery = status.map(|status| (status, place)).or(self.delivery.take());
            }
            Message::Order(_) | Message::Wallet(_) | Message::Product(_) | Message::Mypage(_) | Message::Void(_) => {}
        }
    }

    /// Who or what had come before a refusal, if that has to do with it.
    fn before(&self, refusal: &Refusal, entity: &Id, replay: &Replay) -> Option<Before> {
        let last = |holders: Option<&Holders>, kind, id: &Id| match holders.and_then(Holders::last) {
            Some((order, place)) => Before::Was(Some(order.clone()), *place),
            None if self.gaps.is_some() && is_held(replay, kind, id) => Before::NotKnown,
            None => Before::Nobody,
        };
        match refusal {
            Refusal::OutOfStock { product, .. } => {
                let product = product.clone().into();
                Some(last(self.taken.get(&product), Kind::Product, &product))
            }
            Refusal::InsufficientBalance { .. } => Some(last(self.charged.get(entity), Kind::Wallet, entity)),
            Refusal::PriceChanged { product, .. } => {
                let priced = self.priced.get(&product.clone().into());
                Some(priced.map_or(Before::NotKnown, |place| Before::Was(None, *place)))
            }
            Refusal::NotFound { .. }
            | Refusal::AlreadyExists { .. }
            | Refusal::NotCancellable { .. }
            | Refusal::NotDispatchable { .. }
            | Refusal::NotDeliverable { .. }
            | Refusal::IdempotencyKeyReused
            | Refusal::KeyReused { .. }
            | Refusal::OrderIdReused { .. }
            | Refusal::Overloaded { .. }
            | Refusal::LimitExceeded { .. }
            | Refusal::PreconditionFailed { .. }
            | Refusal::Forbidden { .. }
            | Refusal::Invalid { .. } => None,
        }
    }

    fn explain(&self, order: &OrderId, placed: &Placed, delivery: Option<delivery::Status>) -> String {
        let who = format!("Order {order} of {}", placed.user);
        let at = |place: Option<Place>| match place {
            Some(place) => format!(" at {}", place.in_log_of(Kind::Order)),
            None => ", at what time is not known".to_owned(),
        };
        match &placed.phase {
            Phase::Paying => format!("{who} is under way: it waits for its wallet to pay {}.", placed.amount),
            Phase::Taking { answers } => {
                let (answered, lines) = (answers.len(), placed.lines.len());
                format!("{who} is under way: it is paid, and {answered} of {lines} products have answered.")
            }
            Phase::Stopping => {
                let delivery = self.delivery_in_words(delivery);
                format!("{who} is being cancelled: it waits for its delivery to be stopped.{delivery}")
            }
            Phase::Confirmed => {
                let (at, amount, delivery) = (at(self.confirmed), placed.amount, self.delivery_in_words(delivery));
                format!("{who} is CONFIRMED: {amount} were paid, and the last product was taken{at}.{delivery}")
            }
            Phase::Cancelled => {
                let reason = placed.cancel_reason.as_ref().map(|reason| format!(", because \"{reason}\""));
                let (at, reason) = (at(self.cancel), reason.unwrap_or_default());
                format!("{who} is CANCELLED: that was asked for{at}{reason}.{}", self.undone_in_words())
            }
            Phase::Rejected(refusal) => {
                let (code, detail) = (refusal.code().name, refusal.problem().detail);
                let why = match self.found(refusal) {
                    Some(Refused { kind, place, before, .. }) => {
                        let before = before.as_ref().map(|before| before.in_words(refusal)).unwrap_or_default();
                        format!(" It was refused at {}.{before}", place.in_log_of(*kind))
                    }
                    None => " Where it was refused is not known.".to_owned(),
                };
                format!("{who} is REJECTED with {code}: {detail}.{why}{}", self.undone_in_words())
            }
        }
    }

    fn delivery_in_words(&self, status: Option<delivery::Status>) -> String {
        let Some(status) = status else { return " Its delivery is not scheduled yet.".to_owned() };
        match &self.delivery {
            Some((_, place)) => format!(" Its delivery is {status}, since {}.", place.in_log_of(Kind::Delivery)),
            None => format!(" Its delivery is {status}, since when is not known."),
        }
    }

    fn found(&self, refusal: &Refusal) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.refusal == *refusal)
    }

    /// What was undone, if that is known.
    fn undone(&self) -> Option<&[String]> {
        (!self.is_undone_before).then_some(&self.undone)
    }

    fn undone_in_words(&self) -> String {
        match self.undone() {
            None => " What had been done is undone; where and when is not known.".to_owned(),
            Some([]) => " Nothing had to be undone.".to_owned(),
            Some(undone) => format!(" What was done is undone: {}.", undone.join("; ")),
        }
    }

    fn for_programs(&self, order: &OrderId, placed: &Placed, delivery: Option<delivery::Status>, text: &str) -> Value {
        let refused = match &placed.phase {
            Phase::Rejected(refusal) => Some(refusal),
            Phase::Paying | Phase::Taking { .. } | Phase::Confirmed | Phase::Stopping | Phase::Cancelled => None,
        };
        let refusal = refused.map(|refusal| {
            let problem = refusal.problem();
            let found = self.found(refusal);
            let won_by = found.and_then(|found| found.before.as_ref()).and_then(|before| match before {
                Before::Was(order, Place { sequence, time }) => {
                    Some(json!({ "order": order, "sequence": sequence, "time": time }))
                }
                Before::Nobody | Before::NotKnown => None,
            });
            let is_known = !matches!(found, None | Some(Refused { before: Some(Before::NotKnown), .. }));
            json!({
                "code": problem.code.name,
                "detail": problem.detail,
                "facts": problem.facts,
                "log": found.map(|found| found.kind),
                "sequence": found.map(|found| found.place.sequence),
                "won_by": won_by,
                // Whether nobody is really nobody.
                "won_by_is_known": is_known,
            })
        });
        let delivery = delivery.map(|status| {
            let place = self.delivery.as_ref().map(|(_, place)| *place);
            let (sequence, time) = (place.map(|place| place.sequence), place.map(|place| place.time));
            json!({ "status": status, "sequence": sequence, "time": time })
        });
        json!({
            "order": order,
            "user": placed.user,
            "status": placed.status(),
            "refusal": refusal,
            "cancel_refused": placed.cancel_refused,
            "delivery": delivery,
            "undone": self.undone(),
            "why": text,
        })
    }
}

impl Place {
    fn in_log_of(self, kind: Kind) -> String {
        format!("sequence {} of the {kind} log ({})", self.sequence, self.time)
    }
}

impl Before {
    fn in_words(&self, refusal: &Refusal) -> String {
        match (refusal, self) {
            (Refusal::OutOfStock { product, .. }, Self::Was(Some(order), place)) => {
                let place = place.in_log_of(Kind::Product);
                format!(" The last to take {product} before was order {order}, at {place}.")
            }
            (Refusal::OutOfStock { product, .. }, Self::NotKnown) => {
                format!(" Which order was the last to take {product} before is not known.")
            }
            (Refusal::OutOfStock { product, .. }, Self::Was(None, _) | Self::Nobody) => {
                format!(" No other order had any of {product}: all that there ever was was there.")
            }
            (Refusal::InsufficientBalance { .. }, Self::Was(Some(order), place)) => {
                let place = place.in_log_of(Kind::Wallet);
                format!(" The last to be paid from it before was order {order}, at {place}.")
            }
            (Refusal::InsufficientBalance { .. }, Self::NotKnown) => {
                " Which order was the last to be paid from it before is not known.".to_owned()
            }
            (Refusal::InsufficientBalance { .. }, Self::Was(None, _) | Self::Nobody) => {
                " No other order was paid from it: all that was ever put in was there.".to_owned()
            }
            (Refusal::PriceChanged { .. }, Self::Was(_, place)) => {
                format!(" The price was set at {}.", place.in_log_of(Kind::Product))
            }
            (Refusal::PriceChanged { .. }, Self::Nobody | Self::NotKnown) => {
                " When the price was set is not known.".to_owned()
            }
            (
                Refusal::NotFound { .. }
                | Refusal::AlreadyExists { .. }
                | Refusal::NotCancellable { .. }
                | Refusal::NotDispatchable { .. }
                | Refusal::NotDeliverable { .. }
                | Refusal::IdempotencyKeyReused
                | Refusal::KeyReused { .. }
                | Refusal::OrderIdReused { .. }
                | Refusal::Overloaded { .. }
                | Refusal::LimitExceeded { .. }
                | Refusal::PreconditionFailed { .. }
                | Refusal::Forbidden { .. }
                | Refusal::Invalid { .. },
                _,
            ) => String::new(),
        }
    }
}
