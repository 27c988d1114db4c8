//! `jobber man`: writes manual pages, made of what `--help` is made of.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::view::{Table, View};
use super::{CliError, Console, Exit};

/// `jobber man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Where to write jobber.1 and a page for each command; it is made if it is not there
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

#[derive(Serialize)]
struct Pages {
    directory: String,
    pages: usize,
}

impl View for Pages {
    fn table(&self, out: &mut Table) {
        out.field("pages", self.pages.to_string());
        out.field("directory", &self.directory);
    }
}

pub(super) fn man(args: &ManArgs, console: &mut Console) -> Result<Exit, CliError> {
    let directory = &args.directory;
    let unwritten = |e: std::io::Error| CliError::local(format!("couldn't write into {}", directory.display()), e);
    fs_err::create_dir_all(directory).map_err(unwritten)?;
    let mut tree = super::tree();
    tree.build();
    let pages = write(&tree, directory).map_err(unwritten)?;
    console.show(&Pages { directory: directory.display().to_string(), pages })?;
    Ok(Exit::OK)
}

/// Writes the page of a command and those of the commands below it, and says how many.
fn write(command: &clap::Command, directory: &std::path::Path) -> std::io::Result<usize> {
    let mut pages = 1;
    clap_mangen::Man::new(command.clone()).generate_to(directory)?;
    // The `help` of a group of commands is clap's, and tells nothing of its own.
    let is_group = command.get_name() != "jobber";
    let is_told = |below: &&clap::Command| !(below.is_hide_set() || is_group && below.get_name() == "help");
    for below in command.get_subcommands().filter(is_told) {
        pages += write(below, directory)?;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{captured, text};
    use super::*;
    use crate::cli::Globals;

    #[test]
    fn there_is_a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let (mut console, out, _) = captured(&Globals::default());
        let args = ManArgs { directory: dir.path().join("share/man1") };
        man(&args, &mut console).unwrap();
        let read = |name: &str| fs_err::read_to_string(args.directory.join(name)).unwrap();
        let (whole, ls) = (read("jobber.1"), read("jobber-queue-ls.1"));
        assert!(whole.contains(".TH jobber 1") && whole.contains("jobber\\-submit(1)"), "{whole}");
        assert!(ls.contains("List the queues") && ls.contains("\\-\\-server") && !ls.contains("\\-\\-config"), "{ls}");
        let written = std::fs::read_dir(&args.directory).unwrap().count();
        assert!(text(&out).starts_with(&format!("pages      {written}\n")) && written > 50, "{}", text(&out));
    }
}
