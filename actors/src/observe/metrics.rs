//! A host in numbers.
//!
//! The numbers are kept where they arise; each look puts them together anew.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use shop_domain::kind::Kind;
use tokio::time::timeout;

use super::{ANSWER_WAIT, Connected, Observed, dead_letters, held};
use crate::{
    counts::Counts,
    kind_host::{PartitionView, View},
    partition::role::Role,
};

/// A metric: its name, its meaning, and where its number is.
type Row<T> = (&'static str, &'static str, fn(&T) -> u64);

/// What is counted of a kind.
const COUNTERS: [Row<Counts>; 11] = [
    ("records_applied", "Records of the log that were applied", |counts| counts.records.get()),
    ("messages_accepted", "Messages that were handled", |counts| counts.accepted.get()),
    ("messages_duplicate", "Messages that had come before", |counts| counts.duplicates.get()),
    ("messages_beyond_hole", "Messages that came before others that are missing", |counts| counts.beyond_holes.get()),
    (
        "door_messages_swallowed",
        "Messages of the door that its log did not let in, because somebody else used its numbers",
        |counts| counts.swallowed.get(),
    ),
    ("records_dead", "Records that could not be read", |counts| counts.dead_letters.get()),
    ("panics", "Entities that panicked", |counts| counts.panics.get()),
    ("frames_resent", "Frames that were sent again for want of an acknowledgement", |counts| {
        counts.resent.load(Relaxed)
    }),
    ("checkpoints", "Checkpoints that were written", |counts| counts.checkpoints.get()),
    ("replies", "Answers that were sent to callers", |counts| counts.replies.get()),
    ("hand_overs", "Partitions that were taken over from other hosts", |counts| counts.hand_overs.get()),
];

/// How a partition is.
const PARTITION_GAUGES: [Row<PartitionView>; 9] = [
    ("partition_owned", "Whether this host sends and answers for the partition, and no other one", |one| {
        u64::from(one.handle.role.now() == Role::Owner)
    }),
    ("partition_standby_lag", "Sequences beyond what its owner is known to have settled; 0 of its owner", |one| {
        let assigned = one.assigned.load(Relaxed);
        let is_standby = one.handle.role.now() == Role::Standby;
        if is_standby { assigned.saturating_sub(*one.handle.settled.borrow()) } else { 0 }
    }),
    ("partition_assigned_sequence", "Last record that was handed to the partition", |one| one.assigned.load(Relaxed)),
    ("partition_cursor_sequence", "Record up to which it has applied", |one| one.handle.overlay.cursor()),
    ("partition_settled_sequence", "Record up to which all that follows is in the logs", |one| {
        *one.handle.settled.borrow()
    }),
    ("partition_proven_sequence", "Record up to which it is known that all that follows is in the logs", |one| {
        *one.handle.proven.borrow()
    }),
    (
        "partition_kept_messages",
        "Messages and answers of a standby of which there is no receipt in the log yet",
        |one| one.handle.kept.load(Relaxed) as u64,
    ),
    ("partition_checkpoint_sequence", "Record up to which its checkpoint goes", |one| *one.handle.saved.borrow()),
    ("partition_entities_active", "Entities that are at hand", |one| one.handle.active.load(Relaxed) as u64),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    kind: &'static str,
    partition: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfConnection {
    connection: &'static str,
}

type Number = Gauge<u64, AtomicU64>;

/// All numbers of these hosts together, as they are now.
pub(super) async fn numbers(hosts: &[Arc<Observed>]) -> Registry {
    let mut registry = Registry::with_prefix("shop_host");
    let served = hosts.iter().flat_map(|host| host.served().clone());
    let views: BTreeMap<Kind, _> = served.map(|(kind, served)| (kind, served.view.borrow().clone())).collect();
    let views: Vec<_> = views.into_iter().collect();
    of_kinds(&mut registry, &views);
    of_partitions(&mut registry, &views);
    of_snapshots(&mut registry, &views);
    let connected: Vec<_> = hosts.iter().filter_map(|host| host.connections().clone()).collect();
    of_connections(&mut registry, &connected);
    of_logs(&mut registry, &connected, &views).await;
    of_pauses(&mut registry, hosts);
    if let Some(count) = dead_letters(hosts).await {
        let letters = Number::default();
        letters.set(count);
        registry.register("dead_letters", "Dead letters that there are, of all hosts", letters);
    }
    registry
}

type Views = [(Kind, Arc<View>)];

fn of_kinds(registry: &mut Registry, views: &Views) {
    for (name, meaning, number) in COUNTERS {
        let family = Family::<OfKind, Counter>::default();
        for (kind, view) in views {
            family.get_or_create(&OfKind { kind: kind.as_str() }).inc_by(number(&view.counts));
        }
        registry.register(name, meaning, family);
    }
    let [checkpointing, handing_over] = [(); 2].map(|()| Family::<OfKind, Counter<f64>>::default());
    let (running, parked) = (Family::<OfKind, Number>::default(), Family::<OfKind, Number>::default());
    for (kind, view) in views {
        let kind = OfKind { kind: kind.as_str() };
        checkpointing.get_or_create(&kind).inc_by(view.counts.checkpoint_time().as_secs_f64());
        handing_over.get_or_create(&kind).inc_by(view.counts.hand_over_time().as_secs_f64());
        running.get_or_create(&kind).set(view.partitions.len() as u64);
        parked.get_or_create(&kind).set(view.parked.len() as u64);
    }
    registry.register_with_unit("checkpointing", "Time that writing checkpoints took", Unit::Seconds, checkpointing);
    let meaning = "Time in which nothing was heard of the owners of partitions that were taken over";
    registry.register_with_unit("handing_over", meaning, Unit::Seconds, handing_over);
    registry.register("partitions_running", "Partitions that run", running);
    registry.register("partitions_parked", "Partitions that are stopped for good, see /readyz", parked);
}

fn of_partitions(registry: &mut Registry, views: &Views) {
    for (name, meaning, number) in PARTITION_GAUGES {
        let family = Family::<OfPartition, Number>::default();
        for (kind, view) in views {
            for (partition, one) in &view.partitions {
                let label = OfPartition { kind: kind.as_str(), partition: *partition };
                family.get_or_create(&label).set(number(one));
            }
        }
        registry.register(name, meaning, family);
    }
}

/// Of partitions without a snapshot there is nothing to say.
fn of_snapshots(registry: &mut Registry, views: &Views) {
    let age = Family::<OfPartition, Gauge<f64, AtomicU64>>::default();
    let [bytes, sequence] = [(); 2].map(|()| Family::<OfPartition, Number>::default());
    for (kind, view) in views {
        for (partition, PartitionView { snapshot, .. }) in &view.partitions {
            let Some(written_ago) = snapshot.age() else { continue };
            let label = OfPartition { kind: kind.as_str(), partition: *partition };
            age.get_or_create(&label).set(written_ago.as_secs_f64());
            bytes.get_or_create(&label).set(snapshot.bytes.load(Relaxed));
            sequence.get_or_create(&label).set(snapshot.sequence.load(Relaxed));
        }
    }
    let meaning = "How long ago the partition's newest snapshot was written";
    registry.register_with_unit("partition_snapshot_age", meaning, Unit::Seconds, age);
    registry.register_with_unit("partition_snapshot", "How large it is", Unit::Bytes, bytes);
    registry.register("partition_snapshot_sequence", "Record up to which it goes", sequence);
}

fn of_connections(registry: &mut Registry, connected: &[Arc<Connected>]) {
    let (connects, dropped) = (Family::<OfConnection, Counter>::default(), Family::<OfConnection, Counter>::default());
    for (name, connection) in connected.iter().flat_map(|one| &one.connections) {
        let label = OfConnection { connection: name };
        connects.get_or_create(&label).inc_by(*connection.connects().borrow());
        dropped.get_or_create(&label).inc_by(connection.slow_consumers());
    }
    registry.register("nats_connects", "Times that NATS was connected, the first one included", connects);
    registry.register("nats_slow_consumers", "Times that messages were dropped for want of room", dropped);
}

/// Whether the doors hold what changes something.
fn of_pauses(registry: &mut Registry, hosts: &[Arc<Observed>]) {
    let (seconds, run_out) = (Gauge::<f64, AtomicU64>::default(), Counter::<u64>::default());
    seconds.set(held(hosts).unwrap_or_default().as_secs_f64());
    // Hosts in one process hear the same words.
    run_out.inc_by(hosts.iter().map(|host| host.pauses_run_out.load(Relaxed)).max().unwrap_or_default());
    let meaning = "For how long the doors hold what changes something; 0 when they do not";
    registry.register_with_unit("doors_held", meaning, Unit::Seconds, seconds);
    registry.register("pauses_run_out", "Pauses of the doors that were not renewed, and ended by themselves", run_out);
}

/// How far each log goes and was read: the difference is how far behind the host is.
async fn of_logs(registry: &mut Registry, connected: &[Arc<Connected>], views: &Views) {
    // Any host can look at any log.
    let Some(Connected { log: any, .. }) = connected.first().map(Arc::as_ref) else { return };
    let [first, last, read] = [(); 3].map(|()| Family::<OfKind, Number>::default());
    let asked = views.iter().map(|(kind, _)| timeout(ANSWER_WAIT, any.identity(*kind)));
    for ((kind, view), answer) in views.iter().zip(futures::future::join_all(asked).await) {
        let kind = OfKind { kind: kind.as_str() };
        if let Some(dispatched) = &view.dispatched {
            read.get_or_create(&kind).set(*dispatched.borrow());
        }
        if let Ok(Ok(log)) = answer {
            first.get_or_create(&kind).set(log.first_sequence);
            last.get_or_create(&kind).set(log.last_sequence);
        }
    }
    registry.register("log_first_sequence", "First record that the log has: those before were cut off", first);
    registry.register("log_last_sequence", "Last record that the log has", last);
    registry.register("log_read_sequence", "Last record that was read and handed to the partitions", read);
}
