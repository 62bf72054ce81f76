//! What was survived, as a table.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    counter::Figures,
    faults::{Fault, Skipped, Survived},
};

/// One line for each fault.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<Fault, Row>,
    pub(crate) kills: u64,
    pub(crate) dead_letters: u64,
}

#[derive(Debug, Default)]
struct Row {
    times: u64,
    longest_pause: Duration,
    answered: u64,
    /// By name, how often it was started again.
    restarted: BTreeMap<String, u64>,
    skipped: Option<String>,
}

impl Table {
    /// A fault struck between these figures.
    pub(crate) fn enter(&mut self, fault: Fault, outcome: Result<Survived, Skipped>, before: Figures, after: Figures) {
        let row = self.rows.entry(fault).or_default();
        match outcome {
            Err(Skipped(why)) => row.skipped = Some(why),
            Ok(Survived { kills, restarted, dead_letters }) => {
                row.times += 1;
                row.longest_pause = row.longest_pause.max(after.longest_pause);
                row.answered += after.answered - before.answered;
                for name in restarted {
                    *row.restarted.entry(name).or_default() += 1;
                }
                self.kills += kills;
                self.dead_letters += dead_letters;
            }
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.rows.keys().map(|fault| fault.name().len()).max().unwrap_or_default();
        writeln!(f, "{:wide$}  times  longest time without  requests  result", "fault")?;
        writeln!(f, "{:wide$}         an order (s)          answered", "")?;
        for (fault, row) in &self.rows {
            let Row { times, longest_pause, answered, .. } = row;
            let (name, pause) = (fault.name(), longest_pause.as_secs_f64());
            writeln!(f, "{name:wide$}  {times:>5}  {pause:>20.1}  {answered:>8}  {}", row.result())?;
        }
        Ok(())
    }
}

impl Row {
    fn result(&self) -> String {
        if let Some(why) = &self.skipped {
            return format!("SKIPPED: {why}");
        }
        let restarted: Vec<_> = self.restarted.iter().map(|(name, times)| format!("{name} ×{times}")).collect();
        if restarted.is_empty() { "ok".to_owned() } else { format!("ok, started again: {}", restarted.join(", ")) }
    }
}
