//! Log lines: to standard error, as text or JSON.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Where the lines go, which decides their format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A terminal that shows colours.
    Colours,
    /// The journal, which knows the time of each line by itself, and its level by a mark in front (`sd-daemon(3)`).
    Journal,
    /// A file, a pipe, or a terminal without colours.
    Plain,
}

impl Target {
    /// Finds out what standard error is, from the file itself and the variables `NO_COLOR`, `TERM`
    /// and `JOURNAL_STREAM`.
    pub fn of_stderr(environment: &BTreeMap<String, String>) -> Self {
        let stderr = io::stderr();
        let file = rustix::fs::fstat(stderr.as_fd()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        Self::of(stderr.is_terminal(), file.ok().as_deref(), environment)
    }

    fn of(is_terminal: bool, file: Option<&str>, environment: &BTreeMap<String, String>) -> Self {
        let set = |name: &str| environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
        // The variable is inherited by processes whose standard error is something else.
        if file.is_some() && set("JOURNAL_STREAM") == file {
            return Self::Journal;
        }
        let wanted = set("NO_COLOR").is_none() && set("TERM") != Some("dumb");
        if is_terminal && wanted { Self::Colours } else { Self::Plain }
    }
}

/// Writes lines to standard error, each with the mark of its level.
struct Marked;

/// One event, of one or more lines.
struct MarkedLines(&'static str);

impl<'a> MakeWriter<'a> for Marked {
    type Writer = MarkedLines;

    fn make_writer(&'a self) -> MarkedLines {
        MarkedLines("<6>")
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> MarkedLines {
        MarkedLines(match *meta.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })
    }
}

impl Write for MarkedLines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let lines = event.split_inclusive(|byte| *byte == b'\n');
        let marked: Vec<u8> = lines.flat_map(|line| [self.0.as_bytes(), line].concat()).collect();
        io::stderr().write_all(&marked).map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Starts logging for this process. `filter` is a level or a filter such as `info,jobber::queue=debug`.
///
/// # Errors
/// When the filter can't be read, or logging has been started before.
pub fn start(filter: &str, json: bool, target: Target) -> anyhow::Result<()> {
    // The Couchbase SDK logs all of its life at info, and every try of an outage as a warning. The adapter logs
    // what matters of it. A filter that names the SDK shows the rest: log.level = "info,couchbase_core=debug".
    let filter = EnvFilter::try_new(format!("couchbase=error,couchbase_core=error,{filter}"))
        .map_err(|e| anyhow::anyhow!("log.level {filter:?} is not allowed: {e}; try info or debug"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match (json, target) {
        // Programs that read the lines as JSON look for their time and level there.
        (true, _) => builder.json().flatten_event(true).try_init(),
        (false, Target::Journal) => builder.with_ansi(false).without_time().with_writer(Marked).try_init(),
        (false, Target::Colours | Target::Plain) => builder.with_ansi(target == Target::Colours).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("logging can't be started: {e}"))
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_and_only_where_they_are_wanted() {
        let of = |is_terminal: bool, pairs: &[(&str, &str)]| {
            let environment = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Target::of(is_terminal, Some("8:42"), &environment)
        };
        assert_eq!(of(true, &[]), Target::Colours);
        assert_eq!(of(true, &[("NO_COLOR", ""), ("TERM", "xterm")]), Target::Colours);
        assert_eq!(of(true, &[("NO_COLOR", "1")]), Target::Plain);
        assert_eq!(of(true, &[("TERM", "dumb")]), Target::Plain);
        assert_eq!(of(false, &[]), Target::Plain);
        assert_eq!(of(false, &[("JOURNAL_STREAM", "8:42")]), Target::Journal);
        assert_eq!(of(false, &[("JOURNAL_STREAM", "8:43")]), Target::Plain);
        assert_eq!(of(true, &[("JOURNAL_STREAM", "8:43")]), Target::Colours);
    }
}
