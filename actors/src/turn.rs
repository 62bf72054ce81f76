//! Whose turn it is to send what follows from the log, when several hosts apply the same partition.
//!
//! The owner sends at once. Everybody else is a standby: it holds back what it would send until the
//! owner says that it is in the logs, and goes on from there when it becomes the owner itself. So no
//! state has to move. A round that is sent twice is harmless; one that nobody sends would not be, and
//! therefore nobody waits for an owner for ever.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

/// How long an owner may be silent about a round before a standby sends it as well: several times what
/// the slowest disk takes, and less than any caller waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a host is to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sends and answers.
    Owner,
    /// It knows all that the owner knows, and is silent.
    Standby,
}

/// Who sends what follows from a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// This host.
    Here,
    /// The owner, who has done so.
    Owner,
}

/// What a partition is told about its turn.
#[derive(Clone, Debug)]
pub struct Turn {
    role: watch::Receiver<Role>,
    settled: watch::Receiver<u64>,
    /// What the owner had settled when it was last waited for in vain: until it says more, nobody waits for it again.
    silent_at: Option<u64>,
}

/// Where a partition's turn is decided.
#[derive(Debug)]
pub struct Decision {
    /// What this host is to the partition.
    pub role: watch::Sender<Role>,
    /// The sequence up to which the owner has settled everything.
    pub settled: watch::Sender<u64>,
}

impl Turn {
    /// A partition's turn, and where it is decided.
    pub fn new() -> (Decision, Self) {
        let ((role, role_now), (settled, settled_now)) = (watch::channel(Role::Owner), watch::channel(0));
        (Decision { role, settled }, Self { role: role_now, settled: settled_now, silent_at: None })
    }

    /// The turn of a host that is the only one.
    pub fn alone() -> Self {
        Self::new().1
    }

    /// What this host is to the partition.
    pub fn role(&self) -> Role {
        *self.role.borrow()
    }

    /// Waits until it is clear who sends what follows from the log up to `cursor`.
    pub async fn comes(&mut self, cursor: u64) -> Sender {
        loop {
            if *self.role.borrow_and_update() == Role::Owner {
                return Sender::Here;
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
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_owner_sends_and_a_standby_waits_until_the_owner_has() {
        let (decision, mut turn) = Turn::new();
        assert_eq!(turn.comes(7).now_or_never(), Some(Sender::Here));
        decision.role.send_replace(Role::Standby);
        assert_eq!(turn.comes(7).now_or_never(), None);
        decision.settled.send_replace(6);
        assert_eq!(turn.comes(7).now_or_never(), None);
        decision.settled.send_replace(8);
        assert_eq!(turn.comes(7).now_or_never(), Some(Sender::Owner));
        assert_eq!(turn.comes(8).now_or_never(), Some(Sender::Owner));
    }

    #[tokio::test]
    async fn a_standby_that_becomes_the_owner_sends_what_it_held_back() {
        let (decision, mut turn) = Turn::new();
        decision.role.send_replace(Role::Standby);
        let waiting = tokio::spawn(async move { turn.comes(7).await });
        decision.role.send_replace(Role::Owner);
        assert_eq!(waiting.await.unwrap(), Sender::Here);
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_says_nothing_is_not_waited_for_for_ever() {
        let (decision, mut turn) = Turn::new();
        decision.role.send_replace(Role::Standby);
        let began = tokio::time::Instant::now();
        assert_eq!(turn.comes(7).await, Sender::Here);
        assert_eq!(began.elapsed(), PATIENCE);
        for cursor in 8..100 {
            assert_eq!(turn.comes(cursor).now_or_never(), Some(Sender::Here), "its silence is known");
        }
        decision.settled.send_replace(99);
        assert_eq!(turn.comes(99).now_or_never(), Some(Sender::Owner));
        assert_eq!(turn.comes(100).now_or_never(), None, "it has said something");
    }
}
