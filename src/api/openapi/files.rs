//! The operations about the files of jobs.

use serde_json::{Value, json};

use super::operation::{FILES, Operation, Schemas, number};
use super::problems::{QUEUE, STORE};
use crate::wire::{InputView, JobFiles};

const FILES_AWAY: &str = "files_unavailable";

fn bytes(_: &mut Schemas) -> Value {
    json!({"type": "string", "format": "binary"})
}

fn download(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(FILES, "get", path, id, summary)
        .about("With `Range` one part of it. The tag (`ETag`) is the SHA-256 of its content.")
        .answer_as(200, "Its bytes, in its own media type", &[("*/*", bytes), ("application/octet-stream", bytes)])
        .answer_as(206, "The part that was asked for", &[("*/*", bytes), ("application/octet-stream", bytes)])
        .answer_as(304, "The client has it", &[])
        .refuses(&["unknown_job", "unknown_file", "invalid_range", "hidden", FILES_AWAY, QUEUE, STORE])
        .refuses(&["log_unavailable"])
}

/// All of them, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    vec![
        Operation::new(FILES, "get", "/api/v1/jobs/{id}/files", "listFiles", "List the files of a job")
            .about("What its attempts left in `$JOBBER_OUTPUT_DIR`, by attempt and name.")
            .answer(200, "The files, and what is said of those that are not kept", |s| s.of::<JobFiles>())
            .refuses(&["unknown_job", "hidden", QUEUE, STORE, "log_unavailable"]),
        download("/api/v1/jobs/{id}/files/{path}", "getFile", "A file of the last attempt that left one of this name"),
        download("/api/v1/jobs/{id}/attempts/{n}/files/{path}", "getFileOfAttempt", "A file that an attempt left"),
        download("/api/v1/jobs/{id}/inputs/{path}", "getInputOfJob", "What a job was given under this name"),
        Operation::new(FILES, "get", "/api/v1/inputs/{sha256}", "getInput", "Whether a content was uploaded")
            .about("If so it counts as used from now on, and is kept for as long as history.")
            .query("size", number(0, u64::MAX), "Asks besides whether one of this size could be uploaded")
            .answer(200, "It was", |s| s.of::<InputView>())
            .refuses(&["unknown_input", "body_too_large", FILES_AWAY]),
        Operation::new(FILES, "put", "/api/v1/inputs/{sha256}", "putInput", "Upload a content for jobs")
            .about("A job names it in `inputs`. To upload it again changes nothing.")
            .bytes()
            .answer(201, "It is kept", |s| s.of::<InputView>())
            .refuses(&["digest_mismatch", FILES_AWAY]),
    ]
}
