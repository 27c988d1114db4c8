//! The caches: of one process, of the processes that share a data directory, and of all.

pub mod embedded;
pub mod memory;
pub mod redis;
