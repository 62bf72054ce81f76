//! File systems of other machines, where no database may be: a lock there may be given to two, a file that was renamed
//! may be seen under its old name, and what was synced may be lost with the connection.

#[cfg(target_os = "linux")]
use std::{fs, os::unix::fs::MetadataExt};
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
/// What `statfs` says of every file system that a program serves (FUSE), of this machine or of another one.
#[cfg(target_os = "linux")]
const FUSE: u64 = 0x6573_5546;
/// Programs that serve what is on another machine, as they are called in the list of mounts.
const REMOTE_FUSE: [(&str, &str); 14] = [
    ("nfs", "NFS"),
    ("sshfs", "SSHFS"),
    ("glusterfs", "GlusterFS"),
    ("ceph-fuse", "Ceph"),
    ("juicefs", "JuiceFS"),
    ("seaweedfs", "SeaweedFS"),
    ("davfs2", "WebDAV"),
    ("rclone", "a bucket (rclone)"),
    ("s3fs", "a bucket (s3fs)"),
    ("mountpoint-s3", "a bucket (mountpoint-s3)"),
    ("gcsfuse", "a bucket (gcsfuse)"),
    ("geesefs", "a bucket (geesefs)"),
    ("blobfuse", "a bucket (blobfuse)"),
    ("blobfuse2", "a bucket (blobfuse2)"),
];

/// The name of the file system that a folder is on, if that is one of another machine.
#[cfg(target_os = "linux")]
pub(super) fn file_system_of(folder: &Path) -> io::Result<Option<&'static str>> {
    let kind = rustix::fs::statfs(folder)?.f_type as u64;
    if kind & 0xffff_ffff != FUSE {
        return Ok(remote(kind));
    }
    let device = folder.metadata()?.dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // Where a machine hides the list there is nothing to go by, which is no reason not to start.
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    Ok(String::from_utf8_lossy(&mounts).lines().find_map(|mount| remote_fuse(mount, &device)))
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

/// What is behind a line of the list of mounts (proc(5)), if that is the device and on another machine: programs say
/// what they are in the type, as in `fuse.sshfs`, or as the source.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has this list"))]
fn remote_fuse(mount: &str, device: &str) -> Option<&'static str> {
    let (place, what) = mount.split_once(" - ")?;
    if place.split(' ').nth(2) != Some(device) {
        return None;
    }
    let mut what = what.split(' ');
    let (kind, source) = (what.next()?, what.next()?);
    let program = if kind == "fuse" { source } else { kind.strip_prefix("fuse.")? };
    REMOTE_FUSE.iter().find(|(known, _)| *known == program).map(|(_, name)| *name)
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

    #[test]
    fn a_file_system_that_a_program_serves_is_remote_if_the_program_brings_it_from_elsewhere() {
        let of =
            |what: &str| remote_fuse(&format!("61 40 0:52 / /data rw,nosuid shared:9 - {what} rw,user_id=0"), "0:52");
        assert_eq!(of("fuse.nfs nfs"), Some("NFS"));
        assert_eq!(of("fuse.sshfs shop@machine:/data"), Some("SSHFS"));
        assert_eq!(of("fuse blobfuse2"), Some("a bucket (blobfuse2)"));
        // Encrypted folders and layers of containers, disks of virtual machines, and a disk that is called like a program.
        for local in
            ["fuse.gocryptfs /crypt", "fuse.fuse-overlayfs fuse-overlayfs", "virtiofs data", "fuse.ntfs-3g nfs"]
        {
            assert_eq!(of(local), None, "{local}");
        }
        let elsewhere = "61 40 0:53 / /other rw shared:9 - fuse.nfs nfs rw";
        assert_eq!([elsewhere, "", "0:52 - ", "a b 0:52 - fuse"].map(|mount| remote_fuse(mount, "0:52")), [None; 4]);
    }
}
