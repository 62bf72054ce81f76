//! `shop upgrade`: from now on all entities behave by a newer logic version.
//!
//! It is a record in the log of each partition, so that a replay switches over at the same message.
//! There is no way back, and a host that does not know the version cannot go on: so all are asked
//! first. A partition that behaves so already gets no record.

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use clap::Args;
use serde_json::json;
use shop_domain::{kind::Kind, logic::Logic};
use shop_nats::{
    connection::Connection,
    jetstream::JetStreamLog,
    log::{Log, PartitionId, frame::Upgrade},
    rpc::discovery::Announced,
};

use super::{Answered, Common, OperatorError, Out, Progress, hosts, no, say, words};

/// To what.
#[derive(Debug, Args)]
pub struct Options {
    /// The logic version [default: the newest that this program knows].
    #[arg(long, value_parser = known, default_value_t = Logic::NEWEST, hide_default_value = true)]
    to: Logic,
    /// Though no host says that it knows the version: they were all stopped for the upgrade.
    #[arg(long)]
    without_hosts: bool,
    /// Show which partitions would be upgraded, and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { to, without_hosts, dry_run, common } = options;
    let connection = common.connect("upgrade").await?;
    let hosts = hosts(&connection).await?;
    if let Some(host) = hosts.iter().find(|host| host.logic.is_none_or(|logic| logic < to.number())) {
        let Announced { kind, id, version, .. } = host;
        return Ok(no(&format!(
            "a host of {kind} (version {version}, service id {id}) does not know logic version {to}"
        )));
    }
    if let Some(kind) = Kind::ALL.into_iter().find(|kind| !without_hosts && hosts.iter().all(|host| host.kind != *kind))
    {
        let advice = "start one, or say --without-hosts if all are stopped for the upgrade";
        return Ok(no(&format!("no host of {kind} says that it knows logic version {to}: {advice}")));
    }
    let versions = versions(&common, &connection).await?;
    if let Some(newer) = versions.values().copied().find(|version| *version > to) {
        return Ok(no(&format!("logic version {newer} is in force already, and there is no way back to {to}")));
    }
    let behind: Vec<_> = versions.into_iter().filter(|(_, version)| *version < to).collect();
    if behind.is_empty() {
        say(&format_args!("all partitions behave by logic version {to} already; nothing was written"));
    }
    let log = JetStreamLog::open(&connection, &connection).await?;
    for ((kind, partition), from) in behind {
        let sequence = match dry_run {
            true => None,
            false => Some(log.append(kind, partition, Upgrade { logic: to.number() }.encode()).await?.await?),
        };
        tell(&common, out, (kind, partition), (from, to), sequence)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// By which version each partition behaves at the end of its log.
async fn versions(common: &Common, connection: &Connection) -> Result<BTreeMap<PartitionId, Logic>, OperatorError> {
    let (mut merged_log, replay) = common.begin(connection, &Kind::ALL).await?.replay()?;
    let mut acceptor = replay.acceptor().clone();
    let mut progress = Progress::of(&merged_log);
    while let Some((kind, record)) = merged_log.next().await? {
        progress.step();
        acceptor.read(kind, &record)?;
    }
    let mut versions = BTreeMap::new();
    for (kind, log) in merged_log.logs() {
        for place in (0..log.partitions).map(|partition| (kind, partition)) {
            versions.insert(place, acceptor.logic(place, log.last_sequence)?);
        }
    }
    Ok(versions)
}

fn tell(
    common: &Common,
    out: &mut Out,
    (kind, partition): PartitionId,
    (from, to): (Logic, Logic),
    sequence: Option<u64>,
) -> Result<(), OperatorError> {
    if common.json {
        let (from, logic) = (from.number(), to.number());
        let line = json!({ "log": kind, "partition": partition, "sequence": sequence, "from": from, "logic": logic });
        return Ok(writeln!(out, "{line}")?);
    }
    let place = words::place((kind, partition));
    match sequence {
        Some(sequence) => writeln!(out, "{place:<12} logic version {to} behind sequence {sequence}")?,
        None => writeln!(out, "{place:<12} logic version {from}; would be upgraded to {to}")?,
    }
    Ok(())
}

fn known(number: &str) -> Result<Logic, String> {
    let number: u32 = number.parse().map_err(|_| "not a number".to_owned())?;
    Logic::try_from(number).map_err(|unknown| unknown.to_string())
}
