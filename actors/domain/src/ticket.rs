//! Tickets: what makes the fate of a write definite whose caller gave no idempotency key.
//!
//! **Guarantee.** Whoever sent a write with a ticket and got no answer can *void* the ticket through any door. Whichever
//! of the two is first in the entity's log wins: the write, and then the void is answered with the write's own answer;
//! or the void, and then the write is refused whenever it comes. So it is known of every ticket that was voided what
//! became of its write, and that never changes.
//!
//! **A write with a ticket is sent once.** Who does not know whether it came voids its ticket, and sends another write
//! with another one. A copy that comes within the ticket's time gets the first one's answer; one that comes later is told
//! that it was not done, which says nothing of the first.
//!
//! **Where nothing can be voided**, because no door answers or the log takes nothing, the ticket itself ends the wait:
//! it expires. What comes later than that, by the log's time, is refused.
//!
//! **Clocks.** Who issues a ticket writes its own time into it, and the entity compares that with the time of the log,
//! which never goes back. Two clocks that are not the same may differ by [`SKEW_MS_MAX`]. So a ticket is good from that
//! long before it was issued until that long after it expires, by the log; and by the clock of its issuer, which may be
//! behind the log's or ahead of it by as much, nothing is done any more [`SETTLED_MS`] after it has expired. A clock
//! that is off further shows: what is issued in the log's future is refused as well, so that an issuer whose clock is
//! ahead does not gain time, but is told. Which came first, write or void, depends on no clock at all.
//!
//! **What is kept.** A stub for each ticket that was used or voided, with the answer; they lie in rows
//! `ticket/<number>`, spread by their tokens, so that a row that is read for one is short. A stub is forgotten
//! [`ANSWER_MEMORY_MS`] after its ticket can be used no more. That is safe, however long a process or a nats-server was
//! frozen with the write: the stub outlasts the ticket, and both are measured by the same time, that of the log. Those
//! of a row are looked through when the row is read anyway, so forgetting costs no work of its own. A row that is full
//! ([`STUBS_MAX`]) lets no further ticket in, rather than to forget one that counts.
//!
//! **Why random tokens** and not numbers that count up: requests of one bridge overtake each other on their way through
//! several doors, so that the highest number seen would say nothing of those below it; each is looked up by itself. A
//! random one needs nothing that is counted, stored or agreed on, also when a bridge starts again.

use std::{fmt, hash::Hasher, str::FromStr};

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::{
    entity::KeptAnswer,
    id::Id,
    problem::{Code, DONE, Problem},
    rows::RowKey,
    timestamp::Timestamp,
};

/// By how much the clocks of an issuer and of the log may differ, in milliseconds. Machines that keep their time by NTP
/// differ by a hundredth of it.
pub const SKEW_MS_MAX: u64 = 2_000;
/// How long after a ticket has expired nothing is done with it any more, by the clock of its issuer.
pub const SETTLED_MS: u64 = 2 * SKEW_MS_MAX;
/// The longest life of a ticket, in milliseconds: twice what a caller may wait over HTTP. It bounds how long a stub is
/// kept.
pub const LIFE_MS_MAX: u64 = 60_000;
/// How long an answer is kept beyond the time in which its ticket can be used, in milliseconds: as long as a door lets a
/// void wait for the log.
pub const ANSWER_MEMORY_MS: u64 = 10_000;
/// Rows over which the stubs of an entity are spread.
const ROWS: u64 = 256;
/// Most stubs in a row. With all rows it is some thousand writes per second to one entity.
const STUBS_MAX: usize = 256;

/// What lets one write in, once, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Unlike that of any other ticket; 128 random bits are enough.
    pub token: Id,
    /// When it was issued, by the clock of its issuer.
    pub issued_at: Timestamp,
    /// Until when its write is wanted, by the same clock.
    pub expires_at: Timestamp,
}

/// Why a text is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicket {
    /// It has not the three parts.
    #[error("must be <token>.<issued>.<expires>: an id, and two times in milliseconds since 1970")]
    Form,
    /// It expires before it was issued, or too long after.
    #[error("must expire at most {LIFE_MS_MAX} ms after it was issued")]
    Life,
}

impl Ticket {
    /// Whether its write may be done at this time; if not, it never will be.
    pub fn check(&self, now: Timestamp) -> Result<(), Problem> {
        if now.unix_ms() > self.expires_at.unix_ms().saturating_add(SKEW_MS_MAX) {
            return Err(undone("the request came after its time was over"));
        }
        let ahead_ms = self.issued_at.unix_ms().saturating_sub(now.unix_ms());
        if ahead_ms > SKEW_MS_MAX {
            return Err(undone(&format!(
                "the clock of who sent this is {ahead_ms} ms ahead of the shop's, where {SKEW_MS_MAX} are allowed"
            )));
        }
        Ok(())
    }

    /// The row that has its stub, if there is one.
    pub(crate) fn row(&self) -> RowKey {
        let mut hasher = FnvHasher::default();
        hasher.write(self.token.as_str().as_bytes());
        format!("{TICKET_ROWS}{:03}", hasher.finish() % ROWS).into()
    }

    fn is_forgotten(&self, now: Timestamp) -> bool {
        is_forgotten(self.expires_at, now)
    }
}

/// The prefix of the rows with stubs.
pub const TICKET_ROWS: &str = "ticket/";

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.token, self.issued_at.unix_ms(), self.expires_at.unix_ms())
    }
}

impl FromStr for Ticket {
    type Err = InvalidTicket;

    fn from_str(text: &str) -> Result<Self, InvalidTicket> {
        let time = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number).map(Timestamp::from_unix_ms)
        };
        let parts = text.split_once('.').and_then(|(token, times)| {
            let (issued, expires) = times.split_once('.')?;
            Some(Self { token: token.parse().ok()?, issued_at: time(issued)?, expires_at: time(expires)? })
        });
        let ticket = parts.ok_or(InvalidTicket::Form)?;
        let life = ticket.expires_at.unix_ms().checked_sub(ticket.issued_at.unix_ms());
        if life.is_some_and(|life| life <= LIFE_MS_MAX) { Ok(ticket) } else { Err(InvalidTicket::Life) }
    }
}

/// The stubs of one row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stubs(Vec<Stub>);

/// What is kept of a ticket.
#[derive(Debug, Serialize, Deserialize)]
struct Stub {
    token: Id,
    expires_at: Timestamp,
    /// To the write; none when the ticket was voided before that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<KeptAnswer>,
}

/// What is known of a ticket.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Neither its write nor a void has come.
    Open,
    /// Its write was handled, and answered like this.
    Used(KeptAnswer),
    /// It was voided before its write came.
    Voided,
    /// It is too long ago.
    Forgotten,
}

impl Stubs {
    /// Those that count.
    pub(crate) fn at(mut self, now: Timestamp) -> Self {
        self.0.retain(|stub| !is_forgotten(stub.expires_at, now));
        self
    }

    /// What is known of a ticket.
    pub(crate) fn fate(&self, ticket: &Ticket, now: Timestamp) -> Fate {
        match self.0.iter().find(|stub| stub.token == ticket.token) {
            Some(Stub { answer: Some(answer), .. }) => Fate::Used(answer.clone()),
            Some(Stub { answer: None, .. }) => Fate::Voided,
            None if ticket.is_forgotten(now) => Fate::Forgotten,
            None => Fate::Open,
        }
    }

    /// Whether no more fit in.
    pub(crate) fn are_full(&self) -> bool {
        self.0.len() >= STUBS_MAX
    }

    /// Keeps the stub of a ticket that was open: with the answer to its write, or void.
    pub(crate) fn keep(&mut self, ticket: &Ticket, answer: Option<KeptAnswer>) {
        self.0.push(Stub { token: ticket.token.clone(), expires_at: ticket.expires_at, answer });
    }
}

const fn is_forgotten(expires_at: Timestamp, now: Timestamp) -> bool {
    now.unix_ms() > expires_at.unix_ms().saturating_add(SKEW_MS_MAX + ANSWER_MEMORY_MS)
}

/// The write was not done, and this is why it never will be.
pub fn undone(why: &str) -> Problem {
    let detail = format!("{why}: it was not done, and it never will be; it may be sent anew");
    Problem::new(Code::UNAVAILABLE, detail).fact(DONE, false)
}

/// The ticket was voided before its write came.
pub(crate) fn voided() -> Problem {
    undone("the request was not taken in the time that its caller waits")
}

/// There is no room for another stub.
pub(crate) fn full() -> Problem {
    let detail = "more writes without an Idempotency-Key come than can be kept apart; nothing was done, try again";
    Problem::new(Code::OVERLOADED, detail).fact(DONE, false)
}

/// What becomes of the write cannot be said: too long ago is what was kept of it, or there is no room for a void.
pub(crate) fn unsaid() -> Problem {
    let detail = "what became of the request cannot be said; look before you repeat it";
    Problem::new(Code::UNAVAILABLE, detail).retryable(false)
}

/// Nothing can be voided here.
pub fn unknown() -> Problem {
    let detail = "tickets are not in force here: the shop has to be upgraded to logic version 3 first";
    Problem::new(Code::UNAVAILABLE, detail).retryable(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(text: &str) -> Result<Ticket, InvalidTicket> {
        text.parse()
    }

    #[test]
    fn a_ticket_is_read_as_it_is_written() {
        let text = "0af7651916cd43dd8448eb211c80319c.1700000000000.1700000005000";
        assert_eq!(ticket(text).unwrap().to_string(), text);
        for bad in
            ["", "t", "t.1", "t.1.2.3", "t.-1.2", "t.+1.2", "t.1.x", ".1.2", "a b.1.2", "t.1.99999999999999999999"]
        {
            assert_eq!(ticket(bad), Err(InvalidTicket::Form), "{bad}");
        }
        for bad in ["t.2.1", "t.0.60001"] {
            assert_eq!(ticket(bad), Err(InvalidTicket::Life), "{bad}");
        }
        assert!(ticket("t.0.60000").is_ok());
    }

    #[test]
    fn a_ticket_is_good_within_its_life_and_what_clocks_may_differ() {
        let ticket = ticket("t.100000.105000").unwrap();
        let is_good = |ms| ticket.check(Timestamp::from_unix_ms(ms)).is_ok();
        let good = [97_999, 98_000, 100_000, 107_000, 107_001].map(is_good);
        assert_eq!(good, [false, true, true, true, false]);
    }
}
