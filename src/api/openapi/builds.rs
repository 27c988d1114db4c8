//! The operations about builds.

use super::operation::{FAILURES, Operation, STATISTICS, string};
use super::problems::STORE;
use crate::stats::builds::BuildsReport;
use crate::wire::failures::{NewFailuresReport, RegressionsReport};

/// The longest name of a binary.
const NAME: usize = 128;

/// All of them, in the order of the document.
pub(super) fn all() -> Vec<Operation> {
    vec![
        Operation::new(STATISTICS, "get", "/api/v1/stats/builds", "getBuildStats", "How the builds of a binary fare")
            .about(
                "Of each build first and last seen, success, errors, times and memory of the first attempts of jobs, against \
                 the build before; which builds do worse than those before them; and what would be named when.",
            )
            .needed("name", string(NAME), "The binary")
            .answer(200, "Its builds, the last that came first", |s| s.of::<BuildsReport>())
            .refuses(&[STORE]),
        Operation::new(STATISTICS, "get", "/api/v1/stats/regressions", "getRegressions", "Builds that do worse")
            .query("name", string(NAME), "Only builds of this binary")
            .answer(200, "Those that were first seen last at the head", |s| s.of::<RegressionsReport>())
            .refuses(&[STORE]),
        Operation::new(FAILURES, "get", "/api/v1/failures/new", "listNewFailures", "Errors that came with a build")
            .about("Of each binary the errors with which its newest build has failed, and no known build before it.")
            .query("name", string(NAME), "Only this binary")
            .answer(200, "By binary", |s| s.of::<NewFailuresReport>())
            .refuses(&[STORE]),
    ]
}
