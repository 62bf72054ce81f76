//! Customers without a key who do as they are told, and whose writes may be frozen on their way: what is not answered
//! is voided; what cannot be voided is looked at when its time is over; what was not done is sent anew. In the end each
//! of them knows exactly what was done.

use std::time::Duration;

use shop_domain::{
    kind::Kind,
    message::Message,
    ticket::{SETTLED_MS, Ticket},
    timestamp::Timestamp,
    wallet,
};
use tokio::time::Instant;

use crate::{plan::money, sim::Sim, trace::Fault};

/// Whose wallets nobody else uses.
pub(crate) const CAREFUL: [&str; 3] = ["dave", "erin", "frank"];
/// How long a customer waits for an answer, in milliseconds.
const WAIT_MS: std::ops::Range<u64> = 50..3_000;
/// How late a write comes that was frozen on its way: mostly about when it expires, sometimes long after.
const LATE_MS: [u64; 2] = [5_000, 40_000];
/// How long a void may go unanswered before it is sent once more.
const VOID_AGAIN: Duration = Duration::from_secs(1);
/// How often a ticket is voided, before its customer waits until all is at rest: so late that nobody knows any more.
const VOIDS_MAX: usize = 10;
/// How often a customer sends anew what was not done, before it is left.
const TRIES_MAX: usize = 8;

/// Something that a customer wants to have done once.
#[derive(Debug)]
pub(crate) struct Errand {
    user: &'static str,
    pub(crate) amount: u64,
    /// What the wallet held before.
    before: u64,
    ticket: Ticket,
    /// The inboxes at which its fate may be told.
    inboxes: Vec<Box<str>>,
    /// When the customer stops waiting, or has voided it last.
    void_at: Instant,
    /// Whether any door answers to a void.
    can_void: bool,
    voids: usize,
    tries: usize,
    pub(crate) is_done: Option<bool>,
}

impl Sim {
    /// A customer pays in without a key, unless he is still about the last time.
    pub(crate) fn pay_in(&mut self) {
        let user = CAREFUL[self.chance.usize(0..CAREFUL.len())];
        if self.errands.iter().any(|errand| errand.user == user && errand.is_done.is_none()) {
            return;
        }
        let done = self.errands.iter().filter(|errand| errand.user == user && errand.is_done == Some(true));
        let (before, amount) = (done.map(|errand| errand.amount).sum(), self.chance.u64(1..100));
        let ticket = self.new_ticket();
        let errand = Errand {
            user,
            amount,
            before,
            ticket,
            inboxes: vec![],
            void_at: Instant::now(),
            can_void: false,
            voids: 0,
            tries: 0,
            is_done: None,
        };
        let errand = self.send(errand);
        self.errands.push(errand);
    }

    /// Customers hear what they were told, and do what follows from it.
    pub(crate) fn mind_the_careful(&mut self) {
        for number in 0..self.errands.len() {
            if self.errands[number].is_done.is_some() {
                continue;
            }
            let mut errand = self.errands.remove(number);
            match self.fate_of(&errand) {
                Some(true) => errand.is_done = Some(true),
                Some(false) if errand.tries == TRIES_MAX => errand.is_done = Some(false),
                Some(false) => {
                    self.count(Fault::SentAnew);
                    let ticket = self.new_ticket();
                    errand = self.send(Errand { ticket, ..errand });
                }
                None if errand.can_void && errand.voids < VOIDS_MAX && Instant::now() >= errand.void_at => {
                    self.count(Fault::Voided);
                    let inbox = self.ask_with_ticket(errand.user, Message::Void(Kind::Wallet), &errand.ticket);
                    errand.inboxes.push(inbox);
                    errand.voids += 1;
                    errand.void_at = Instant::now() + VOID_AGAIN;
                }
                None => {}
            }
            self.errands.insert(number, errand);
        }
    }

    /// All is at rest: whoever does not know yet what was done looks.
    pub(crate) fn careful_look(&mut self) {
        for number in 0..self.errands.len() {
            let Errand { user, before, is_done: None, .. } = self.errands[number] else { continue };
            self.errands[number].is_done = Some(self.balance_in_log(user) > before);
        }
    }

    fn send(&mut self, errand: Errand) -> Errand {
        let message: Message = wallet::Message::TopUp { amount: money(errand.amount) }.into();
        let wait = Duration::from_millis(errand.ticket.expires_at.unix_ms() - errand.ticket.issued_at.unix_ms());
        // Where clocks are not to be trusted, only a void tells.
        let can_void = !self.trusts_clocks || self.chance.u8(0..3) > 0;
        let late = (!self.is_healed && self.chance.bool()).then(|| {
            let late_ms_max = LATE_MS[self.chance.usize(0..LATE_MS.len())];
            Duration::from_millis(self.chance.u64(0..late_ms_max))
        });
        let inbox = match late {
            Some(late) => {
                self.count(Fault::Frozen);
                self.ask_late(errand.user, message, &errand.ticket, late)
            }
            None => self.ask_with_ticket(errand.user, message, &errand.ticket),
        };
        let tries = errand.tries + 1;
        Errand { inboxes: vec![inbox], void_at: Instant::now() + wait, can_void, voids: 0, tries, ..errand }
    }

    fn fate_of(&self, errand: &Errand) -> Option<bool> {
        let replies = self.replies();
        let told = replies.iter().filter(|reply| errand.inboxes.contains(&reply.to.inbox));
        if let Some(fate) = told.filter(|reply| reply.ticketed).map(|reply| reply.answer.error.is_none()).next() {
            return Some(fate);
        }
        let settled_ms = errand.ticket.expires_at.unix_ms() + SETTLED_MS;
        if !self.trusts_clocks || self.log.now().unix_ms() <= settled_ms {
            return None;
        }
        self.count(Fault::LookedAfterwards);
        Some(self.balance_in_log(errand.user) > errand.before)
    }

    fn new_ticket(&mut self) -> Ticket {
        let (number, issued_at) = (self.asked.len(), self.log.now());
        let expires_at = Timestamp::from_unix_ms(issued_at.unix_ms() + self.chance.u64(WAIT_MS));
        Ticket { token: format!("t-{number}").parse().expect("it is a proper id"), issued_at, expires_at }
    }
}
