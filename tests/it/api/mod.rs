//! The HTTP API of the real binary.

mod connections;
mod identity;
mod live;
mod memory;
mod page;
mod refusals;
mod schedules;
mod session;
mod submissions;
mod tls;
