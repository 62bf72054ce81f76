//! The production host over a log in memory, on one thread, with paused time: one seed decides
//! everything that happens and everything that goes wrong.

mod careful;
mod chaos;
mod check;
mod door;
mod exchange;
mod exhaustive;
mod hearsay;
mod host;
mod life;
mod observer;
mod other_log;
mod plan;
mod reads;
mod sim;
mod trace;
mod vault;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use chaos::Moment;
use exhaustive::{CANCEL, Case, RIGHT_BEHIND, SCENARIOS, all_scenarios};
use shop_actors::host::snapshotter::Schedule;
use shop_domain::logic::Logic;
use sim::{Shape, Sim};
use trace::Trace;

/// Runs that `cargo test` makes: seconds, the same seeds each time.
const SEEDS: std::ops::Range<u64> = 0..400;

#[test]
fn whatever_goes_wrong_every_order_happens_once_or_not_at_all() {
    let asked_for = std::env::var("SHOP_SIM_SEED").ok().map(|seed| seed.parse().expect("SHOP_SIM_SEED is a number"));
    let mut tally = Tally::begin();
    for seed in asked_for.map_or(SEEDS, |seed| seed..seed + 1) {
        tally.run_seed(seed);
    }
    println!("{}", tally.total);
    let missing = tally.total.missing();
    assert!(asked_for.is_some() || missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for seed in 0..24 {
        let (one, other) = (run(seed), run(seed));
        assert_eq!(one.digest, other.digest, "seed {seed} made two different runs");
    }
}

#[test]
fn one_trouble_at_any_moment_of_an_order_leaves_it_done_once_or_not_at_all() {
    let mut tally = Tally::begin();
    if let Ok(case) = std::env::var("SHOP_SIM_CASE") {
        tally.run_case(&Case::parse(&case));
        return;
    }
    for scenario in all_scenarios() {
        let calm = Case { scenario, script: vec![] };
        let moments = tally.run_case(&calm);
        for case in calm.with_one_more(&moments, 0) {
            tally.run_case(&case);
        }
    }
    println!("{}", tally.total);
}

#[test]
fn a_cancel_after_any_trouble_or_a_second_one_right_behind_it_leaves_an_order_whole() {
    let mut tally = Tally::begin();
    let calm = Case { scenario: SCENARIOS[0], script: vec![] };
    let moments = tally.run_case(&calm);
    for first in calm.with_one_more(&moments, 0) {
        let (moments, next) = (tally.run_case(&first), first.next_moment());
        let is_tried = |case: &Case| {
            let last = case.script.last();
            last.is_some_and(|(at, trouble)| *trouble == CANCEL || *at == next && RIGHT_BEHIND.contains(trouble))
        };
        for both in first.with_one_more(&moments, next).filter(is_tried) {
            tally.run_case(&both);
        }
    }
    println!("{}", tally.total);
}

#[test]
fn a_checkpoint_that_belongs_to_another_log_is_not_gone_on_from() {
    Tally::begin()
        .reporting("the other logs", "a_checkpoint", || runtime().block_on(other_log::is_told_from_the_own_one()));
}

#[test]
#[ignore = "every pair of troubles at any two moments, minutes; `just sim-all`"]
fn any_two_troubles_leave_an_order_done_once_or_not_at_all() {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let total = std::sync::Mutex::new(Trace::default());
    let work = || {
        while let Some(scenario) = all_scenarios().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let mut tally = Tally::begin();
            let calm = Case { scenario, script: vec![] };
            let moments = tally.run_case(&calm);
            for first in calm.with_one_more(&moments, 0) {
                let moments = tally.run_case(&first);
                for both in first.with_one_more(&moments, first.next_moment()).filter(Case::is_worth_a_pair) {
                    tally.run_case(&both);
                    tally.show_progress(scenario.name);
                }
            }
            println!(
                "{:>5} s: {}, all pairs: {}",
                tally.start.elapsed().as_secs(),
                scenario.name,
                tally.total.summary()
            );
            total.lock().expect("adding does not panic").add(&tally.total);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    println!("{}nothing found", total.lock().expect("adding does not panic"));
}

#[test]
#[ignore = "runs for SHOP_SIM_SECONDS (default 60) with fresh seeds; `just sim`"]
fn fresh_seeds_find_nothing() {
    let seconds = std::env::var("SHOP_SIM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let limit = Duration::from_secs(seconds);
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_micros() as u64;
    let mut tally = Tally::begin();
    while tally.start.elapsed() < limit {
        tally.run_seed(seed);
        seed += 1;
        tally.show_progress("fresh seeds");
    }
    println!("{}nothing found", tally.total);
}

/// What was run so far.
struct Tally {
    total: Trace,
    start: Instant,
    shown: Duration,
}

impl Tally {
    fn begin() -> Self {
        Self { total: Trace::default(), start: Instant::now(), shown: Duration::ZERO }
    }

    fn run_seed(&mut self, seed: u64) {
        let trace = self.reporting(&format!("SHOP_SIM_SEED={seed}"), "whatever", || run(seed));
        self.total.add(&trace);
    }

    /// Returns the moments of the case.
    fn run_case(&mut self, case: &Case) -> Vec<Moment> {
        let (trace, moments) = self.reporting(&format!("SHOP_SIM_CASE='{case}'"), "one_trouble", || play(case));
        self.total.add(&trace);
        moments
    }

    /// Runs; if it fails, says how to run it again.
    fn reporting<T>(&self, variable: &str, test: &str, run: impl FnOnce() -> T + std::panic::UnwindSafe) -> T {
        std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            let (runs, seconds) = (self.total.runs + 1, self.start.elapsed().as_secs_f64());
            eprintln!(
                "\nfound by {variable} after {runs} runs in {seconds:.1} s; run it again with\n\
                 {variable} cargo test --test simulation {test}\n"
            );
            std::panic::resume_unwind(panic)
        })
    }

    fn show_progress(&mut self, of: &str) {
        let elapsed = self.start.elapsed();
        if elapsed - self.shown > Duration::from_secs(5) {
            self.shown = elapsed;
            println!("{:>5} s: {of}: {}", elapsed.as_secs(), self.total.summary());
        }
    }
}

fn run(seed: u64) -> Trace {
    runtime().block_on(async {
        let mut chance = fastrand::Rng::with_seed(seed);
        let (partitions, logic) = (chance.u16(1..4), Logic::ALL[chance.usize(0..Logic::ALL.len())]);
        // Half of all shops have one host for each kind, the others two or three.
        let hosts = [1, 1, 2, 3][chance.usize(0..4)];
        let standbys = chance.usize(0..=usize::from(hosts));
        // Half of all shops keep snapshots.
        let snapshots = chance.bool().then(|| Schedule {
            records: chance.u64(5..60),
            interval: Duration::from_secs(chance.u64(1..8)),
            keep: chance.usize(1..4),
            retention: None,
        });
        let mut sim = Sim::new(chance, Shape { partitions, logic, hosts, standbys, snapshots });
        plan::play(&mut sim).await;
        sim.heal().await;
        check::everything(&mut sim).await;
        sim.trace()
    })
}

fn play(case: &Case) -> (Trace, Vec<Moment>) {
    runtime().block_on(case.play())
}

/// One thread, and a clock that only goes on when nothing else does.
fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts")
}
