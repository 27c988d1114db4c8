//! Jobber runs native programs as queued jobs. The modules, in the order in which a job meets them:

// What everybody speaks.
pub mod domain;

// In: from a shell or over HTTP, into the queue.
pub mod api;
pub mod artifacts;
pub mod cli;
pub mod client;
pub mod queue;
pub mod wire;

// Run: claimed, supervised, recorded.
pub mod runner;
pub mod worker;

// Remembered: events, folded into documents and aggregates.
pub mod archive;
pub mod classifier;
pub mod events;
pub mod failures;
pub mod notices;
pub mod projector;
pub mod reconciler;
pub mod stats;
pub mod store;

// How it is put together.
pub mod allocations;
pub mod background;
pub mod config;
#[cfg(test)]
mod counting;
pub mod descriptors;
pub mod doctor;
pub mod interest;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod outage;
pub mod reconnect;
pub mod redis;
pub mod roles;
pub mod sqlite;
pub mod tls;
pub mod traces;
pub mod wake;
pub mod wiring;
