//! The collections in which a bucket keeps documents.

/// Where a bucket keeps documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each kind is in a collection of its own.
    Collections,
    /// All documents are in the bucket's default collection, with the name of their own in their
    /// keys. This is for servers without collections, or where this user may not make them.
    Flat,
}
