//! The way to the doors: a request is asked again while the process that serves its kind is restarted,
//! so that its caller sees nothing of that but a longer wait.
//!
//! Owns when and for how long. Must not know what is asked, nor what HTTP callers see of the outcome.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use shop_domain::{kind::Kind, problem::Code};
use shop_nats::{
    connection::Connection,
    multiplexer::Multiplexer,
    request::{Reply, Request, RequestError},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout, timeout_at},
};
use uuid::Uuid;

/// The first pause before a kind that nobody served is asked for again. It doubles.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest such pause: a host starts in about this time.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long before its end a wait for a process is given up: nobody would learn any more what became of
/// one more ask.
const LAST_ASK: Duration = Duration::from_millis(100);
/// How long there may be no answer before a request that may be repeated is sent once more. Also of an
/// overloaded shop nearly all answers take less. It doubles.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// The longest such silence, and how soon a wait notices that the bridge is stopping.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// How long a kind may be away and be waited for: what is away longer is not being restarted, and
/// whoever asks for it then is told so at once.
const ABSENCE_MAX: Duration = Duration::from_secs(5);
/// How long anybody may wait for a process once the bridge is stopping, before the question that ends
/// a wait in vain; together with the longest silence it is less than the bridge has to stop.
const CLOSING_WAIT_MAX: Duration = Duration::from_secs(4);
/// How long the bridge insists on what it has promised: longer than a host takes that replays its log.
const INSISTENCE_MAX: Duration = Duration::from_secs(60);

/// The doors of all kinds.
pub(crate) struct Doors {
    connection: Connection,
    multiplexer: Multiplexer,
    away: [Away; Kind::ALL.len()],
    begin: Instant,
    /// Places for those who wait for a process, fewer than the bridge has for all: those whom the
    /// others serve must find one.
    patient: Semaphore,
    /// Until when anybody may wait, once the bridge is stopping.
    closing: OnceLock<Instant>,
}

/// A request on its way to a door.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    /// Of which kind.
    pub(crate) kind: Kind,
    /// What is asked.
    pub(crate) request: Arc<Request>,
    /// Whether doing it twice is doing it once.
    pub(crate) is_repeatable: bool,
    /// How long to wait for an answer.
    pub(crate) wait: Duration,
    /// How long to wait for somebody who could give it.
    pub(crate) patience: Duration,
    /// Whether it asks what became of an earlier one.
    is_question: bool,
    /// How long the kind may have been away already.
    absence_max: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// NATS cannot be reached; nothing was done.
    Unreachable,
    /// No process serves the kind; nothing was done.
    Unserved,
    /// A door said that it cannot serve this now; nothing was done.
    Refused(Reply),
    /// A door had it, or may have had it, and did not answer.
    Unknown,
}

/// What came of one ask.
type Heard = Result<Reply, RequestError>;

/// Since when nobody serves a kind, as far as requests have shown. In milliseconds since the bridge
/// began, plus 1.
#[derive(Debug, Default)]
struct Away {
    /// 0: somebody does.
    since: AtomicU64,
    /// When that was last seen.
    seen: AtomicU64,
}

impl Errand {
    /// Asks so long, and waits for a process only as long as one is restarted.
    pub(crate) fn new(kind: Kind, request: Request, is_repeatable: bool, wait: Duration, patience: Duration) -> Self {
        let request = Arc::new(request);
        Self { kind, request, is_repeatable, wait, patience, is_question: false, absence_max: ABSENCE_MAX }
    }

    /// The question whether it was taken, which is the request once more; for those that may be repeated.
    pub(crate) fn was_it_taken(&self, wait: Duration) -> Self {
        let request = Arc::new(Request { respond_async: true, ..(*self.request).clone() });
        Self { request, wait, patience: wait, is_question: true, ..self.clone() }
    }

    /// The same, until it is, however long nobody is there.
    pub(crate) fn insistent(&self) -> Self {
        Self { absence_max: INSISTENCE_MAX, ..self.was_it_taken(INSISTENCE_MAX) }
    }

    /// How long the first ask may go unanswered: who waits only briefly gets a second one as well.
    fn first_silence(&self) -> Duration {
        SILENCE_MIN.min(self.wait / 2)
    }

    /// Whether another ask can only bring something better. That there is no room for one says nothing of
    /// those before it that may have been taken.
    fn is_poor(&self, reply: &Reply, may_be_taken: bool) -> bool {
        match reply.error {
            Some(Code::UNAVAILABLE) => self.is_repeatable || reply.is_held(),
            Some(Code::OVERLOADED) => self.is_question || may_be_taken,
            _ => false,
        }
    }
}

impl Doors {
    /// Over this connection, for so many callers at a time.
    pub(crate) fn new(connection: Connection, in_flight_max: usize) -> Self {
        let multiplexer = Multiplexer::new(connection.clone());
        let patient = Semaphore::new(in_flight_max.div_ceil(2));
        let (away, begin, closing) = (Default::default(), Instant::now(), OnceLock::new());
        Self { connection, multiplexer, away, begin, patient, closing }
    }

    /// From now on long waits are cut short: the process is about to end.
    pub(crate) fn close(&self) {
        self.closing.get_or_init(|| Instant::now() + CLOSING_WAIT_MAX);
    }

    fn is_closed(&self) -> bool {
        self.closing.get().is_some_and(|end| Instant::now() >= *end)
    }

    /// Asks, and asks again where that is safe, until there is an answer or the wait is over.
    pub(crate) async fn ask(&self, errand: &Errand) -> Result<Reply, Unanswered> {
        let begin = Instant::now();
        if !self.connection.is_connected() {
            return Box::pin(Persistence::new(self, errand, begin).run(None)).await;
        }
        let mut first = pin!(self.multiplexer.ask(Arc::clone(&errand.request)));
        match timeout(errand.first_silence(), &mut first).await {
            Ok(Ok(reply)) if !errand.is_poor(&reply, false) => {
                self.away[errand.kind as usize].is_back();
                Ok(reply)
            }
            Ok(heard) => Box::pin(Persistence::new(self, errand, begin).run(Some(heard))).await,
            Err(_) => {
                let mut persistence = Persistence::new(self, errand, begin);
                persistence.asks.push(Box::pin(first));
                persistence.break_silence();
                Box::pin(persistence.run(None)).await
            }
        }
    }
}

/// One errand whose first ask brought no answer.
struct Persistence<'a> {
    doors: &'a Doors,
    errand: &'a Errand,
    begin: Instant,
    /// Those that may still be answered; of each of them a door may have taken the request.
    asks: FuturesUnordered<Pin<Box<dyn Future<Output = Heard> + Send + 'a>>>,
    pause: Duration,
    silence: Duration,
    /// Whether one can be answered no more, and nobody knows what became of it.
    is_lost: bool,
    /// What a door said at last.
    refusal: Option<Reply>,
    place: Option<SemaphorePermit<'a>>,
}

impl<'a> Persistence<'a> {
    fn new(doors: &'a Doors, errand: &'a Errand, begin: Instant) -> Self {
        Self {
            doors,
            errand,
            begin,
            asks: FuturesUnordered::new(),
            pause: PAUSE_MIN,
            silence: errand.first_silence(),
            is_lost: false,
            refusal: None,
            place: None,
        }
    }

    /// After what was `heard`, goes on.
    async fn run(mut self, mut heard: Option<Heard>) -> Result<Reply, Unanswered> {
        let deadline = self.begin + self.errand.wait;
        loop {
            let is_missed = heard.is_some() || self.asks.is_empty();
            if let Some(reply) = heard.take().and_then(|heard| self.note(heard)) {
                return Ok(reply);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.doors.is_closed() {
                return Err(self.in_vain());
            }
            if is_missed {
                if (self.may_be_taken() && !self.errand.is_repeatable) || !self.may_wait() {
                    return Err(self.in_vain());
                }
                let pause = self.next_pause();
                if left < pause + LAST_ASK {
                    return Err(self.in_vain());
                }
                sleep(pause).await;
                self.ask_again();
            }
            match timeout_at((Instant::now() + self.silence).min(deadline), self.asks.next()).await {
                Ok(answer) => heard = answer,
                Err(_) => self.break_silence(),
            }
        }
    }

    /// The answer, if it is one.
    fn note(&mut self, heard: Heard) -> Option<Reply> {
        let away = &self.doors.away[self.errand.kind as usize];
        match heard {
            Ok(reply) => {
                away.is_back();
                if !self.errand.is_poor(&reply, self.may_be_taken()) {
                    return Some(reply);
                }
                self.refusal = Some(reply);
            }
            Err(RequestError::NoResponders { .. }) => self.refusal = None,
            Err(error @ (RequestError::TimedOut { .. } | RequestError::Failed { .. })) => {
                tracing::debug!("{error}");
                self.is_lost = true;
            }
        }
        None
    }

    /// There was no answer for as long as one should take: asks once more, if that is safe.
    fn break_silence(&mut self) {
        self.silence = (self.silence * 2).min(SILENCE_MAX);
        if self.errand.is_repeatable {
            self.ask_again();
        }
    }

    fn ask_again(&mut self) {
        // Otherwise it would wait in the client's buffer and be sent when nobody waits for it any more.
        if self.doors.connection.is_connected() {
            self.asks.push(Box::pin(self.doors.multiplexer.ask(Arc::clone(&self.errand.request))));
        }
    }

    /// Whether to wait for a process, if need be in one of the places for those who do.
    fn may_wait(&mut self) -> bool {
        let Errand { kind, patience, absence_max, .. } = self.errand;
        let is_away_for = match self.refusal {
            // It is there; something that it needs is not.
            Some(_) => Duration::ZERO,
            None => self.doors.away[*kind as usize].is_away(self.doors.begin.elapsed()),
        };
        if self.begin.elapsed() >= *patience || is_away_for > *absence_max {
            return false;
        }
        if self.place.is_none() {
            self.place = self.doors.patient.try_acquire().ok();
        }
        self.place.is_some()
    }

    /// With up to half of jitter, so that those who were refused together do not come back together.
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        let jitter = Uuid::new_v4().as_bytes()[0];
        pause - pause / 2 * u32::from(jitter) / 255
    }

    fn may_be_taken(&self) -> bool {
        self.is_lost || !self.asks.is_empty()
    }

    fn in_vain(self) -> Unanswered {
        let may_be_taken = self.may_be_taken();
        match self.refusal {
            _ if may_be_taken => Unanswered::Unknown,
            Some(reply) => Unanswered::Refused(reply),
            None if self.doors.connection.is_connected() => Unanswered::Unserved,
            None => Unanswered::Unreachable,
        }
    }
}

impl Away {
    fn is_back(&self) {
        if self.since.load(Relaxed) != 0 {
            self.since.store(0, Relaxed);
        }
    }

    /// Nobody serves the kind at this moment; returns for how long.
    fn is_away(&self, now: Duration) -> Duration {
        let now = now.as_millis() as u64 + 1;
        let seen = self.seen.swap(now, Relaxed);
        // Whoever was not asked for that long may have been there meanwhile.
        let is_new = now.saturating_sub(seen) > ABSENCE_MAX.as_millis() as u64;
        match self.since.load(Relaxed) {
            since if since != 0 && !is_new => Duration::from_millis(now.saturating_sub(since)),
            _ => {
                self.since.store(now, Relaxed);
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_kind_is_away_from_when_it_was_first_missed_until_it_answers() {
        let away = Away::default();
        for (second, is_away_for) in [(1, 0), (2, 1), (4, 3), (8, 7)] {
            assert_eq!(away.is_away(second * SECOND), is_away_for * SECOND, "after {second} s");
        }
        away.is_back();
        assert_eq!(away.is_away(9 * SECOND), Duration::ZERO);
        assert_eq!(away.is_away(10 * SECOND), SECOND);
    }

    #[test]
    fn a_kind_that_nobody_has_asked_for_in_between_may_have_been_there() {
        let away = Away::default();
        assert_eq!(away.is_away(SECOND), Duration::ZERO);
        assert_eq!(away.is_away(100 * SECOND), Duration::ZERO);
        assert_eq!(away.is_away(103 * SECOND), 3 * SECOND);
    }
}
