//! `jobber category`.

use clap::Subcommand;

use super::evaluate::EvaluateArgs;

/// `jobber category`.
#[derive(Debug, Clone, Subcommand)]
pub enum CategoryCommand {
    /// Measure on labelled messages how well errors find their categories, without a server
    Evaluate(EvaluateArgs),
}
