//! What the pages beside the code say, held against the code: what they say to type at the `nats` command is typed,
//! where they link to is something, the tests that they name are there, and the figures are those that were measured.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Component, Path, PathBuf},
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
/// The pages with lines for the `nats` command.
const NATS_PAGES: [&str; 2] = ["README.md", "nats/README.md"];
/// Where pages and tests are not looked for.
const NOT_LOOKED_AT: [&str; 3] = ["target", ".shop", ".git"];
/// As many lines as are read in one sitting.
const README_LINES_MAX: usize = 200;
/// As many lines of output as a reader looks at. Whole outputs are in files beside the tests.
const BLOCK_LINES_MAX: usize = 12;

#[tokio::test]
async fn every_nats_command_of_the_pages_works_as_it_is_written() {
    let Some(nats) = nats_command().await else {
        // Not through `eprintln!`, which is kept from sight when a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no nats command, so the pages' are not tried");
        return;
    };
    let folder = Folder::new();
    let shop = Shop::start(Options::for_test(folder.path().join("shop"))).await.unwrap();
    for page in NATS_PAGES {
        let text = read(page);
        let steps = steps_in(&text);
        assert!(steps.iter().any(|step| step.is_request()), "{page} shows no `nats req`");
        for step in &steps {
            let output = run(step, &nats, &shop.nats_url(), folder.path()).await;
            step.check(&output);
        }
    }
    shop.stop().await.unwrap();
}

#[test]
fn the_figures_are_those_of_the_run_that_is_kept() {
    let shown = format!("```text\n{}\n```", read("tests/bench/results/shop.txt").trim_end());
    let page = "tests/bench/README.md";
    assert!(read(page).contains(&shown), "{page} does not show tests/bench/results/shop.txt as it is");
}

#[test]
fn the_readme_is_read_in_one_sitting() {
    assert!(read("README.md").lines().count() <= README_LINES_MAX);
    for page in pages().into_iter().filter(|page| !page.starts_with("tests")) {
        let text = read(&page);
        let longest = blocks_of(&text).into_iter().max_by_key(Vec::len).unwrap_or_default();
        assert!(
            longest.len() <= BLOCK_LINES_MAX,
            "{}: a block of {} lines: {longest:#?}",
            page.display(),
            longest.len()
        );
    }
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    for page in pages() {
        for link in links_of(&read(&page)) {
            let (path, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if path.is_empty() { page.clone() } else { beside(&page, path) };
            let whole = Path::new(ROOT).join(&target);
            assert!(whole.exists(), "{}: there is no {link}", page.display());
            let is_there = anchor.is_empty() || anchors_of(&read(&target)).contains(anchor);
            assert!(is_there, "{}: {} has no such heading as {link}", page.display(), target.display());
        }
    }
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let mut sources = vec![];
    files(Path::new(""), "rs", &mut sources);
    let tests: BTreeSet<_> = sources.iter().flat_map(|source| functions_of(&read(source))).collect();
    let mut named = 0;
    for page in pages() {
        for name in test_names_of(&read(&page)) {
            assert!(tests.contains(&name), "{}: there is no test {name}", page.display());
            named += 1;
        }
    }
    assert!(named > 50, "the pages name {named} tests only");
}

fn read(path: impl AsRef<Path>) -> String {
    let whole = Path::new(ROOT).join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{} cannot be read: {error}", whole.display()))
}

/// Every page, as a path from the root.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![];
    files(Path::new(""), "md", &mut pages);
    assert!(pages.iter().any(|page| page == Path::new("README.md")));
    pages
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).expect("a folder can be listed") {
        let entry = entry.expect("an entry can be read");
        let path = folder.join(entry.file_name());
        if entry.file_type().expect("a type can be read").is_dir() {
            if !NOT_LOOKED_AT.iter().any(|name| entry.file_name() == *name) {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
}

/// Where a link leads from a page, as a path from the root.
fn beside(page: &Path, link: &str) -> PathBuf {
    let mut target = page.parent().expect("a page lies in a folder").to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => assert!(target.pop(), "{}: {link} leads out", page.display()),
            Component::Normal(name) => target.push(name),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    target
}

/// The lines of each fenced block.
fn blocks_of(page: &str) -> Vec<Vec<&str>> {
    let mut blocks = vec![];
    let mut block: Option<Vec<&str>> = None;
    for line in page.lines() {
        match (&mut block, line.starts_with("```")) {
            (Some(_), true) => blocks.extend(block.take()),
            (None, true) => block = Some(vec![]),
            (Some(lines), false) => lines.push(line),
            (None, false) => {}
        }
    }
    assert!(block.is_none(), "a block has no end");
    blocks
}

/// What is no block.
fn prose_of(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// The links to files, without those to other sites.
fn links_of(page: &str) -> Vec<String> {
    let prose = prose_of(page);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(ToOwned::to_owned).collect()
}

/// The anchors of the headings, as they are made where pages are shown.
fn anchors_of(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
    };
    headings.map(anchor).collect()
}

/// What stands in backticks and reads like the name of a test: a sentence of five words or more, and no metric.
fn test_names_of(page: &str) -> Vec<String> {
    let prose = prose_of(page);
    let is_name = |text: &&str| {
        let is_plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        is_plain && text.matches('_').count() >= 4 && !text.starts_with("shop_")
    };
    prose.split('`').skip(1).step_by(2).filter(is_name).map(ToOwned::to_owned).collect()
}

fn functions_of(source: &str) -> Vec<String> {
    let names = source.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
    names.map(ToOwned::to_owned).collect()
}

/// A line to type, and whether the page says that the shop refuses it.
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
fn steps_in(page: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let (mut in_block, mut before) = (false, "");
    for line in page.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && line.starts_with("nats ") {
            steps.push(Step { line, is_refused: before.starts_with('#') && before.contains("refused") });
        }
        before = line;
    }
    assert!(!in_block, "a block has no end");
    steps
}

/// Types a line, as a reader does who has only the page.
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
