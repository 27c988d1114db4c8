//! The roles that a process can play: each opens the ports, starts its parts, says that it is ready, and waits for the
//! end.

pub mod bench;
mod build;
mod dev;
mod doctor;
mod evaluate;
mod exec;
mod parts;
mod ready;
mod serve;
mod service;
pub mod upkeep;
mod work;

pub use dev::dev;
pub use doctor::examine;
pub use evaluate::evaluate;
pub use exec::exec;
pub use serve::serve;
pub use work::work;

use std::path::PathBuf;
use std::time::Duration;

use crate::notify::Notifier;

/// What a role is told besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct RoleOptions {
    /// Where to write one line of JSON when ready: a descriptor that whoever started the process reads.
    pub ready_fd: Option<u32>,
    /// End when there has been nothing to do for this long.
    pub burst: Option<Duration>,
    /// Where the sources of the C++ jobs are, to be built at the start of `dev`.
    pub sources: Option<PathBuf>,
    /// The service manager, to be told how the process is.
    pub notifier: Notifier,
}
