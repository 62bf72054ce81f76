//! `shop upgrade`: from now on all entities behave by a newer logic version.
//!
//! It is a record in the log of each partition, so that a replay switches over at the same message.
//! There is no way back, and a host that does not know the version cannot go on: so all are asked
//! first.

use std::{io::Write, process::ExitCode};

use clap::Args;
use shop_domain::{kind::Kind, logic::Logic};
use shop_nats::{discovery::Announced, frame::Upgrade, jetstream::JetStreamLog, log::Log};

use super::{Answered, Common, OperatorError, Out, hosts, no};

/// To what.
#[derive(Debug, Args)]
pub struct Options {
    /// The logic version [default: the newest that this program knows].
    #[arg(long, value_parser = known, default_value_t = Logic::NEWEST, hide_default_value = true)]
    to: Logic,
    /// Though no host says that it knows the version: they were all stopped for the upgrade.
    #[arg(long)]
    without_hosts: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { to, without_hosts, common } = options;
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
    let log = JetStreamLog::open(&connection, &connection).await?;
    for kind in Kind::ALL {
        for partition in 0..log.identity(kind).await?.partitions {
            let sequence = log.append(kind, partition, Upgrade { logic: to.number() }.encode()).await?.await?;
            say(&common, out, kind, partition, sequence, to)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(
    common: &Common,
    out: &mut Out,
    kind: Kind,
    partition: u16,
    sequence: u64,
    to: Logic,
) -> Result<(), OperatorError> {
    if common.json {
        let logic = to.number();
        let line = serde_json::json!({ "log": kind, "partition": partition, "sequence": sequence, "logic": logic });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{:<12} logic version {to} behind sequence {sequence}", format!("{kind}/{partition}"))?;
    }
    Ok(())
}

fn known(number: &str) -> Result<Logic, String> {
    let number: u32 = number.parse().map_err(|_| "not a number".to_owned())?;
    Logic::try_from(number).map_err(|unknown| unknown.to_string())
}
