//! Work of which only some is done at a time, while a little more waits.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Waiting places for each that is done at a time.
const WAITING_PER_TURN: usize = 8;

/// So much at a time. Whatever comes waits in line, if the line is not too long, and not for long.
#[derive(Debug)]
pub struct Turns {
    at_a_time: usize,
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    wait_max: Duration,
}

/// What is done now, until this is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "it is there to be dropped")] OwnedSemaphorePermit);

impl Turns {
    /// So many at a time, for each of which others wait so long.
    pub fn new(at_a_time: usize, wait_max: Duration) -> Self {
        let waiting = Semaphore::new(at_a_time * WAITING_PER_TURN);
        Self { at_a_time, turns: Arc::new(Semaphore::new(at_a_time)), waiting, wait_max }
    }

    /// Waits its turn; there is none when too many wait already, or the wait was in vain.
    pub async fn take(&self) -> Option<Turn> {
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            return Some(Turn(turn));
        }
        let _place = self.waiting.try_acquire().ok()?;
        let turn = timeout(self.wait_max, Arc::clone(&self.turns).acquire_owned()).await.ok()?;
        Some(Turn(turn.expect("the semaphore is never closed")))
    }

    /// How many are done now.
    pub fn under_way(&self) -> usize {
        self.at_a_time - self.turns.available_permits()
    }

    /// How many may be.
    pub fn at_a_time(&self) -> usize {
        self.at_a_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_turn_waits_a_little_and_what_finds_no_place_to_wait_is_told_at_once() {
        let turns = Arc::new(Turns::new(2, Duration::from_secs(1)));
        let (first, second) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        assert_eq!(turns.under_way(), 2);
        let waiting: Vec<_> = (0..2 * WAITING_PER_TURN)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move { turns.take().await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        let begin = tokio::time::Instant::now();
        assert!(turns.take().await.is_none());
        assert_eq!(begin.elapsed(), Duration::ZERO);
        drop(first);
        let mut served = 0;
        for one in waiting {
            served += usize::from(one.await.unwrap());
        }
        // Each has its turn and is done with it at once, but for the one that stays.
        assert_eq!(served, 2 * WAITING_PER_TURN);
        drop(second);
        let (_first, _second) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        let begin = tokio::time::Instant::now();
        assert!(turns.take().await.is_none());
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
    }
}
