//! Pages of long lists, by cursor: an opaque text that the next request gives back.

use serde::{Deserialize, Serialize};

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// `next` of the page before; `None` for the first.
    pub cursor: Option<String>,
    /// Items at most, 1 to [`PageRequest::MAX`].
    pub limit: usize,
}

impl PageRequest {
    /// The most items of one page.
    pub const MAX: usize = 1000;

    /// The first page, of at most `limit` items.
    pub fn first(limit: usize) -> Self {
        Self { cursor: None, limit: limit.clamp(1, Self::MAX) }
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What was found, in order.
    pub items: Vec<T>,
    /// Gets the next page; `None` on the last.
    pub next: Option<String>,
}
