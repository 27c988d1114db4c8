//! `jobber ui`: opens the server's page in a browser, or prints where it is.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use clap::Args;

use super::{CliError, Console, Exit};
use crate::client::Client;
use crate::config::env;

/// `jobber ui`.
#[derive(Debug, Clone, Default, Args)]
pub struct UiArgs {
    /// Only print the page's address
    #[arg(long)]
    print: bool,
}

/// Opens the page if the server answers and there is a display; else prints the page's address.
pub(super) async fn ui(args: &UiArgs, client: &Client, console: &mut Console) -> Result<Exit, CliError> {
    let page = format!("{}/ui/", client.server());
    if !args.print {
        client.health().await?;
        if has_display(&env::read()) && open(&page) {
            console.note(&format!("opened {page}"));
            return Ok(Exit::OK);
        }
    }
    console.data(format!("{page}\n").as_bytes())?;
    Ok(Exit::OK)
}

fn has_display(environment: &BTreeMap<String, String>) -> bool {
    let is_set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    cfg!(target_os = "macos") || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
}

/// Asks the desktop to show an address, and says whether there was a program to ask. It may go on as long as the browser
/// is open, so its end is not waited for.
#[expect(clippy::disallowed_methods, reason = "a browser is no job")]
fn open(address: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_no_display() {
        let with = |name: &str, value: &str| has_display(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert!(with("DISPLAY", ":0") && with("WAYLAND_DISPLAY", "wayland-0"));
        assert!(!with("DISPLAY", "") && !with("TERM", "xterm"));
    }
}
