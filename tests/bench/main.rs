//! `just bench`: measures the whole shop as a user starts it, beside one PostgreSQL and the limits
//! of the machine. See `cargo bench --profile dist -p shop-tests --bench shop -- --help`.

mod auth;
mod builds;
mod growth;
mod limits;
mod load;
mod machine;
mod matrix;
mod nats;
mod options;
mod overload;
mod postgres;
mod recovery;
mod shop;
mod tokens;
mod usage;

use std::{fs, path::Path};

use clap::Parser;
use serde_json::json;
use shop_tests::bench::{picture::picture, report::Report, table::table, targets::targets};

use crate::options::{Options, Part};

/// Paths on the command line are seen from here, although cargo starts this in `tests`.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[tokio::main]
async fn main() {
    let options = Options::parse().completed();
    if !options.bench {
        println!("this measures for minutes: cargo bench --profile dist -p shop-tests --bench shop");
        return;
    }
    std::env::set_current_dir(ROOT).expect("the repository is where this was built");
    let report = measure(&options).await;
    print!("{}", table(&report));
    write(&options, &report);
}

/// Part by part, each with servers and folders of its own.
async fn measure(options: &Options) -> Report {
    let mut report = Report { machine: machine::describe(options), ..Report::default() };
    load::require_wrk();
    let has = |part: Part| options.parts.contains(&part);
    if has(Part::Limits) {
        report.limits = Some(limits::measure(options).await);
    }
    if has(Part::Postgres) {
        let (runs, skipped) = postgres::measure(options);
        report.postgres = runs;
        report.skipped.extend(skipped.into_iter().map(|reason| format!("PostgreSQL: {reason}")));
    }
    if has(Part::Matrix) {
        report.orders = matrix::measure(options).await;
    }
    if has(Part::Builds) {
        report.builds = builds::measure(options).await;
    }
    if has(Part::Auth) {
        report.auth = Some(auth::measure(options).await);
    }
    if has(Part::Overload) {
        report.overload = Some(overload::measure(options).await);
    }
    if has(Part::Growth) {
        report.growth = growth::measure(options).await;
    }
    if has(Part::Recovery) {
        report.recovery = recovery::measure(options).await;
    }
    if !usage::can_count_fsyncs() {
        let why = "fsyncs: `perf stat` is not there or not permitted; the column says one per message instead";
        report.skipped.push(why.to_owned());
    }
    report
}

fn write(options: &Options, report: &Report) {
    let save = |path: &Path, text: String| {
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        eprintln!("written: {}", path.display());
    };
    if let Some(path) = &options.json {
        let all = json!({ "report": report, "targets": targets(report) });
        save(path, format!("{all:#}\n"));
    }
    if let Some(path) = &options.table {
        save(path, table(report));
    }
    match (&options.svg, picture(report)) {
        (Some(path), Some(svg)) => save(path, svg),
        (Some(path), None) => eprintln!("not written, there are too few points: {}", path.display()),
        (None, Some(_) | None) => {}
    }
}
