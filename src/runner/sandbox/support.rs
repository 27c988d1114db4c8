//! What the kernel of this host can do for a sandbox.
#![expect(unsafe_code, reason = "these questions to the kernel have no safe wrapper")]

use crate::domain::SandboxLevel;

/// What the kernel can do, and lets this process do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxSupport {
    /// Whether system calls can be filtered.
    pub filters: bool,
    /// The version of Landlock's interface; 0 where there is no Landlock.
    pub landlock: u32,
}

impl SandboxSupport {
    /// Asks the kernel. Landlock's question is described in `Documentation/userspace-api/landlock.rst`.
    pub fn detect() -> Self {
        const VERSION: libc::c_uint = 1;
        let answer = libc::SECCOMP_RET_ERRNO;
        // SAFETY: this operation reads the four bytes behind the pointer.
        let filters =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, std::ptr::from_ref(&answer)) };
        // SAFETY: with this flag the kernel answers a number, and looks at no pointer.
        let version =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
        let has_program = super::filter::compile(&super::calls::rules(true)).is_some();
        Self { filters: filters == 0 && has_program, landlock: u32::try_from(version).unwrap_or(0) }
    }

    /// What a sandbox of this level lacks here, in words for people; nothing when all of it can be had.
    pub fn missing(self, level: SandboxLevel) -> Vec<String> {
        let mut missing = Vec::new();
        if level == SandboxLevel::Off {
            return missing;
        }
        if !self.filters {
            missing.push("system calls can't be filtered (seccomp)".to_owned());
        }
        let has = match self.landlock {
            0 => "this one has none, or forbids it".to_owned(),
            version => format!("this one has version {version}"),
        };
        if self.landlock < 6 {
            // Any rules keep `ptrace` in, and those of *basic* are of version 6.
            let memory = if level == SandboxLevel::Basic || self.landlock == 0 { "memory, " } else { "" };
            missing.push(format!(
                "{memory}signals and abstract sockets of other processes can't be refused (Landlock 6, since Linux \
                 6.12; {has})"
            ));
        }
        if level == SandboxLevel::Strict {
            let parts = [(1, "files"), (3, "truncating files"), (5, "commands to devices")];
            let lacks: Vec<_> = parts.iter().filter(|(since, _)| self.landlock < *since).collect();
            missing.extend(lacks.iter().map(|(since, what)| format!("{what} can't be refused (Landlock {since})")));
        }
        missing
    }

    /// The strictest sandbox that can be had in full.
    pub fn level(self) -> SandboxLevel {
        let all = [SandboxLevel::Strict, SandboxLevel::Basic];
        all.into_iter().find(|level| self.missing(*level).is_empty()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_can_be_had_where_nothing_of_it_is_missing() {
        let of = |filters, landlock| SandboxSupport { filters, landlock };
        assert_eq!(of(true, 6).level(), SandboxLevel::Strict);
        assert_eq!([of(false, 7).level(), of(true, 5).level(), of(true, 0).level()], [SandboxLevel::Off; 3]);
        assert_eq!(of(false, 0).missing(SandboxLevel::Off), Vec::<String>::new());
        assert_eq!(of(true, 5).missing(SandboxLevel::Basic).len(), 1);
        assert_eq!(of(false, 0).missing(SandboxLevel::Strict).len(), 5);
    }
}
