//! The command line as a user meets it: the real binary against a real server.

mod control;
mod exec;
mod run;
mod submit;
