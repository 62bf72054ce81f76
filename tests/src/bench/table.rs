//! The figures as one table for a terminal.

use super::{
    report::{AuthPair, AuthRun, Before, Latency, Load, Orders, Report, Sync},
    targets::{Bound, targets},
    text::{Columns, count, figure},
};

/// All that the report holds, section by section.
pub fn table(report: &Report) -> String {
    let sections = [
        machine(report),
        orders(report, Sync::Always),
        orders(report, Sync::Default),
        postgres(report),
        limits(report),
        builds(report),
        auth(report),
        overload(report),
        growth(report),
        recovery(report),
        goals(report),
    ];
    let mut text = sections.iter().flatten().fold(String::new(), |text, section| text + section + "\n");
    for what in &report.skipped {
        text += &format!("skipped: {what}\n");
    }
    text
}

fn machine(report: &Report) -> Option<String> {
    let machine = &report.machine;
    Some(format!(
        "The shop at {}\n  {} × {}, {} MB, {}, data on {}\n  {}\n  {}\n",
        machine.at,
        machine.cores,
        machine.cpu,
        count(machine.memory_mb),
        machine.kernel,
        machine.file_system,
        machine.programs.join(", "),
        machine.method,
    ))
}

fn orders(report: &Report, sync: Sync) -> Option<String> {
    let runs: Vec<&Orders> = report.orders.iter().filter(|orders| orders.sync == sync).collect();
    let head = [
        "load", "conns", "orders/s", "errors", "p50 ms", "p99 ms", "p99.9 ms", "shop CPU", "nats CPU", "wrk CPU",
        "shop MB", "nats MB", "messages", "bytes", "fsyncs",
    ];
    let mut columns = Columns::new(1, &head);
    for run in &runs {
        let (latency, cost) = (run.latency, &run.cost);
        let figures =
            [latency.p50_ms, latency.p99_ms, latency.p999_ms, cost.shop_cpu_s, cost.nats_cpu_s, cost.load_cpu_s];
        let start = [named(run.load), count(run.connections.into()), figure(run.per_second), count(run.errors)];
        let end = [cost.shop_peak_mb, cost.nats_peak_mb, cost.messages, cost.bytes].map(figure);
        let fsyncs = cost.fsyncs.map_or_else(|| "?".to_owned(), figure);
        columns.line(start.into_iter().chain(figures.map(figure)).chain(end).chain([fsyncs]));
    }
    let title = match sync {
        Sync::Always => "orders over HTTP, fsync before every acknowledgement",
        Sync::Default => "orders over HTTP, JetStream's default (fsync every two minutes)",
    };
    let units =
        "CPU: seconds for 1,000 orders; MB: peak; messages and bytes in JetStream and fsyncs: per confirmed order";
    (!runs.is_empty()).then(|| section(&format!("{title}\n  {units}"), &columns))
}

fn postgres(report: &Report) -> Option<String> {
    let mut columns =
        Columns::new(1, &["script", "conns", "orders/s", "p50 ms", "p99 ms", "p99.9 ms", "the shop does"]);
    for run in &report.postgres {
        let load = if run.script == "hot" { Load::Hot } else { Load::Uniform };
        let ours = report.orders_at(Sync::Always, load, run.connections);
        let times = ours.map_or_else(String::new, |ours| format!("{} ×", figure(ours.per_second / run.per_second)));
        let figures = [run.per_second, run.latency.p50_ms, run.latency.p99_ms, run.latency.p999_ms].map(figure);
        columns.line([run.script.to_owned(), count(run.connections.into())].into_iter().chain(figures).chain([times]));
    }
    let title = "one PostgreSQL, fsync on, no HTTP: a stored procedure (uniform, hot) or its statements one by one";
    (!report.postgres.is_empty()).then(|| section(title, &columns))
}

fn limits(report: &Report) -> Option<String> {
    let limits = report.limits.as_ref()?;
    let mut columns = Columns::new(1, &["what", "per second"]);
    for run in &limits.fsyncs {
        let what = format!("append of {} bytes to a file and fsync", count(run.bytes as u64));
        columns.line([what, figure(run.per_second)]);
    }
    for run in &limits.jetstream {
        let sync = match run.sync {
            Sync::Always => "fsync always",
            Sync::Default => "default sync",
        };
        let what = format!("publish of 120 bytes, {} in flight, {sync}", count(run.in_flight as u64));
        columns.line([what, figure(run.per_second)]);
    }
    for run in &limits.healthz {
        let what = format!("GET /healthz, {} connections", count(run.connections.into()));
        columns.line([what, figure(run.per_second)]);
    }
    Some(section("what this machine can do at all", &columns))
}

fn builds(report: &Report) -> Option<String> {
    let mut columns = Columns::new(1, &["profile", "conns", "orders/s", "errors", "p50 ms", "p99 ms", "× dist"]);
    let dist = report.builds.iter().find(|build| build.profile == "dist").map(|build| build.per_second);
    for build in &report.builds {
        let Latency { p50_ms, p99_ms, .. } = build.latency;
        let times = dist.map_or_else(String::new, |dist| format!("{:.2}", build.per_second / dist));
        let start = [build.profile.to_owned(), count(build.connections.into()), figure(build.per_second)];
        let end = [count(build.errors), figure(p50_ms), figure(p99_ms), times];
        columns.line(start.into_iter().chain(end));
    }
    let title = "builds: uniform, fsync always, by `cargo run` (dev), by `cargo build --release`, and as above (dist)";
    (!report.builds.is_empty()).then(|| section(title, &columns))
}

fn auth(report: &Report) -> Option<String> {
    let auth = report.auth.as_ref()?;
    let head = ["orders/s: none", "jwt", "p50 ms: none", "jwt", "p99 ms: none", "jwt", "shop CPU: none", "jwt", "×"];
    let mut columns = Columns::new(0, &head);
    let mut line = |pair: AuthPair| {
        let both = |of: fn(AuthRun) -> f64| [of(pair.none), of(pair.jwt)].map(figure);
        let figures = [
            both(|run| run.per_second),
            both(|run| run.latency.p50_ms),
            both(|run| run.latency.p99_ms),
            both(|run| run.shop_cpu_s),
        ];
        columns.line(figures.into_iter().flatten().chain([format!("{:.3}", pair.times_none())]));
    };
    auth.pairs.iter().copied().for_each(&mut line);
    auth.middle().into_iter().for_each(line);
    let title = format!(
        "auth: uniform at {}, fsync always, without tokens and with those of {} customers, in turns; the last line is the \
         middle pair\n  CPU: seconds for 1,000 orders",
        count(auth.connections.into()),
        count(auth.customers),
    );
    Some(section(&title, &columns))
}

fn overload(report: &Report) -> Option<String> {
    let overload = report.overload.as_ref()?;
    let mut columns = Columns::new(1, &["what", "", "p50 ms", "p99 ms"]);
    let mut line = |what: &str, value: String| columns.line([what.to_owned(), value]);
    line("peak of a closed loop, orders/s", figure(overload.peak_per_second));
    line("to be sent, orders/s", figure(overload.offered_per_second));
    line("sent, orders/s", figure(overload.sent_per_second));
    for (what, rate, latency) in [
        ("confirmed, orders/s", overload.confirmed_per_second, overload.confirmed),
        ("answered 503, orders/s", overload.refused_per_second, overload.refused),
    ] {
        columns.line([what.to_owned()].into_iter().chain([rate, latency.p50_ms, latency.p99_ms].map(figure)));
    }
    let mut line = |what: &str, value: String| columns.line([what.to_owned(), value]);
    line("503 without Retry-After", count(overload.refused_without_retry_after));
    line("other answers, or none", count(overload.errors));
    line("memory of the shop before, MB", figure(overload.memory_before_mb));
    line("most memory meanwhile, MB", figure(overload.memory_peak_mb));
    line("until an order takes less than 100 ms again, ms", figure(overload.recovered_after_ms));
    Some(section("overload: orders on time whatever is answered", &columns))
}

fn growth(report: &Report) -> Option<String> {
    let head = [
        "wallets",
        "messages",
        "orders/s",
        "× small",
        "p50 ms",
        "p99 ms",
        "shop MB (peak)",
        "nats MB",
        "checkpoints MB",
    ];
    let mut columns = Columns::new(0, &head);
    for grown in &report.growth {
        let shop = format!("{} ({})", figure(grown.shop_mb), figure(grown.shop_peak_mb));
        let [rate, p50, p99] = [grown.per_second, grown.latency.p50_ms, grown.latency.p99_ms].map(figure);
        let times = format!("{:.2}", grown.times_small());
        let [nats, checkpoints] = [grown.nats_mb, grown.checkpoints_mb].map(figure);
        columns.line([count(grown.wallets), count(grown.messages), rate, times, p50, p99, shop, nats, checkpoints]);
    }
    (!report.growth.is_empty())
        .then(|| section("growth: a shop with more in it, beside a new one with 1,000 wallets", &columns))
}

fn recovery(report: &Report) -> Option<String> {
    let head = ["after", "messages", "ms to ready", "of them nats-server", "CPU s", "messages/s", "per core"];
    let mut columns = Columns::new(1, &head);
    for start in &report.recovery {
        let (after, is_replay) = match start.after {
            Before::Terminated => ("SIGTERM", false),
            Before::Killed => ("SIGKILL in a rush", false),
            Before::CheckpointsDeleted => ("checkpoints deleted", true),
        };
        let rates = [start.per_second(), start.per_core_second()];
        let rates = rates.map(|rate| if is_replay { figure(rate) } else { String::new() });
        let figures = [start.ready_ms, start.answering_ms, start.shop_cpu_s].map(figure);
        let line = [after.to_owned(), count(start.messages)].into_iter().chain(figures).chain(rates);
        columns.line(line);
    }
    (!report.recovery.is_empty()).then(|| section("recovery: from the start of the process until ready", &columns))
}

fn goals(report: &Report) -> Option<String> {
    let targets = targets(report);
    let mut columns = Columns::new(1, &["target", "goal", "got", "ratio", ""]);
    for target in &targets {
        let bound = match target.bound {
            Bound::AtLeast => "≥",
            Bound::AtMost => "≤",
        };
        let ratio = if target.goal > 0.0 { figure(target.got / target.goal) } else { String::new() };
        let verdict = if target.is_met() { "met" } else { "missed" };
        let goal = format!("{bound} {}", figure(target.goal));
        columns.line([target.name.to_owned(), goal, figure(target.got), ratio, verdict.to_owned()]);
    }
    (!targets.is_empty()).then(|| section("targets", &columns))
}

fn section(title: &str, columns: &Columns) -> String {
    format!("{title}\n{}", columns.text())
}

fn named(load: Load) -> String {
    match load {
        Load::Uniform => "uniform",
        Load::Hot => "hot",
    }
    .to_owned()
}
