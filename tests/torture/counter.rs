//! Where customers ask: every request is repeated until its answer is definite, and counted.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use shop_tests::client::{Answer, Ask, Client};
use tokio::{sync::watch, time::sleep};

use crate::{callers::Callers, goods::Goods, others::Others};

/// How long a request may take to be answered definitely: the longest fault and the way back from it.
const PATIENCE: Duration = Duration::from_secs(90);
/// The pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(20);
/// One of so many requests goes over NATS, where it can.
const OVER_NATS: u64 = 4;
/// How some order at least has to end before a run has shown much.
const OUTCOMES: [&str; 3] = ["CONFIRMED", "CANCELLED", "REJECTED price_changed"];

/// Where a customer asks. Clones, and those for others, share what is on sale and what is counted.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    /// For the customer, where there is a login.
    client: Client,
    /// Who asks what a customer may not ask, and where a request may go over NATS instead.
    callers: Option<Arc<Callers>>,
    pub(crate) goods: Arc<Goods>,
    tally: Arc<Tally>,
}

/// What is counted of all customers together.
#[derive(Debug)]
struct Tally {
    figures: Mutex<Figures>,
    /// The request whose outcome was known last, with all that it was repeated.
    slowest: Mutex<(Duration, String)>,
    /// The single answer that came latest after the end of its caller's wait.
    latest: Mutex<(Duration, String)>,
    /// How orders ended, once each.
    outcomes: Mutex<BTreeSet<String>>,
    confirmed: watch::Sender<u64>,
    others: Others,
}

/// What was counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Requests sent.
    pub(crate) requests: u64,
    /// Definite answers.
    pub(crate) answered: u64,
    /// Of these, those that came over NATS.
    pub(crate) over_nats: u64,
    /// Answers to reads that were held against the ledgers.
    pub(crate) reads_checked: u64,
    /// Writes that were repeated later, and answered with the same bytes.
    pub(crate) repeats_checked: u64,
    /// The longest time without a confirmed order since [`Counter::watch_pauses`].
    pub(crate) longest_pause: Duration,
    last_confirmed: Instant,
}

/// Something that a customer was told, and that is not true, or not any more.
#[derive(Debug)]
pub(crate) struct Untrue(pub(crate) String);

pub(crate) type Found<T> = Result<T, Untrue>;

impl Counter {
    /// For whom this client asks.
    pub(crate) fn new(client: Client, goods: Goods) -> Self {
        let figures = Figures {
            requests: 0,
            answered: 0,
            over_nats: 0,
            reads_checked: 0,
            repeats_checked: 0,
            longest_pause: Duration::ZERO,
            last_confirmed: Instant::now(),
        };
        let tally = Tally {
            figures: Mutex::new(figures),
            slowest: Mutex::default(),
            latest: Mutex::default(),
            outcomes: Mutex::default(),
            confirmed: watch::Sender::new(0),
            others: Others::default(),
        };
        Self { client, callers: None, goods: Arc::new(goods), tally: Arc::new(tally) }
    }

    /// For a customer: where there is a login, with what the customer has.
    pub(crate) fn of(&self, callers: Option<Callers>) -> Self {
        let client = callers.as_ref().map_or_else(|| self.client.clone(), |of| self.client.by(Some(of.own.clone())));
        Self { client, callers: callers.map(Arc::new), ..self.clone() }
    }

    /// What a customer has, where there is a login.
    pub(crate) fn callers(&self) -> Option<&Callers> {
        self.callers.as_deref()
    }

    /// A request that is the staff's, where there is a login.
    pub(crate) fn by_staff(&self, ask: Ask) -> Ask {
        ask.by(self.callers().map(|callers| &callers.staff))
    }

    /// What customers know of each other.
    pub(crate) fn others(&self) -> &Others {
        &self.tally.others
    }

    /// Asks until the outcome is known.
    pub(crate) async fn settled(&self, ask: &Ask) -> Found<Answer> {
        self.asked_until(ask, |answer| answer.status != 202).await
    }

    /// Asks until the shop says at least that it has taken the request.
    pub(crate) async fn taken(&self, ask: &Ask) -> Found<Answer> {
        // What is only promised says when it may be there.
        self.asked_until(ask, |answer| answer.header("retry-after").is_none()).await
    }

    /// Asks once, and takes what comes of it.
    pub(crate) async fn once(&self, ask: &Ask) -> Result<Answer, String> {
        self.count(|figures| figures.requests += 1);
        let answer = self.exchange(ask).await;
        if answer.as_ref().is_ok_and(|answer| answer.status != 503) {
            self.count(|figures| figures.answered += 1);
        }
        answer
    }

    /// Now and then over NATS, where that can be: so that what is repeated is asked over both.
    async fn exchange_over_any(&self, ask: &Ask) -> Result<Answer, String> {
        let direct = self.callers().and_then(|callers| callers.direct(ask));
        let Some(direct) = direct.filter(|_| self.figures().requests.is_multiple_of(OVER_NATS)) else {
            return self.exchange(ask).await;
        };
        let answer = direct.exchange(ask).await;
        if answer.is_ok() {
            self.count(|figures| figures.over_nats += 1);
        }
        answer
    }

    async fn exchange(&self, ask: &Ask) -> Result<Answer, String> {
        let answer = self.client.exchange(ask).await;
        if let Ok(answer) = &answer {
            note_longer(&self.tally.latest, ask, answer.took.saturating_sub(ask.wait()));
        }
        answer
    }

    async fn asked_until(&self, ask: &Ask, is_enough: impl Fn(&Answer) -> bool) -> Found<Answer> {
        let start = Instant::now();
        loop {
            self.count(|figures| figures.requests += 1);
            let answer = self.exchange_over_any(ask).await;
            let last = match answer {
                // Nobody knows whether it was taken, or nobody is there.
                Ok(answer) if answer.status == 503 => {
                    if answer.header("retry-after").is_none() {
                        return untrue(format!("{ask}: {} without Retry-After", said(&answer)));
                    }
                    said(&answer)
                }
                Ok(answer) if answer.status >= 500 => return untrue(format!("{ask}: {}", said(&answer))),
                Ok(answer) if is_enough(&answer) => {
                    self.count(|figures| figures.answered += 1);
                    note_longer(&self.tally.slowest, ask, start.elapsed());
                    return Ok(answer);
                }
                Ok(answer) => said(&answer),
                Err(error) => error,
            };
            if start.elapsed() > PATIENCE {
                return untrue(format!("{ask} has no definite answer after {:?}; at last: {last}", start.elapsed()));
            }
            sleep(PAUSE).await;
        }
    }

    /// A customer has learned that an order is confirmed.
    pub(crate) fn order_is_confirmed(&self) {
        self.count(|figures| {
            let now = Instant::now();
            figures.longest_pause = figures.longest_pause.max(now - figures.last_confirmed);
            figures.last_confirmed = now;
        });
        self.tally.confirmed.send_modify(|confirmed| *confirmed += 1);
    }

    /// A customer has learned how an order ended.
    pub(crate) fn order_has_ended(&self, outcome: String) {
        self.tally.outcomes.lock().expect("nobody panics while counting").insert(outcome);
    }

    /// Whether customers were told enough that something untrue would be among it.
    pub(crate) fn has_told_much(&self) -> bool {
        let outcomes = self.tally.outcomes.lock().expect("nobody panics while counting");
        let Figures { reads_checked, repeats_checked, .. } = self.figures();
        OUTCOMES.iter().all(|wanted| outcomes.contains(*wanted)) && reads_checked > 100 && repeats_checked > 10
    }

    /// Whether customers have tried enough that is not theirs, and asked over NATS as well.
    pub(crate) fn has_refused_much(&self) -> bool {
        self.tally.others.has_refused_much() && self.figures().over_nats > 100
    }

    /// Measures pauses from now on.
    pub(crate) fn watch_pauses(&self) {
        self.count(|figures| (figures.longest_pause, figures.last_confirmed) = (Duration::ZERO, Instant::now()));
    }

    /// How many orders were confirmed.
    pub(crate) fn confirmed(&self) -> watch::Receiver<u64> {
        self.tally.confirmed.subscribe()
    }

    /// A read was as it had been told.
    pub(crate) fn read_was_true(&self) -> Found<()> {
        self.count(|figures| figures.reads_checked += 1);
        Ok(())
    }

    /// A repeated write was answered as it had been.
    pub(crate) fn repeat_was_true(&self) -> Found<()> {
        self.count(|figures| figures.repeats_checked += 1);
        Ok(())
    }

    pub(crate) fn figures(&self) -> Figures {
        *self.tally.figures.lock().expect("nobody panics while counting")
    }

    /// The single answer that came latest after the end of its caller's wait, and by how much.
    pub(crate) fn latest(&self) -> (Duration, String) {
        self.tally.latest.lock().expect("nobody panics while counting").clone()
    }

    /// The request that took longest until its outcome was known, and how long that was with all that it was repeated.
    pub(crate) fn slowest(&self) -> (Duration, String) {
        self.tally.slowest.lock().expect("nobody panics while counting").clone()
    }

    fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.tally.figures.lock().expect("nobody panics while counting"));
    }
}

fn note_longer(longest: &Mutex<(Duration, String)>, ask: &Ask, took: Duration) {
    let mut longest = longest.lock().expect("nobody panics while counting");
    if took > longest.0 {
        *longest = (took, ask.to_string());
    }
}

pub(crate) fn untrue<T>(what: impl Into<String>) -> Found<T> {
    Err(Untrue(what.into()))
}

/// An answer, to be read by whoever looks for what is wrong.
pub(crate) fn said(answer: &Answer) -> String {
    let replayed = answer.header("idempotency-replayed").map_or("", |_| " (replayed)");
    format!("{}{replayed} after {:?}: {}", answer.status, answer.took, String::from_utf8_lossy(&answer.bytes))
}
