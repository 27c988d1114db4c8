//! The caches: of one process, and of all.

pub mod memory;
pub mod redis;
