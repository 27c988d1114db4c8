//! The HTTP API of the real binary.

mod identity;
mod live;
mod refusals;
mod schedules;
mod submissions;
