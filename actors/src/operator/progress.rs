//! How far a long work is, for whoever watches: a bar on standard error, if that is a terminal.

use std::{
    fmt,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::replay::merged_log::MergedLog;

/// What takes less than this is done before a bar could be read.
const SHORT: Duration = Duration::from_millis(300);
const STYLE: &str = "{msg:<21} [{bar:30}] {percent:>3}%  {human_pos} of {human_len}, {rate}, {eta} left";

/// A bar, which goes when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    since: Instant,
    is_shown: bool,
}

impl Progress {
    /// So many steps of this are to be done.
    pub(super) fn new(what: &'static str, steps: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::hidden()).with_message(what);
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            // What cannot be drawn is left out.
            let _ = write!(text, "{:.0} per second", state.per_sec());
        };
        let style = ProgressStyle::with_template(STYLE).expect("the template is right");
        bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        Self { bar, since: Instant::now(), is_shown: false }
    }

    /// All records of a merged log are to be read.
    pub(super) fn of(merged_log: &MergedLog) -> Self {
        Self::new("reading the logs", merged_log.remaining())
    }

    /// One more step is done.
    pub(super) fn step(&mut self) {
        self.steps(1);
    }

    /// So many more steps are done.
    pub(super) fn steps(&mut self, steps: u64) {
        if !self.is_shown && self.since.elapsed() >= SHORT {
            self.is_shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
