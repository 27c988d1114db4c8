//! The command line as a user meets it: the real binary against a real server.

mod category;
mod control;
mod doctor;
mod evaluate;
mod exec;
mod flow;
mod queues;
mod run;
mod schedule;
mod submit;
mod ui;
