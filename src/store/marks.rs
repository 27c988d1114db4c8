//! What tells a reader whether that which it has kept of history still holds.

use crate::stats::ShardKey;

/// Marks of aggregates and of what is known of errors, all of one moment. A reader that reads the marks before the
/// aggregates may keep the aggregates for as long as the marks stay the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// What the labels of errors depend on.
    pub labels: LabelMarks,
    /// The aggregates that were asked about, each with the number of its version, which grows with every write. An error
    /// is seen anew in the same step in which an aggregate that names it is written.
    pub shards: Vec<(ShardKey, u64)>,
}

/// Numbers that grow whenever the label of an error may have become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LabelMarks {
    /// Grows when a pending error becomes known.
    pub learned: i64,
    /// Grows when a known error gets another category, or the categories change.
    pub relabelled: i64,
    /// Grows when something is taken away, or written in another way than Jobber does: then nothing holds that was kept.
    pub cleared: i64,
}
