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
    rpc::{
        multiplexer::Multiplexer,
        request::{Reply, Request, RequestError},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use uuid::Uuid;

use crate::{Config, pause::Hold};

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
/// How often a ticket is voided in the time for it: of two hosts one is frozen, and which door gets a request is chance.
const VOIDS: u32 = 8;
/// How long anybody may wait for a process once the bridge is stopping, before the question that ends
/// a wait in vain; together with the longest silence it is less than the bridge has to stop.
const CLOSING_WAIT_MAX: Duration = Duration::from_secs(4);
/// How long the bridge insists on what it has promised once it is stopping: nearly as long as it has for that, so that
/// it can still say what it could not keep.
const CLOSING_INSISTENCE_MAX: Duration = Duration::from_secs(9);

/// The doors of all kinds.
pub(crate) struct Doors {
    multiplexer: Multiplexer,
    away: [Away; Kind::ALL.len()],
    begin: Instant,
    /// Whether they are held.
    hold: Hold,
    /// Places for those who wait for a process, fewer than the bridge has for all: those whom the
    /// others serve must find one.
    patient: Arc<Semaphore>,
    /// How long to insist on what was promised while they are open.
    insistence: Duration,
    /// Since when the bridge is stopping.
    closing: OnceLock<Instant>,
}

/// A request on its way to a door.
#[derive(Debug)]
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
    /// Whether a caller was told that it will be done.
    is_promise: bool,
    /// One of the places for those who wait, once it has needed one.
    place: Option<OwnedSemaphorePermit>,
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
        let (request, is_question, is_promise, place) = (Arc::new(request), false, false, None);
        Self { kind, request, is_repeatable, wait, patience, is_question, is_promise, place }
    }

    /// The question whether it was taken, which is the request once more; for those that may be repeated.
    pub(crate) fn was_it_taken(&self, wait: Duration) -> Self {
        let request = Arc::new(Request { respond_async: true, ..(*self.request).clone() });
        let Self { kind, is_repeatable, is_promise, .. } = *self;
        Self { kind, request, is_repeatable, wait, patience: wait, is_question: true, is_promise, place: None }
    }

    /// The same, until it is, however long nobody is there.
    fn insistent(&self, wait: Duration) -> Self {
        Self { is_promise: true, ..self.was_it_taken(wait) }
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
            Some(Code::OVERLOADED) => self.is_question || may_be_taken || (self.is_repeatable && reply.is_crowded()),
            _ => false,
        }
    }
}

impl Doors {
    /// Over this connection.
    pub(crate) fn new(connection: Connection, config: &Config) -> Self {
        let multiplexer = Multiplexer::new(connection);
        let patient = Arc::new(Semaphore::new(config.limits.in_flight_max.div_ceil(2) as usize));
        let (away, begin, hold, closing) = (Default::default(), Instant::now(), Hold::default(), OnceLock::new());
        Self { multiplexer, away, begin, hold, patient, insistence: config.insistence, closing }
    }

    /// The connection over which they are asked now.
    pub(crate) fn connection(&self) -> Connection {
        self.multiplexer.connection()
    }

    /// Hears whether they are held for as long as it is polled.
    pub(crate) async fn listen(&self) {
        self.hold.listen(&self.multiplexer).await;
    }

    /// For how long they are held already, if they are.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        self.hold.since()
    }

    /// How many pauses of theirs were not renewed, and ended by themselves.
    pub(crate) fn pauses_run_out(&self) -> u64 {
        self.hold.run_out()
    }

    /// From now on long waits are cut short: the process is about to end.
    pub(crate) fn close(&self) {
        self.closing.get_or_init(Instant::now);
    }

    /// Whether nothing was done because they are held.
    pub(crate) fn are_held(&self, unanswered: &Unanswered) -> bool {
        match unanswered {
            Unanswered::Refused(reply) => reply.is_held(),
            // Its process begins anew behind doors that are held.
            Unanswered::Unserved => self.hold.is_on(),
            Unanswered::Unreachable | Unanswered::Unknown => false,
        }
    }

    /// Whether an errand has one of the places for those who wait, or gets one.
    pub(crate) fn have_place(&self, errand: &mut Errand) -> bool {
        if errand.place.is_none() {
            errand.place = Arc::clone(&self.patient).try_acquire_owned().ok();
        }
        errand.place.is_some()
    }

    /// Asks for what a caller was told will be done, until it is: for as long as the doors are held, and then for as
    /// long as a process may be away.
    pub(crate) async fn insist(&self, errand: Errand) -> Result<Reply, Unanswered> {
        self.ask(&mut errand.insistent(self.insistence)).await
    }

    /// Voids a ticket until the log has it one way or the other: through several doors, of which any may be frozen. What
    /// an entity says to it is final.
    pub(crate) async fn void(&self, request: Request, until: Instant) -> Option<Reply> {
        let request = Arc::new(request);
        let pause = until.saturating_duration_since(Instant::now()) / VOIDS;
        let mut asks = FuturesUnordered::new();
        loop {
            if self.multiplexer.is_connected() {
                asks.push(self.multiplexer.ask(Arc::clone(&request)));
            }
            let again = (Instant::now() + pause.max(PAUSE_MIN)).min(until);
            while let Ok(Some(heard)) = timeout_at(again, asks.next()).await {
                if let Ok(reply) = heard
                    && reply.ticketed
                {
                    return Some(reply);
                }
            }
            if Instant::now() >= until {
                return None;
            }
            sleep_until(again).await;
        }
    }

    /// Asks, and asks again where that is safe, until there is an answer or the wait is over.
    pub(crate) async fn ask(&self, errand: &mut Errand) -> Result<Reply, Unanswered> {
        let begin = Instant::now();
        if !self.multiplexer.is_connected() {
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
    errand: &'a mut Errand,
    begin: Instant,
    deadline: Instant,
    /// Those that may still be answered; of each of them a door may have taken the request.
    asks: FuturesUnordered<Pin<Box<dyn Future<Output = Heard> + Send + 'a>>>,
    pause: Duration,
    silence: Duration,
    /// Whether one can be answered no more, and nobody knows what became of it.
    is_lost: bool,
    /// What a door said at last.
    refusal: Option<Reply>,
}

impl<'a> Persistence<'a> {
    fn new(doors: &'a Doors, errand: &'a mut Errand, begin: Instant) -> Self {
        Self {
            doors,
            begin,
            deadline: begin + errand.wait,
            asks: FuturesUnordered::new(),
            pause: PAUSE_MIN,
            silence: errand.first_silence(),
            is_lost: false,
            refusal: None,
            errand,
        }
    }

    /// After what was `heard`, goes on.
    async fn run(mut self, mut heard: Option<Heard>) -> Result<Reply, Unanswered> {
        loop {
            let is_missed = heard.is_some() || self.asks.is_empty();
            if let Some(reply) = heard.take().and_then(|heard| self.note(heard)) {
                return Ok(reply);
            }
            let deadline = self.deadline();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
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

    /// Until when it goes on as things are now. What was promised has its time when the doors are open.
    fn deadline(&mut self) -> Instant {
        let Errand { is_promise, wait, .. } = *self.errand;
        if is_promise && self.doors.hold.is_on() {
            self.deadline = Instant::now() + wait;
        }
        let closing_wait_max = if is_promise { CLOSING_INSISTENCE_MAX } else { CLOSING_WAIT_MAX };
        let closed = self.doors.closing.get().map(|closing| *closing + closing_wait_max);
        closed.map_or(self.deadline, |closed| closed.min(self.deadline))
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
        if self.doors.multiplexer.is_connected() {
            self.asks.push(Box::pin(self.doors.multiplexer.ask(Arc::clone(&self.errand.request))));
        }
    }

    /// Whether to wait for a process: in one of the places for those who do, unless it must be waited for.
    fn may_wait(&mut self) -> bool {
        let Errand { kind, patience, is_promise, .. } = *self.errand;
        let is_away_for = match self.refusal {
            // It is there; something that it needs is not.
            Some(_) => Duration::ZERO,
            None => self.doors.away[kind as usize].is_away(self.doors.begin.elapsed()),
        };
        let is_patient = self.begin.elapsed() < patience && is_away_for <= ABSENCE_MAX;
        is_promise || (is_patient && self.doors.have_place(self.errand))
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
            None if self.doors.multiplexer.is_connected() => Unanswered::Unserved,
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
