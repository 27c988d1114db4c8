//! The data directory: there, writable, on a file system that SQLite can trust, with room.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs, statvfs};

use super::{Finding, size};

/// With less free space than this, in bytes, Jobber can't work.
const LEAST: u64 = 64 << 20;
/// Less free space than this, in bytes, is worth a warning.
const LITTLE: u64 = 1 << 30;

/// What a file system is to SQLite's log, which needs memory shared between processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network(&'static str),
    Memory,
    Layer,
    Local,
}

/// Judges the directory itself, its file system, and its free space.
pub(super) fn data_directory(dir: &Path) -> Vec<Finding> {
    const CHECK: &str = "data directory";
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let place = nearest(&dir);
    let shown = dir.display();
    let itself = match fs_err::metadata(&place) {
        Err(error) => Finding::failed(CHECK, error.to_string(), "choose another with --data-dir or data_dir"),
        Ok(meta) if !meta.is_dir() => Finding::failed(
            CHECK,
            format!("{} is not a directory", place.display()),
            "choose another with --data-dir or data_dir",
        ),
        Ok(_) if access(&place, Access::WRITE_OK | Access::EXEC_OK).is_err() => Finding::failed(
            CHECK,
            format!("user {} may not write to {}", rustix::process::geteuid().as_raw(), place.display()),
            format!("run as its owner, or give it away: chown jobber {}", place.display()),
        ),
        Ok(meta) if rustix::process::geteuid().is_root() && meta.uid() != 0 => Finding::warning(
            CHECK,
            format!("{shown} belongs to user {}, and this was checked as root, who may do anything", meta.uid()),
            format!("check again as its owner: sudo -u '#{}' jobber doctor", meta.uid()),
        ),
        Ok(_) if place != dir => Finding::ok(CHECK, format!("{shown} is not there yet; the first start makes it")),
        Ok(_) => Finding::ok(CHECK, format!("{shown} is writable")),
    };
    vec![itself, file_system(&place), space(&place)]
}

/// The path, or the part of it that exists.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn file_system(place: &Path) -> Finding {
    const CHECK: &str = "file system";
    match statfs(place) {
        Ok(found) => judge_kind(CHECK, kind(found.f_type as u64 & 0xffff_ffff)),
        Err(error) => Finding::warning(CHECK, format!("it can't be told: {error}"), "check the mount of data_dir"),
    }
}

fn judge_kind(check: &str, kind: Kind) -> Finding {
    match kind {
        Kind::Network(name) => Finding::warning(
            check,
            format!("the data directory is on {name}: SQLite's log is not safe there when machines share it"),
            "put data_dir on a local disk; to share a queue between machines use queue.url = \"redis://...\"",
        ),
        Kind::Memory => Finding::warning(
            check,
            "the data directory is in memory: queue and history are gone with the next start of the machine",
            "put data_dir on a disk, unless that is meant",
        ),
        Kind::Layer => Finding::warning(
            check,
            "the data directory is in a container's own layer: queue and history are gone with the container",
            "mount a volume at data_dir",
        ),
        Kind::Local => Finding::ok(check, "local"),
    }
}

/// The magic numbers of `statfs(2)`.
fn kind(magic: u64) -> Kind {
    match magic {
        0x6969 => Kind::Network("NFS"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => Kind::Network("SMB"),
        0x0102_1997 => Kind::Network("9p"),
        0x00c3_6400 => Kind::Network("Ceph"),
        0x0bd0_0bd0 => Kind::Network("Lustre"),
        0x4750_4653 => Kind::Network("GPFS"),
        0x5346_414f | 0x6b41_4653 => Kind::Network("AFS"),
        0x6573_5546 => Kind::Network("FUSE, which may be a network,"),
        0x0102_1994 | 0x8584_58f6 => Kind::Memory,
        0x794c_7630 => Kind::Layer,
        _ => Kind::Local,
    }
}

fn space(place: &Path) -> Finding {
    const CHECK: &str = "disk space";
    match statvfs(place) {
        Ok(found) => {
            let inodes = (found.f_files > 0).then_some(found.f_favail);
            judge_space(CHECK, found.f_bavail.saturating_mul(found.f_frsize), inodes)
        }
        Err(error) => Finding::warning(CHECK, format!("it can't be told: {error}"), "check the mount of data_dir"),
    }
}

fn judge_space(check: &str, free: u64, inodes: Option<u64>) -> Finding {
    const FIX: &str = "free some, or shorten what is kept: queue.completed_age, queue.failed_age, events.keep";
    if inodes == Some(0) {
        return Finding::failed(check, "no file can be made any more: the file system has no inode left", FIX);
    }
    let found = format!("{} free", size(free));
    if free < LEAST {
        Finding::failed(check, format!("{found}: submissions will be refused"), FIX)
    } else if free < LITTLE {
        Finding::warning(check, found, FIX)
    } else {
        Finding::ok(check, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    #[test]
    fn a_directory_is_told_from_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs_err::write(&file, "").unwrap();
        let of = |path: &Path| data_directory(path).remove(0);
        assert_eq!(of(dir.path()).status, Health::Ok);
        let missing = of(&dir.path().join("a/b"));
        assert!(missing.status == Health::Ok && missing.found.contains("the first start makes it"), "{missing:?}");
        assert_eq!(of(&file).status, Health::Failed);
        assert_eq!(of(&file.join("data")).status, Health::Failed);
    }

    #[test]
    fn space_runs_out_in_steps() {
        let status = |free, inodes| judge_space("x", free, inodes).status;
        assert_eq!(status(10 << 30, Some(5)), Health::Ok);
        assert_eq!(status(512 << 20, None), Health::Warning);
        assert_eq!(status(1 << 20, Some(5)), Health::Failed);
        assert_eq!(status(10 << 30, Some(0)), Health::Failed);
    }

    #[test]
    fn file_systems_of_other_machines_are_warned_of() {
        for (magic, status) in [
            (0x6969, Health::Warning),
            (0xef53, Health::Ok),
            (0x0102_1994, Health::Warning),
            (0x794c_7630, Health::Warning),
        ] {
            assert_eq!(judge_kind("x", kind(magic)).status, status, "{magic:x}");
        }
    }
}
