//! What every adapter of a port must do, as one suite of cases for each port.
//!
//! A suite is a file of this folder: private `async fn case(fixture: F)`, one `async fn adapter() -> F` for each adapter
//! (a fresh, empty backing store), and one [`conformance!`] that crosses the two lists. A case that is not listed is
//! dead code, which the compiler reports. A case speaks to the ports only, so it holds for adapters yet to come.

/// Makes one test of every case for every adapter.
///
/// In `conformance/queue.rs`,
/// ```text
/// conformance! { suite queue { case_a, case_b } for embedded, bullmq }
/// ```
/// makes `queue::embedded::case_a`, `queue::bullmq::case_a` and so on; each runs `case_a(embedded().await).await` on a
/// runtime with several threads.
macro_rules! conformance {
    (suite $suite:ident $cases:tt for $($adapter:ident),+ $(,)?) => {
        $( conformance! { @adapter $suite $adapter $cases } )+
    };
    (@adapter $suite:ident $adapter:ident { $($case:ident),+ $(,)? }) => {
        mod $adapter {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    // By full path, so that a suite in a file of another name does not compile.
                    let fixture = crate::conformance::$suite::$adapter().await;
                    crate::conformance::$suite::$case(fixture).await;
                }
            )+
        }
    };
}

mod queue;

// === the files of jobs ===
mod artifacts;

// === the log and the store ===
mod events;
mod store;

// === what is known of errors ===
mod cache;
mod embedder;
