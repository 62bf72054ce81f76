//! File systems of other machines, where no database may be: a lock there may be given to two, a file that was renamed
//! may be seen under its old name, and what was synced may be lost with the connection.

use std::{io, path::Path};

/// What `statfs` says of file systems that are on another machine, from linux/magic.h and the file systems themselves.
const REMOTE: [(u64, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
];

/// The name of the file system that a folder is on, if that is one of another machine.
#[cfg(target_os = "linux")]
pub(super) fn file_system_of(folder: &Path) -> io::Result<Option<&'static str>> {
    Ok(remote(rustix::fs::statfs(folder)?.f_type as u64))
}

/// Other systems do not say it as a number.
#[cfg(not(target_os = "linux"))]
pub(super) fn file_system_of(folder: &Path) -> io::Result<Option<&'static str>> {
    folder.metadata().map(|_| None)
}

/// Some machines say the type as a number with a sign, which repeats its highest bit above the 32 that count.
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "only Linux says the type of a file system as a number")
)]
fn remote(kind: u64) -> Option<&'static str> {
    let known = REMOTE.iter().find(|(remote, _)| *remote == kind & 0xffff_ffff);
    known.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_another_machine_is_told_from_a_disk() {
        // nfs, smb2 as a 64-bit and as a signed number; ext4, xfs, tmpfs, overlayfs.
        assert_eq!([0x6969, 0xfe53_4d42, 0xffff_ffff_fe53_4d42].map(remote), [Some("NFS"), Some("SMB"), Some("SMB")]);
        assert_eq!([0xef53, 0x5846_5342, 0x0102_1994, 0x794c_7630].map(remote), [None; 4]);
        assert_eq!(file_system_of(&std::env::temp_dir()).unwrap(), None);
    }
}
