//! A checkpoint and a log that do not belong together: nothing may go on from there.

use shop_actors::{kind_host::KindError, partition::AttachError, store::memory::MemoryStore};
use shop_domain::{kind::Kind, wallet};
use tokio::time::Duration;

use crate::{
    host,
    plan::money,
    sim::{Shape, Sim},
};

/// Checkpoints of a wallet host that has seen so many top-ups of an amount, and the shop that it was in.
async fn shop(top_ups: usize, amount: u64) -> (Sim, MemoryStore) {
    let mut sim = Sim::new(fastrand::Rng::with_seed(0), Shape::SMALL);
    sim.ask("alice", wallet::Message::Open { balance: money(100) });
    for number in 0..top_ups {
        sim.ask_with_key("alice", wallet::Message::TopUp { amount: money(amount) }, &format!("k-{number}"));
        sim.pass(Duration::from_secs(1)).await;
    }
    sim.heal().await;
    let checkpoints = sim.checkpoints((Kind::Wallet, 0));
    (sim, checkpoints)
}

/// Why a host does not start from those checkpoints in that shop.
async fn reason(sim: &Sim, checkpoints: MemoryStore) -> String {
    match host::attempt(Kind::Wallet, &sim.log, checkpoints).await {
        Some(KindError::Attach(AttachError::OtherLog { reason, .. })) => reason,
        other => panic!("the host should not start, but: {other:?}"),
    }
}

/// From the same log a host goes on; from one that was rolled back, or holds something else, not.
pub(crate) async fn is_told_from_the_own_one() {
    let (own, checkpoints) = shop(3, 1).await;
    assert!(host::attempt(Kind::Wallet, &own.log, checkpoints.snapshot()).await.is_none());
    let (rolled_back, _) = shop(2, 1).await;
    assert!(reason(&rolled_back, checkpoints.snapshot()).await.contains("the log ends at 3"));
    let (another, _) = shop(3, 2).await;
    assert!(reason(&another, checkpoints.snapshot()).await.contains("another message at sequence 4"));
    let (longer, _) = shop(5, 2).await;
    assert!(reason(&longer, checkpoints).await.contains("another message at sequence 4"));
}
