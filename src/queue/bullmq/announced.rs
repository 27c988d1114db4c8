//! Tells the jobs that a server of Jobber's has submitted from those of other programs and of schedules: of the former
//! the server tells history what they are given, of the others the worker must.
//!
//! An id that Jobber has generated tells by itself, and so do ids that Jobber never gives. A job whose id the caller
//! chose has a field in its hash.

use super::connect::BullClient;
use super::read::Fields;
use super::{Inner, keys};
use crate::domain::{Job, JobId};

/// Sets the field ARGV\[2\] of a job's hash if the job was submitted at ARGV\[1\].
const NOTE: &str = "\
if redis.call('HGET', KEYS[1], 'timestamp') ~= ARGV[1] then return 0 end
return redis.call('HSET', KEYS[1], ARGV[2], 1)";

/// Notes that a server of Jobber's has submitted the job.
pub(super) fn note_submission(inner: &Inner, pipe: &mut redis::Pipeline, job: &Job) {
    pipe.cmd("EVAL").arg(NOTE).arg(1).arg(inner.keys.job(job.id.as_str()));
    pipe.arg(job.submitted_at.as_millis()).arg(keys::SUBMITTED).ignore();
}

/// What the id alone tells; `None` when it may be either's.
fn shown_by(id: &JobId) -> Option<bool> {
    match id {
        id if id.is_generated() => Some(true),
        id if id.is_counted() || id.is_scheduled() => Some(false),
        _ => None,
    }
}

/// Whether a server of Jobber's has submitted the job. False when Redis does not answer: to tell history once more does
/// no harm.
pub(super) async fn is_announced(inner: &Inner, redis: &BullClient, id: &JobId) -> bool {
    if let Some(known) = shown_by(id) {
        return known;
    }
    let mut get = redis::cmd("HEXISTS");
    get.arg(inner.keys.job(id.as_str())).arg(keys::SUBMITTED);
    inner.link.call(redis.queue.connection().cmd(&mut get)).await.unwrap_or(false)
}

/// The same of a job whose hash has been read.
pub(super) fn is_announced_by(id: &JobId, fields: &Fields) -> bool {
    shown_by(id).unwrap_or_else(|| fields.contains_key(keys::SUBMITTED))
}
