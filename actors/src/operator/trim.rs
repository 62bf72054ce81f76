//! `shop trim`: cuts the beginnings of the logs off, as far as snapshots stand for them.

use std::{io::Write, process::ExitCode, sync::Arc};

use clap::{Args, builder::RangedU64ValueParser};
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::{jetstream::JetStreamLog, log::SharedLog};

use super::{Answered, Common, NO, OperatorError, Out, no, say, words};
use crate::snapshot::{
    Kept,
    trim::{MARGIN, Plan, Reserve, Standing, days_ago},
};

/// How much of the logs to cut off.
#[derive(Debug, Args)]
pub struct Options {
    /// Show what would go, and cut nothing.
    #[arg(long)]
    dry_run: bool,
    /// Records that stay before the oldest snapshot of each log.
    #[arg(long, default_value_t = MARGIN, value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    margin: u64,
    /// Keep all that the logs took in the last so many days, whatever snapshots there are; but nothing from before the
    /// shop was repartitioned.
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u64>,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { dry_run, margin, older_than, common } = options;
    let connection = common.connect("trim").await?;
    let log: SharedLog = Arc::new(JetStreamLog::open(&connection, &connection).await?);
    let Some(snapshots) = common.snapshots(&connection).await? else {
        let advice = "no host that runs keeps snapshots; say where there are some with --snapshots";
        return Ok(no(&format!("nothing stands for what would be cut: {advice}")));
    };
    let reserve = Reserve { margin, since: older_than.map(days_ago) };
    let mut code = ExitCode::SUCCESS;
    for kind in Kind::ALL {
        let plan = Plan::make(&log, &snapshots, kind, reserve).await?;
        for Standing { place, useless, .. } in &plan.partitions {
            for (kept, why) in useless {
                say(&format_args!("{} of {} is of no use: {why}", kept.name, words::place(*place)));
            }
        }
        if let Some(place) = plan.lacking() {
            let place = words::place(place);
            say(&format_args!(
                "the log of {kind} stays as it is: no snapshot in {} stands for {place}",
                snapshots.url()
            ));
            code = ExitCode::from(NO);
            continue;
        }
        let cut = match plan.records() {
            0 => 0,
            _ if dry_run => 0,
            _ => log.trim(kind, plan.identity.epoch, plan.first).await?,
        };
        if common.json { for_programs(&plan, cut, out)? } else { for_people(&plan, dry_run, out)? }
    }
    Ok(code)
}

fn for_people(plan: &Plan, dry_run: bool, out: &mut Out) -> Result<(), OperatorError> {
    let Plan { kind, identity, first, partitions } = plan;
    let (kind, from, last) = (kind.as_str(), identity.oldest_sequence, identity.last_sequence);
    match plan.records() {
        0 => writeln!(out, "{kind:<9} nothing to cut: it begins at {from}, ends at {last}")?,
        records => {
            let verb = if dry_run { "would go" } else { "cut off" };
            let stays = format_args!("it begins at {first} then, ends at {last}");
            writeln!(out, "{kind:<9} {from}..{}: {records} records {verb}; {stays}", first - 1)?;
        }
    }
    for Standing { place, oldest, .. } in partitions {
        if let Some(Kept { name, bytes, .. }) = oldest {
            let complete_to = name.complete_to;
            let place = words::place(*place);
            writeln!(out, "  {place:<12} {name} stands for it, complete to {complete_to}, {bytes} bytes")?;
        }
    }
    Ok(())
}

fn for_programs(plan: &Plan, cut: u64, out: &mut Out) -> Result<(), OperatorError> {
    let Plan { kind, identity, first, partitions } = plan;
    let partition = |Standing { place, oldest, .. }: &Standing| {
        let oldest = oldest.map(|Kept { name, bytes, .. }| {
            json!({ "cursor": name.cursor, "complete_to": name.complete_to, "bytes": bytes })
        });
        json!({ "partition": place.1, "snapshot": oldest })
    };
    let partitions: Vec<_> = partitions.iter().map(partition).collect();
    let line = json!({
        "log": kind,
        "first": identity.oldest_sequence,
        "last": identity.last_sequence,
        "first_to_stay": first,
        "records": plan.records(),
        "cut": cut,
        "partitions": partitions,
    });
    Ok(writeln!(out, "{line}")?)
}
