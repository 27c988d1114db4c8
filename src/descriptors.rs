//! How many files this process may have open: it raises its own limit as far as it may. Its jobs
//! get the limit that the process was started with, since some programs go through all descriptors
//! that they may have, or can't count past a thousand.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The highest limit to ask for. More is of no use, and some kernels allow billions.
const ENOUGH: u64 = 1 << 20;

/// The limit with which this process was started, once it was raised.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one, but not above `ENOUGH`. Calls from time to time undo what has
/// lowered the soft limit meanwhile, which a job of the same user can do. A lowered hard limit is final.
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    GIVEN.get_or_init(|| now);
    let most = now.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if now.current.is_some_and(|current| current < most) {
        // A limit that can't be raised shows where the process runs out of descriptors.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: now.maximum });
    }
}

/// The soft and the hard limit that the process was started with, for its children. `None` while
/// the process has not raised its own.
pub fn given() -> Option<[u64; 2]> {
    let given = GIVEN.get()?;
    Some([given.current, given.maximum].map(|limit| limit.unwrap_or(libc::RLIM_INFINITY)))
}
