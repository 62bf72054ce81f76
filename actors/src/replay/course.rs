//! How the logs were cut into partitions, one layout after the other.

use shop_domain::kind::Kind;

use shop_nats::log::Logs;

/// The layouts under which logs were written, from the first one that is read to the one in force. Of each kind, and
/// each of them, there is which log that was; [`shop_nats::log::Identity::first_sequence`] is where it begins to count.
#[derive(Clone, Debug)]
pub struct Course(Vec<Logs>);

/// Which of the layouts of a course: they are numbered from 0.
pub type Layout = usize;

/// Logs that are read under one layout alone.
impl From<Logs> for Course {
    fn from(logs: Logs) -> Self {
        Self(vec![logs])
    }
}

impl Course {
    /// These layouts, of which there is at least one.
    pub fn new(layouts: Vec<Logs>) -> Self {
        assert!(!layouts.is_empty(), "some layout is in force");
        Self(layouts)
    }

    /// Another one comes into force.
    pub(super) fn go_on(&mut self, logs: Logs) {
        self.0.push(logs);
    }

    /// All of them, one after the other.
    pub fn layouts(&self) -> &[Logs] {
        &self.0
    }

    /// Which logs there are under one of them.
    pub fn logs(&self, layout: Layout) -> &Logs {
        &self.0[layout]
    }

    /// The one in force.
    pub(super) fn last(&self) -> Layout {
        self.0.len() - 1
    }

    /// The one under which a sequence of a kind's log counts.
    pub(super) fn at(&self, kind: Kind, sequence: u64) -> Layout {
        let begins = |logs: &Logs| logs.get(&kind).is_some_and(|log| log.first_sequence <= sequence);
        self.0.iter().rposition(begins).unwrap_or(0)
    }
}
