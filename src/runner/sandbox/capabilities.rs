//! The privileges of root that are left to a job of a worker that runs as root, or has some of them.

use rustix::thread::CapabilitySet;

use crate::domain::SandboxLevel;

/// What *basic* leaves: privileges over files, users and ports. The others reach the kernel and other processes, past
/// filter and rules: with some of them, one may read any process's environment, all of the memory, and disks. Container
/// runtimes leave much the same by default.
const ORDINARY: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::AUDIT_WRITE);

/// Those of this process that a job keeps, as `capset` takes them: of 32 each the effective, the permitted and the
/// inheritable ones, then of the next 32.
pub(super) fn kept(level: SandboxLevel) -> [u32; 6] {
    let most = if level == SandboxLevel::Strict { CapabilitySet::empty() } else { ORDINARY };
    let Ok(own) = rustix::thread::capabilities(None) else { return [0; 6] };
    let bits = [own.effective, own.permitted, own.inheritable].map(|set| (set & most).bits());
    let (low, high) = (bits.map(|bits| (bits & u64::from(u32::MAX)) as u32), bits.map(|bits| (bits >> 32) as u32));
    [low[0], low[1], low[2], high[0], high[1], high[2]]
}
