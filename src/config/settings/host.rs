//! The defaults of what a host demands of its jobs. No submitter can set them.

use super::{Setting, setting};

pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "defaults.crash_report",
        &["JOBBER_CRASH_REPORT"],
        "true",
        "Whether a crash of the job's process leaves a report: true, false, or \"tree\" for the processes that it starts, too.",
    ),
    setting(
        "defaults.sandbox",
        &["JOBBER_SANDBOX"],
        r#""off""#,
        "What jobs may touch: off (what the worker's user may), basic (no processes of others, nothing that no batch job\n\
         needs), or strict (besides no files but the system's, its scratch directory, and those below).",
    ),
    setting(
        "defaults.network",
        &["JOBBER_SANDBOX_NETWORK"],
        "true",
        "Whether jobs may use the network. false needs sandbox = \"basic\" or \"strict\".",
    ),
    setting(
        "defaults.sandbox_read",
        &["JOBBER_SANDBOX_READ"],
        "[]",
        "What strict lets jobs read besides, such as [\"/srv/models\"]: absolute paths, with all below them.",
    ),
    setting(
        "defaults.sandbox_write",
        &["JOBBER_SANDBOX_WRITE"],
        "[]",
        "What strict lets jobs read and change besides, such as [\"/srv/results\", \"/dev/shm\"].",
    ),
    setting(
        "defaults.sandbox_unsupported",
        &["JOBBER_SANDBOX_UNSUPPORTED"],
        r#""refuse""#,
        "Where the kernel can't do all that a sandbox says (`jobber doctor` tells): refuse (jobs that need it are not run\n\
         there), or best_effort (they run under what can be had).",
    ),
];
