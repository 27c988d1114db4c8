//! What a job may touch: the sandboxes that jobs run in.
//!
//! A sandbox has three parts, which the child lays upon itself before it executes its program (see [`super::launch`]):
//! a filter for system calls (seccomp), a set of rules of Landlock, which knows processes and files, and fewer of
//! root's privileges. They hold for the child and all that it starts, and can't be taken off. This process only lays
//! them out: the filter once, the rules once (*basic*) or, since each attempt has a directory and a binary of its own,
//! for each directory (*strict*). What a host can't do is a matter of [`SandboxSupport`].

mod calls;
mod capabilities;
mod filter;
mod paths;
mod support;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use landlock::{
    Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    Scope,
};

use self::paths::{Grant, HANDLED};
pub use self::support::SandboxSupport;
use crate::domain::{HostRules, HostRulesByName, JobName, Sandbox, SandboxLevel, Unsupported};

/// How long the system's files are taken for those that were opened: a file that another replaced is another file.
const LOOKED_AT: Duration = Duration::from_secs(10);

/// The sandboxes of a worker's jobs, by name.
pub(super) struct Sandboxes {
    support: SandboxSupport,
    defaults: Option<Arc<SandboxOfJobs>>,
    jobs: BTreeMap<JobName, Option<Arc<SandboxOfJobs>>>,
}

/// A sandbox as it is for all jobs with the same rules.
pub(super) struct SandboxOfJobs {
    rules: Sandbox,
    /// What this host lacks, if jobs are not run without it.
    lacks: Vec<String>,
    filter: Option<Arc<[libc::sock_filter]>>,
    capabilities: [u32; 6],
    /// The rules of *basic*, which are the same for all attempts; of *strict* what was opened for them, and when.
    kept: Kept,
}

enum Kept {
    Basic(Option<Arc<OwnedFd>>),
    Strict(Mutex<Option<Opened>>),
}

/// When files were opened, and which.
type Opened = (Instant, Arc<Vec<Grant>>);

/// The rules of *strict* for one binary and one scratch directory.
#[derive(Debug)]
pub(super) struct KeptRules {
    /// What was opened when they were made: they are not used when that has been opened anew.
    shared: Arc<Vec<Grant>>,
    binary: PathBuf,
    rules: RulesetCreated,
    /// The same rules, for a child.
    descriptor: Option<Arc<OwnedFd>>,
}

/// What a child lays upon itself.
#[derive(Debug)]
pub(super) struct Confinement {
    /// The rules of Landlock; `None` where there is none, and jobs run all the same.
    pub(super) rules: Option<Arc<OwnedFd>>,
    /// The filter; `None` where there can't be any, and jobs run all the same.
    pub(super) filter: Option<Arc<[libc::sock_filter]>>,
    /// The privileges of root that are kept, as `capset` takes them.
    pub(super) capabilities: [u32; 6],
    pub(super) level: SandboxLevel,
}

impl Sandboxes {
    /// Makes the sandboxes that these rules ask for. `hidden` are the paths that no sandbox of *strict* may lead to.
    ///
    /// # Errors
    /// A sentence that names the two paths, if one does, or says what the system refused.
    pub(super) fn new(rules: &HostRulesByName, hidden: &[PathBuf], support: SandboxSupport) -> Result<Self, String> {
        check(rules, hidden)?;
        let of = |rules: &HostRules| Ok::<_, String>(SandboxOfJobs::new(&rules.sandbox, support)?.map(Arc::new));
        let jobs = rules.jobs.iter().map(|(name, rules)| Ok((name.clone(), of(rules)?)));
        let sandboxes = Self { support, jobs: jobs.collect::<Result<_, String>>()?, defaults: of(&rules.defaults)? };
        sandboxes.warn();
        Ok(sandboxes)
    }

    /// Says what can't be had here, once for a level.
    fn warn(&self) {
        for level in [SandboxLevel::Basic, SandboxLevel::Strict] {
            let missing = self.support.missing(level);
            let mut its = self.jobs.values().chain([&self.defaults]).flatten().filter(|its| its.rules.level == level);
            if let (false, Some(first)) = (missing.is_empty(), its.next()) {
                let lacks = missing.join("; ");
                match first.rules.unsupported {
                    Unsupported::BestEffort => {
                        tracing::warn!(%level, lacks, "jobs run in less of a sandbox than asked for")
                    }
                    Unsupported::Refuse => tracing::warn!(%level, lacks, "jobs with this sandbox can't be run here"),
                }
            }
        }
    }

    /// What this host can do.
    pub(super) fn support(&self) -> SandboxSupport {
        self.support
    }

    /// The sandbox of jobs of this name; `None` when they have none.
    pub(super) fn of(&self, name: &JobName) -> Option<&Arc<SandboxOfJobs>> {
        self.jobs.get(name).unwrap_or(&self.defaults).as_ref()
    }

    /// Whether jobs of this name can't be run here for want of their sandbox.
    pub(super) fn lacks(&self, name: &JobName) -> bool {
        self.of(name).is_some_and(|sandbox| !sandbox.lacks.is_empty())
    }
}

/// Checks that no sandbox of *strict* leads to one of the hidden paths.
///
/// # Errors
/// A sentence that names the two paths.
pub fn check(rules: &HostRulesByName, hidden: &[PathBuf]) -> Result<(), String> {
    let strict = rules.all().map(|rules| &rules.sandbox).filter(|sandbox| sandbox.level == SandboxLevel::Strict);
    strict.into_iter().try_for_each(|sandbox| paths::check(&sandbox.read, &sandbox.write, hidden))
}

impl SandboxOfJobs {
    fn new(rules: &Sandbox, support: SandboxSupport) -> Result<Option<Self>, String> {
        let kept = match rules.level {
            SandboxLevel::Off => return Ok(None),
            // A kernel whose Landlock is too old to have any of these rules yields none.
            SandboxLevel::Basic => Kept::Basic(descriptor(begin(rules).map_err(unmade)?)),
            SandboxLevel::Strict => Kept::Strict(Mutex::default()),
        };
        let lacks = match rules.unsupported {
            Unsupported::Refuse => support.missing(rules.level),
            Unsupported::BestEffort => Vec::new(),
        };
        let filter = support.filters.then(|| filter::compile(&calls::rules(rules.network))).flatten();
        let capabilities = capabilities::kept(rules.level);
        Ok(Some(Self { rules: rules.clone(), lacks, filter: filter.map(Into::into), capabilities, kept }))
    }

    /// How much it refuses.
    pub(super) fn level(&self) -> SandboxLevel {
        self.rules.level
    }

    /// Lays out what an attempt with this binary and these directories of its own lays upon itself. `kept` is for these
    /// directories alone: most of the work is that of the rules, and many jobs leave their directory to the next one as it was.
    ///
    /// # Errors
    /// What this host can't do, for people.
    pub(super) fn confine(
        &self,
        binary: &Path,
        own: [&Path; 2],
        inputs: Option<&Path>,
        kept: &mut Option<KeptRules>,
    ) -> Result<Confinement, String> {
        let level = self.level();
        if !self.lacks.is_empty() {
            return Err(format!(
                "this host can't do all of sandbox = \"{level}\": {}; run the job on another host, or set \
                 sandbox_unsupported = \"best_effort\"",
                self.lacks.join("; ")
            ));
        }
        let rules = match &self.kept {
            Kept::Basic(rules) => rules.clone(),
            Kept::Strict(opened) => {
                let shared = self.opened(opened);
                // The next job in these directories has no such inputs.
                let mut once = None;
                let kept = if inputs.is_some() { &mut once } else { kept };
                let kept = match kept {
                    Some(kept) if Arc::ptr_eq(&kept.shared, &shared) && kept.binary == binary => kept,
                    none => none.insert(self.rules_of_files(shared, binary, own)?),
                };
                // The file may be another one than when the rules were made. One that is gone is missed when it is to
                // be executed.
                if let Some(binary) = Grant::binary(binary) {
                    add(&mut kept.rules, &binary).map_err(unmade)?;
                }
                if let Some(inputs) = inputs {
                    let inputs = Grant::readable(inputs).ok_or("couldn't open the directory of its inputs")?;
                    add(&mut kept.rules, &inputs).map_err(unmade)?;
                }
                kept.descriptor.clone()
            }
        };
        Ok(Confinement { rules, filter: self.filter.clone(), capabilities: self.capabilities, level })
    }

    fn opened(&self, kept: &Mutex<Option<Opened>>) -> Arc<Vec<Grant>> {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((at, grants)) if at.elapsed() < LOOKED_AT => grants.clone(),
            _ => {
                let grants = Arc::new(paths::open(&self.rules.read, &self.rules.write));
                *kept = Some((Instant::now(), grants.clone()));
                grants
            }
        }
    }

    fn rules_of_files(&self, shared: Arc<Vec<Grant>>, binary: &Path, own: [&Path; 2]) -> Result<KeptRules, String> {
        let mut rules = begin(&self.rules).map_err(unmade)?;
        for grant in &*shared {
            add(&mut rules, grant).map_err(unmade)?;
        }
        for directory in own {
            let scratch = Grant::directory(directory).ok_or("couldn't open its scratch directory")?;
            add(&mut rules, &scratch).map_err(unmade)?;
        }
        let descriptor = descriptor(rules.try_clone().map_err(unmade)?);
        Ok(KeptRules { shared, binary: binary.to_owned(), rules, descriptor })
    }
}

fn add(rules: &mut RulesetCreated, grant: &Grant) -> Result<(), RulesetError> {
    rules.add_rule(PathBeneath::new(&grant.place, grant.rights)).map(drop)
}

fn unmade(error: impl std::fmt::Display) -> String {
    format!("couldn't make the rules of its sandbox: {error}")
}

/// Begins a set of rules: without more, all that it handles is refused.
fn begin(rules: &Sandbox) -> Result<RulesetCreated, RulesetError> {
    let mut set = Ruleset::default().scope(Scope::from_all(HANDLED))?;
    if rules.level == SandboxLevel::Strict {
        set = set.handle_access(AccessFs::from_all(HANDLED))?;
    }
    if !rules.network {
        // The filter refuses new sockets; this one those that a job was handed.
        set = set.handle_access(AccessNet::from_all(HANDLED))?;
    }
    set.create()
}

fn descriptor(rules: RulesetCreated) -> Option<Arc<OwnedFd>> {
    Option::<OwnedFd>::from(rules).map(Arc::new)
}
