//! Examines a configuration and its host: finds good and bad, and says what to do about the bad.
//!
//! Nothing here changes the host, and everything works whether a server runs or not. Each check looks, then judges;
//! where the judgement is more than a comparison it is a function of its own, so that it can be tested on any host.

pub mod artifacts;
mod certificate;
mod cpus;
mod database;
mod files;
mod jobs;
mod limits;
mod notices;
mod placement;
pub mod redis;
mod sandbox;
pub mod server;
mod system;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::domain::Clock;

/// How a check went; the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The check found nothing wrong.
    Ok,
    /// It works, but not as well as it should, or not for long.
    Warning,
    /// Jobber can't do its work like this.
    Failed,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Health::Ok => "ok",
            Health::Warning => "warning",
            Health::Failed => "FAILED",
        })
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How the check went.
    pub status: Health,
    /// What was found, in one line.
    pub found: String,
    /// What to do, unless all is well.
    pub fix: Option<String>,
}

impl Finding {
    /// A finding without anything wrong.
    pub fn ok(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.to_owned(), status: Health::Ok, found: found.into(), fix: None }
    }

    /// A finding that works, but should be better.
    pub fn warning(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.to_owned(), status: Health::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    /// A finding with which Jobber does not work.
    pub fn failed(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.to_owned(), status: Health::Failed, found: found.into(), fix: Some(fix.into()) }
    }
}

/// The tables that a Jobber knows how to use: the name of an adapter, and the version that it brings its tables to.
pub type SchemaVersions = Vec<(&'static str, usize)>;

/// Looks at everything that this configuration needs of this host, with the embedded database in the
/// file `database`, but not at servers. May take as long as SQLite needs to read the database once.
pub fn examine(config: &Config, database: &Path, clock: &Clock, known: &SchemaVersions) -> Vec<Finding> {
    let mut findings = files::data_directory(&config.data_dir);
    findings.push(database::check(database, known));
    findings.push(jobs::check(config));
    let (cpus, slots) = cpus::check(config);
    findings.push(cpus);
    findings.extend(placement::check(config));
    findings.push(system::memory(config, slots));
    findings.push(system::memory_limits(config));
    findings.push(limits::open_files(config, slots));
    findings.push(limits::processes(slots));
    findings.push(limits::inotify());
    findings.push(system::kernel());
    findings.push(system::crash_reports());
    findings.push(sandbox::check(config));
    findings.push(system::clock(clock));
    findings.extend(certificate::check(config, clock));
    findings.extend(notices::check(config));
    findings
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    match bytes {
        0..0xa0_0000 => format!("{} KiB", bytes >> 10),
        0xa0_0000..0x2_8000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
