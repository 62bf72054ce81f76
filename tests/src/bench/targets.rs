//! What the figures should be. All targets stand here.

use serde::Serialize;

use super::report::{Before, Growth, Load, Orders, Report, Sync};

/// A figure and what it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// What it is about.
    pub name: &'static str,
    /// What was measured.
    pub got: f64,
    /// What it should be.
    pub goal: f64,
    /// Whether it should be at least that, or at most.
    pub bound: Bound,
}

/// On which side of its goal a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The goal or more.
    AtLeast,
    /// The goal or less.
    AtMost,
}

impl Target {
    /// Whether it is reached.
    pub fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast => self.got >= self.goal,
            Bound::AtMost => self.got <= self.goal,
        }
    }
}

/// Every target that there are figures for.
pub fn targets(report: &Report) -> Vec<Target> {
    let at_least = |name, goal, got: Option<f64>| got.map(|got| Target { name, got, goal, bound: Bound::AtLeast });
    let at_most = |name, goal, got: Option<f64>| got.map(|got| Target { name, got, goal, bound: Bound::AtMost });
    let uniform = |connections| report.orders_at(Sync::Always, Load::Uniform, connections);
    let (one, at_256, at_1024) = (uniform(1), uniform(256), uniform(1_024));
    let hot = report.orders_at(Sync::Always, Load::Hot, 256);
    let relaxed = report.orders_at(Sync::Default, Load::Uniform, 256);
    let rate = |orders: Option<&Orders>| orders.map(|orders| orders.per_second);
    let postgres = report.postgres_best("uniform").map(|run| run.per_second);
    let postgres_hot = report.postgres_at("hot", 64).map(|run| run.per_second);

    let mut targets = vec![
        at_least("uniform at 256: orders/s", 12_000.0, rate(at_256)),
        at_least("uniform at 256: times PostgreSQL's stored procedure at its best", 1.2, ratio(rate(at_256), postgres)),
        at_least("uniform at 1,024: orders/s", 15_000.0, rate(at_1024)),
        at_least("uniform at 1,024: times that at 256", 1.0, ratio(rate(at_1024), rate(at_256))),
        at_most("uniform at 1,024: p99, ms", 300.0, at_1024.map(|orders| orders.latency.p99_ms)),
        at_most("uniform at 1,024: errors", 0.0, at_1024.map(|orders| orders.errors as f64)),
        at_least("uniform at 256, default sync: orders/s", 20_000.0, rate(relaxed)),
        at_least("hot at 256: times PostgreSQL's hot at 64", 10.0, ratio(rate(hot), postgres_hot)),
        at_least("hot at 256: times our own uniform", 0.9, ratio(rate(hot), rate(at_256))),
        at_most("uniform at 1: p50, ms", 4.0, one.map(|orders| orders.latency.p50_ms)),
        at_most("uniform at 1: p99, ms", 12.0, one.map(|orders| orders.latency.p99_ms)),
        at_most("uniform at 256: JetStream messages per order", 1.0, at_256.map(|orders| orders.cost.messages)),
    ];
    targets.extend(of_auth(report));
    targets.extend(of_overload(report));
    targets.extend(of_growth(report));
    targets.extend(of_recovery(report));
    targets.into_iter().flatten().collect()
}

fn of_auth(report: &Report) -> Vec<Option<Target>> {
    let Some(auth) = &report.auth else { return vec![] };
    let times = auth.middle().map(|pair| pair.times_none());
    let target = |name, goal, got: Option<f64>, bound| got.map(|got| Target { name, got, goal, bound });
    vec![
        target("with tokens: times the same without", 0.95, times, Bound::AtLeast),
        target("with and without tokens: errors", 0.0, Some(auth.errors() as f64), Bound::AtMost),
    ]
}

fn of_overload(report: &Report) -> Vec<Option<Target>> {
    let Some(overload) = &report.overload else { return vec![] };
    let goodput = overload.confirmed_per_second / overload.peak_per_second;
    let without = overload.refused_without_retry_after as f64;
    let (least, most) = (Bound::AtLeast, Bound::AtMost);
    [
        ("overload: part of the peak that is confirmed", goodput, 0.8, least),
        ("overload: refusals without Retry-After", without, 0.0, most),
        ("overload: p50 of a refusal, ms", overload.refused.p50_ms, 100.0, most),
        ("overload: ms until recovered", overload.recovered_after_ms, 1_000.0, most),
        ("overload: errors", overload.errors as f64, 0.0, most),
    ]
    .map(|(name, got, goal, bound)| Some(Target { name, got, goal, bound }))
    .into()
}

fn of_growth(report: &Report) -> Vec<Option<Target>> {
    if report.growth.is_empty() {
        return vec![];
    }
    let rates = report.growth.iter().map(Growth::times_small);
    let memory = report.growth.iter().map(|grown| grown.shop_peak_mb);
    let (slowest, largest) = (rates.fold(f64::INFINITY, f64::min), memory.fold(0.0, f64::max));
    [
        ("growth: times the small case, at its worst", slowest, 0.9, Bound::AtLeast),
        ("growth: peak memory of the shop, MB", largest, 300.0, Bound::AtMost),
    ]
    .map(|(name, got, goal, bound)| Some(Target { name, got, goal, bound }))
    .into()
}

fn of_recovery(report: &Report) -> Vec<Option<Target>> {
    let target = |recovery: &super::report::Recovery| match recovery.after {
        Before::Terminated => ("restart after SIGTERM: ms to ready", recovery.ready_ms, 1_000.0, Bound::AtMost),
        Before::Killed => ("restart after SIGKILL: ms to ready", recovery.ready_ms, 1_000.0, Bound::AtMost),
        Before::CheckpointsDeleted => {
            let rate = recovery.per_core_second();
            ("replay from an empty folder: messages/s per core", rate, 200_000.0, Bound::AtLeast)
        }
    };
    let targets = report.recovery.iter().map(target);
    targets.map(|(name, got, goal, bound)| Some(Target { name, got, goal, bound })).collect()
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? / b?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        report::{Auth, AuthPair, AuthRun, Build, Cost, Growth, Latency, Postgres, Recovery},
        table,
    };

    fn orders(load: Load, connections: u32, per_second: f64) -> Orders {
        let latency = Latency { p50_ms: 3.0, p99_ms: 12.5, p999_ms: 20.0, max_ms: 30.0 };
        let cost = Cost {
            shop_cpu_s: 0.1,
            nats_cpu_s: 0.05,
            load_cpu_s: 0.02,
            shop_peak_mb: 90.0,
            nats_peak_mb: 40.0,
            messages: 0.8,
            bytes: 1_200.0,
            fsyncs: None,
        };
        Orders { sync: Sync::Always, load, connections, per_second, errors: 0, latency, cost }
    }

    fn postgres(script: &'static str, connections: u32, per_second: f64) -> Postgres {
        Postgres { script, connections, per_second, latency: Latency::default() }
    }

    fn report() -> Report {
        Report {
            orders: vec![
                orders(Load::Uniform, 1, 300.0),
                orders(Load::Uniform, 256, 9_000.0),
                orders(Load::Hot, 256, 8_100.0),
            ],
            postgres: vec![
                postgres("uniform", 16, 6_000.0),
                postgres("uniform", 64, 7_500.0),
                postgres("hot", 64, 810.0),
            ],
            ..Report::default()
        }
    }

    fn got(report: &Report, name: &str) -> (f64, bool) {
        let target = targets(report).into_iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("there is no target {name:?}"));
        (target.got, target.is_met())
    }

    #[test]
    fn the_shop_is_compared_with_postgresql_at_its_best_and_with_itself() {
        let report = report();
        assert_eq!(got(&report, "uniform at 256: times PostgreSQL's stored procedure at its best"), (1.2, true));
        assert_eq!(got(&report, "hot at 256: times PostgreSQL's hot at 64"), (10.0, true));
        assert_eq!(got(&report, "hot at 256: times our own uniform"), (0.9, true));
        assert_eq!(got(&report, "uniform at 256: orders/s"), (9_000.0, false));
        assert_eq!(got(&report, "uniform at 1: p99, ms"), (12.5, false));
    }

    #[test]
    fn there_is_no_target_for_what_was_not_measured() {
        assert_eq!(targets(&Report::default()), []);
        assert!(targets(&report()).iter().all(|target| !target.name.contains("1,024")));
    }

    #[test]
    fn tokens_may_cost_one_order_in_twenty() {
        let run = |per_second| AuthRun { per_second, errors: 0, latency: Latency::default(), shop_cpu_s: 0.1 };
        let with = |jwt| {
            let pairs = vec![AuthPair { none: run(10_000.0), jwt: run(jwt) }];
            Report { auth: Some(Auth { connections: 256, customers: 10, pairs }), ..Report::default() }
        };
        assert_eq!(got(&with(9_500.0), "with tokens: times the same without"), (0.95, true));
        assert!(!got(&with(9_400.0), "with tokens: times the same without").1);
        assert_eq!(got(&with(9_500.0), "with and without tokens: errors"), (0.0, true));
        let text = table::table(&with(9_400.0));
        assert!(text.lines().any(|line| line.contains("10,000") && line.ends_with("0.940")), "{text}");
    }

    #[test]
    fn growth_is_judged_by_its_worst_case() {
        let grown = |per_second, shop_peak_mb| Growth {
            wallets: 1_000,
            messages: 1_000,
            per_second,
            small_per_second: 1_000.0,
            latency: Latency::default(),
            shop_mb: 50.0,
            shop_peak_mb,
            nats_mb: 50.0,
            checkpoints_mb: 1.0,
        };
        let growth = vec![grown(1_000.0, 80.0), grown(500.0, 90.0), grown(1_100.0, 310.0)];
        let report = Report { growth, ..Report::default() };
        assert_eq!(got(&report, "growth: times the small case, at its worst"), (0.5, false));
        assert_eq!(got(&report, "growth: peak memory of the shop, MB"), (310.0, false));
    }

    #[test]
    fn the_table_says_what_the_other_profiles_are_worth() {
        let build = |profile, per_second| Build {
            profile,
            connections: 256,
            per_second,
            errors: 0,
            latency: Latency::default(),
        };
        let builds = vec![build("release", 9_000.0), build("dist", 10_000.0)];
        let text = table::table(&Report { builds, ..Report::default() });
        let line = text.lines().find(|line| line.contains("release ")).unwrap();
        assert!(line.contains("9,000") && line.ends_with("0.90"), "{text}");
    }

    #[test]
    fn the_table_names_every_target_and_whether_it_is_met() {
        let mut report = report();
        report.recovery.push(Recovery {
            after: Before::Terminated,
            messages: 10,
            answering_ms: 100.0,
            ready_ms: 400.0,
            shop_cpu_s: 0.2,
        });
        let text = table::table(&report);
        for target in targets(&report) {
            let line = text.lines().find(|line| line.contains(target.name)).unwrap();
            assert_eq!(line.contains("missed"), !target.is_met(), "{line}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 140), "{text}");
    }
}
