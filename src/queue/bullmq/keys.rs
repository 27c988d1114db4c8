//! The keys and hash fields of Jobber's own, beside BullMQ's. All begin with the queue's prefix and name,
//! so that one hash tag in them keeps everything of a queue on one node of a cluster. Calls that use
//! several keys at once (scripts, `MULTI`, `MGET`) use those of one queue only.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::domain::GroupName;

/// By how much a watched job is delayed, and one that waits for its group's limit: twice the longest delay that can be asked for.
pub(super) const FAR: Duration = Duration::from_secs(20 * 366 * 86_400);
/// BullMQ keeps delayed jobs by their due times, with room for some order within a millisecond.
pub(super) const SCORE_PER_MS: f64 = 4096.0;

/// Field of a job's hash: the reason why a caller asked for it to be stopped.
pub(super) const CANCEL: &str = "jobber:cancel";
/// Field of a job's hash: a server of Jobber's has submitted it, and tells history what it is given.
pub(super) const SUBMITTED: &str = "jobber:submitted";
/// Field of a job's hash: BullMQ's count of stalls (`stc`) when an attempt last finished; later ones are crashes.
pub(super) const STALLS_BEFORE: &str = "jobber:stalls";
/// Field of a job's hash: leases that started nothing, to be taken off BullMQ's count (`ats`).
pub(super) const UNSTARTED: &str = "jobber:unseen";
/// Field of a job's hash: BullMQ's count of starts (`ats`) when an attempt was last started in truth.
pub(super) const SPAWNED: &str = "jobber:spawned";
/// Field of a job's hash: BullMQ's count of stalls (`stc`) when it was last looked at.
pub(super) const STALLS_SEEN: &str = "jobber:stalls-seen";

/// In [`Keys::requested`]: the job may not have been added yet.
pub(super) const REQUESTED: &str = "requested";
/// In [`Keys::requested`]: the job was added and has ended.
pub(super) const ENDED: &str = "ended";

/// Sets fields of a hash, ARGV, unless the hash has gone: writing to it then would bring a job back
/// that is in no list.
pub(super) const SET_IF_THERE: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1";

/// Adds ARGV\[2\] to a field, ARGV\[1\], of a hash, unless it has gone.
pub(super) const ADD_IF_THERE: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// Sets fields of a hash, KEYS\[1\], to the rest of ARGV, while the lock, KEYS\[2\], is held by the token, ARGV\[1\].
pub(super) const SET_IF_HELD: &str = "\
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1";

/// Builds the keys of one queue.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    base: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, queue: &str) -> Self {
        Self { base: format!("{prefix}:{queue}:") }
    }

    /// BullMQ's key of this name.
    pub(super) fn bull(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// BullMQ's hash of a job.
    pub(super) fn job(&self, id: &str) -> String {
        format!("{}{id}", self.base)
    }

    /// BullMQ's list of a job's log lines.
    pub(super) fn logs(&self, id: &str) -> String {
        format!("{}{id}:logs", self.base)
    }

    /// Stream: what a job has said, byte for byte; expires.
    pub(super) fn output(&self, id: &str) -> String {
        format!("{}jobber:output:{id}", self.base)
    }

    /// Exists while a client reads all of a job's output; expires.
    pub(super) fn readers(&self, id: &str) -> String {
        format!("{}jobber:readers:{id}", self.base)
    }

    /// BullMQ's set of the children that a job waits for, as keys of jobs.
    pub(super) fn dependencies(&self, id: &str) -> String {
        format!("{}{id}:dependencies", self.base)
    }

    /// BullMQ's hash of the results of a job's children, by their keys.
    pub(super) fn processed(&self, id: &str) -> String {
        format!("{}{id}:processed", self.base)
    }

    /// BullMQ's hash of the reasons why children of a job failed, by their keys.
    pub(super) fn failed_before(&self, id: &str) -> String {
        format!("{}{id}:failed", self.base)
    }

    /// The id of the job with this key, if it is one of this queue's.
    pub(super) fn id_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.base.as_str())
    }

    /// BullMQ's note of the job that holds a deduplication key.
    pub(super) fn deduplication(&self, key: &str) -> String {
        format!("{}de:{key}", self.base)
    }

    /// BullMQ's lock of a job.
    pub(super) fn lock(&self, id: &str) -> String {
        format!("{}{id}:lock", self.base)
    }

    /// Hash: job id to reason, for running jobs that are to be stopped.
    pub(super) fn cancels(&self) -> String {
        format!("{}jobber:cancels", self.base)
    }

    /// Sorted set: jobs that are put off until others have ended, by the time when they were last looked at.
    pub(super) fn watched(&self) -> String {
        format!("{}jobber:watched", self.base)
    }

    /// Sorted set, all of one score: which watched job comes after which job, from both sides.
    pub(super) fn links(&self) -> String {
        format!("{}jobber:links", self.base)
    }

    /// Hash: id of a job that watched jobs come after to how it ends, from just before it does.
    pub(super) fn ends(&self) -> String {
        format!("{}jobber:ends", self.base)
    }

    /// Hash: schedule id to schedule, for those that are paused.
    pub(super) fn paused_schedules(&self) -> String {
        format!("{}jobber:paused-schedules", self.base)
    }

    /// Hash: schedule id to its own pattern, while a pattern of a single moment stands in its place.
    pub(super) fn replaced_patterns(&self) -> String {
        format!("{}jobber:odd-schedules", self.base)
    }

    /// Hash: schedule id to the id of the job that it brought last.
    pub(super) fn last_scheduled(&self) -> String {
        format!("{}jobber:last-scheduled", self.base)
    }

    /// The channel on which processes wake each other.
    pub(super) fn channel(&self) -> String {
        format!("{}jobber:wake", self.base)
    }

    /// The answer to an idempotent request. The caller's key is hashed: it may hold anything.
    pub(super) fn idempotency(&self, key: &str) -> String {
        let digest: String = Sha256::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        format!("{}jobber:request:{digest}", self.base)
    }

    /// The place in BullMQ's event stream up to which history was compared with the queue.
    pub(super) fn feed_position(&self) -> String {
        format!("{}jobber:heard", self.base)
    }

    /// When a Jobber whose workers note each start ([`SPAWNED`]) first used this queue, in milliseconds.
    pub(super) fn starts_noted_since(&self) -> String {
        format!("{}jobber:starts-noted-since", self.base)
    }

    /// Written to find out whether the server takes writes; expires.
    pub(super) fn probe(&self) -> String {
        format!("{}jobber:probe", self.base)
    }

    /// Hash: id of a job of an idempotent request that was not answered yet, to [`REQUESTED`], or
    /// to [`ENDED`] from just before the job's end.
    pub(super) fn requested(&self) -> String {
        format!("{}jobber:requested", self.base)
    }

    /// Set: ids of workers that may be alive.
    pub(super) fn workers(&self) -> String {
        format!("{}jobber:workers", self.base)
    }

    /// Set, of the default queue: the names of the other queues.
    pub(super) fn queues(&self) -> String {
        format!("{}jobber:queues", self.base)
    }

    /// Set: the names of the groups of which jobs wait for the group's limit, or hold a place within it.
    pub(super) fn groups(&self) -> String {
        format!("{}jobber:groups", self.base)
    }

    /// Exists while a process has just looked after the groups; expires.
    pub(super) fn groups_looked_after(&self) -> String {
        format!("{}jobber:groups-looked-after", self.base)
    }

    /// Sorted set: the limit and the id of each job that waits for its group's limit, by when it may enter.
    pub(super) fn group_line(&self, group: &GroupName) -> String {
        format!("{}jobber:group:{group}:parked", self.base)
    }

    /// Sorted set: ids of the jobs within their group's limit that have not ended, by when they were last looked at.
    pub(super) fn group_window(&self, group: &GroupName) -> String {
        format!("{}jobber:group:{group}:open", self.base)
    }

    /// A worker's last heartbeat; expires.
    pub(super) fn worker(&self, id: &str) -> String {
        format!("{}jobber:worker:{id}", self.base)
    }

    /// Exists while a worker is asked to drain; expires.
    pub(super) fn drain(&self, id: &str) -> String {
        format!("{}jobber:drain:{id}", self.base)
    }
}
