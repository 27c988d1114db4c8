//! The lines of the event log: what happened to a job, and what happened to the categories of errors.

use serde::{Deserialize, Serialize};

use super::{Category, CategoryId, Event, Timestamp};

/// One line of the event log.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Something happened to a job.
    Job(Event),
    /// An operator or a server changed the categories of errors.
    Categories(CategoryEvent),
}

/// A change of the categories of errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryEvent {
    /// The time of the change.
    pub at: Timestamp,
    /// The change itself.
    #[serde(rename = "category_change")]
    pub change: CategoryChange,
}

/// Which change it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CategoryChange {
    /// A category was added.
    Added {
        /// The new category.
        category: Category,
    },
    /// A category was changed.
    Edited {
        /// The category as it is from now on.
        category: Category,
    },
    /// A category was removed.
    Removed {
        /// The removed category.
        id: CategoryId,
    },
    /// It was decided how near an error must be to its category.
    ThresholdSet {
        /// From now on; `None` leaves it to the configuration again.
        threshold: Option<f32>,
    },
}

impl CategoryChange {
    /// The name that stands in JSON, after `category_`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Added { .. } => "category_added",
            Self::Edited { .. } => "category_edited",
            Self::Removed { .. } => "category_removed",
            Self::ThresholdSet { .. } => "category_threshold_set",
        }
    }
}

impl Entry {
    /// The time of the event.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Job(event) => event.at,
            Self::Categories(event) => event.at,
        }
    }

    /// The event, if it is one of a job.
    pub fn job(&self) -> Option<&Event> {
        match self {
            Self::Job(event) => Some(event),
            Self::Categories(_) => None,
        }
    }
}
