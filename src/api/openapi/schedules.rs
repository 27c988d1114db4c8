//! The operations of schedules.

use serde_json::json;

use super::operation::{JOB_LINKS, KEY, Operation, SCHEDULES, page_of, string};
use super::problems::{QUEUE, SUBMITS};
use crate::wire::{PutSchedule, ScheduleActed, ScheduleView, Submitted};

/// What a client can do with the id of a schedule.
const LINKS: [(&str, &str); 5] = [
    ("getSchedule", "id"),
    ("triggerSchedule", "id"),
    ("pauseSchedule", "id"),
    ("resumeSchedule", "id"),
    ("removeSchedule", "id"),
];

/// All of them, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    let schedule = json!({"id": "nightly", "cron": "30 2 * * *", "tz": "Europe/Berlin", "job": {"name": "hello"}});
    let refused = ["invalid_schedule", "invalid_job", "unknown_binary", "unusable_binary", QUEUE, "queue_full"];
    vec![
        Operation::new(SCHEDULES, "get", "/api/v1/schedules", "listSchedules", "List all schedules")
            .answer(200, "The schedules, the next due first", page_of::<ScheduleView>)
            .leads_to("/items/0/id", &LINKS)
            .refuses(&[QUEUE]),
        Operation::new(SCHEDULES, "post", "/api/v1/schedules", "createSchedule", "Add or replace a schedule")
            .about("Give either `cron` or `every_ms`. The id is the job's name if absent.")
            .body(|s| s.of::<PutSchedule>(), schedule.clone())
            .answer(200, "It replaces one", |s| s.of::<ScheduleView>())
            .answer(201, "It is new", |s| s.of::<ScheduleView>())
            .with_header("Location", "The path of the schedule")
            .leads_to("/id", &LINKS)
            .refuses(&refused),
        Operation::new(SCHEDULES, "get", "/api/v1/schedules/{id}", "getSchedule", "Show a schedule")
            .answer(200, "The schedule with its next times", |s| s.of::<ScheduleView>())
            .refuses(&["unknown_schedule", QUEUE]),
        Operation::new(
            SCHEDULES,
            "put",
            "/api/v1/schedules/{id}",
            "putSchedule",
            "Add or replace the schedule of an id",
        )
        .body(|s| s.of::<PutSchedule>(), schedule)
        .answer(200, "It replaces one", |s| s.of::<ScheduleView>())
        .answer(201, "It is new", |s| s.of::<ScheduleView>())
        .with_header("Location", "The path of the schedule")
        .refuses(&refused),
        Operation::new(SCHEDULES, "delete", "/api/v1/schedules/{id}", "removeSchedule", "Remove a schedule")
            .answer(200, "It is removed; jobs that have come stay", |s| s.of::<ScheduleActed>())
            .refuses(&["unknown_schedule", QUEUE, "queue_full"]),
        Operation::new(SCHEDULES, "post", "/api/v1/schedules/{id}:trigger", "triggerSchedule", "Submit its job now")
            .header("Idempotency-Key", string(256), KEY)
            .answer(202, "The job is queued", |s| s.of::<Submitted>())
            .with_header("Location", "The path of the job")
            .leads_to("/id", &JOB_LINKS)
            .refuses(&SUBMITS)
            .refuses(&["unknown_schedule", "idempotency_key_reused"]),
        Operation::new(SCHEDULES, "post", "/api/v1/schedules/{id}:pause", "pauseSchedule", "Let no more jobs come")
            .answer(200, "It is paused", |s| s.of::<ScheduleActed>())
            .refuses(&["unknown_schedule", QUEUE, "queue_full"]),
        Operation::new(SCHEDULES, "post", "/api/v1/schedules/{id}:resume", "resumeSchedule", "Let its jobs come again")
            .answer(200, "It goes on", |s| s.of::<ScheduleActed>())
            .refuses(&["unknown_schedule", QUEUE, "queue_full"]),
    ]
}
