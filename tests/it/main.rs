//! Black-box tests: the real binary, real servers, real programs.
#![expect(clippy::disallowed_methods, reason = "tests start processes, read the environment and print")]
#![expect(clippy::print_stderr, reason = "a failed test shows the log of its processes")]
#![expect(clippy::unwrap_used, reason = "what fails in a test is to panic")]
#![expect(unreachable_pub, reason = "one binary, nothing is reachable from outside")]

mod api;
mod architecture;
mod browser;
mod builds;
mod bullmq;
mod classifier;
mod cli;
mod compat;
mod conformance;
mod contract;
mod couchbase;
mod couchbase_setup;
mod crash;
mod deploy;
mod docs;
mod double;
mod embedding;
mod faults;
mod files;
mod fleet;
mod growth;
mod harness;
mod jobs;
mod lifecycle;
mod metrics;
mod new_job;
mod notices;
mod output;
mod packages;
mod payload;
mod placement;
mod policies;
mod projector;
mod release;
mod resident;
mod sandbox;
mod service;
mod speed;
mod statistics;
mod strangers;
mod supervision;
mod traces;
mod trouble;
mod upkeep;
