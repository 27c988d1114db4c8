//! Numbers about many jobs: pure arithmetic on aggregates, no I/O.

pub mod shard;

pub use shard::{Counts, Histogram, ShardKey, StatShard};
