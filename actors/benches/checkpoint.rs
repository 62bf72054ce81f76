//! What a checkpoint costs: the states of so many wallets, each with a charge and an entry of its
//! statement, written to sled as one run. Run by `cargo bench --profile dist -p shop-actors --bench checkpoint`.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use shop_actors::store::{
    Checkpoint, Meta, Store,
    delta::{Changed, Delta},
    sled::SledStore,
};
use shop_domain::{entity::State, kind::Kind, money::Money, timestamp::Timestamp, version::Version, wallet};
use shop_nats::log::Identity;

/// Few, as in the quiet, and as many as a rush touches between two checkpoints.
const STATES: [usize; 2] = [10, 1_000];
/// About what an entry of a statement takes.
const ROW_BYTES: usize = 100;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    checkpoints(&mut criterion);
    criterion.final_summary();
}

fn checkpoints(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checkpoint");
    for count in STATES {
        let folder = tempfile::tempdir().expect("there should be room for a folder");
        let store = SledStore::open(folder.path(), Kind::Wallet).expect("a new folder can be opened");
        let partition_store = store.partition(0).expect("a new folder has room for a partition_store");
        let mut round = 0;
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("write", count), |bencher| {
            let next = || {
                round += 1;
                checkpoint(round, count)
            };
            let write = |checkpoint: Checkpoint| partition_store.write(&checkpoint).expect("sled can write");
            bencher.iter_batched(next, write, criterion::BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// The same wallets in every round, with rows that are new.
fn checkpoint(round: u64, count: usize) -> Checkpoint {
    let balance = Money::new(1_000_000).expect("within the range");
    let updated_at = Timestamp::from_unix_ms(round);
    let open = wallet::Open { balance, charged: Money::ZERO, entries: round, updated_at, version: Version::ZERO };
    let state = Bytes::from(State::Wallet(wallet::Wallet::Open(open)).encode());
    let row = Bytes::from(vec![0x5a; ROW_BYTES]);
    let ids = (0..count).map(|number| format!("u{number}").parse().expect("an id"));
    let ids: Vec<shop_domain::id::Id> = ids.collect();
    let changed = ids.into_iter().map(|id| {
        let rows = [format!("charge/o-{round}"), format!("entry/{round:016}")];
        Changed { id, state: Some(state.clone()), rows: rows.map(|key| (key.into(), row.clone())).into() }
    });
    let changes: Delta = changed.collect();
    Checkpoint { meta: Meta { cursor: round, ..Meta::new(&Identity::new(2)) }, changes: changes.into() }
}
