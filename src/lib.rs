//! Jobber runs native programs as queued jobs. The modules, in the order in which a job meets them:

pub mod cli;
pub mod client;
pub mod domain;
pub mod events;
pub mod queue;
pub mod runner;
pub mod sqlite;
pub mod stats;
pub mod store;
pub mod wake;
pub mod wire;
