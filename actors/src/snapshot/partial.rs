//! What is left in a folder of snapshots that a host was writing when it was killed.
//!
//! A folder has no uploads that the object store would know of: a snapshot on its way is a file beside its place,
//! whose name ends with a number sign and a number, and which is never listed (`LocalFileSystem` of object_store).

use std::{
    fs,
    io::{self, ErrorKind::NotFound},
    path::Path,
    time::Duration,
};

/// Nobody is writing any more what was not written to for so long: that goes on at 16 MB/s, and clocks of machines that
/// share a folder may differ by some minutes.
const ABANDONED: Duration = Duration::from_hours(1);

/// Removes from a folder what was left half written.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_half) {
            continue;
        }
        match remove_abandoned(&entry.path()) {
            // Its host has ended it, or another one that sweeps was faster.
            Err(error) if error.kind() == NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

fn remove_abandoned(half: &Path) -> io::Result<()> {
    if fs::metadata(half)?.modified()?.elapsed().unwrap_or_default() >= ABANDONED {
        fs::remove_file(half)?;
        tracing::info!("removed {}, which was left half written", half.display());
    }
    Ok(())
}

fn is_half(name: &str) -> bool {
    let number = name.split_once(".snapshot#").map_or("", |(_, number)| number);
    !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::SystemTime};

    use super::*;

    #[test]
    fn what_was_left_half_written_is_removed_once_nobody_can_be_writing_it() {
        let folder = tempfile::tempdir().unwrap();
        let hours_ago = |hours| SystemTime::now() - Duration::from_hours(hours);
        let files = ["1-1.snapshot", "1-1.snapshot#1", "2-2.snapshot#17", "3-3.snapshot#1", "3-3.snapshot#mine"];
        for (name, hours) in files.into_iter().zip([9, 2, 9, 0, 9]) {
            File::create(folder.path().join(name)).unwrap().set_modified(hours_ago(hours)).unwrap();
        }
        sweep(folder.path()).unwrap();
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["1-1.snapshot", "3-3.snapshot#1", "3-3.snapshot#mine"]);
        sweep(&folder.path().join("nothing")).unwrap();
    }
}
