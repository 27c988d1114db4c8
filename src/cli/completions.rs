//! `jobber completions`: prints a completion script for a shell.

use clap::Args;
use clap_complete::Shell;

use super::{CliError, Console, Exit};

/// `jobber completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs, console: &mut Console) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::tree(), "jobber", &mut script);
    console.data(&script)?;
    Ok(Exit::OK)
}
