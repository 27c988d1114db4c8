//! `jobber --help` in groups, `jobber help`, and which global options each command shows.

use std::io::IsTerminal;

use clap::{Arg, Args, Command};

use super::terminal;
use super::text::wrap;
use super::{CliError, Console, Exit, topics};

/// The commands by what people want to do. One that is in no group stands in the last.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Run jobs", &["dev", "new", "run", "submit", "wait", "exec", "schedule"]),
    ("Look", &["list", "show", "logs", "files", "top", "ui", "group", "worker", "binaries"]),
    ("Act", &["cancel", "retry", "promote", "remove", "queue"]),
    ("Understand", &["explain", "crash", "replay", "failures", "similar", "category", "stats", "help"]),
    (
        "Operate",
        &[
            "serve",
            "work",
            "notify",
            "doctor",
            "health",
            "export",
            "import",
            "rebuild",
            "bench",
            "completions",
            "man",
            "openapi",
        ],
    ),
];

/// Global options of commands that talk to a server.
const CLIENT: &[&str] = &["server", "token", "token_file", "ca", "output", "color", "utc", "verbose", "quiet"];
/// Those of processes that are configured and listen.
const SERVER: &[&str] = &["config", "data_dir", "token", "token_file", "verbose", "quiet"];
/// Those of commands that are configured, and print.
const LOCAL: &[&str] = &["config", "data_dir", "output", "color", "verbose", "quiet"];

/// The global options that mean something to a command, by its path below `jobber`.
fn meaningful(path: &[&str]) -> &'static [&'static str] {
    match path {
        ["dev" | "serve"] => SERVER,
        ["new"] => &["config", "output", "color", "verbose", "quiet"],
        ["work"] => &["config", "data_dir", "verbose", "quiet"],
        ["exec" | "rebuild" | "export" | "import" | "bench"] | ["category", "evaluate"] => LOCAL,
        ["doctor" | "replay"] => {
            &["config", "data_dir", "server", "token", "token_file", "ca", "output", "color", "verbose", "quiet"]
        }
        ["ui"] => &["server", "token", "token_file", "ca", "verbose", "quiet"],
        ["health"] => &["server", "token", "token_file", "ca", "output", "verbose", "quiet"],
        ["completions" | "man" | "openapi" | "help"] => &[],
        _ => CLIENT,
    }
}

/// The tree with its commands in groups, and with each global option only where it means something. It is understood
/// everywhere.
pub(super) fn arranged(mut tree: Command) -> Command {
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}{}\n{{options}}{{after-help}}",
        groups(&tree),
        heading(&tree, "Options")
    );
    let globals: Vec<Arg> = tree.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    tree = hide(tree, &globals, &mut Vec::new());
    tree.help_template(template)
}

/// Gives each command below `tree` a hidden copy of the options that mean nothing to it: clap then leaves out its own.
fn hide(tree: Command, globals: &[Arg], path: &mut Vec<String>) -> Command {
    let names: Vec<String> = tree.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(tree, |tree, name| {
        tree.mut_subcommand(&name, |command| {
            path.push(name.clone());
            let words: Vec<&str> = path.iter().map(String::as_str).collect();
            let meant = meaningful(&words);
            // A group of commands shows what any of them does.
            let has_own = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
            let copies: Vec<Arg> = globals
                .iter()
                .filter(|arg| !has_own(arg.get_id().as_str()))
                .map(|arg| arg.clone().hide(!meant.contains(&arg.get_id().as_str())))
                .collect();
            let command = hide(command.args(copies), globals, path);
            path.pop();
            command
        })
    })
}

fn heading(tree: &Command, title: &str) -> String {
    let style = tree.get_styles().get_header();
    format!("{}{title}:{}", style.render(), style.render_reset())
}

/// The groups with their commands, a line or more each, as wide as the terminal and at most 100 columns.
fn groups(tree: &Command) -> String {
    const WIDEST: usize = 100;
    let width = terminal::size().filter(|_| std::io::stdout().is_terminal()).map_or(WIDEST, |size| size.columns);
    let style = tree.get_styles().get_literal();
    let longest = tree.get_subcommands().map(|command| command.get_name().len()).max().unwrap_or(0);
    let line = |command: &Command| {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let indent = longest + 4;
        let about = wrap(&about, width.min(WIDEST).saturating_sub(indent).max(20));
        let space = " ".repeat(longest - name.len() + 2);
        let about = about.join(&format!("\n{}", " ".repeat(indent)));
        format!("  {}{name}{}{space}{about}\n", style.render(), style.render_reset())
    };
    let is_listed = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let mut text = String::new();
    for (i, (title, names)) in GROUPS.iter().enumerate() {
        let listed = names.iter().filter_map(|name| tree.find_subcommand(name));
        let others = tree.get_subcommands().filter(|c| i + 1 == GROUPS.len() && !is_listed(c.get_name()));
        let commands = listed.chain(others).filter(|command| !command.is_hide_set());
        let lines: String = commands.map(&line).collect();
        // A template has its tags in braces, and descriptions have none.
        text.push_str(&format!("{}\n{lines}\n", heading(tree, title)));
    }
    text
}

/// `jobber help`.
#[derive(Debug, Clone, Args)]
pub struct HelpArgs {
    /// A command, such as submit or schedule add, or a topic: exit-codes, configuration, job-contract
    #[arg(value_name = "COMMAND|TOPIC", add = super::complete::topics())]
    words: Vec<String>,
}

/// Prints the help of a command, or a topic.
pub(super) fn help(args: &HelpArgs, console: &mut Console) -> Result<Exit, CliError> {
    if let [topic] = args.words.as_slice()
        && let Some(text) = topics::text(topic)
    {
        let width = console.look().width.unwrap_or(topics::WIDTH).min(topics::WIDTH);
        console.data(topics::render(&text, width).as_bytes())?;
        return Ok(Exit::OK);
    }
    let mut tree = super::tree();
    tree.build();
    let mut command = &mut tree;
    for word in &args.words {
        command = match command.find_subcommand_mut(word) {
            Some(_) if word == "help" && args.words.len() > 1 => return Err(unknown(word)),
            Some(found) => found,
            None => return Err(unknown(&args.words.join(" "))),
        };
    }
    let help = command.render_long_help();
    let text = if console.look().colour { help.ansi().to_string() } else { help.to_string() };
    console.data(text.as_bytes())?;
    Ok(Exit::OK)
}

fn unknown(words: &str) -> CliError {
    CliError::Usage(format!(
        "there is no help on {words:?}: name a command (`jobber --help` lists them) or one of the topics {}",
        topics::NAMES.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{captured, text};
    use super::*;
    use crate::cli::Globals;

    fn helped(words: &[&str]) -> Result<String, CliError> {
        let (mut console, out, _) = captured(&Globals::default());
        let args = HelpArgs { words: words.iter().map(|word| (*word).to_owned()).collect() };
        help(&args, &mut console).map(|_| text(&out))
    }

    #[test]
    fn every_command_is_in_one_group() {
        let tree = super::super::tree();
        for command in tree.get_subcommands() {
            let groups = GROUPS.iter().filter(|(_, names)| names.contains(&command.get_name())).count();
            assert_eq!(groups, 1, "{}", command.get_name());
        }
    }

    #[test]
    fn a_command_shows_only_the_options_that_mean_something_to_it() {
        let show = |words: &[&str]| helped(words).unwrap();
        let (serve, list, show_bash) = (show(&["serve"]), show(&["list"]), show(&["completions"]));
        assert!(serve.contains("--data-dir") && !serve.contains("--server") && !serve.contains("--utc"), "{serve}");
        assert!(list.contains("--server") && list.contains("--utc") && !list.contains("--data-dir"), "{list}");
        assert!(!show_bash.contains("Global options"), "{show_bash}");
        let (ls, evaluate) = (show(&["queue", "ls"]), show(&["category", "evaluate"]));
        assert!(ls.contains("--server") && !ls.contains("--config"), "{ls}");
        assert!(evaluate.contains("--config") && !evaluate.contains("--server"), "{evaluate}");
    }

    #[test]
    fn help_is_of_commands_and_topics_and_says_so_of_others() {
        assert!(helped(&[]).unwrap().contains("Run jobs:"));
        for topic in topics::NAMES {
            let text = helped(&[topic]).unwrap();
            assert!(text.lines().count() > 10, "{topic}: {text}");
            assert!(text.lines().all(|line| !line.contains("](")), "{topic} has a link left");
        }
        let error = helped(&["exit-code"]).unwrap_err().to_string();
        assert!(error.contains("\"exit-code\"") && error.contains("exit-codes, configuration"), "{error}");
    }
}
