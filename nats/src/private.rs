//! Files and folders that only their owner may look into: seeds, and all that a shop keeps.
//!
//! `shop` itself lets no file that it makes be open to others, whatever the shell's umask is; these functions say so
//! once more where something is made that must not depend on it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// All that anybody but its owner could do with a file.
const OF_OTHERS: u32 = 0o077;
/// That its group may read it.
const READABLE_BY_GROUP: u32 = 0o040;
/// The user who owns what administrators hand out.
const ROOT: u32 = 0;
/// That others could change it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The permissions of a file or folder, if others than its owner have any.
pub fn open_to_others(path: &Path) -> io::Result<Option<u32>> {
    Ok(Some(mode(path)?).filter(|mode| mode & OF_OTHERS != 0))
}

/// The permissions of a file with a secret, if others may read it for whom it is not meant. A file of root's may be
/// readable by its group: that is how an administrator, or Kubernetes with `fsGroup`, hands a secret to a program.
pub fn secret_open_to_others(path: &Path) -> io::Result<Option<u32>> {
    let metadata = fs::metadata(path)?;
    let (mode, is_mine) = (metadata.mode() & 0o777, metadata.uid() == rustix::process::geteuid().as_raw());
    Ok(Some(mode).filter(|mode| mode & secret_closed_to(metadata.uid(), is_mine) != 0))
}

/// What nobody may do with a file with a secret, by its owner.
fn secret_closed_to(owner: u32, is_mine: bool) -> u32 {
    if owner == ROOT && !is_mine { OF_OTHERS & !READABLE_BY_GROUP } else { OF_OTHERS }
}

/// The permissions of a file or folder, if others than its owner could change it.
pub fn writable_by_others(path: &Path) -> io::Result<Option<u32>> {
    Ok(Some(mode(path)?).filter(|mode| mode & WRITABLE_BY_OTHERS != 0))
}

/// Makes a folder, and those above it that are not there; one that is there stays as it is.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The same of one with a shop's data in it: of a folder that was there already it is said if others may look into it.
pub fn make_data_folder(folder: &Path) -> io::Result<()> {
    make_folder(folder)?;
    if let Some(mode) = open_to_others(folder)? {
        let folder = folder.display();
        tracing::warn!(
            "{folder} is open to others than its owner (its mode is {mode:03o}), and what customers have and order is in \
             it; close it: chmod 700 {folder}"
        );
    }
    Ok(())
}

/// Opens a new file, or an old one, which is closed to others and emptied.
pub fn make_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_here_is_its_owners_alone() {
        let place = std::env::temp_dir().join(format!("private-{}", uuid::Uuid::new_v4().simple()));
        let folder = place.join("a/b");
        make_folder(&folder).unwrap();
        let file = folder.join("file");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!((open_to_others(&file).unwrap(), writable_by_others(&file).unwrap()), (Some(0o666), Some(0o666)));
        drop(make_file(&file).unwrap());
        make_folder(&folder).unwrap();
        for (path, expected) in [(&*place, 0o700), (&*place.join("a"), 0o700), (&*folder, 0o700), (&*file, 0o600)] {
            assert_eq!(mode(path).unwrap(), expected, "{}", path.display());
            assert_eq!(open_to_others(path).unwrap(), None, "{}", path.display());
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!((open_to_others(&file).unwrap(), writable_by_others(&file).unwrap()), (Some(0o644), None));
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_secret_of_roots_may_be_handed_out_by_its_group_and_any_other_to_nobody() {
        let (me, root) = (65_532, 0);
        let is_open = |owner, is_mine, mode: u32| mode & secret_closed_to(owner, is_mine) != 0;
        for mode in [0o400, 0o440, 0o640, 0o600] {
            assert!(!is_open(root, false, mode), "{mode:o}");
        }
        for mode in [0o444, 0o460, 0o450, 0o604, 0o444] {
            assert!(is_open(root, false, mode), "{mode:o}");
        }
        for mode in [0o440, 0o640, 0o644, 0o420] {
            assert!(is_open(me, true, mode) && is_open(root, true, mode) && is_open(1000, false, mode), "{mode:o}");
        }
        for mode in [0o400, 0o600] {
            assert!(!is_open(me, true, mode) && !is_open(root, true, mode), "{mode:o}");
        }
    }
}
