//! What a standby keeps of what it would have sent, until the log itself tells it that the logs have it.

use std::collections::VecDeque;

use shop_domain::entity::Reply;
use tokio::time::Instant;

use crate::partition::outbox::Numbered;

/// Most messages and answers of one partition that are kept: those of several seconds, where one takes thousands of
/// orders per second, and some 10 MB.
const KEPT_MAX: usize = 16_384;

/// Rounds that were applied, and of which it is not known that all that follows is in the logs; oldest first.
#[derive(Debug, Default)]
pub struct Backlog {
    rounds: VecDeque<Kept>,
    /// How many messages and answers those are.
    count: usize,
}

#[derive(Debug)]
struct Kept {
    /// The sequence up to which it applied.
    cursor: u64,
    since: Instant,
    messages: Vec<Numbered>,
    replies: Vec<Reply>,
}

impl Backlog {
    /// Keeps what follows from a round that applied up to `cursor`.
    pub fn keep(&mut self, cursor: u64, messages: Vec<Numbered>, replies: Vec<Reply>) {
        let count = messages.len() + replies.len();
        if count > 0 {
            self.count += count;
            self.rounds.push_back(Kept { cursor, since: Instant::now(), messages, replies });
        }
    }

    /// Lets go of what is in the logs: all that follows up to the sequence `proven`.
    pub fn forget(&mut self, proven: u64) {
        while let Some(round) = self.rounds.pop_front_if(|round| round.cursor <= proven) {
            self.count -= round.messages.len() + round.replies.len();
        }
    }

    /// All of it, in its order.
    pub fn take(&mut self) -> (Vec<Numbered>, Vec<Reply>) {
        let (mut messages, mut replies) = (vec![], vec![]);
        for round in std::mem::take(self).rounds {
            messages.extend(round.messages);
            replies.extend(round.replies);
        }
        (messages, replies)
    }

    /// Since when the oldest round is kept; none if nothing is.
    pub fn since(&self) -> Option<Instant> {
        self.rounds.front().map(|round| round.since)
    }

    /// Whether nothing is kept of what follows from the log up to `cursor`.
    pub fn is_clear_to(&self, cursor: u64) -> bool {
        self.rounds.front().is_none_or(|round| round.cursor > cursor)
    }

    /// Whether nothing more should be kept.
    pub const fn is_full(&self) -> bool {
        self.count >= KEPT_MAX
    }

    /// How many messages and answers are kept.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is kept.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}
