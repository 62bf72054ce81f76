//! Whether an operator wants what a tool has said that it will do.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Args;

use super::{Out, no, say};

/// How to go about something that cannot be taken back.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Consent {
    /// Do it without asking.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Say what would be done, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Consent {
    /// Asks whoever sits there, unless that was said already. If it is not to be done, returns how to exit.
    pub(super) fn ask(self, out: &mut Out) -> io::Result<Option<ExitCode>> {
        out.flush()?;
        if self.dry_run {
            say(&"nothing was written");
            return Ok(Some(ExitCode::SUCCESS));
        }
        if self.yes {
            return Ok(None);
        }
        if !io::stdin().is_terminal() {
            return Ok(Some(no("nothing was written: say --yes to do it")));
        }
        eprint!("Do it? (yes/no) ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(match answer.trim() {
            "yes" => None,
            _ => Some(no("nothing was written")),
        })
    }
}
