//! The roles that a process can play. Each opens the ports, starts its parts, says that it is
//! ready, and waits for the end.
//!
//! What `main` awaits is boxed here: so the code of a role is compiled once, with the library, and not with each binary
//! that awaits it.

pub mod bench;
mod build;
mod dev;
mod doctor;
mod evaluate;
mod exec;
mod notices;
mod parts;
mod ready;
mod runner;
mod serve;
mod service;
pub mod upkeep;
mod work;

pub use build::build_jobs;
pub use dev::dev;
pub use doctor::examine;
pub use evaluate::evaluate;
pub use exec::{debug, exec, lacks};
pub use serve::serve;
pub use work::work;

use std::path::PathBuf;
use std::time::Duration;

use crate::notify::Notifier;
use crate::traces::TraceSettings;

/// The options of a role besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct RoleOptions {
    /// The descriptor for one line of JSON when the process is ready. The parent process reads it.
    pub ready_fd: Option<u32>,
    /// End after this long with nothing to do. `None` to go on.
    pub burst: Option<Duration>,
    /// The directories with the sources of jobs, which `dev` builds at its start and when they change.
    pub sources: Vec<PathBuf>,
    /// The service manager, which the role tells how the process is.
    pub notifier: Notifier,
    /// Whether and where to spans are exported.
    pub traces: TraceSettings,
}
