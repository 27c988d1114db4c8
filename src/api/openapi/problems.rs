//! Every code of an error: what a client decides on.

/// One code.
pub(in crate::api) struct Code {
    /// What stands in `code`.
    pub(in crate::api) code: &'static str,
    /// The status that it comes with.
    pub(in crate::api) status: u16,
    /// When it comes.
    pub(super) about: &'static str,
}

const fn code(status: u16, code: &'static str, about: &'static str) -> Code {
    Code { code, status, about }
}

/// All codes. [`super::super::problem::ApiError`] knows no others.
pub(in crate::api) const CODES: &[Code] = &[
    code(400, "invalid_host", "The request has no `Host`, two of them, or one that is none."),
    code(400, "invalid_json", "The body is no JSON; the detail has line and column."),
    code(400, "invalid_body", "The fields of the body contradict each other or the path."),
    code(400, "invalid_query", "A parameter of the query is unknown or wrong."),
    code(400, "invalid_header", "A header is wrong."),
    code(400, "invalid_path", "The path can't be decoded."),
    code(400, "broken_body", "The body broke off."),
    code(401, "unauthorized", "The request has no token, or a wrong one."),
    code(403, "cross_site", "The request comes from a page of another site."),
    code(403, "read_only", "The token allows to look, not to act."),
    code(403, "hidden", "The token does not show what jobs are given and what they write."),
    code(404, "not_found", "There is nothing at this path."),
    code(404, "unknown_job", "There is no such job."),
    code(404, "unknown_attempt", "The job has no such attempt."),
    code(404, "unknown_file", "The job has no such file, or the store has it no more."),
    code(404, "unknown_input", "No such content was uploaded, or it has expired."),
    code(404, "unknown_schedule", "There is no such schedule."),
    code(404, "unknown_queue", "No such queue has had a job."),
    code(404, "unknown_group", "There is no job of such a group."),
    code(404, "unknown_worker", "No such worker was heard of lately."),
    code(404, "unknown_verb", "The path ends with a verb that does not exist."),
    code(404, "unknown_category", "There is no such category."),
    code(404, "unknown_preset", "No such category comes with Jobber."),
    code(404, "unknown_target", "No target of notices has this name."),
    code(404, "unknown_error", "No attempt has failed with such an error."),
    code(405, "method_not_allowed", "The path knows other methods: see `Allow`."),
    code(408, "body_timeout", "The body did not come in time."),
    code(409, "wrong_state", "The job's state does not allow it."),
    code(409, "not_in_queue", "The job has ended, and the queue has let go of it."),
    code(409, "deduplication_key_taken", "Another job holds the job's deduplication key."),
    code(409, "category_exists", "There is such a category, or one of this name."),
    code(409, "too_many_categories", "There can be no more categories."),
    code(409, "digest_mismatch", "The body has another SHA-256 than the path says."),
    code(413, "body_too_large", "The body is larger than `serve.body_limit`."),
    code(415, "unsupported_media_type", "The body is not said to be JSON."),
    code(416, "invalid_range", "The file has no such bytes."),
    code(421, "wrong_host", "The server does not answer to this `Host`."),
    code(422, "invalid_body", "A field of the body is wrong, missing or unknown."),
    code(422, "empty_filter", "The body chooses no jobs."),
    code(422, "invalid_job", "A field of a job is out of its range."),
    code(422, "invalid_flow", "A flow is too large, or its jobs contradict each other."),
    code(422, "invalid_schedule", "A field of a schedule is wrong."),
    code(422, "invalid_category", "A field of a category is wrong."),
    code(422, "unknown_binary", "No worker has a binary of this name."),
    code(422, "unusable_binary", "The file of this name can't be run."),
    code(422, "idempotency_key_reused", "The key was used for another request."),
    code(500, "internal", "Jobber failed; its log has the reason under the request's id."),
    code(503, "queue_unavailable", "The queue can't be reached."),
    code(503, "log_unavailable", "The event log can't be reached."),
    code(503, "log_full", "The event log is full, because history does not keep up."),
    code(503, "store_unavailable", "History can't be reached."),
    code(503, "outbox_unavailable", "The outbox of notices can't be read or written."),
    code(503, "files_unavailable", "The store of files can't be reached."),
    code(503, "embedder_unavailable", "The embedding model can't be reached."),
    code(503, "unavailable", "The server made no overview in time."),
    code(503, "too_many_connections", "The server has as many connections as it takes."),
    code(503, "too_much_at_once", "Large bodies fill the room that the server has for them."),
    code(503, "stopping", "This server is stopping."),
    code(507, "queue_full", "The queue has no room left."),
    code(507, "store_full", "History has no room left."),
];

/// What every operation may be refused with.
pub(super) const ALWAYS: [&str; 5] = ["invalid_host", "unauthorized", "wrong_host", "internal", "too_many_connections"];
/// What an operation that changes something may be refused with.
pub(super) const WRITES: [&str; 2] = ["cross_site", "read_only"];
/// What an operation with a body may be refused with.
pub(super) const BODY: [&str; 7] = [
    "invalid_json",
    "broken_body",
    "body_timeout",
    "body_too_large",
    "unsupported_media_type",
    "invalid_body",
    "too_much_at_once",
];
/// What an operation that reads from the queue may be refused with.
pub(super) const QUEUE: &str = "queue_unavailable";
/// What an operation that reads history may be refused with.
pub(super) const STORE: &str = "store_unavailable";
/// What an operation that submits jobs may be refused with.
pub(super) const SUBMITS: [&str; 9] = [
    "invalid_job",
    "unknown_binary",
    "unusable_binary",
    "queue_unavailable",
    "queue_full",
    "log_unavailable",
    "log_full",
    "files_unavailable",
    "stopping",
];
/// What an operation that acts on a job may be refused with.
pub(super) const ACTS: [&str; 7] =
    ["unknown_job", "wrong_state", "not_in_queue", "queue_unavailable", "queue_full", "log_unavailable", "log_full"];

/// Whether a client can know this code with this status.
pub(in crate::api) fn is_known(status: u16, code: &str) -> bool {
    CODES.iter().any(|known| known.status == status && known.code == code)
}
