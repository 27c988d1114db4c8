//! The arguments by which several commands select jobs and failures.

use clap::Args;

use super::values::Moment;

/// Filters of `jobber list` and `jobber failures`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct FilterArgs {
    /// Only jobs of this binary
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Only jobs submitted since (failures: on that day or later): 1h, 7d, or 2026-11-24T08:00:00Z
    #[arg(long, value_name = "DURATION|RFC3339")]
    pub(super) since: Option<Moment>,
    /// Only jobs submitted before
    #[arg(long, value_name = "DURATION|RFC3339")]
    pub(super) until: Option<Moment>,
    /// Only what failed with an error of this category, by id or name (failures: or uncategorised, or pending)
    #[arg(long, value_name = "CATEGORY")]
    pub(super) category: Option<String>,
    /// Only what failed with the error whose fingerprint begins like this
    #[arg(long, value_name = "DIGITS")]
    pub(super) fingerprint: Option<String>,
}
