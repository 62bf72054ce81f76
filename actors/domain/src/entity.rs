//! How an entity is driven: one message, one context, some effects.

mod state;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::state::State;
use crate::{
    caller::{Caller, Owner},
    delivery::Delivery,
    id::{Id, Key},
    kind::Kind,
    logic::Logic,
    message::{Envelope, Message, ReplyTo},
    mypage::Mypage,
    order::{self, Order},
    problem::{Code, Problem},
    product::Product,
    refusal::Refusal,
    rows::{RowKey, Rows},
    ticket::{self, Fate, Stubs, Ticket},
    timestamp::Timestamp,
    version::{Precondition, Verdict, Version},
    wallet::Wallet,
};

/// A state machine of one kind.
pub trait Entity: Default + Serialize + DeserializeOwned {
    /// What it handles.
    type Message;

    /// The rows that handling `message` may read.
    fn rows(message: &Self::Message) -> Vec<RowKey>;

    /// Handles one message: changes the state and asks for effects.
    fn handle(&mut self, message: Self::Message, ctx: &mut Context<'_>);
}

/// What handling a message asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this to another entity.
    Send(Envelope),
    /// Answer a caller.
    Reply(Reply),
}

/// An answer on its way to a caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Who waits for it.
    pub to: ReplyTo,
    /// The answer.
    pub answer: Answer,
    /// Whether it is a repeated first answer.
    pub replayed: bool,
    /// Whether it is kept under the request's ticket, and so will never be another one.
    pub ticketed: bool,
    /// The caller's trace context.
    pub trace: Option<Box<str>>,
}

/// An answer, as it is kept and as it is sent: the same bytes for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name of the refusal's [`Code`]; then the body is a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// The version of the entity that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// JSON.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

impl Answer {
    /// A success that shows an entity, with its version where versions are counted.
    pub fn ok(view: &impl Serialize, version: Option<Version>) -> Self {
        Self { error: None, version, body: serde_json::to_vec(view).expect("a view always encodes") }
    }

    /// A refusal.
    pub fn refused(refusal: &Refusal, logic: Logic) -> Self {
        Self::error(refusal.code(), refusal.answer(logic, None))
    }

    /// A problem that no refusal tells of.
    pub fn problem(problem: &Problem) -> Self {
        Self::error(problem.code, problem.to_json())
    }

    /// A refusal of an order that stays readable under its id.
    pub fn order_refused(refusal: &Refusal, order: &Id, logic: Logic) -> Self {
        Self::error(refusal.code(), refusal.answer(logic, Some(order)))
    }

    fn error(code: Code, body: Vec<u8>) -> Self {
        Self { error: Some(code.name.into()), version: None, body }
    }

    /// The code, when it is an error answer.
    pub fn code(&self) -> Option<Code> {
        self.error.as_deref().map(|name| Code::named(name).unwrap_or(Code::INVALID))
    }
}

/// Who asked, as long as the answer is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Where the answer goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<ReplyTo>,
    /// The row that keeps the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_row: Option<RowKey>,
    /// The idempotency key, kept from the third logic version on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Box<str>>,
    /// What was asked, see [`Message::fingerprint`].
    pub fingerprint: u64,
    /// The caller's trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Box<str>>,
}

/// A first answer, kept beside the entity: for as long as it exists under a key, for a while under a ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptAnswer {
    fingerprint: u64,
    /// The key that an order was placed with, which the row does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Box<str>>,
    answer: Answer,
}

/// What an entity may know and do while it handles one message.
#[derive(Debug)]
pub struct Context<'a> {
    /// The entity's own id.
    pub id: &'a Id,
    /// The time at which the log took the message; from the third logic version on never before that of
    /// an earlier message of the partition.
    pub now: Timestamp,
    /// How entities behave where the message stands in the log.
    pub logic: Logic,
    kind: Kind,
    caller: Option<Asker>,
    key: Option<Box<str>>,
    /// Of the command, where tickets are in force.
    ticket: Option<Ticket>,
    precondition: Option<Precondition>,
    /// The entity's version before the message.
    version: Version,
    /// Whether callers see something else after the message.
    has_changed: bool,
    trace: Option<Box<str>>,
    rows: &'a mut Rows,
    effects: Vec<Effect>,
}

impl Context<'_> {
    /// Sends a message to another entity.
    pub fn send(&mut self, to: impl Into<Id>, message: impl Into<Message>) {
        let (to, message) = (to.into(), message.into());
        self.effects.push(Effect::Send(Envelope { to, message, request: None, trace: self.trace.clone() }));
    }

    /// Reads a row that the message named.
    pub fn row<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.rows.get(key)
    }

    /// Writes a row.
    pub fn put_row<T: Serialize>(&mut self, key: RowKey, value: &T) {
        self.rows.put(key, value);
    }

    /// Writes a row that the message named; whether it was another one.
    pub fn replace_row<T: Serialize>(&mut self, key: RowKey, value: &T) -> bool {
        self.rows.replace(key, value)
    }

    /// What callers see changes with this message. Returns the time, which is from now on that of the last change; so
    /// that there is no change without a version of its own.
    pub const fn change(&mut self) -> Timestamp {
        self.has_changed = true;
        self.now
    }

    /// The answer that shows the entity, which changes no more with this message.
    pub fn shown(&self, view: &impl Serialize) -> Answer {
        Answer::ok(view, (self.logic >= Logic::V4).then(|| self.version_now()))
    }

    /// Shows the entity, which changes no more with this message, to the caller of this command.
    pub fn show(&mut self, view: &impl Serialize) {
        self.answer(self.shown(view));
    }

    const fn version_now(&self) -> Version {
        if self.has_changed { self.version.next() } else { self.version }
    }

    /// The idempotency key of the command.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Takes the caller of this command, to answer it later.
    pub fn take_caller(&mut self) -> Option<Asker> {
        self.caller.take()
    }

    /// Answers the caller of this command, if there is one.
    pub fn answer(&mut self, answer: Answer) {
        let Some(caller) = self.caller.take() else { return };
        if let Some(ticket) = self.ticket.clone() {
            let kept = KeptAnswer { fingerprint: caller.fingerprint, key: None, answer: answer.clone() };
            self.keep_stub(&ticket, Some(kept));
        }
        self.answer_to(caller, answer);
    }

    /// Refuses what the caller of this command asked.
    pub fn refuse(&mut self, refusal: &Refusal) {
        self.answer(Answer::refused(refusal, self.logic));
    }

    /// Answers a caller that waited, and keeps the answer.
    pub fn answer_to(&mut self, caller: Asker, answer: Answer) {
        let Asker { reply, answer_row, key, fingerprint, trace } = caller;
        let key = key.filter(|_| answer_row.as_deref() == Some(ANSWER_TO_PLACING));
        let kept = KeptAnswer { fingerprint, key, answer };
        if let Some(row) = answer_row {
            self.rows.put(row, &kept);
        }
        let ticketed = self.ticket.is_some();
        let reply = reply.map(|to| Effect::Reply(Reply { to, answer: kept.answer, replayed: false, ticketed, trace }));
        self.effects.extend(reply);
    }

    /// Why a caller is refused whose key or order id came with another body before; an order was placed with
    /// `first_key` then.
    pub fn reused(&self, caller: &Asker, first_key: Option<&str>) -> Refusal {
        if self.logic < Logic::V3 {
            return Refusal::IdempotencyKeyReused;
        }
        let is_placing = caller.answer_row.as_deref() == Some(ANSWER_TO_PLACING);
        if is_placing && (caller.key.is_none() || caller.key.as_deref() != first_key) {
            Refusal::OrderIdReused { order: self.id.clone().into() }
        } else {
            Refusal::KeyReused { kind: self.kind, id: self.id.clone() }
        }
    }

    /// Answers from what was kept, if this command was answered before.
    fn answer_from_memory(&mut self) -> bool {
        let Some(caller) = &self.caller else { return false };
        let Some(kept) = caller.answer_row.as_deref().and_then(|row| self.rows.get::<KeptAnswer>(row)) else {
            return false;
        };
        let (answer, replayed) = self.repeat(kept, caller);
        self.reply(answer, replayed, false);
        true
    }

    /// The answer to whoever asks once more what was answered before, and whether it is that.
    fn repeat(&self, kept: KeptAnswer, caller: &Asker) -> (Answer, bool) {
        if kept.fingerprint == caller.fingerprint {
            (kept.answer, true)
        } else {
            (Answer::refused(&self.reused(caller, kept.key.as_deref()), self.logic), false)
        }
    }

    /// Answers as the command's ticket has it, unless that lets a write in that is to be handled now.
    fn answer_from_ticket(&mut self, is_void: bool) -> bool {
        let Some(ticket) = self.ticket.clone() else {
            if is_void {
                self.reply(Answer::problem(&ticket::unknown()), false, false);
            }
            return is_void;
        };
        let stubs = self.stubs(&ticket);
        match stubs.fate(&ticket, self.now) {
            Fate::Used(kept) if is_void => self.reply(kept.answer, false, true),
            Fate::Used(kept) => {
                let caller = self.caller.as_ref().expect("what has a ticket has a caller");
                let (answer, replayed) = self.repeat(kept, caller);
                self.reply(answer, replayed, true);
            }
            Fate::Voided => self.reply(Answer::problem(&ticket::voided()), false, true),
            Fate::Open if is_void && !stubs.are_full() => {
                self.keep_stub(&ticket, None);
                self.reply(Answer::problem(&ticket::voided()), false, true);
            }
            Fate::Open | Fate::Forgotten if is_void => self.reply(Answer::problem(&ticket::unsaid()), false, false),
            Fate::Open if stubs.are_full() => self.reply(Answer::problem(&ticket::full()), false, true),
            Fate::Open | Fate::Forgotten => match ticket.check(self.now) {
                Ok(()) => return false,
                // Also one that is in the future: it must not be let in when that has come.
                Err(problem) => self.answer(Answer::problem(&problem)),
            },
        }
        true
    }

    /// Refuses a command for a caller who may not move what it is about. Nothing is kept of it: it would be kept beside
    /// what is another's.
    fn refuse_by_owner(&mut self, caller: Option<Caller>, state: &State, message: &Message) -> bool {
        let Some(caller) = caller else { return false };
        if caller.may_move(&Owner::in_state(self.id, message, state)) {
            return false;
        }
        let refusal = Refusal::Forbidden { kind: self.kind, id: self.id.clone(), caller: caller.name };
        self.reply(Answer::refused(&refusal, self.logic), false, false);
        true
    }

    /// Refuses a command whose precondition does not hold, unless it is one once more that is under way.
    fn refuse_by_precondition(&mut self, state: &State, message: &Message) -> bool {
        let (Some(precondition), Some(caller)) = (&self.precondition, &mut self.caller) else { return false };
        let current = state.current(self.logic);
        let is_under_way = match (state, message) {
            (State::Order(order), Message::Order(message)) => order.is_asked_already(message, caller),
            (_, _) => false,
        };
        if is_under_way || precondition.judge(current) == Verdict::Holds {
            return false;
        }
        // Of an order that was not even made nothing is kept: its id is free.
        caller.answer_row.take_if(|row| **row == *ANSWER_TO_PLACING);
        self.refuse(&Refusal::PreconditionFailed { kind: self.kind, id: self.id.clone(), current });
        true
    }

    /// Gives an answer that is not to be kept.
    fn reply(&mut self, answer: Answer, replayed: bool, ticketed: bool) {
        let caller = self.caller.take();
        self.effects.extend(caller.and_then(|Asker { reply, trace, .. }| {
            Some(Effect::Reply(Reply { to: reply?, answer, replayed, ticketed, trace }))
        }));
    }

    fn stubs(&self, ticket: &Ticket) -> Stubs {
        self.row::<Stubs>(&ticket.row()).unwrap_or_default().at(self.now)
    }

    fn keep_stub(&mut self, ticket: &Ticket, answer: Option<KeptAnswer>) {
        let mut stubs = self.stubs(ticket);
        stubs.keep(ticket, answer);
        self.put_row(ticket.row(), &stubs);
    }
}

impl State {
    /// Handles what an envelope brings, at the time `now` and by the version `logic`, and returns
    /// the effects. A command that was answered before is not handled again: it gets the kept answer.
    ///
    /// # Panics
    /// When the message is not for this kind of entity, or a row that it names is not loaded:
    /// the host routes and loads by the same envelope.
    pub fn handle(&mut self, envelope: Envelope, now: Timestamp, logic: Logic, rows: &mut Rows) -> Vec<Effect> {
        let caller = envelope.request.as_ref().and_then(|request| request.caller.clone());
        let caller = caller.filter(|_| logic >= Logic::V5);
        let answer_row = answer_row(&envelope, caller.as_ref());
        let Envelope { to, message, request, trace } = envelope;
        let kind = message.kind();
        let is_void = matches!(message, Message::Void(_));
        let key: Option<Box<str>> = request.as_ref().and_then(|request| match &request.key_as_given {
            Some(given) if logic >= Logic::V3 => Some(given.clone()),
            Some(_) | None => request.key.as_ref().map(|key| key.as_str().into()),
        });
        let ticket = request.as_ref().and_then(|request| request.ticket.clone()).filter(|_| logic >= Logic::V3);
        let precondition = request.as_ref().and_then(|request| request.precondition.clone());
        let asker = request.map(|request| Asker {
            reply: request.reply,
            answer_row,
            key: key.clone().filter(|_| logic >= Logic::V3),
            fingerprint: request.fingerprint,
            trace: trace.clone(),
        });
        let (version, has_changed, effects) = (self.version().unwrap_or_default(), false, Vec::new());
        let id = &to;
        let mut ctx = Context {
            id,
            now,
            logic,
            kind,
            caller: asker,
            key,
            ticket,
            precondition,
            version,
            has_changed,
            trace,
            rows,
            effects,
        };
        // What was told under a key is the caller's own, and stays as it is.
        let is_answered = ctx.answer_from_memory()
            || ctx.refuse_by_owner(caller, self, &message)
            || ctx.answer_from_ticket(is_void)
            || ctx.refuse_by_precondition(self, &message);
        if !is_answered {
            match (&mut *self, message) {
                (Self::Wallet(wallet), Message::Wallet(message)) => wallet.handle(message, &mut ctx),
                (Self::Product(product), Message::Product(message)) => product.handle(message, &mut ctx),
                (Self::Order(order), Message::Order(message)) => order.handle(message, &mut ctx),
                (Self::Delivery(delivery), Message::Delivery(message)) => delivery.handle(message, &mut ctx),
                (Self::Mypage(mypage), Message::Mypage(message)) => mypage.handle(message, &mut ctx),
                (state, message) => panic!("{message:?} reached {state:?}"),
            }
        }
        if ctx.has_changed && logic >= Logic::V4 {
            self.set_version(ctx.version_now());
        }
        ctx.effects
    }
}

/// The rows that handling an envelope may read: what its message names, the kept answer, and the ticket's stub.
pub fn rows(envelope: &Envelope) -> Vec<RowKey> {
    let mut rows = match &envelope.message {
        Message::Wallet(message) => Wallet::rows(message),
        Message::Product(message) => Product::rows(message),
        Message::Order(message) => Order::rows(message),
        Message::Delivery(message) => Delivery::rows(message),
        Message::Mypage(message) => Mypage::rows(message),
        Message::Void(_) => vec![],
    };
    let ticket = envelope.request.as_ref().and_then(|request| request.ticket.as_ref());
    rows.extend(ticket.map(Ticket::row));
    let kept = answer_row(envelope, None);
    // Which of the two it is depends on the logic version, which is not known here.
    if let Some(caller) = envelope.request.as_ref().and_then(|request| request.caller.as_ref()) {
        rows.extend(answer_row(envelope, Some(caller)).filter(|row| Some(row) != kept.as_ref()));
    }
    rows.extend(kept);
    rows
}

/// The row that keeps the answer to placing an order.
const ANSWER_TO_PLACING: &str = "answer/";

/// The row that keeps the answer to a command: by its caller, if callers are heeded, and its key; and for `place` by the
/// order itself, because an order's id is its key. (A key is never empty and has no slash, so that no two can meet.)
fn answer_row(envelope: &Envelope, caller: Option<&Caller>) -> Option<RowKey> {
    let request = envelope.request.as_ref()?;
    if let Message::Order(order::Message::Place(_)) = envelope.message {
        return Some(ANSWER_TO_PLACING.into());
    }
    let row = |key: &Key| match caller {
        Some(Caller { name, .. }) => format!("answer/{name}/{key}").into(),
        None => format!("answer/{key}").into(),
    };
    request.key.as_ref().map(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "Delivery(Dispatch) reached Wallet(Absent)")]
    fn a_message_for_another_kind_is_a_bug_and_never_ignored() {
        let message = crate::delivery::Message::Dispatch.into();
        let envelope = Envelope { to: "alice".parse().unwrap(), message, request: None, trace: None };
        let (now, mut rows) = (Timestamp::default(), Rows::default());
        State::absent(Kind::Wallet).handle(envelope, now, Logic::NEWEST, &mut rows);
    }
}
