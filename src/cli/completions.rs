//! `jobber completions`: prints a completion script for a shell.

use clap::Args;
use clap_complete::Shell;

use super::{CliError, Console, Exit, complete};

/// `jobber completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The script asks `jobber` itself, wherever on the path it is, at each press of the tab key.
pub(super) fn completions(args: &CompletionsArgs, console: &mut Console) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    let unwritten = |e: std::io::Error| CliError::local("couldn't write the script", e);
    let adapter = complete::adapter(&args.shell.to_string());
    let adapter = adapter.ok_or_else(|| CliError::Usage(format!("there are no completions for {}", args.shell)))?;
    adapter.write_registration(complete::VARIABLE, "jobber", "jobber", "jobber", &mut script).map_err(unwritten)?;
    console.data(&script)?;
    Ok(Exit::OK)
}
