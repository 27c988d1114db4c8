//! What a host demands of the jobs that it runs, by their names.
//!
//! A worker's configuration sets these rules. Unlike run options, a submitter can't change them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::JobName;

/// The rules of a host for one job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostRules {
    /// Whether a crash leaves a report.
    pub crash_report: CrashReport,
    /// What the job may touch.
    pub sandbox: Sandbox,
}

/// Whose crashes are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrashReport {
    /// None.
    Off,
    /// Those of the job's own process, with its threads.
    #[default]
    Process,
    /// Those of the processes that it starts, too.
    Tree,
}

impl CrashReport {
    /// All of them, as they are written in the configuration.
    pub const ALL: [(&'static str, Self); 3] = [("true", Self::Process), ("false", Self::Off), ("tree", Self::Tree)];
}

/// What a job may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// How much is refused.
    pub level: SandboxLevel,
    /// Whether the job may use the network.
    pub network: bool,
    /// Absolute paths that it may read beside those of the system, below them too (strict).
    pub read: Vec<PathBuf>,
    /// Absolute paths that it may read and change beside its scratch directory, below them too (strict).
    pub write: Vec<PathBuf>,
    /// What happens where the kernel can't do all of it.
    pub unsupported: Unsupported,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            level: SandboxLevel::Off,
            network: true,
            read: Vec::new(),
            write: Vec::new(),
            unsupported: Unsupported::Refuse,
        }
    }
}

/// How much a sandbox refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxLevel {
    /// Nothing: the job may do what its user may.
    #[default]
    Off,
    /// What no batch job needs, and the processes of others.
    Basic,
    /// All files besides that are not named.
    Strict,
}

impl SandboxLevel {
    /// All of them, as they are written.
    pub const ALL: [(&'static str, Self); 3] = [("off", Self::Off), ("basic", Self::Basic), ("strict", Self::Strict)];
}

impl fmt::Display for SandboxLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, level)| level == self).map(|(name, _)| *name);
        f.write_str(name.expect("all of them are listed"))
    }
}

/// What happens to a job where the kernel can't do all that its sandbox says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unsupported {
    /// It is not run there.
    #[default]
    Refuse,
    /// It runs under what can be had.
    BestEffort,
}

impl Unsupported {
    /// Both, as they are written in the configuration.
    pub const ALL: [(&'static str, Self); 2] = [("refuse", Self::Refuse), ("best_effort", Self::BestEffort)];
}

/// The rules for every job of a host.
#[derive(Debug, Clone, Default)]
pub struct HostRulesByName {
    /// For jobs that no entry of `jobs` names.
    pub defaults: Arc<HostRules>,
    /// For single names, in place of the defaults.
    pub jobs: BTreeMap<JobName, Arc<HostRules>>,
}

impl HostRulesByName {
    /// The rules for jobs of this name.
    pub fn of(&self, name: &JobName) -> &Arc<HostRules> {
        self.jobs.get(name).unwrap_or(&self.defaults)
    }

    /// The rules of the defaults and of every name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<HostRules>> {
        std::iter::once(&self.defaults).chain(self.jobs.values())
    }
}
