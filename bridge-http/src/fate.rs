//! What a caller is told whose write nobody answers, and what is done so that it is true and stays true.
//!
//! A write that may be repeated (an order, or one with a key) is asked about once more before its caller's wait ends.
//! Any other one has a ticket of the bridge's (see `ticket` in the domain), which is voided then: through any door that
//! answers, several times, because the one that has the write may be the one that is frozen. So its caller hears the
//! write's own answer, or that it was not done and never will be. Where no void is answered, the ticket expires, and
//! the caller is told when that shows.
//!
//! Owns how the wait is divided, and the words. Must not know how doors are reached.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use shop_domain::{
    id::Id,
    kind::Kind,
    problem::{Code, Problem},
    text::quoted,
    ticket::{SETTLED_MS, Ticket},
    timestamp::Timestamp,
};
use shop_nats::{rpc::request::Request, subject};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    reply::{Asked, LOOK_AFTER},
    routes::Repeat,
};

/// What is left of a wait, at most, when it is asked what became of the write: a standby has taken over by then if a
/// host froze at its beginning.
const QUESTION_WAIT_MAX: Duration = Duration::from_secs(1);
/// When a look shows what became of a write of which no log is known to heed tickets: what is held up longer than a
/// nats-server keeps a silent process (6 s) and a door lets a request wait (10 s) is gone; with as much again to spare.
const LOOK_AFTER_UNHEEDED: Duration = Duration::from_secs(32);

/// A caller's wait, and when in it what is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Its end.
    pub(crate) end: Instant,
    /// When it is to be asked what became of a write.
    pub(crate) question: Instant,
    length: Duration,
}

impl Wait {
    /// One that begins now.
    pub(crate) fn begin(length: Duration) -> Self {
        let (now, last) = (Instant::now(), (length / 2).min((length / 4).max(QUESTION_WAIT_MAX / 4)));
        let end = now + length;
        Self { end, question: end - last.min(QUESTION_WAIT_MAX), length }
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// A ticket for a write that is wanted until its end.
    pub(crate) fn ticket(&self) -> Ticket {
        let token = Uuid::new_v4().simple().to_string().parse().expect("it consists of digits and letters");
        let issued_at = now();
        let expires_at = Timestamp::from_unix_ms(issued_at.unix_ms() + self.length.as_millis() as u64);
        Ticket { token, issued_at, expires_at }
    }
}

/// The request that voids the ticket of a write to this entity.
pub(crate) fn void(kind: Kind, id: &Id, ticket: Ticket, write: &Request) -> Request {
    let void = Request::new(subject::door(kind, id.as_str(), "void"), Bytes::new());
    let (caller, traceparent) = (write.caller.clone(), write.traceparent.clone());
    Request { caller, traceparent, ticket: Some(ticket), ..void }
}

/// Of which kinds an entity has shown that it heeds tickets. What the log of one does it does from then on for ever.
#[derive(Debug, Default)]
pub(crate) struct Heeded([AtomicBool; Kind::ALL.len()]);

impl Heeded {
    pub(crate) fn note(&self, kind: Kind) {
        self.0[kind as usize].store(true, Relaxed);
    }

    /// How long from now until a look shows what became of a write with this ticket.
    pub(crate) fn look_after(&self, kind: Kind, ticket: &Ticket) -> Duration {
        if !self.0[kind as usize].load(Relaxed) {
            return LOOK_AFTER_UNHEEDED;
        }
        let settled_at = ticket.expires_at.unix_ms() + SETTLED_MS;
        Duration::from_millis(settled_at.saturating_sub(now().unix_ms()))
    }
}

/// Says honestly that it is not known, which entity it is about, and that repeating it does no harm.
pub(crate) fn unknown(asked: &Asked) -> Box<Problem> {
    let advice = match asked.route.repeat {
        Repeat::Always if !asked.with_key => format!("repeating it with the id {} is safe", quoted(&id_of(asked))),
        Repeat::Always | Repeat::WithKey => "repeating it with the same Idempotency-Key is safe".to_owned(),
    };
    let problem = about(asked, &format!("it is not known whether the request was taken: {advice}"));
    Box::new(problem.retryable(true))
}

/// The same of a write that may have been done, with the time from which on it can be seen.
pub(crate) fn unsettled(asked: &Asked, look_after: Duration) -> Box<Problem> {
    // A second is not over before its last millisecond is.
    let seconds = (look_after.as_millis() as u64).div_ceil(1_000).max(1);
    let detail = format!(
        "it is not known yet whether the request was done; in {seconds} s it is either done or never will be: look at \
         /{}/{} then, before you repeat it (with an Idempotency-Key repeating is always safe)",
        asked.route.collection(),
        id_of(asked)
    );
    Box::new(about(asked, &detail).retryable(false).fact(LOOK_AFTER, seconds))
}

fn about(asked: &Asked, detail: &str) -> Problem {
    Problem::new(Code::UNAVAILABLE, detail).fact(asked.route.kind.as_str(), id_of(asked))
}

fn id_of(asked: &Asked) -> String {
    asked.id.as_ref().map_or_else(String::new, ToString::to_string)
}

/// By the clock of this machine.
fn now() -> Timestamp {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use warp::http::{HeaderMap, Method};

    use super::*;
    use crate::{
        prefer::Prefer,
        reply,
        routes::{self, Found, ROUTES},
    };

    fn asked(method: Method, path: &str) -> Asked {
        let Found::Route { number, .. } = routes::find(&method, path) else { panic!("no route for {path}") };
        Asked { route: &ROUTES[number], id: "x-1".parse().ok(), prefer: Prefer::of(&HeaderMap::new()), with_key: false }
    }

    #[test]
    fn who_does_not_learn_the_fate_of_a_write_learns_how_to_repeat_it() {
        let order = unknown(&asked(Method::POST, "/orders"));
        assert!(order.detail.ends_with("repeating it with the id \"x-1\" is safe"), "{}", order.detail);
        assert_eq!((&order.facts["order"], &order.facts["retryable"]), (&"x-1".into(), &true.into()));
        let with_key = unknown(&Asked { with_key: true, ..asked(Method::POST, "/wallets/x-1/top-up") });
        assert!(with_key.detail.ends_with("with the same Idempotency-Key is safe"), "{}", with_key.detail);
        assert_eq!(with_key.facts["retryable"], true);
    }

    #[test]
    fn who_must_look_before_repeating_a_write_is_told_when_and_not_to_come_sooner() {
        let problem = unsettled(&asked(Method::POST, "/wallets/x-1/top-up"), Duration::from_millis(3_001));
        assert!(problem.detail.contains("in 4 s it is either done or never"), "{}", problem.detail);
        assert!(problem.detail.contains("look at /wallets/x-1 then"), "{}", problem.detail);
        assert_eq!((&problem.facts["retryable"], &problem.facts[LOOK_AFTER]), (&false.into(), &4.into()));
        assert_eq!(reply::problem(&problem).headers()["retry-after"], "4");
    }

    #[test]
    fn a_wait_is_divided_so_that_there_is_time_for_a_question() {
        for (length_ms, last_ms) in [(80, 40), (1_000, 250), (2_000, 500), (5_000, 1_000), (30_000, 1_000)] {
            let wait = Wait::begin(Duration::from_millis(length_ms));
            assert_eq!(wait.end - wait.question, Duration::from_millis(last_ms), "{length_ms}");
        }
    }

    #[test]
    fn a_ticket_lasts_as_long_as_the_wait_and_is_settled_a_little_later() {
        let ticket = Wait::begin(Duration::from_secs(5)).ticket();
        assert_eq!(ticket.expires_at.unix_ms() - ticket.issued_at.unix_ms(), 5_000);
        let heeded = Heeded::default();
        assert_eq!(heeded.look_after(Kind::Wallet, &ticket), LOOK_AFTER_UNHEEDED);
        heeded.note(Kind::Wallet);
        let look_after = heeded.look_after(Kind::Wallet, &ticket);
        assert!(look_after <= Duration::from_millis(5_000 + SETTLED_MS), "{look_after:?}");
        assert_eq!(heeded.look_after(Kind::Product, &ticket), LOOK_AFTER_UNHEEDED);
    }
}
