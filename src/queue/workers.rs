//! Workers, as they announce themselves to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    AttemptNumber, Build, Capacity, JobId, JobName, Labels, Misfit, Needs, QueueName, ResourceName, ResourceUnits,
    SandboxLevel, Timestamp, WorkerId,
};

/// A worker as it announces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerInfo {
    /// This run of the worker.
    pub id: WorkerId,
    /// The machine's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Jobber's version.
    pub version: String,
    /// When its process started.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// Jobs that it runs at most.
    pub slots: u32,
    /// Cores that it divides among them.
    pub cores: u32,
    /// Jobs that run now.
    pub running: u32,
    /// Whether it takes nothing new and will end.
    pub draining: bool,
    /// Why it can't start jobs, and so takes none for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// The names of the jobs that it can run; `None` when it does not tell, or has more than [`WorkerInfo::BINARIES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binaries: Option<Vec<JobName>>,
    /// The builds of these binaries; `None` when it does not tell, or has more than [`WorkerInfo::BUILDS`] binaries. One
    /// that could not be told, or not yet, is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builds: Option<BTreeMap<JobName, Build>>,
    /// The numbers of the CPUs that it divides among its jobs, ascending. Older workers tell neither these nor what
    /// follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<u32>>,
    /// The memory that the worker and its jobs can have at most, in bytes: the host's, or less by a cgroup's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How much of that new processes could take now without swapping, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_available_bytes: Option<u64>,
    /// The jobs that run now, those that started first before the others, at most [`WorkerInfo::JOBS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Vec<RunningJob>>,
    /// The queues that it serves; older workers, which serve the default one, do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<QueueName>>,
    /// Its labels; absent where it has none.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The units of its resources; absent where it has none.
    #[serde(default, skip_serializing_if = "ResourceUnits::is_empty")]
    pub resources: ResourceUnits,
    /// The memory that it divides among its jobs, in bytes; `None` when it does not divide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_memory_bytes: Option<u64>,
    /// The strictest sandbox that its host can do in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxLevel>,
}

/// A job that a worker runs now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunningJob {
    /// The job.
    pub job: JobId,
    /// The binary that it runs.
    pub name: JobName,
    /// Which start of it this is, counting from 1.
    pub attempt: AttemptNumber,
    /// The CPUs of its slot, ascending.
    pub cpus: Vec<u32>,
    /// The units of resources that it holds, by resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<ResourceName, Vec<String>>,
    /// When the worker began to start its process.
    pub started_at: Timestamp,
    /// The resident memory of its first process, in bytes; `None` when that was not there to be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl WorkerInfo {
    /// How many binaries a worker announces at most.
    pub const BINARIES: usize = 1000;
    /// A worker with more binaries than this does not announce their builds, so that its heartbeats stay small.
    pub const BUILDS: usize = 64;
    /// How many running jobs a worker announces at most.
    pub const JOBS: usize = 512;

    /// Whether it takes jobs now.
    pub fn takes_jobs(&self) -> bool {
        !self.draining && self.unhealthy.is_none()
    }

    /// Whether it serves the queue, where this is the default one.
    pub fn serves(&self, queue: &QueueName, default: &QueueName) -> bool {
        self.queues.as_ref().map_or(queue == default, |served| served.contains(queue))
    }

    /// Whether it has the binary of jobs of this name; `None` when it does not tell.
    pub fn has_binary(&self, name: &JobName) -> Option<bool> {
        Some(self.binaries.as_ref()?.contains(name))
    }

    /// What it has for jobs, whether it is free or not.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            cores: self.cores,
            memory_bytes: self.job_memory_bytes,
            labels: self.labels.clone(),
            resources: self.resources.amounts(),
        }
    }

    /// The first reason, if any, for which it can't run jobs with these needs. One that does not tell which binaries it
    /// has may have any.
    pub fn misfit(&self, needs: &Needs) -> Option<Misfit> {
        match self.has_binary(&needs.name) {
            Some(false) => Some(Misfit::Binary(needs.name.clone())),
            Some(true) | None => self.capacity().misfit(needs),
        }
    }

    /// For unit tests: an idle worker of one slot that tells no more than it must.
    #[cfg(test)]
    pub(crate) fn bare(id: &str) -> Self {
        Self {
            id: WorkerId::parse(id).expect("the id of a test is one"),
            host: "h".to_owned(),
            pid: 1,
            version: "1".to_owned(),
            started_at: Timestamp::from_millis(0),
            last_seen: Timestamp::from_millis(0),
            slots: 1,
            cores: 1,
            running: 0,
            draining: false,
            unhealthy: None,
            binaries: None,
            builds: None,
            cpus: None,
            memory_bytes: None,
            memory_available_bytes: None,
            jobs: None,
            queues: None,
            labels: Labels::default(),
            resources: ResourceUnits::default(),
            job_memory_bytes: None,
            sandbox: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"id":"w","host":"h","pid":7,"version":"0.1.0","started_at":"2026-11-24T08:00:00.000Z","last_seen":"2026-11-24T08:01:00.000Z","slots":8,"cores":8,"running":3,"draining":false}"#;

    #[test]
    fn the_heartbeat_of_an_older_worker_is_read_and_of_a_newer_one_too() {
        let old: WorkerInfo = serde_json::from_str(OLD).unwrap();
        assert_eq!((&old.cpus, &old.jobs, old.memory_bytes, &old.builds), (&None, &None, None, &None));
        assert_eq!(serde_json::to_string(&old).unwrap(), OLD);
        let newer = OLD.replacen('{', r#"{"not_known_yet":{"a":[1]},"#, 1);
        assert_eq!(serde_json::from_str::<WorkerInfo>(&newer).unwrap(), old);
    }

    #[test]
    fn builds_are_told_by_name() {
        let build = r#""binaries":["resize"],"builds":{"resize":{"bytes":48216,"digest":"8f2a1c9d"}}"#;
        let text = OLD.replacen('}', &format!(",{build}}}"), 1);
        let info: WorkerInfo = serde_json::from_str(&text).unwrap();
        let builds = info.builds.as_ref().unwrap();
        assert_eq!(builds.values().map(|build| build.digest.as_str()).collect::<Vec<_>>(), ["8f2a1c9d"]);
        assert_eq!(serde_json::to_string(&info).unwrap(), text);
    }

    #[test]
    fn what_runs_is_told_by_its_job() {
        let job = r#"{"job":"j","name":"resize","attempt":2,"cpus":[0,1],"started_at":"2026-11-24T08:00:30.000Z"}"#;
        let text = OLD.replacen('}', &format!(r#","cpus":[0,1,2],"jobs":[{job}]}}"#), 1);
        let info: WorkerInfo = serde_json::from_str(&text).unwrap();
        assert_eq!(info.jobs.as_ref().unwrap()[0].cpus, [0, 1]);
        assert_eq!(serde_json::to_string(&info).unwrap(), text);
    }
}
