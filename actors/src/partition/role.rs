//! Whose turn it is to send what follows from the log, when several hosts apply the same partition.
//!
//! The owner sends at once. Every other host is a standby: it [keeps](crate::partition::backlog) what it would send until a receipt
//! in the log says that it is in the logs, and goes on from there when it becomes the owner itself. So no state has to
//! move. What the owner announces only lets a standby go on with the next round, and show what it has applied. A round
//! that is sent twice is harmless; one that no host sends would not be: so no host waits for another one for ever.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// How long an owner may be silent about a round, or the log without a receipt of it, before a standby sends it as
/// well: several times what the slowest disk takes, and less than any caller waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What a host is to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends and answers.
    Owner,
    /// It knows all that the owner knows, and is silent.
    Standby,
    /// It applies what there is, and never sends: a tool.
    Spectator,
}

/// Who sends what follows from a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// This host.
    Here,
    /// The owner, who says that it has done so.
    Owner,
    /// Whichever host it is, it is none of this process's business.
    Other,
}

/// What a partition is told about its turn.
#[derive(Clone, Debug)]
pub struct RoleWatch {
    role: watch::Receiver<Role>,
    settled: watch::Receiver<u64>,
    receipt: watch::Receiver<u64>,
    is_followed: watch::Receiver<bool>,
    /// What the owner had settled when it was last waited for in vain: until it says more, this host does not wait for
    /// it again.
    silent_at: Option<u64>,
    /// Whether a receipt was waited for in vain: until there is one, this host sends what follows, whatever it is told.
    doubts: bool,
}

/// Where a partition's turn is decided.
#[derive(Debug)]
pub struct Decision {
    /// What this host is to the partition.
    pub role: watch::Sender<Role>,
    /// The sequence up to which the owner has settled everything, as it says.
    pub settled: watch::Sender<u64>,
    /// The sequence of the newest receipt in the log, as others say.
    pub receipt: watch::Sender<u64>,
    /// Whether there are other hosts, which need receipts.
    pub is_followed: watch::Sender<bool>,
}

impl RoleWatch {
    /// A partition's turn, and where it is decided.
    pub fn new() -> (Decision, Self) {
        let ((role, role_now), (settled, settled_now)) = (watch::channel(Role::Owner), watch::channel(0));
        let ((receipt, receipt_now), (is_followed, is_followed_now)) = (watch::channel(0), watch::channel(false));
        let decision = Decision { role, settled, receipt, is_followed };
        let role = Self {
            role: role_now,
            settled: settled_now,
            receipt: receipt_now,
            is_followed: is_followed_now,
            silent_at: None,
            doubts: false,
        };
        (decision, role)
    }

    /// The turn of a host that is the only one.
    pub fn alone() -> Self {
        Self::new().1
    }

    /// What this host is to the partition.
    pub fn now(&self) -> Role {
        *self.role.borrow()
    }

    /// Whether this host has to write receipts into the log, because others stand by.
    pub fn owes_receipts(&self) -> bool {
        *self.is_followed.borrow() && self.now() == Role::Owner
    }

    /// Waits until it is clear who sends what follows from the log up to `cursor`.
    pub async fn await_output_right(&mut self, cursor: u64) -> Sender {
        loop {
            match *self.role.borrow_and_update() {
                Role::Owner => return Sender::Here,
                Role::Spectator => return Sender::Other,
                Role::Standby if self.doubts => return Sender::Here,
                Role::Standby => {}
            }
            let settled = *self.settled.borrow_and_update();
            if settled >= cursor {
                return Sender::Owner;
            }
            if self.silent_at == Some(settled) {
                return Sender::Here;
            }
            let decided = tokio::select! {
                decided = self.role.changed() => decided.is_ok(),
                decided = self.settled.changed() => decided.is_ok(),
                () = sleep(PATIENCE) => false,
            };
            if !decided {
                tracing::warn!("the owner says nothing of what follows up to sequence {cursor}; sending it from here");
                self.silent_at = Some(settled);
                return Sender::Here;
            }
        }
    }

    /// Waits until this host has to send what it keeps `since` then: it is the owner now, or there is no receipt of it.
    pub async fn calls(&mut self, since: Instant) {
        loop {
            if *self.role.borrow_and_update() == Role::Owner || self.doubts {
                return;
            }
            let is_decided = tokio::select! {
                decided = self.role.changed() => decided.is_ok(),
                () = sleep_until(since + PATIENCE) => false,
            };
            if !is_decided {
                tracing::warn!("no receipt in the log of what the owner says that it has sent; sending it from here");
                self.doubts = true;
                return;
            }
        }
    }

    /// There is a receipt in the log: an owner is at work.
    pub const fn trust(&mut self) {
        self.doubts = false;
    }

    /// Where others say that there is a newer receipt than that at the sequence `known`; nothing if this host has to
    /// send what it keeps, or none is named until then.
    pub async fn named_receipt(&mut self, known: u64, until: Instant) -> Option<u64> {
        tokio::select! {
            biased;
            named = self.receipt.wait_for(|named| *named > known) => Some(*named.ok()?),
            _ = self.role.wait_for(|role| *role == Role::Owner) => None,
            () = sleep_until(until) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_owner_sends_and_a_standby_waits_until_the_owner_says_that_it_has() {
        let (decision, mut role) = RoleWatch::new();
        assert_eq!(role.await_output_right(7).now_or_never(), Some(Sender::Here));
        decision.role.send_replace(Role::Standby);
        assert_eq!(role.await_output_right(7).now_or_never(), None);
        decision.settled.send_replace(6);
        assert_eq!(role.await_output_right(7).now_or_never(), None);
        decision.settled.send_replace(8);
        assert_eq!(role.await_output_right(7).now_or_never(), Some(Sender::Owner));
        assert_eq!(role.await_output_right(8).now_or_never(), Some(Sender::Owner));
        decision.role.send_replace(Role::Spectator);
        assert_eq!(role.await_output_right(9).now_or_never(), Some(Sender::Other));
    }

    #[tokio::test]
    async fn a_standby_that_becomes_the_owner_sends_what_it_held_back() {
        let (decision, mut role) = RoleWatch::new();
        decision.role.send_replace(Role::Standby);
        let (mut kept, since) = (role.clone(), Instant::now());
        let waiting = tokio::spawn(async move { role.await_output_right(7).await });
        assert_eq!(kept.calls(since).now_or_never(), None);
        decision.role.send_replace(Role::Owner);
        assert_eq!(waiting.await.unwrap(), Sender::Here);
        assert_eq!(kept.calls(since).now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_says_nothing_is_not_waited_for_for_ever() {
        let (decision, mut role) = RoleWatch::new();
        decision.role.send_replace(Role::Standby);
        let began = Instant::now();
        assert_eq!(role.await_output_right(7).await, Sender::Here);
        assert_eq!(began.elapsed(), PATIENCE);
        for cursor in 8..100 {
            assert_eq!(role.await_output_right(cursor).now_or_never(), Some(Sender::Here), "its silence is known");
        }
        decision.settled.send_replace(99);
        assert_eq!(role.await_output_right(99).now_or_never(), Some(Sender::Owner));
        assert_eq!(role.await_output_right(100).now_or_never(), None, "it has said something");
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_of_which_there_is_no_receipt_is_not_believed_until_there_is_one() {
        let (decision, mut role) = RoleWatch::new();
        decision.role.send_replace(Role::Standby);
        decision.settled.send_replace(u64::MAX);
        assert_eq!(role.await_output_right(7).now_or_never(), Some(Sender::Owner));
        let since = Instant::now();
        role.calls(since).await;
        assert_eq!(since.elapsed(), PATIENCE);
        assert_eq!(role.await_output_right(8).now_or_never(), Some(Sender::Here), "it is not believed");
        role.trust();
        assert_eq!(role.await_output_right(9).now_or_never(), Some(Sender::Owner));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receipt_that_is_not_named_is_not_waited_for_for_ever() {
        let (decision, mut role) = RoleWatch::new();
        decision.role.send_replace(Role::Standby);
        let until = Instant::now() + PATIENCE;
        assert_eq!((role.named_receipt(3, until).await, Instant::now()), (None, until));
        decision.receipt.send_replace(4);
        assert_eq!(role.named_receipt(3, until).now_or_never(), Some(Some(4)));
        assert_eq!(role.named_receipt(4, Instant::now() + PATIENCE).now_or_never(), None);
        decision.role.send_replace(Role::Owner);
        assert_eq!(role.named_receipt(4, Instant::now() + PATIENCE).now_or_never(), Some(None));
    }
}
