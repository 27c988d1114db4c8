//! What the terminal is like: its size, whether it shows colours, and the looks of text on it.

use std::collections::BTreeMap;

use crate::config::env;
use crate::domain::Timestamp;

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Into pipes, too
    Always,
    /// Never
    Never,
}

impl ColorWhen {
    /// Whether colours are used, on a terminal or not. What is asked for outweighs the environment.
    pub(super) fn decide(self, is_terminal: bool, environment: &BTreeMap<String, String>) -> bool {
        let is_set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
        let is_dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && !is_set("NO_COLOR") && !is_dumb,
        }
    }
}

/// How data is laid out for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// The columns of the terminal; `None` where there is none: then nothing is cut, wrapped or left out.
    pub(super) width: Option<usize>,
    /// Whether states have colours.
    pub(super) colour: bool,
    /// Whether times are told exactly, not by how long ago they were.
    pub(super) utc: bool,
    /// The present.
    pub(super) now: Timestamp,
}

/// The size of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

/// The size of the terminal that stdout or stderr is; `None` if neither is one. `COLUMNS` outweighs what the terminal
/// says, so that people can choose.
pub(super) fn size() -> Option<Size> {
    const USUAL: Size = Size { columns: 80, lines: 24 };
    let told = rustix::termios::tcgetwinsize(std::io::stdout());
    let told = told.or_else(|_| rustix::termios::tcgetwinsize(std::io::stderr())).ok()?;
    let asked = env::read().get("COLUMNS").and_then(|text| text.parse::<usize>().ok());
    let or = |told: u16, usual| if told == 0 { usual } else { usize::from(told) };
    Some(Size {
        columns: asked.filter(|n| *n > 0).unwrap_or(or(told.ws_col, USUAL.columns)),
        lines: or(told.ws_row, USUAL.lines),
    })
}

/// A colour of the sixteen that every terminal has. None is yellow, white or black, which vanish on some background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Red,
    Green,
    Cyan,
    Magenta,
    Bold,
}

impl Paint {
    /// The colour of a state or a status, as a word.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "failed" | "stopped" | "unavailable" => Some(Self::Red),
            "completed" | "on" | "taking jobs" => Some(Self::Green),
            "active" => Some(Self::Cyan),
            "paused" | "draining" | "cancelling" | "degraded" => Some(Self::Magenta),
            word if word.starts_with("unhealthy") => Some(Self::Red),
            _ => None,
        }
    }

    /// The text in this colour.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Red => "31",
            Self::Green => "32",
            Self::Cyan => "36",
            Self::Magenta => "35",
            Self::Bold => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_unless_an_option_says_otherwise() {
        let with = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let (none, no_color) = (BTreeMap::new(), with("NO_COLOR", "1"));
        assert!(ColorWhen::Auto.decide(true, &none) && !ColorWhen::Auto.decide(false, &none));
        assert!(!ColorWhen::Auto.decide(true, &no_color) && ColorWhen::Auto.decide(true, &with("NO_COLOR", "")));
        assert!(!ColorWhen::Auto.decide(true, &with("TERM", "dumb")));
        assert!(ColorWhen::Always.decide(false, &no_color) && !ColorWhen::Never.decide(true, &none));
    }
}
