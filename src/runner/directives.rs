//! Takes the `::progress` and `::result` lines out of a job's standard output.

use memchr::{memchr, memmem};
use serde_json::Value;

use crate::domain::Progress;

/// The longest line that can be a directive: a result of 1 MiB. Longer ones are ordinary output.
const LONGEST: usize = 1024 * 1024 + 16;
/// The longest text of a `::progress` line, in characters; the rest is cut.
const LONGEST_TEXT: usize = 1000;

const PROGRESS: &[u8] = b"::progress ";
const RESULT: &[u8] = b"::result ";

/// What the scanner found.
#[derive(Debug, PartialEq)]
pub(super) enum Found<'a> {
    /// Bytes of ordinary output, in the order in which the job wrote them.
    Plain(&'a [u8]),
    /// A line `::progress N [text]`, with N from 0 to 100.
    Progress(Progress),
    /// The value of a line `::result JSON`.
    Result(Value),
}

/// Scans output as it arrives, in pieces of any size.
#[derive(Debug)]
pub(super) struct Directives {
    state: State,
    next_line: memmem::Finder<'static>,
}

#[derive(Debug)]
enum State {
    /// In a line that is ordinary output.
    Plain,
    /// In a line that may still be a directive: its bytes so far.
    Maybe(Vec<u8>),
}

impl Directives {
    /// A scanner at the start of the output.
    pub(super) fn new() -> Self {
        Self { state: State::Maybe(Vec::new()), next_line: memmem::Finder::new(b"\n::") }
    }

    /// Takes the next bytes and gives each piece that it finds to `found`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut found: impl FnMut(Found<'_>)) {
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Plain => self.skip(bytes, &mut found),
                State::Maybe(line) if line.is_empty() && !may_start(bytes) => {
                    self.state = State::Plain;
                    bytes
                }
                State::Maybe(line) => {
                    let end = memchr(b'\n', bytes).map(|at| at + 1);
                    let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()).min(LONGEST + 1 - line.len()));
                    line.extend_from_slice(part);
                    if line.ends_with(b"\n") {
                        let line = std::mem::take(line);
                        found(parse(&line).unwrap_or(Found::Plain(&line)));
                    } else if line.len() > LONGEST || !may_start(line) {
                        found(Found::Plain(line));
                        self.state = State::Plain;
                    }
                    rest
                }
            };
        }
    }

    /// Ends the scan with the output: a last line without its newline counts too.
    pub(super) fn finish(self, mut found: impl FnMut(Found<'_>)) {
        if let State::Maybe(line) = self.state
            && !line.is_empty()
        {
            found(parse(&line).unwrap_or(Found::Plain(&line)));
        }
    }

    /// Passes ordinary lines through in one go, up to the next line that may be a directive.
    fn skip<'a>(&mut self, bytes: &'a [u8], found: &mut impl FnMut(Found<'_>)) -> &'a [u8] {
        let plain = match self.next_line.find(bytes) {
            Some(at) => at + 1,
            None if bytes.ends_with(b"\n:") => bytes.len() - 1,
            None => bytes.len(),
        };
        found(Found::Plain(&bytes[..plain]));
        if bytes[..plain].ends_with(b"\n") {
            self.state = State::Maybe(Vec::new());
        }
        &bytes[plain..]
    }
}

/// Whether a line that starts like this can still become a directive.
fn may_start(line: &[u8]) -> bool {
    [PROGRESS, RESULT].iter().any(|word| {
        let common = word.len().min(line.len());
        line[..common] == word[..common]
    })
}

fn parse(line: &[u8]) -> Option<Found<'static>> {
    if let Some(json) = line.strip_prefix(RESULT) {
        return serde_json::from_slice(json).ok().map(Found::Result);
    }
    let text = std::str::from_utf8(line.strip_prefix(PROGRESS)?).ok()?.trim();
    let (number, text) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let percent: f64 = number.strip_suffix('%').unwrap_or(number).parse().ok()?;
    let text = text.trim().chars().take(LONGEST_TEXT).collect();
    (0.0..=100.0).contains(&percent).then_some(Found::Progress(Progress { percent, text }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        plain: String,
        progress: Vec<(f64, String)>,
        results: Vec<Value>,
    }

    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
        let mut seen = Seen::default();
        let mut scanner = Directives::new();
        let mut note = |found: Found<'_>| match found {
            Found::Plain(bytes) => seen.plain.push_str(std::str::from_utf8(bytes).unwrap()),
            Found::Progress(p) => seen.progress.push((p.percent, p.text)),
            Found::Result(value) => seen.results.push(value),
        };
        for chunk in chunks {
            scanner.push(chunk, &mut note);
        }
        scanner.finish(&mut note);
        seen
    }

    #[test]
    fn directives_are_told_from_output() {
        let text =
            "a\n::progress 12.5 half way \nb\r\n::progress 100%\r\n::result {\"x\":[1]}\nlast::result 1\n::result 7";
        let seen = scan([text.as_bytes()]);
        assert_eq!(seen.plain, "a\nb\r\nlast::result 1\n");
        assert_eq!(seen.progress, [(12.5, "half way".to_owned()), (100.0, String::new())]);
        assert_eq!(seen.results, [serde_json::json!({"x": [1]}), serde_json::json!(7)]);
    }

    #[test]
    fn what_is_malformed_is_ordinary_output() {
        for bad in [
            "::progress\n",
            "::progress x\n",
            "::progress -1\n",
            "::progress 101\n",
            "::progress NaN\n",
            "::progress inf\n",
            "::result\n",
            "::result {\n",
            "::result 1 2\n",
            "::result",
            "::unknown 1\n",
            " ::result 1\n",
            "::",
            ":\n::\n",
        ] {
            let seen = scan([bad.as_bytes()]);
            assert_eq!(seen, Seen { plain: bad.to_owned(), ..Seen::default() }, "{bad:?}");
        }
    }

    #[test]
    fn an_over_long_line_is_ordinary_output_and_costs_no_memory() {
        let line = format!("::result \"{}\"\n::result 5\n", "x".repeat(LONGEST));
        let mut longest = 0;
        let mut scanner = Directives::new();
        let (mut plain, mut results) = (0, Vec::new());
        for chunk in line.as_bytes().chunks(4096) {
            scanner.push(chunk, |found| match found {
                Found::Plain(bytes) => plain += bytes.len(),
                Found::Result(value) => results.push(value),
                Found::Progress(_) => unreachable!(),
            });
            if let State::Maybe(held) = &scanner.state {
                longest = longest.max(held.len());
            }
        }
        assert_eq!((plain, results), (line.len() - 11, vec![serde_json::json!(5)]));
        assert!(longest <= LONGEST);
    }

    #[test]
    fn a_result_of_a_mebibyte_is_taken() {
        let line = format!("::result \"{}\"\n", "x".repeat(1024 * 1024 - 2));
        assert_eq!(scan(line.as_bytes().chunks(65_536)).results.len(), 1);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(
            lines in proptest::collection::vec("(::progress 5 x|::result 3|::resul|::|:|a|)(\n|\n\n)?", 0..12),
            size in 1usize..9,
        ) {
            let all = lines.concat();
            prop_assert_eq!(scan(all.as_bytes().chunks(size)), scan([all.as_bytes()]));
        }
    }
}
