//! A test's own folder. When the test fails, what its processes have said is printed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// How many lines of each file are printed.
const LINES_MAX: usize = 30;

/// A folder that is deleted with its contents, or kept.
#[derive(Debug)]
pub struct Folder(Place);

#[derive(Debug)]
enum Place {
    Deleted(TempDir),
    Kept(PathBuf),
}

impl Folder {
    /// A new, empty folder.
    pub fn new() -> Self {
        Self(Place::Deleted(tempfile::tempdir().expect("there should be room for a folder")))
    }

    /// A folder that is there, and stays.
    pub fn kept(path: &Path) -> Self {
        Self(Place::Kept(path.to_owned()))
    }

    /// A new, empty folder in this one.
    pub fn within(parent: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("shop-").tempdir_in(parent);
        let folder = folder.unwrap_or_else(|error| panic!("cannot make a folder in {}: {error}", parent.display()));
        Self(Place::Deleted(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match &self.0 {
            Place::Deleted(folder) => folder.path(),
            Place::Kept(folder) => folder,
        }
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_outputs(self.path());
            for server in ["nats", "nats-1", "nats-2", "nats-3"] {
                print_outputs(&self.path().join(server));
            }
        }
    }
}

fn print_outputs(folder: &Path) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "stderr" || end == "log")) {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
        eprintln!("the end of {}:\n{end}\n", file.display());
    }
}
