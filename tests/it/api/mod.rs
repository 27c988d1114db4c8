//! The HTTP API of the real binary.

mod live;
mod refusals;
mod schedules;
mod submissions;
