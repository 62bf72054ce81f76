//! Planted faults: each patch beside this file breaks one rule, and the simulation has to find it; or the test that
//! the patch's second line names, for what the simulation has not: processes, and what they say to each other.
//! A simulation that finds nothing proves something only if it finds what is there.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, DirEntry},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{process::Command, time::timeout};

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What is not part of it: what was built, what a shop keeps, what git keeps.
const NOT_COPIED: [&str; 3] = ["target", ".shop", ".git"];
/// How long one run may take, of which that of the simulation takes a good half minute: a fault may make it wait for ever.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// How the second line of a patch begins that says which test of `shop-tests` finds its fault: a target and a filter.
const FOUND_BY: &str = "Found by: ";

/// A planted fault.
struct Mutant {
    name: String,
    /// What is broken, the patch's first line.
    sentence: String,
    finder: Finder,
    patch: PathBuf,
}

/// What has to find a fault.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Finder {
    /// A test target of this package.
    target: String,
    /// The part of its tests that is run; all, if there is none.
    filter: Option<String>,
}

impl Finder {
    fn simulation() -> Self {
        Self { target: "simulation".into(), filter: None }
    }

    /// The one that a patch names.
    fn of(patch: &str) -> Self {
        let named = patch.lines().nth(1).and_then(|line| line.strip_prefix(FOUND_BY)?.split_once(' '));
        named.map_or_else(Self::simulation, |(target, filter)| Self {
            target: target.into(),
            filter: Some(filter.into()),
        })
    }
}

#[tokio::test]
async fn every_fault_can_still_be_planted() {
    let folder = tempfile::tempdir().expect("a folder is made");
    copy(Path::new(ROOT), folder.path());
    let mutants = mutants();
    assert!(!mutants.is_empty());
    for Mutant { name, sentence, patch, .. } in &mutants {
        assert!(sentence.ends_with('.'), "{name} does not say what it breaks");
        apply(folder.path(), patch, &["--check"]).await;
    }
}

#[tokio::test]
#[ignore = "builds and runs the simulation, or another test, once for every patch, half an hour; `just mutants`"]
async fn every_planted_fault_is_found() {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
    // Left over by a run that was ended.
    let _ = fs::remove_dir_all(&tree);
    copy(Path::new(ROOT), &tree);
    let only = env::var("SHOP_MUTANT").unwrap_or_default();
    let mutants: Vec<_> = mutants().into_iter().filter(|mutant| mutant.name.contains(&only)).collect();
    for finder in mutants.iter().map(|mutant| &mutant.finder).collect::<BTreeSet<_>>() {
        let Finding { how, failed, .. } = find(&tree, finder).await.expect("it compiles as it is");
        assert!(!failed, "without any fault {} finds something: {how}", finder.target);
    }
    let mut missed = vec![];
    println!("\n{:<48} {:>6} {:>8}   found by", "planted fault", "runs", "seconds");
    for Mutant { name, patch, finder, .. } in mutants {
        apply(&tree, &patch, &[]).await;
        match find(&tree, &finder).await {
            Ok(Finding { failed, how, runs, seconds }) => {
                println!("{name:<48} {runs:>6} {seconds:>8.1}   {how}");
                missed.extend((!failed).then_some(name));
            }
            Err(compiler) => {
                println!("{name:<48} does not compile:\n{compiler}");
                missed.push(name);
            }
        }
        apply(&tree, &patch, &["--reverse"]).await;
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// What a test has come to.
struct Finding {
    failed: bool,
    /// The seed or case that failed.
    how: String,
    runs: u64,
    seconds: f64,
}

/// Builds a test of a tree and runs it. The error is the compiler's.
async fn find(tree: &Path, finder: &Finder) -> Result<Finding, String> {
    let program = build(tree, &finder.target).await?;
    let start = Instant::now();
    let mut run = Command::new(program);
    run.args(&finder.filter);
    run.current_dir(tree.join("tests")).stdin(Stdio::null()).kill_on_drop(true);
    let Ok(output) = timeout(RUN_LIMIT, run.output()).await else {
        return Ok(Finding { failed: true, how: "it does not end".into(), runs: 0, seconds: RUN_LIMIT.as_secs_f64() });
    };
    let output = output.expect("the simulation runs");
    let seconds = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let found = text.lines().filter_map(finding).min_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let failed = !output.status.success();
    Ok(found.filter(|_| failed).unwrap_or_else(|| {
        let tests: Vec<_> = text.lines().filter(|line| line.ends_with("... FAILED")).collect();
        let how = if failed { tests.join(", ") } else { "nothing found".into() };
        Finding { failed, how, runs: 0, seconds }
    }))
}

/// Reads the line with which the simulation says what it found.
fn finding(line: &str) -> Option<Finding> {
    let (how, rest) = line.strip_prefix("found by ")?.split_once(" after ")?;
    let (runs, rest) = rest.split_once(" runs in ")?;
    let (seconds, _) = rest.split_once(" s;")?;
    Some(Finding { failed: true, how: how.into(), runs: runs.parse().ok()?, seconds: seconds.parse().ok()? })
}

/// The test as a program, or what the compiler says.
async fn build(tree: &Path, target: &str) -> Result<PathBuf, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg("test").args(["--message-format", "json-render-diagnostics"]);
    cargo.args(["--test", target, "--no-run"]);
    // What the cargo around this test says about this test is not true of that one.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO")) {
        if name != "CARGO_HOME" && name != "CARGO_NET_OFFLINE" {
            cargo.env_remove(name);
        }
    }
    // Not where this test was built: the crates have the same names there.
    cargo.current_dir(tree).env("CARGO_TARGET_DIR", tree.with_extension("target"));
    let output = cargo.stdin(Stdio::null()).output().await.expect("cargo runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let messages = String::from_utf8(output.stdout).expect("cargo writes JSON");
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == target).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    Ok(programs.next().expect("cargo names what it built"))
}

/// Applies a patch, in a folder that belongs to no repository.
async fn apply(tree: &Path, patch: &Path, options: &[&str]) {
    let tree = tree.canonicalize().expect("the folder is there");
    let mut git = Command::new("git");
    git.arg("apply").args(options).arg(patch).current_dir(&tree);
    // Else a repository around the folder would be looked for the files.
    git.env("GIT_CEILING_DIRECTORIES", tree.parent().expect("it lies in another")).env_remove("GIT_DIR");
    let output = git.stdin(Stdio::null()).output().await.expect("git runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} does not apply: {text}", patch.display());
}

fn mutants() -> Vec<Mutant> {
    let folder = Path::new(ROOT).join("tests/mutants").canonicalize().expect("the patches lie there");
    let mut patches: Vec<_> = fs::read_dir(folder).expect("it can be read").filter_map(patch).collect();
    patches.sort();
    let mutant = |patch: PathBuf| {
        let text = fs::read_to_string(&patch).expect("a patch is text");
        let name = patch.file_stem().expect("a patch has a name").to_string_lossy().into_owned();
        Mutant { name, sentence: text.lines().next().unwrap_or_default().into(), finder: Finder::of(&text), patch }
    };
    patches.into_iter().map(mutant).collect()
}

fn patch(entry: io::Result<DirEntry>) -> Option<PathBuf> {
    let path = entry.expect("it can be read").path();
    path.extension().is_some_and(|extension| extension == "patch").then_some(path)
}

/// Copies a folder with all in it that is part of the workspace.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder is made");
    for entry in fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let (name, kind) = (entry.file_name(), entry.file_type().expect("it has a type"));
        if NOT_COPIED.iter().any(|left| name == *left) {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name)).expect("it is copied");
        }
    }
}
