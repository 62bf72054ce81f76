//! `shop completions`: what a shell needs to complete the command line.

use std::{
    io::{ErrorKind, Write, stdout},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use clap_complete::aot::{Bash, Fish, Zsh, generate};

/// For whom.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// Writes the script for this command to standard output.
    pub(crate) fn print(self, command: clap::Command) -> ExitCode {
        match stdout().write_all(&self.script(command)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("shop: cannot write the completions: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn script(&self, mut command: clap::Command) -> Vec<u8> {
        let mut script = vec![];
        match self.shell {
            Shell::Bash => generate(Bash, &mut command, "shop", &mut script),
            Shell::Zsh => generate(Zsh, &mut command, "shop", &mut script),
            Shell::Fish => generate(Fish, &mut command, "shop", &mut script),
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_shell_learns_every_command_and_its_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(Completions { shell }.script(Cli::command())).unwrap();
            for word in ["serve", "bridge", "audit", "requeue", "completions", "nats-port", "leave-ms", "older-than"] {
                assert!(script.contains(word), "{shell:?} does not know {word}");
            }
        }
    }
}
