//! The command line as a user meets it: the real binary against a real server.

mod arrays;
mod category;
mod control;
mod doctor;
mod evaluate;
mod exec;
mod flow;
mod ids;
mod queues;
mod replay;
mod run;
mod schedule;
mod submit;
mod terminal;
mod ui;

/// What a command has printed as JSON.
fn parse(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}
