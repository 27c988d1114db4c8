//! Black-box tests: the real binary, real servers, real programs.
#![expect(clippy::disallowed_methods, reason = "tests start processes, read the environment and print")]
#![expect(unreachable_pub, reason = "one binary, nothing is reachable from outside")]

mod architecture;
mod bullmq;
mod cli;
mod compat;
mod conformance;
mod faults;
mod harness;
mod jobs;
mod lifecycle;
mod projector;
mod release;
