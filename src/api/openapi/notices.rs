//! The operations of notices.

use serde_json::json;

use super::operation::{NOTICES, Operation, number, page_of, string};
use crate::wire::{ChooseNotices, ChosenNotices, NoticeTargetView, NoticeView, TestNotices, TestedNotices};

/// What they may be refused with.
const OUTBOX: &str = "outbox_unavailable";

/// All of them, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    let chosen = json!({"ids": ["0f1e2d3c4b5a69788796a5b4c3d2e1f0"]});
    vec![
        Operation::new(NOTICES, "get", "/api/v1/notices", "listNotices", "List what was given up, or what waits")
            .about("The last that came first. A server shows what its own data directory holds.")
            .query(
                "state",
                json!({"type": "string", "enum": ["dead", "waiting"], "default": "dead"}),
                "Those that were given up, or that wait",
            )
            .query("target", string(64), "Only those of this target")
            .query("limit", number(1, 1000), "How many a page has; 100 when absent")
            .query("cursor", string(20), "`next_cursor` of the page before")
            .answer(200, "A page of notices", page_of::<NoticeView>)
            .refuses(&["invalid_query", OUTBOX]),
        Operation::new(NOTICES, "get", "/api/v1/notices/targets", "listNoticeTargets", "List the targets")
            .answer(200, "The targets, with how much waits for each", page_of::<NoticeTargetView>)
            .refuses(&[OUTBOX]),
        Operation::new(NOTICES, "post", "/api/v1/notices:retry", "retryNotices", "Try dead letters again")
            .about("They have all their time before them again.")
            .body(|s| s.of::<ChooseNotices>(), chosen.clone())
            .answer(200, "Those that wait again", |s| s.of::<ChosenNotices>())
            .refuses(&["empty_filter", OUTBOX]),
        Operation::new(NOTICES, "post", "/api/v1/notices:drop", "dropNotices", "Forget dead letters")
            .body(|s| s.of::<ChooseNotices>(), chosen)
            .answer(200, "Those that are gone", |s| s.of::<ChosenNotices>())
            .refuses(&["empty_filter", OUTBOX]),
        Operation::new(NOTICES, "post", "/api/v1/notices:test", "testNotices", "Send a sample")
            .about("To a target, or to each. It answers when all have, and tries nothing again.")
            .body(|s| s.of::<TestNotices>(), json!({"target": "ops"}))
            .answer(200, "What became of each", |s| s.of::<TestedNotices>())
            .refuses(&["unknown_target"]),
    ]
}
