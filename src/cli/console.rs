//! The terminal: data to stdout in the format asked for, everything else to stderr.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::terminal::{self, ColorWhen, Look, Paint};
use super::text::{cut, escape_line};
use super::view::{View, render_table};
use super::{CliError, Globals};
use crate::config::env;
use crate::domain::{Clock, Progress, Stream};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for people
    #[default]
    Table,
    /// One indented JSON value
    Json,
    /// One JSON object a line
    Jsonl,
}

/// The terminal as a command sees it: stdout, stderr, and how to print.
pub struct Console {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// The format in which to print data.
    pub format: Format,
    quiet: bool,
    verbose: u8,
    /// Whether stderr is a terminal, so that a line on it can be overwritten.
    rewrites: bool,
    /// Whether stdout is a terminal.
    is_terminal: bool,
    /// Whether data and errors have colours.
    colour: bool,
    colour_of_errors: bool,
    utc: bool,
    /// The progress line that stands on the terminal, or that was printed last.
    progress: Option<String>,
    /// Whether what was printed last has ended its line, so that a progress line would not stand in its middle.
    is_line_start: bool,
}

impl Console {
    /// A console on the process's own stdout and stderr.
    pub fn stdio(globals: &Globals) -> Self {
        let mut console = Self::new(Box::new(std::io::stdout()), Box::new(std::io::stderr()), globals);
        console.rewrites = std::io::stderr().is_terminal();
        console.is_terminal = std::io::stdout().is_terminal();
        let (when, environment) = (globals.color.unwrap_or_default(), env::read());
        console.colour = when.decide(console.is_terminal, &environment);
        console.colour_of_errors = when.decide(console.rewrites, &environment);
        console
    }

    /// A console on any two writers, which count as no terminal.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, globals: &Globals) -> Self {
        Self {
            out,
            err,
            format: globals.output.unwrap_or_default(),
            quiet: globals.quiet,
            verbose: globals.verbose,
            rewrites: false,
            is_terminal: false,
            colour: globals.color == Some(ColorWhen::Always),
            colour_of_errors: false,
            utc: globals.utc,
            progress: None,
            is_line_start: true,
        }
    }

    /// How data is laid out now: a terminal may have changed its size.
    pub(super) fn look(&self) -> Look {
        let size = if self.is_terminal { terminal::size() } else { None };
        Look { width: size.map(|size| size.columns), colour: self.colour, utc: self.utc, now: Clock::system().now() }
    }

    /// Whether a person watches how far a command is: progress is shown by a line that is written anew.
    pub(super) fn shows_progress(&self) -> bool {
        self.rewrites && !self.quiet
    }

    /// Whether stdout is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Prints data in the format that the user asked for.
    pub(super) fn show<V: View + ?Sized>(&mut self, view: &V) -> Result<(), CliError> {
        self.show_as(self.format, view)
    }

    /// Prints data in `format`, whatever the user asked for.
    pub(super) fn show_as<V: View + ?Sized>(&mut self, format: Format, view: &V) -> Result<(), CliError> {
        let text = match format {
            Format::Table => render_table(view, &self.look()),
            Format::Json => {
                let json = serde_json::to_string_pretty(view).map_err(|e| CliError::local("couldn't write JSON", e))?;
                format!("{json}\n")
            }
            Format::Jsonl => view.lines().iter().map(|line| format!("{line}\n")).collect(),
        };
        self.data(text.as_bytes())
    }

    /// Prints one JSON object on a line of its own.
    pub(super) fn json_line<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CliError> {
        let mut line = serde_json::to_vec(value).map_err(|e| CliError::local("couldn't write JSON", e))?;
        line.push(b'\n');
        self.data(&line)
    }

    /// Writes bytes to stdout unchanged.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.clear_progress();
        self.is_line_start = !self.is_terminal || bytes.last().map_or(self.is_line_start, |last| *last == b'\n');
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(CliError::write)
    }

    /// Passes on a job's output to the same stream of this process.
    pub(super) fn job_output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), CliError> {
        match stream {
            Stream::Stdout => self.data(bytes),
            Stream::Stderr => {
                self.clear_progress();
                self.write_stderr(bytes);
                self.is_line_start = bytes.last().map_or(self.is_line_start, |last| *last == b'\n');
                Ok(())
            }
        }
    }

    /// Prints a line on stderr, unless the user wants quiet (`-q`).
    pub(super) fn note(&mut self, text: &str) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Prints a line on stderr for a user who wants to know more (`-v`).
    pub(super) fn detail(&mut self, text: &str) {
        if self.verbose > 0 {
            self.line(text);
        }
    }

    /// Prints, even with `-q`, that output of a job is missing at this place.
    pub(super) fn gap(&mut self, attempt: u32, stream: Stream, bytes: u64) {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.line(&format!("warning: {bytes} bytes of the {stream} of attempt {attempt} are missing here"));
    }

    /// Prints what the user could do next.
    pub(super) fn hint(&mut self, text: &str) {
        self.note(&format!("hint: {text}"));
    }

    /// Prints why the command failed, with the first cause (all of them with `-v`), and what to do about it.
    pub(super) fn report(&mut self, error: &CliError) {
        if matches!(error, CliError::BrokenPipe) {
            return;
        }
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        let text = match causes.last() {
            Some(first) if self.verbose == 0 => format!("error: {error}: {first}"),
            _ => format!("error: {error}"),
        };
        let text = match text.strip_prefix("error:") {
            Some(rest) if self.colour_of_errors => format!("{}{rest}", Paint::Red.paint("error:")),
            _ => text,
        };
        self.line(&text);
        if self.verbose > 0 {
            for cause in &causes {
                self.line(&format!("  caused by: {cause}"));
            }
        }
        if let CliError::Client(crate::client::ClientError { hint: Some(hint), .. }) = error {
            self.hint(hint);
        }
    }

    /// Shows how far a job is. On a terminal the line has a bar and overwrites the one before; elsewhere each is a line
    /// of its own.
    pub(super) fn progress(&mut self, progress: &Progress) {
        const WIDTH: usize = 79;
        if self.quiet {
            return;
        }
        let (percent, text) = (progress.percent, escape_line(&progress.text));
        let text = if self.rewrites {
            let width = terminal::size().map_or(WIDTH, |size| size.columns.saturating_sub(1));
            cut(format!("{} {percent:3.0}% {text}", bar(percent)).trim_end(), width)
        } else {
            cut_plain(format!("{percent:3.0}% {text}").trim_end(), WIDTH)
        };
        if self.progress.as_ref() == Some(&text) || (self.rewrites && !self.is_line_start) {
            return;
        }
        let line = if self.rewrites { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
        self.write_stderr(line.as_bytes());
        self.progress = Some(text);
    }

    /// Shows how far this command itself is, with a bar if its part of all (0 to 1) is known: only to a person who
    /// watches.
    pub(super) fn own_progress(&mut self, part: Option<f64>, text: &str) {
        if !self.shows_progress() {
            return;
        }
        match part {
            Some(part) => {
                self.progress(&Progress { percent: part.clamp(0.0, 1.0) * 100.0, text: text.to_owned() });
            }
            None if self.is_line_start => {
                self.write_stderr(format!("\r\x1b[K{text}").as_bytes());
                self.progress = Some(text.to_owned());
            }
            None => {}
        }
    }

    /// Prints a text over the one that stands on the terminal, cut to its height.
    pub(super) fn redraw(&mut self, text: &str) -> Result<(), CliError> {
        let lines = terminal::size().map_or(usize::MAX, |size| size.lines.saturating_sub(1).max(1));
        self.data(frame(text, lines).as_bytes())
    }

    /// Clears the progress line from the terminal before something else is written.
    pub(super) fn clear_progress(&mut self) {
        if self.rewrites && self.progress.take().is_some() {
            self.write_stderr(b"\r\x1b[K");
        }
    }

    fn line(&mut self, text: &str) {
        self.clear_progress();
        self.write_stderr(format!("{text}\n").as_bytes());
    }

    fn write_stderr(&mut self, bytes: &[u8]) {
        // When stderr is gone, there is no place left to report that.
        let _ = self.err.write_all(bytes).and_then(|()| self.err.flush());
    }
}

/// Clears the screen.
pub(super) const CLEAR: &str = "\x1b[2J";
/// Puts the cursor into the first column of the first line.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears the lines below.
const CLEAR_BELOW: &str = "\x1b[J";

/// The first lines of a text, over the ones before it.
fn frame(text: &str, most: usize) -> String {
    let lines: String = text.lines().take(most).map(|line| format!("{line}{CLEAR_LINE}\n")).collect();
    format!("{HOME}{lines}{CLEAR_BELOW}")
}

/// A bar of which `percent` is filled.
fn bar(percent: f64) -> String {
    const CELLS: usize = 20;
    let full = (percent.clamp(0.0, 100.0) / 100.0 * CELLS as f64).floor() as usize;
    format!("[{}{}]", "█".repeat(full), "·".repeat(CELLS - full))
}

/// The first characters of a text.
fn cut_plain(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{captured, text};
    use super::*;

    #[test]
    fn progress_is_a_line_each_off_a_terminal_and_one_line_on_it() {
        let (mut console, out, err) = captured(&Globals::default());
        let progress = |percent: f64, text: &str| Progress { percent, text: text.into() };
        console.progress(&progress(5.0, "start\u{1b}[2J"));
        console.progress(&progress(5.4, "start\u{1b}[2J"));
        console.progress(&progress(100.0, ""));
        assert_eq!(text(&err), "  5% start\\x1b[2J\n100%\n");

        console.rewrites = true;
        console.progress(&progress(50.0, "half"));
        assert!(text(&err).ends_with("\r\x1b[K[██████████··········]  50% half"), "{}", text(&err));
        console.data(b"out\n").unwrap();
        assert_eq!(text(&out), "out\n");
        assert!(text(&err).ends_with("\r\x1b[K"));
    }

    #[test]
    fn a_progress_line_stands_in_no_line_of_the_job() {
        let (mut console, _, err) = captured(&Globals::default());
        (console.rewrites, console.is_terminal) = (true, true);
        console.data(b"half a li").unwrap();
        console.progress(&Progress { percent: 5.0, text: String::new() });
        assert_eq!(text(&err), "");
        console.data(b"ne\n").unwrap();
        console.own_progress(None, "3 jobs");
        assert_eq!(text(&err), "\r\x1b[K3 jobs");
    }

    #[test]
    fn a_frame_leaves_nothing_of_the_one_before() {
        assert_eq!(frame("a\nb\n", 9), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(frame("a\nb\n", 1), "\x1b[Ha\x1b[K\n\x1b[J");
    }

    #[test]
    fn quiet_leaves_only_errors() {
        let (mut console, _, err) = captured(&Globals { quiet: true, ..Globals::default() });
        console.note("hello");
        console.hint("try this");
        console.progress(&Progress { percent: 1.0, text: String::new() });
        console.report(&CliError::Usage("what".into()));
        assert_eq!(text(&err), "error: what\n");
    }

    #[test]
    fn an_error_tells_its_first_cause() {
        let broken = || CliError::local("couldn't read it", std::io::Error::other("the disk is on fire"));
        let (mut console, _, err) = captured(&Globals::default());
        console.report(&broken());
        assert_eq!(text(&err), "error: couldn't read it: the disk is on fire\n");
        let (mut console, _, err) = captured(&Globals { verbose: 1, ..Globals::default() });
        console.report(&broken());
        assert_eq!(text(&err), "error: couldn't read it\n  caused by: the disk is on fire\n");
    }
}
