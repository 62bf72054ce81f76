//! What the README says to type at the `nats` command is typed, in its order.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use shop_local::{Options, Shop};
use shop_tests::folder::Folder;
use tokio::{process::Command, time::timeout};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// How long a command may take; `nats micro ls` waits half a second for more services.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long finding the `nats` command may take: it may have to be built.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

#[tokio::test]
async fn every_nats_command_of_the_readme_works_as_it_is_written() {
    let Some(nats) = nats_command().await else {
        // Not through `eprintln!`, which is kept from sight when a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no nats command, so the README's are not tried");
        return;
    };
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).expect("there should be a README.md");
    let steps = steps_in(&readme);
    assert!(steps.iter().any(|step| step.is_request()), "the README shows no `nats req`");

    let folder = Folder::new();
    let shop = Shop::start(Options::for_test(folder.path().join("shop"))).await.unwrap();
    for step in &steps {
        let output = run(step, &nats, &shop.nats_url(), folder.path()).await;
        step.check(&output);
    }
    shop.stop().await.unwrap();
}

#[test]
fn the_figures_of_the_readme_are_those_of_the_run_that_is_kept() {
    let read = |path: &str| std::fs::read_to_string(Path::new(ROOT).join(path)).expect("it should be there");
    let (readme, table) = (read("README.md"), read("tests/bench/results/shop.txt"));
    let shown = format!("```text\n{}\n```", table.trim_end());
    assert!(readme.contains(&shown), "the README does not show tests/bench/results/shop.txt as it is");
}

/// A line to type, and whether the README says that the shop refuses it.
#[derive(Debug, PartialEq, Eq)]
struct Step<'r> {
    line: &'r str,
    is_refused: bool,
}

impl Step<'_> {
    fn is_request(&self) -> bool {
        self.line.contains(" req ")
    }

    fn check(&self, output: &Output) {
        let (answer, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let all = format!("{self:?} ({}):\n{answer}\n{log}", output.status);
        assert!(output.status.success(), "{all}");
        if self.is_request() {
            assert!(!log.contains("No responders"), "{all}");
            assert!(!answer.trim().is_empty(), "{all}");
            let is_refused = log.contains("Nats-Service-Error") || answer.contains("urn:shop:problem:");
            assert_eq!(is_refused, self.is_refused, "{all}");
        }
    }
}

/// Lines that begin with `nats ` in fenced blocks. A comment right before one says whether it is refused.
fn steps_in(readme: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let (mut in_block, mut before) = (false, "");
    for line in readme.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && line.starts_with("nats ") {
            steps.push(Step { line, is_refused: before.starts_with('#') && before.contains("refused") });
        }
        before = line;
    }
    assert!(!in_block, "a block of the README has no end");
    steps
}

/// Types a line, as someone who has only the README.
async fn run(step: &Step<'_>, nats: &Path, nats_url: &str, home: &Path) -> Output {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = nats.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    let command = Command::new("sh")
        .args(["-c", step.line])
        .env("PATH", std::env::join_paths(folders).expect("a PATH that was split can be joined"))
        .env("NATS_URL", nats_url)
        // Not with what this machine's user has set up for other servers.
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env_remove("NATS_CONTEXT")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(COMMAND_LIMIT, command).await;
    output.unwrap_or_else(|_| panic!("{step:?} takes longer than {COMMAND_LIMIT:?}")).unwrap()
}

/// The official command line tool, if there is one or it can be built.
async fn nats_command() -> Option<PathBuf> {
    let script = Path::new(ROOT).join("nats/install-cli.sh");
    let install = Command::new("sh").arg(script).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(INSTALL_LIMIT, install).await.ok()?.ok().filter(|output| output.status.success())?;
    let path = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(path.trim()))
}

#[test]
fn steps_are_lines_of_blocks_in_their_order() {
    let readme = "
nats in prose is no step
```sh
export NATS_URL=nats://127.0.0.1:4222
nats req a ''   # plain
# refused: there is none left
nats req b ''
nats micro ls
```
nats between blocks is none either
```console
$ nats is somebody's prompt
# not allowed
nats pub c ''
```
";
    let step = |line, is_refused| Step { line, is_refused };
    let expected = [
        step("nats req a ''   # plain", false),
        step("nats req b ''", true),
        step("nats micro ls", false),
        step("nats pub c ''", false),
    ];
    assert_eq!(steps_in(readme), expected);
}
