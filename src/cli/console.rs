//! The terminal: data to stdout in the format asked for, everything else to stderr.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::view::{View, escape_line, render_table};
use super::{CliError, Globals};
use crate::domain::{Progress, Stream};

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
    /// The progress line that stands on the terminal, or that was printed last.
    progress: Option<String>,
}

impl Console {
    /// A console on the process's own stdout and stderr.
    pub fn stdio(globals: &Globals) -> Self {
        let mut console = Self::new(Box::new(std::io::stdout()), Box::new(std::io::stderr()), globals);
        console.rewrites = std::io::stderr().is_terminal();
        console.is_terminal = std::io::stdout().is_terminal();
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
            progress: None,
        }
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
            Format::Table => render_table(view),
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
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(CliError::write)
    }

    /// Passes on a job's output to the same stream of this process.
    pub(super) fn job_output(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), CliError> {
        match stream {
            Stream::Stdout => self.data(bytes),
            Stream::Stderr => {
                self.clear_progress();
                self.write_stderr(bytes);
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

    /// Shows how far a job is. On a terminal the line overwrites the one before; elsewhere each is a line of its own.
    pub(super) fn progress(&mut self, progress: &Progress) {
        const WIDTH: usize = 79;
        if self.quiet {
            return;
        }
        let text = format!("{:3.0}% {}", progress.percent, escape_line(&progress.text));
        let text: String = text.trim_end().chars().take(WIDTH).collect();
        if self.progress.as_ref() == Some(&text) {
            return;
        }
        let line = if self.rewrites { format!("\r\x1b[K{text}") } else { format!("{text}\n") };
        self.write_stderr(line.as_bytes());
        self.progress = Some(text);
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
        console.data(b"out\n").unwrap();
        assert_eq!(text(&out), "out\n");
        assert!(text(&err).ends_with("\r\x1b[K"));
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
