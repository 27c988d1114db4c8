//! All integration tests, in one binary: one link, and helpers that are shared.

mod conformance;
mod projector;
