//! In which collections a bucket keeps documents.

/// Where documents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In collections of their own.
    Collections,
    /// All in the bucket's default collection, with the collection's name in their keys: on servers without
    /// collections, or where they are missing and this user may not make them.
    Flat,
}
