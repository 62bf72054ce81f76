//! The page of all commands and their options, `deploy/running/options.md`, made from the command line itself.

use std::{fmt::Write, fs, path::Path};

use clap::{Arg, Command, CommandFactory};

use crate::cli::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../running/options.md");

const TOP: &str = "# Commands and options

Made from the command line by a test; `SHOP_WRITE_PAGES=1 cargo test -p shop reference` writes it anew. An option on the
command line wins over the environment, and that over the default. Some pages say more: [configuration](configuration.md).
";

#[test]
fn the_page_of_options_is_what_the_command_line_says() {
    let mut command = Cli::command();
    command.build();
    let mut page = TOP.to_owned();
    describe(&command, "shop", &mut page);
    if std::env::var_os("SHOP_WRITE_PAGES").is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let kept = fs::read_to_string(Path::new(PAGE)).unwrap();
    assert!(kept == page, "{PAGE} is of another time: its first lines say how it is written anew");
}

/// A command, and all that are below it.
fn describe(command: &Command, name: &str, page: &mut String) {
    let arguments: Vec<_> = command.get_arguments().filter(|argument| is_told(argument)).collect();
    // A command that only has others below it.
    if !(arguments.is_empty() && command.has_subcommands()) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(page, "\n## `{name}`\n\n{}\n", sentence(&about)).unwrap();
        if !arguments.is_empty() {
            page.push_str("\n| option | environment | default | |\n|---|---|---|---|\n");
            arguments.into_iter().for_each(|argument| page.push_str(&row(argument)));
        }
    }
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        describe(below, &format!("{name} {}", below.get_name()), page);
    }
}

fn is_told(argument: &Arg) -> bool {
    !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
}

fn row(argument: &Arg) -> String {
    let value =
        argument.get_value_names().filter(|_| argument.get_action().takes_values()).map(|names| names.join(" "));
    let option = match (argument.get_long(), value) {
        (Some(long), Some(value)) => format!("`--{long} <{value}>`"),
        (Some(long), None) => format!("`--{long}`"),
        (None, value) => format!("`<{}>`", value.unwrap_or_default()),
    };
    let environment = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    // What is not one value is told in the help.
    let (help, told) = match help.rsplit_once(" [default: ") {
        Some((help, told)) => (help.to_owned(), told.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let values: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes_value = argument.get_action().takes_values();
    let default = if takes_value && !values.is_empty() { format!("`{}`", values.join(",")) } else { told };
    format!("| {option} | {environment} | {default} | {} |\n", help.replace('|', "\\|").replace('\n', " "))
}

fn sentence(about: &str) -> String {
    if about.ends_with('.') { about.to_owned() } else { format!("{about}.") }
}
