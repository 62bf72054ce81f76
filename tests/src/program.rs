//! The program `shop`, built once per test run by the cargo that runs the tests, with the
//! tests' own profile and into their own target folder.

use std::{
    env::consts::EXE_SUFFIX,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The built program.
pub fn path() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built_as(&profile())).clone()
}

/// The program as another profile has it, built.
pub fn built_as(profile: &str) -> PathBuf {
    build(profile, &["--bin", "shop"]).join(format!("shop{EXE_SUFFIX}"))
}

/// One of the examples, built.
pub fn example(name: &str) -> PathBuf {
    build(&profile(), &["--example", name]).join("examples").join(format!("{name}{EXE_SUFFIX}"))
}

/// Builds it, and returns the folder that it is in. Of all packages, so that it is the one that `cargo run` has built.
fn build(profile: &str, what: &[&str]) -> PathBuf {
    let folder = folder();
    let target = folder.parent().expect("a profile's folder lies in the target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO")));
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--workspace", "--profile", profile]).args(what);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // Only the target folder itself has this file.
    if target.join("CACHEDIR.TAG").exists() {
        build.arg("--target-dir").arg(target);
    } else {
        build.arg("--target-dir").arg(target.join(".."));
        build.arg("--target").arg(target.file_name().expect("a triple"));
    }
    // What cargo says about this crate is not true of the others; some build scripts look at it
    // and would be run, and everything above them built, each time anew.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_this_crate(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    let status = build.status().unwrap_or_else(|error| panic!("cannot run {build:?}: {error}"));
    assert!(status.success(), "the program cannot be built ({status}): {build:?}");
    target.join(if profile == "dev" { "debug" } else { profile })
}

/// The profile by which this test was built.
fn profile() -> String {
    match folder().file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev".to_owned(),
        Some(name) => name.to_owned(),
    }
}

/// The folder of that: target/[<triple>/]<profile>. This test is in its folder deps, and an example in examples.
fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    test.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps").to_owned()
}

fn is_about_this_crate(variable: &str) -> bool {
    const ONES: [&str; 5] =
        ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"];
    ONES.contains(&variable) || ["CARGO_PKG_", "CARGO_BIN_"].iter().any(|prefix| variable.starts_with(prefix))
}
