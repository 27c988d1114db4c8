//! What a write to a replicated store survives.

/// What a write has reached before it counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteDurability {
    /// The memory of one node.
    None,
    /// The memory of most of the nodes that are to hold the document.
    Majority,
    /// And the disk of one of them.
    MajorityAndPersistToActive,
    /// The disks of most of them.
    PersistToMajority,
}

impl WriteDurability {
    /// All, by the names that the settings know.
    pub const ALL: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("majority", Self::Majority),
        ("majority_and_persist_to_active", Self::MajorityAndPersistToActive),
        ("persist_to_majority", Self::PersistToMajority),
    ];

    /// Its name in the settings.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}
