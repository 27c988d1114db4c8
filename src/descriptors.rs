//! How many files this process may have open: as many as it is allowed to ask for. Its jobs get what it was given, since
//! some programs go through all descriptors that they may have, or can't count past a thousand.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this is of no use, and some kernels allow billions.
const ENOUGH: u64 = 1 << 20;

/// The limit with which this process was started, once it was raised.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one, or to what is enough. Called again and again, it undoes what lowered the limit meanwhile
/// (a job of the same user can), as far as that was not final.
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    GIVEN.get_or_init(|| now);
    let most = now.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if now.current.is_some_and(|current| current < most) {
        // What is refused here shows where descriptors are needed.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: now.maximum });
    }
}

/// The soft and the hard limit for children, where this process has others by now.
pub fn given() -> Option<[u64; 2]> {
    let given = GIVEN.get()?;
    Some([given.current, given.maximum].map(|limit| limit.unwrap_or(libc::RLIM_INFINITY)))
}
