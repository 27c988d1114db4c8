//! The files that a job under *strict* may use.

use std::path::{Path, PathBuf};

use landlock::{ABI, AccessFs, BitFlags, PathFd, make_bitflags};

/// What programs need of a system: themselves, their libraries, and what these ask for. Of `/etc` only what says how
/// the system is set up. Left out is all that holds secrets, even where its mode lets the worker's user read it: a
/// worker that runs as root reads all. What is not there is no matter.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/OpenCL",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/default/locale",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/gdb",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/locale.conf",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/networks",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/perl",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/python3",
    "/etc/resolv.conf",
    "/etc/rpc",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
    "/etc/vulkan",
    // Processes read their own files here, and a child of a job has another number. Those of others that tell secrets
    // (memory, environment, descriptors) are refused by Landlock like `ptrace`.
    "/proc",
    // How many processors and how much memory there is.
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
];

/// Devices without a state that others could see.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The newest interface of Landlock whose rights are handled here.
pub(super) const HANDLED: ABI = ABI::V7;

/// What can be done with a file that is no directory.
const FILE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{Execute | WriteFile | ReadFile | Truncate | IoctlDev});
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir});
/// All but making devices.
const CHANGE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    Execute | WriteFile | ReadFile | ReadDir | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSock | MakeFifo
    | MakeSym | Refer | Truncate | IoctlDev
});
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | ReadFile | Truncate | IoctlDev});

/// A file or directory with what a job may do there and below.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) place: PathFd,
    pub(super) rights: BitFlags<AccessFs>,
}

impl Grant {
    fn open(path: &Path, rights: BitFlags<AccessFs>) -> Option<Self> {
        let place = PathFd::new(path).ok()?;
        let is_directory =
            rustix::fs::fstat(&place).is_ok_and(|meta| rustix::fs::FileType::from_raw_mode(meta.st_mode).is_dir());
        Some(Self { place, rights: if is_directory { rights } else { rights & FILE } })
    }

    /// A job's own binary.
    pub(super) fn binary(path: &Path) -> Option<Self> {
        Self::open(path, READ)
    }

    /// A directory in which a job may read everything.
    pub(super) fn readable(path: &Path) -> Option<Self> {
        Self::open(path, READ)
    }

    /// A directory in which a job may do everything.
    pub(super) fn directory(path: &Path) -> Option<Self> {
        Self::open(path, CHANGE)
    }
}

/// Opens what every job with these lists may use, as it is now.
pub(super) fn open(read: &[PathBuf], write: &[PathBuf]) -> Vec<Grant> {
    let system = SYSTEM.iter().map(|path| (Path::new(*path), READ));
    let devices = DEVICES.iter().map(|path| (Path::new(*path), DEVICE));
    let listed = read.iter().map(|path| (&**path, READ)).chain(write.iter().map(|path| (&**path, CHANGE)));
    let mut grants: Vec<(PathBuf, Grant)> = Vec::new();
    for (path, rights) in system.chain(devices).chain(listed) {
        // Each rule takes time for each job, and on many systems /bin and others are links to what is below /usr.
        if let (Ok(real), Some(grant)) = (fs_err::canonicalize(path), Grant::open(path, rights))
            && !grants.iter().any(|(place, known)| real.starts_with(place) && known.rights.contains(grant.rights))
        {
            grants.push((real, grant));
        }
    }
    grants.into_iter().map(|(_, grant)| grant).collect()
}

/// Checks that none of these lists, nor what every job may read, leads to one of the hidden paths.
///
/// # Errors
/// A sentence that names the two.
pub(super) fn check(read: &[PathBuf], write: &[PathBuf], hidden: &[PathBuf]) -> Result<(), String> {
    let real = |path: &Path| {
        let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        fs_err::canonicalize(path).unwrap_or_else(|_| absolute())
    };
    let hidden: Vec<PathBuf> = hidden.iter().map(|path| real(path)).collect();
    let leads_to = |granted: &Path| {
        let granted = real(granted);
        hidden.iter().find(|hidden| hidden.starts_with(&granted) || granted.starts_with(hidden))
    };
    for path in SYSTEM.iter().map(Path::new) {
        if let Some(hidden) = leads_to(path) {
            return Err(format!(
                "{} holds secrets of Jobber's own and lies below {}, which sandbox = \"strict\" lets jobs read; move \
                 it elsewhere, such as to /var/lib/jobber or /etc/jobber",
                hidden.display(),
                path.display()
            ));
        }
    }
    for (key, paths) in [("sandbox_read", read), ("sandbox_write", write)] {
        for path in paths {
            if let Some(hidden) = leads_to(path) {
                return Err(format!(
                    "{key} lets jobs use {}, and with it {}, which holds secrets of Jobber's own; name only what is \
                     beside it",
                    path.display(),
                    hidden.display()
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_leads_to_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs_err::create_dir_all(at("srv/data")).unwrap();
        fs_err::create_dir_all(at("srv/models")).unwrap();
        std::os::unix::fs::symlink(at("srv/data"), at("link")).unwrap();
        let hidden = [at("srv/data")];
        assert_eq!(check(&[at("srv/models")], &[at("later")], &hidden), Ok(()));
        for bad in ["", "srv", "srv/data", "srv/data/jobber.db", "link"] {
            fs_err::write(at("srv/data/jobber.db"), "").unwrap();
            let read = check(&[at("srv/models"), at(bad)], &[], &hidden).unwrap_err();
            assert!(read.starts_with("sandbox_read lets jobs use"), "{bad}: {read}");
            let written = check(&[], &[at(bad)], &hidden).unwrap_err();
            assert!(written.starts_with("sandbox_write lets jobs use"), "{bad}: {written}");
        }
        let below = check(&[], &[], &[PathBuf::from("/usr/local/jobber")]).unwrap_err();
        assert!(below.contains("lies below /usr,"), "{below}");
    }
}
