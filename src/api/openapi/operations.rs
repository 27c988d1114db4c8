//! The table of operations: every route, what it takes and gives, and how it may refuse.

use serde_json::{Value, json};

use super::operation::{
    FAILURES, FILES, JOB_LINKS, KEY, NOTICES, ORIGINAL, Operation, QUEUES, SCHEDULES, STATISTICS, STREAM, flag, moment,
    number, object, page_of, string, text, words,
};
use super::problems::{ACTS, QUEUE, STORE, SUBMITS};
use super::{builds, files, notices, queues, schedules};
use crate::api::health;
use crate::api::jobs::filter::{LONGEST_RUN_MS, LONGEST_TEXT};
use crate::domain::JobOptions;
use crate::failures::categories::Calibration;
use crate::queue::WorkerInfo;
use crate::stats::BesideStats;
use crate::store::JobCount;
use crate::wire::failures::{
    AttemptsReport, CalibrateBody, CategoriesReport, CategoryBody, CategoryChanged, CategoryListing, CostReport,
    DurationsReport, FailuresReport, NewCategory, PresetListing, RetriedFailed, TestBody, Tested, ThresholdBody,
};
use crate::wire::{
    ActOnJobs, Acted, ActedOnJobs, BinaryListing, CancelRequest, Draining, Explanation, FlowJob, GroupView, Health,
    JobListing, JobView, LARGEST_PAGE, OriginalJob, OriginalJobs, OriginalStats, OriginalSubmitted, Overview,
    Readiness, ResolvedJobs, Session, SignIn, SubmitJob, SubmitJobs, Submitted, SubmittedFlow, SubmittedJobs,
    ThroughputReport,
};

const JOBS: &str = "Jobs";
const WORKERS: &str = "Workers";
const SERVER: &str = "Server";

/// The groups of operations, in the order in which people read them.
pub(super) const TAGS: [(&str, &str); 10] = [
    (JOBS, "Submit jobs, read, follow and change them."),
    (FILES, "What attempts leave in their output directories."),
    (FAILURES, "What attempts failed with, and the categories of these errors."),
    (STATISTICS, "How jobs do: by attempt, by what runs beside them, by category, in time and cost."),
    (SCHEDULES, "Jobs that come by themselves."),
    (QUEUES, "All queues as a whole, and each of them."),
    (WORKERS, "The processes that run jobs."),
    (NOTICES, "What people and programs are told of."),
    (SERVER, "The server itself."),
    (ORIGINAL, "The routes of the original program, for its clients. Errors are `{\"message\", \"error\"}`."),
];

/// All operations, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    let groups = [
        jobs(),
        bulk(),
        groups(),
        files::all(),
        failures(),
        categories(),
        statistics(),
        builds::all(),
        schedules::all(),
        operation(),
        queues::all(),
        notices::all(),
        server(),
        original(),
    ];
    groups.into_iter().flatten().collect()
}

const ID: &str = "01a20ba2-8b54-7171-9566-b15d432fef8b";

fn jobs() -> Vec<Operation> {
    let submission = json!({"name": "hello", "data": {"width": 800}, "attempts": 5, "timeout_ms": 60000});
    let submitted = json!({"id": ID, "status": "queued", "duplicate": false});
    vec![
        listed(Operation::new(JOBS, "get", "/api/v1/jobs", "listJobs", "List jobs, the last submitted first"))
            .query("limit", number(1, LARGEST_PAGE.into()), "How many jobs a page has; 50 when absent")
            .query("cursor", string(1024), "`next_cursor` of the page before")
            .answer(200, "A page of jobs, as history knows them", |s| s.of::<JobListing>())
            .with_header("Link", "The next page, if there is one (RFC 8288)")
            .leads_to("/items/0/id", &JOB_LINKS)
            .refuses(&[STORE]),
        listed(Operation::new(JOBS, "get", "/api/v1/jobs:count", "countJobs", "Count jobs, up to 10,000"))
            .answer(200, "How many, and whether there may be more", |s| s.of::<JobCount>())
            .example(json!({"count": 10_000, "capped": true}))
            .refuses(&[STORE]),
        Operation::new(JOBS, "get", "/api/v1/jobs:resolve", "resolveJob", "Find the job that a person means")
            .about(
                "By the beginning of its id, or as `@last`, the job that was submitted last, or `@last-failed`, the one \
                 that failed last, of the last thousand failed jobs. A whole id means its own job alone.",
            )
            .needed("id", string(256), "The beginning of an id, `@last` or `@last-failed`")
            .answer(200, "The candidates: act only on a single one", |s| s.of::<ResolvedJobs>())
            .refuses(&[STORE, QUEUE]),
        Operation::new(JOBS, "post", "/api/v1/jobs", "submitJob", "Submit one job, or an array of them")
            .about(
                "What is absent is decided by `[jobs.NAME]`, then by `[defaults]` of the server's configuration. With \
                 `array` one job is made for each index; its id is `id` (or a generated one), a dash and the index.",
            )
            .header("Idempotency-Key", string(256), KEY)
            .body(|s| s.of::<SubmitJob>(), submission.clone())
            .answer(202, "The job is queued, or all jobs of the array", |s| s.of::<Submitted>())
            .example(submitted.clone())
            .with_header("Location", "The path of the job, or of the first of an array")
            .leads_to("/id", &JOB_LINKS)
            .refuses(&SUBMITS)
            .refuses(&["idempotency_key_reused"]),
        Operation::new(JOBS, "post", "/api/v1/jobs:bulk", "submitJobs", "Submit many jobs, all or none")
            .header("Idempotency-Key", string(256), KEY)
            .body(|s| s.of::<SubmitJobs>(), json!({"jobs": [submission.clone()]}))
            .answer(202, "The jobs are queued, in the order of the request", |s| s.of::<SubmittedJobs>())
            .example(json!({"jobs": [submitted.clone()]}))
            .leads_to("/jobs/0/id", &JOB_LINKS)
            .refuses(&SUBMITS)
            .refuses(&["idempotency_key_reused"]),
        Operation::new(JOBS, "post", "/api/v1/flows", "submitFlow", "Submit a tree of jobs, all or none")
            .about("A job runs when all of its children have completed.")
            .header("Idempotency-Key", string(256), KEY)
            .body(|s| s.of::<FlowJob>(), json!({"job": {"name": "hello"}, "children": [{"job": {"name": "hello"}}]}))
            .answer(202, "The jobs are queued, in the shape of the request", |s| s.of::<SubmittedFlow>())
            .with_header("Location", "The path of the job at the root")
            .leads_to("/id", &JOB_LINKS)
            .refuses(&SUBMITS)
            .refuses(&["invalid_flow", "idempotency_key_reused"]),
        Operation::new(JOBS, "get", "/api/v1/jobs/{id}", "getJob", "Show a job with all its attempts")
            .query("wait", number(0, 86_400), "Answer when the job has ended, or after so many seconds, 60 at most")
            .header("Prefer", json!({"type": "string"}), "`wait=N` is the same as the parameter")
            .answer(200, "All that history and queue know of it", |s| s.of::<JobView>())
            .refuses(&["unknown_job", QUEUE, STORE]),
        Operation::new(JOBS, "delete", "/api/v1/jobs/{id}", "removeJob", "Take a job out of queue and lists")
            .answer(200, "It is removed", |s| s.of::<Acted>())
            .example(json!({"id": ID, "status": "removed"}))
            .refuses(&ACTS),
        Operation::new(JOBS, "post", "/api/v1/jobs/{id}:cancel", "cancelJob", "Stop a job, running or not")
            .optional_body(|s| s.of::<CancelRequest>(), json!({"reason": "wrong input"}))
            .answer(202, "It is cancelled, or its worker was told", |s| s.of::<Acted>())
            .example(json!({"id": ID, "status": "cancelling"}))
            .refuses(&ACTS),
        Operation::new(JOBS, "post", "/api/v1/jobs/{id}:retry", "retryJob", "Put a failed job back")
            .answer(202, "It waits again, with a fresh budget of attempts", |s| s.of::<Acted>())
            .example(json!({"id": ID, "status": "retried"}))
            .refuses(&ACTS)
            .refuses(&["deduplication_key_taken"]),
        Operation::new(JOBS, "post", "/api/v1/jobs/{id}:promote", "promoteJob", "Make a delayed job ready now")
            .answer(202, "It is ready", |s| s.of::<Acted>())
            .example(json!({"id": ID, "status": "promoted"}))
            .refuses(&ACTS),
        Operation::new(JOBS, "get", "/api/v1/jobs/{id}/explain", "explainJob", "Say why a job stands where it stands")
            .answer(200, "The reasons, the most important first", |s| s.of::<Explanation>())
            .refuses(&["unknown_job", QUEUE, STORE]),
        Operation::new(JOBS, "get", "/api/v1/jobs/{id}/logs", "followLog", "Stream what a job writes")
            .about("Server-sent events, each a `LogEvent`, until the job has ended. `Last-Event-ID` goes on where a stream broke off.")
            .refuses(&["hidden"])
            .query("follow", flag(), "`false` ends with what there is so far")
            .query("stream", json!({"type": "string", "enum": ["stdout", "stderr"]}), "Only this stream")
            .query("attempt", number(1, u32::MAX.into()), "Only this attempt")
            .header("Last-Event-ID", json!({"type": "string"}), "The id of the last event that came")
            .answer_as(200, "Events: `output`, `gap`, `progress`, `attempt`, `state`", &[(STREAM, text)])
            .answer_as(204, "There is no more", &[])
            .refuses(&["unknown_job", QUEUE, STORE]),
        output("/api/v1/jobs/{id}/attempts/{n}/stdout", "getStdout", "What an attempt wrote to stdout, as a file"),
        output("/api/v1/jobs/{id}/attempts/{n}/stderr", "getStderr", "What an attempt wrote to stderr, as a file"),
        Operation::new(JOBS, "get", "/api/v1/events", "followEvents", "Stream what happens to all jobs")
            .about("Server-sent events without end, each a `JobEventView`.")
            .query("after", string(64), "The id of an event: those after it")
            .header("Last-Event-ID", json!({"type": "string"}), "The id of the last event that came")
            .answer_as(200, "Events, each named by its kind", &[(STREAM, text)])
            .refuses(&["log_unavailable"]),
    ]
}

/// The download of a stream of an attempt.
fn output(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(JOBS, "get", path, id, summary)
        .answer_as(200, "The bytes as they were written", &[("text/plain", text)])
        .with_header("X-Jobber-Output", "`whole`, or `tail` when only the end is kept")
        .refuses(&["unknown_job", "unknown_attempt", "hidden", QUEUE, STORE])
}

/// The filters of a list of jobs.
fn listed(operation: Operation) -> Operation {
    operation
        .query("state", words("JobState"), "Only jobs in one of these states")
        .query("name", reference("JobName"), "Only jobs of this name")
        .query("queue", reference("QueueName"), "Of this queue")
        .query("group", reference("GroupName"), "Of this group")
        .query("since", moment(), "Submitted at this time or later")
        .query("until", moment(), "Submitted before this time")
        .query("category", string(100), "An attempt failed with an error of this category: its id or name")
        .query("fingerprint", fingerprint(), "An attempt failed with this error; the first digits are enough")
        .query(
            "q",
            json!({"type": "string", "maxLength": LONGEST_TEXT}),
            "Has this text in its id, its name or its error",
        )
        .query("outcome", words("OutcomeKind"), "The last attempt that has ended ended in one of these ways")
        .query("exit_code", number(0, 255), "The last attempt exited with this code")
        .query("signal", number(1, 64), "The last attempt was ended by this signal")
        .query("worker", reference("WorkerId"), "The last attempt was started by this worker")
        .query("longer_than_ms", number(0, LONGEST_RUN_MS), "The last attempt ran for longer")
        .query("shorter_than_ms", number(0, LONGEST_RUN_MS), "The last attempt ran for less")
        .refuses(&["unknown_category", "unknown_error"])
}

/// The schema of this name.
fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn fingerprint() -> Value {
    json!({"type": "string", "pattern": "^[0-9a-fA-F]{4,64}$"})
}

fn bulk() -> Vec<Operation> {
    let act = |path, id, summary| {
        Operation::new(JOBS, "post", path, id, summary)
            .about(
                "Acts on a batch. Give `next_cursor` back as `cursor` until it is null. Jobs are chosen by `ids` or by \
                 conditions; a body with neither is refused.",
            )
            .body(|s| s.of::<ActOnJobs>(), json!({"name": "hello", "limit": 500, "dry_run": true}))
            .refuses(&["empty_filter", "invalid_query", "unknown_category", "unknown_error"])
            .refuses(&[QUEUE, "queue_full", STORE, "log_unavailable", "log_full"])
    };
    let acted = |operation: Operation| {
        operation
            .answer(200, "What was done, or would be, and why some were skipped", |s| s.of::<ActedOnJobs>())
            .example(json!({"done": [ID], "skipped": {}, "more": false, "next_cursor": null, "dry_run": true}))
    };
    vec![
        acted(act("/api/v1/jobs:cancel", "cancelJobs", "Stop many jobs")),
        act("/api/v1/jobs:retry", "retryJobs", "Put many failed jobs back")
            .answer(200, "What was done, or would be, and why some were skipped", |s| s.of::<RetriedFailed>())
            .example(json!({"retried": [ID], "skipped": {}, "more": false, "next_cursor": null, "dry_run": true})),
        acted(act("/api/v1/jobs:promote", "promoteJobs", "Make many delayed jobs ready now")),
        acted(act("/api/v1/jobs:remove", "removeJobs", "Take many jobs out of queue and lists")),
    ]
}

fn groups() -> Vec<Operation> {
    let at = Operation::new;
    vec![
        at(JOBS, "get", "/api/v1/groups/{group}", "getGroup", "How far the jobs of a group are")
            .answer(200, "How many of them are in each state", |s| s.of::<GroupView>())
            .refuses(&["unknown_group", STORE]),
        at(JOBS, "get", "/api/v1/groups/{group}/results", "getGroupResults", "What the jobs of a group gave back")
            .about(
                "Each job of the group is a line, a `GroupResult`, in the order of their indices, whatever their state. An \
                 answer that breaks off is not whole.",
            )
            .answer_as(200, "Lines of JSON", &[("application/jsonl", text)])
            .refuses(&["unknown_group", STORE]),
    ]
}

/// The jobs that statistics are about.
fn span(operation: Operation) -> Operation {
    let day = || json!({"type": "string", "format": "date", "example": "2026-11-24"});
    operation
        .query("name", reference("JobName"), "Only jobs of this name")
        .query("queue", reference("QueueName"), "Only jobs of this queue")
        .query("since", day(), "Submitted on this day (UTC) or later; a moment stands for its day")
        .query("until", day(), "Submitted before this day")
        .refuses(&[STORE])
}

fn failures() -> Vec<Operation> {
    vec![
        span(Operation::new(FAILURES, "get", "/api/v1/failures", "listFailures", "What attempts failed with"))
            .query("category", string(100), "Only errors of this category: its id or name, `uncategorised`, `pending`")
            .query(
                "fingerprint",
                json!({"type": "string", "pattern": "^[0-9a-fA-F]{1,64}$"}),
                "Only errors that begin so",
            )
            .query("trend", number(1, 90), "With the failures of each of the last so many days")
            .query("limit", number(1, 1000), "At most so many groups; 100 when absent")
            .answer(200, "Groups of failed attempts, the most frequent first", |s| s.of::<FailuresReport>())
            .refuses(&["unknown_category"]),
        Operation::new(
            FAILURES,
            "get",
            "/api/v1/failures/similar",
            "findSimilar",
            "Errors that mean the same as a text",
        )
        .needed(
            "text",
            json!({"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "\\S"}),
            "What to look for",
        )
        .query("limit", number(1, 100), "At most so many groups; 10 when absent")
        .answer(200, "Known errors, the nearest first", |s| s.of::<FailuresReport>())
        .refuses(&[STORE, "embedder_unavailable"]),
    ]
}

fn categories() -> Vec<Operation> {
    let changed = json!({"id": "disk-full", "status": "added", "cursor": "0-42", "takes_effect": "within seconds"});
    let refused = ["invalid_category", STORE, "log_unavailable", "log_full"];
    vec![
        Operation::new(FAILURES, "get", "/api/v1/categories", "listCategories", "The categories of errors")
            .answer(200, "All categories", |s| s.of::<CategoryListing>())
            .refuses(&[STORE]),
        Operation::new(FAILURES, "post", "/api/v1/categories", "addCategory", "Add a category")
            .about("A preset gives what is not given. Without one, `name` must be there.")
            .body(
                |s| s.of::<NewCategory>(),
                json!({"name": "Disk full", "examples": ["write failed: No space left on device"]}),
            )
            .answer(202, "It is added, and takes effect soon", |s| s.of::<CategoryChanged>())
            .example(changed.clone())
            .refuses(&refused)
            .refuses(&["unknown_preset", "category_exists", "too_many_categories"]),
        Operation::new(FAILURES, "put", "/api/v1/categories/{id}", "editCategory", "Replace a category")
            .body(|s| s.of::<CategoryBody>(), json!({"name": "Disk full", "examples": ["No space left on device"]}))
            .answer(202, "It is replaced, and takes effect soon", |s| s.of::<CategoryChanged>())
            .refuses(&refused)
            .refuses(&["unknown_category", "category_exists"]),
        Operation::new(FAILURES, "delete", "/api/v1/categories/{id}", "removeCategory", "Remove a category")
            .answer(202, "It is removed, and takes effect soon", |s| s.of::<CategoryChanged>())
            .refuses(&refused)
            .refuses(&["unknown_category"]),
        Operation::new(FAILURES, "get", "/api/v1/categories:presets", "listPresets", "Categories to choose from")
            .answer(200, "The categories that come with Jobber", |s| s.of::<PresetListing>()),
        Operation::new(FAILURES, "post", "/api/v1/categories:test", "testCategory", "Say where a text belongs")
            .body(|s| s.of::<TestBody>(), json!({"text": "write failed: No space left on device"}))
            .answer(200, "The category, and how near it is", |s| s.of::<Tested>())
            .refuses(&[STORE, "embedder_unavailable"]),
        Operation::new(FAILURES, "post", "/api/v1/categories:calibrate", "calibrate", "Find the best threshold")
            .body(
                |s| s.of::<CalibrateBody>(),
                json!({"labelled": [{"text": "No space left on device", "category": "uncategorised"}]}),
            )
            .answer(200, "The best threshold, and what others give", |s| s.of::<Calibration>())
            .refuses(&["unknown_category", STORE, "embedder_unavailable"]),
        Operation::new(FAILURES, "post", "/api/v1/categories:threshold", "setThreshold", "Set the threshold")
            .body(|s| s.of::<ThresholdBody>(), json!({"threshold": 0.5}))
            .answer(202, "It takes effect soon", |s| s.of::<CategoryChanged>())
            .refuses(&refused),
    ]
}

fn statistics() -> Vec<Operation> {
    let stats = |path, id, summary| {
        span(Operation::new(STATISTICS, "get", path, id, summary)).query(
            "format",
            json!({"type": "string", "enum": ["json", "csv"]}),
            "The same as `Accept: text/csv`",
        )
    };
    vec![
        stats("/api/v1/stats/attempts", "getAttemptStats", "Whether further attempts are worth it")
            .query(
                "attempts",
                number(1, JobOptions::MAX_ATTEMPTS.into()),
                "Is it worth it to allow so many? 5 when absent",
            )
            .answer_as(
                200,
                "By the number of the attempt",
                &[("application/json", |s| s.of::<AttemptsReport>()), ("text/csv", text)],
            ),
        stats("/api/v1/stats/concurrency", "getConcurrencyStats", "What it costs to run jobs side by side").answer_as(
            200,
            "By the number of jobs on the same host",
            &[("application/json", |s| s.of::<BesideStats>()), ("text/csv", text)],
        ),
        stats("/api/v1/stats/categories", "getCategoryStats", "How often jobs survive each kind of error")
            .query("trend", number(1, 90), "With the failures of each of the last so many days")
            .answer_as(200, "By category", &[("application/json", |s| s.of::<CategoriesReport>()), ("text/csv", text)]),
        Operation::new(STATISTICS, "get", "/api/v1/stats/throughput", "getThroughput", "What happened in each minute")
            .about("The server counts once a client asks, and knows of the time before what the event log still holds.")
            .query("minutes", number(1, 1440), "So many of the last minutes; 60 when absent")
            .query("format", json!({"type": "string", "enum": ["json", "csv"]}), "The same as `Accept: text/csv`")
            .answer_as(
                200,
                "Every minute, the oldest first",
                &[("application/json", |s| s.of::<ThroughputReport>()), ("text/csv", text)],
            )
            .refuses(&["log_unavailable"]),
        stats("/api/v1/stats/cost", "getCostStats", "What failed attempts cost, and what jobs really use").answer_as(
            200,
            "By job name and category; sizes by job name",
            &[("application/json", |s| s.of::<CostReport>()), ("text/csv", text)],
        ),
        stats("/api/v1/stats/durations", "getDurationStats", "How long jobs wait and run").answer_as(
            200,
            "By job name",
            &[("application/json", |s| s.of::<DurationsReport>()), ("text/csv", text)],
        ),
    ]
}

fn operation() -> Vec<Operation> {
    vec![
        Operation::new(QUEUES, "get", "/api/v1/overview", "getOverview", "What goes on now")
            .about("What could not be asked is null. `Accept: text/event-stream` gets a stream: one snapshot a second.")
            .answer_as(200, "A snapshot", &[("application/json", |s| s.of::<Overview>()), (STREAM, text)])
            .refuses(&["unavailable"]),
        Operation::new(WORKERS, "get", "/api/v1/workers", "listWorkers", "List the workers that were heard of lately")
            .answer(200, "The workers", page_of::<WorkerInfo>)
            .refuses(&[QUEUE]),
        Operation::new(WORKERS, "post", "/api/v1/workers/{id}:drain", "drainWorker", "Let a worker end")
            .about("It takes nothing new, and ends when its jobs have.")
            .answer(202, "It was told", |s| s.of::<Draining>())
            .refuses(&["unknown_worker", QUEUE, "queue_full"]),
        Operation::new(WORKERS, "get", "/api/v1/binaries", "listBinaries", "What jobs can be named after")
            .answer(200, "What workers announce, and what lies in the server's jobs directory", |s| {
                s.of::<BinaryListing>()
            })
            .refuses(&[QUEUE]),
    ]
}

fn server() -> Vec<Operation> {
    vec![
        Operation::new(SERVER, "get", "/api/v1/session", "getSession", "Who the caller is to the server")
            .open()
            .answer(200, "Its role", |s| s.of::<Session>()),
        Operation::new(SERVER, "post", "/api/v1/session", "signIn", "Give a browser a cookie that stands for a token")
            .about("Only for pages of this server.")
            .open()
            .body(|s| s.of::<SignIn>(), json!({"token": "secret"}))
            .answer(200, "It is signed in", |s| s.of::<Session>())
            .with_header("Set-Cookie", "`jobber_session`: HttpOnly, SameSite=Strict")
            .refuses(&["unauthorized"]),
        Operation::new(SERVER, "delete", "/api/v1/session", "signOut", "Take the cookie away")
            .open()
            .answer(200, "It is signed out", |s| s.of::<Session>())
            .with_header("Set-Cookie", "Ends the cookie"),
        Operation::new(SERVER, "get", "/metrics", "getMetrics", "Metrics for Prometheus").answer_as(
            200,
            "In the format that `Accept` prefers",
            &[("text/plain", text), ("application/openmetrics-text", text)],
        ),
        Operation::new(SERVER, "get", health::LIVE, "getHealth", "Whether the process answers")
            .open()
            .answer(200, "It does", |s| s.of::<Health>())
            .example(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})),
        Operation::new(SERVER, "get", health::READY, "getReadiness", "Whether the server accepts jobs")
            .open()
            .answer(200, "It is ready, or degraded and ready all the same", |s| s.of::<Readiness>())
            .answer(503, "It is not ready", |s| s.of::<Readiness>()),
        Operation::new(SERVER, "get", "/api/v1/openapi.json", "getOpenApi", "This document").answer(
            200,
            "OpenAPI 3.1",
            object,
        ),
    ]
}

fn original() -> Vec<Operation> {
    vec![
        Operation::new(ORIGINAL, "get", "/jobs", "originalListJobs", "Counts and ids by job name")
            .deprecated()
            .answer(202, "The jobs of each name", |s| s.of::<OriginalJobs>())
            .refuses(&[QUEUE, STORE]),
        Operation::new(ORIGINAL, "post", "/jobs", "originalSubmitJob", "Submit a job")
            .deprecated()
            .header("Idempotency-Key", string(256), KEY)
            .about("`jobName` stands for `name` as well, and `args` for `arguments`.")
            .body(|s| s.of::<OriginalJob>(), json!({"name": "hello", "arguments": []}))
            .answer(202, "The job is queued", |s| s.of::<OriginalSubmitted>())
            .refuses(&SUBMITS)
            .refuses(&["idempotency_key_reused"]),
        Operation::new(ORIGINAL, "get", "/stats", "originalGetStats", "Success by attempts, concurrency and category")
            .deprecated()
            .answer(202, "The statistics", |s| s.of::<OriginalStats>())
            .refuses(&[STORE]),
    ]
}
