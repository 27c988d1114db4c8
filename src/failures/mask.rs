//! Masks what varies between two runs that fail alike.
//!
//! A line is read from left to right. What varies is replaced by a word in angle brackets; such words pass through
//! another reading unchanged. A line is read until nothing changes any more, so masking is idempotent.

use std::borrow::Cow;
use std::collections::HashSet;

use super::shapes;

/// The words that stand for what was masked.
const MASKS: &[&str] =
    &["<n>", "<time>", "<size>", "<hex>", "<hash>", "<id>", "<uuid>", "<ip>", "<url>", "<path>", "<str>"];

/// Words after which a number says what went wrong, and is kept.
const CODE_WORDS: &[&str] = &[
    "code", "err", "errno", "error", "exit", "exited", "hresult", "http", "ora", "rc", "signal", "sqlstate", "status",
    "tns", "xid",
];

/// Masks line by line. Repeated lines count once, and lines that only inform not at all when there are others.
pub(super) fn mask_lines(text: &str) -> String {
    let text = clean(text);
    let masked: Vec<(String, bool)> = text
        .lines()
        .map(mask_line)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let informs = informs(&line);
            (line, informs)
        })
        .collect();
    let all_inform = masked.iter().all(|(_, informs)| *informs);
    let mut seen = HashSet::new();
    let mut joined = String::with_capacity(text.len());
    for (line, informs) in &masked {
        if (!informs || all_inform) && seen.insert(line.as_str()) {
            if !joined.is_empty() {
                joined.push('\n');
            }
            joined.push_str(line);
        }
    }
    joined
}

/// Takes away everything that is only for the eye: colours, control characters, kinds of quotes. A
/// carriage return ends a line.
fn clean(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'`' || b == b'\n') {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_some() {
                    // The final byte of a control sequence is a letter or one of its neighbours.
                    while chars.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
                    chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
                }
            }
            '\r' | '\n' | '\u{2028}' | '\u{2029}' | '\u{85}' | '\u{b}' | '\u{c}' => cleaned.push('\n'),
            '`' | '´' | '‘' | '’' => cleaned.push('\''),
            '“' | '”' | '„' => cleaned.push('"'),
            c if c.is_whitespace() => cleaned.push(' '),
            c if c.is_control() => {}
            c => cleaned.push(c),
        }
    }
    Cow::Owned(cleaned)
}

/// Whether a line is a log line that tells of no trouble.
fn informs(line: &str) -> bool {
    const LEVELS: &[&str] = &["INFO", "DEBUG", "TRACE", "NOTICE", "VERBOSE"];
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    // A level stands in front, behind a time, a process and the like.
    words.by_ref().take(6).any(|word| LEVELS.contains(&word))
}

fn mask_line(line: &str) -> String {
    /// One reading is nearly always enough; quotes within quotes may take another.
    const READINGS: usize = 8;
    let mut masked = read_line(line);
    for _ in 1..READINGS {
        let again = read_line(&masked);
        if again == masked {
            break;
        }
        masked = again;
    }
    masked
}

fn read_line(line: &str) -> String {
    let mut line = MaskedLine { text: line, at: 0, out: String::with_capacity(line.len()) };
    while line.at < line.text.len() {
        line.step();
    }
    let kept = line.out.trim_end().len();
    line.out.truncate(kept);
    line.out
}

struct MaskedLine<'a> {
    text: &'a str,
    /// The byte that is read next.
    at: usize,
    out: String,
}

impl MaskedLine<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn step(&mut self) {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return };
        if first == ' ' {
            self.at += 1;
            if !self.out.is_empty() && !self.out.ends_with([' ', '[']) {
                self.out.push(' ');
            }
        } else if let Some(mask) = MASKS.iter().find(|mask| rest.starts_with(**mask)) {
            self.at += mask.len();
            if *mask == "<path>" { self.path_after_mask() } else { self.out.push_str(mask) }
        } else if self.at_boundary()
            && let Some((length, mask)) = self.whole(rest, first)
        {
            self.at += length;
            self.out.push_str(&mask);
        } else if shapes::is_word(first) {
            let end = rest.find(|c| !shapes::is_word(c)).unwrap_or(rest.len());
            self.at += end;
            shapes::mask_word(&rest[..end], &mut self.out);
        } else {
            self.at += first.len_utf8();
            self.out.push(first);
        }
    }

    /// Whether something can begin here: not within a word, nor right behind a mask.
    fn at_boundary(&self) -> bool {
        let before = self.text[..self.at].chars().next_back();
        !before.is_some_and(|c| shapes::is_word(c) || c == '>')
    }

    /// A thing larger than a word, if one begins here: its length, and the text that stands for it.
    fn whole(&self, rest: &str, first: char) -> Option<(usize, String)> {
        match first {
            '\'' | '"' => shapes::quoted(rest).map(|length| (length, format!("{first}<str>{first}"))),
            '/' | '.' | '~' | '\\' => shapes::path(rest).map(|length| (length, masked_path(&rest[..length]))),
            '-' | '+' => self.number(rest),
            _ if first.is_ascii_alphanumeric() || first == ':' => self.begun_by_word(rest, first),
            _ => None,
        }
    }

    fn begun_by_word(&self, rest: &str, first: char) -> Option<(usize, String)> {
        let masked = |mask: &str, length| (length, mask.to_owned());
        if let Some((scheme, length)) = shapes::url(rest) {
            return Some((length, format!("{scheme}://<url>")));
        }
        if first.is_ascii_digit() {
            if let Some(length) = shapes::time(rest) {
                return Some(masked("<time>", length));
            }
        } else if let Some(length) = shapes::month_day_clock(rest) {
            return Some(masked("<time>", length));
        }
        if let Some(length) = shapes::uuid(rest) {
            return Some(masked("<uuid>", length));
        }
        if let Some(length) = shapes::address(rest) {
            return Some(masked("<ip>", length));
        }
        if let Some(length) = shapes::path(rest).or_else(|| shapes::data_file(rest)) {
            return Some((length, masked_path(&rest[..length])));
        }
        if first.is_ascii_digit() { self.number(rest) } else { self.code(rest) }
    }

    /// A number with its sign and unit; or as it stands, when it is a code.
    fn number(&self, rest: &str) -> Option<(usize, String)> {
        let number = shapes::number(rest)?;
        let digits = &rest[..number.length];
        if number.is_plain() && self.after_code_word(&rest[number.length..]) {
            return Some((number.length, digits.to_owned()));
        }
        Some((number.length, number.mask.to_owned()))
    }

    /// A code with letters, which is kept: `E0308`, `HY000` behind SQLSTATE, a protocol's name without its version.
    fn code(&self, rest: &str) -> Option<(usize, String)> {
        let end = rest.find(|c| !shapes::is_word(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        if word == "HTTP" && rest[end..].starts_with('/') {
            let version = rest[end + 1..].find(|c: char| !c.is_ascii_digit() && c != '.');
            let version = version.unwrap_or(rest.len() - end - 1);
            return (version > 0).then(|| (end + 1 + version, word.to_owned()));
        }
        let is_code =
            shapes::is_diagnostic(word) || word.len() == 5 && self.last_word().eq_ignore_ascii_case("sqlstate");
        (is_code && word.is_ascii()).then(|| (end, word.to_owned()))
    }

    /// Whether the number that is followed by `behind` tells what went wrong rather than where or how much.
    fn after_code_word(&self, behind: &str) -> bool {
        let word = self.last_word();
        let gap = self.out.trim_end_matches(|c: char| !shapes::is_word(c)).len();
        let gap = &self.out[gap..];
        let near = gap.len() <= 3 && gap.chars().all(|c| " :=#([-'\"".contains(c));
        // "error: 5 tiles are missing" counts tiles.
        let counts = behind.strip_prefix(' ').is_some_and(|b| b.starts_with(|c: char| c.is_lowercase()));
        let introduces = gap == ": " && (counts || word.len() > 2 && "error".starts_with(&word.to_ascii_lowercase()));
        near && !introduces && CODE_WORDS.iter().any(|code| code.eq_ignore_ascii_case(word))
    }

    fn last_word(&self) -> &str {
        let until = self.out.trim_end_matches(|c: char| !shapes::is_word(c));
        let from = until
            .rfind(|c: char| !c.is_ascii_alphabetic())
            .map_or(0, |at| at + until[at..].chars().next().map_or(1, char::len_utf8));
        &until[from..]
    }

    /// Goes on with a path whose folders have been masked before.
    fn path_after_mask(&mut self) {
        let rest = self.rest();
        let mut length = 0;
        while rest.starts_with(['/', '.']) {
            let more = &rest[length..];
            if let Some(mask) = MASKS.iter().find(|mask| more.starts_with(**mask)) {
                length += mask.len();
            } else if let Some(c) = more.chars().next().filter(|c| !shapes::ends_path(*c) && *c != ':') {
                length += c.len_utf8();
            } else {
                break;
            }
        }
        length = rest[..length].trim_end_matches('.').len();
        let whole = format!("<path>{}", &rest[..length]);
        self.at += length;
        self.out.push_str(&masked_path(&whole));
    }
}

/// A path without its folders; of a file of data only the kind of file is left.
fn masked_path(path: &str) -> String {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    if let Some(kind) = shapes::kind_of_data(name) {
        return format!("<path>.{kind}");
    }
    let mut masked = String::from("<path>");
    let name = name.strip_prefix("<path>").unwrap_or(name);
    if name.chars().any(shapes::is_word) {
        masked.push('/');
        for part in name.split_inclusive(|c| !shapes::is_word(c)) {
            let end = part.find(|c| !shapes::is_word(c)).unwrap_or(part.len());
            shapes::mask_word(&part[..end], &mut masked);
            masked.push_str(&part[end..]);
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_varies_is_masked_and_what_tells_is_kept() {
        for (text, masked) in [
            ("free(): invalid pointer", "free(): invalid pointer"),
            (
                "tile 14/8721/5312: checksum (expected 0x9fe1a2c4, got 0x0)",
                "tile <n>/<n>/<n>: checksum (expected <hex>, got <hex>)",
            ),
            (
                "dd: error writing '/dev/full': No space left on device",
                "dd: error writing '<str>': No space left on device",
            ),
            ("0 bytes copied, 7.4731e-05 s, 0.0 kB/s", "<size> copied, <time>, <size>/s"),
            ("bash: line 1:  2016 Bus error   ./job bus", "bash: line <n>: <n> Bus error <path>/job bus"),
            ("real\t0m0.115s", "real <time>"),
            ("timed out after 1h 5m", "timed out after <time> <time>"),
            ("timed out after 1 second", "timed out after <time>"),
            ("==18306== WARNING: x", "==<n>== WARNING: x"),
            ("#0 0x7fcf2c332fe2 in a::B::c(int) src/a_b.cc:144:12", "#<n> <hex> in a::B::c(int) src/a_b.cc:<n>:<n>"),
            ("[  785.576928] i915 0000:00:02.0: GPU HANG", "[<n>] i<n> <n>:<n>:<n>: GPU HANG"),
            ("Mar  5 08:31:52 puma kernel: x", "<time> puma kernel: x"),
            ("2015-06-16T21:07:04.007435+00:00 a", "<time> a"),
            ("2026/11/23 21:00:16 Get \"https://127.0.0.1:36985/\": x", "<time> Get \"<str>\": x"),
            (
                "curl: (7) failed to reach https://example.org/a?b=1 now",
                "curl: (<n>) failed to reach https://<url> now",
            ),
            ("peer 10.1.230.135:443 and fe80::1 and std::vector", "peer <ip> and <ip> and std::vector"),
            ("job 6e986ebd-bf35-4f26-8280-c15aeae20dac done", "job <uuid> done"),
            ("commit b60e5fc489e2 of X3B7SAOS is bad, decade facade", "commit <hash> of <id> is bad, decade facade"),
            ("\x1b[31merror\x1b[0m: it\u{2019}s \u{2018}999\u{2019}", "error: it's '<str>'"),
            ("can't open '/data/in/cat.png' or frame_0012.PNG", "can't open '<str>' or <path>.png"),
            ("File \"/srv/jobs/lib/python3.11/x.py\", line 3730", "File \"<str>\", line <n>"),
            ("at /srv/lib/polyfills.js:287:18", "at <path>/polyfills.js:<n>:<n>"),
            ("C:\\work\\run7\\a.dll failed", "<path>/a.dll failed"),
            ("No such module: 'yaml'", "No such module: 'yaml'"),
            ("KeyError: 'frame_12'", "KeyError: '<str>'"),
            ("Input/output error, I/O error, n/a", "Input/output error, I/O error, n/a"),
            ("progress 10%\rprogress 20%\r\nbad", "progress <n>%\nbad"),
            // What went wrong is kept.
            ("ORA-01779: x", "ORA-01779: x"),
            ("ERROR 1213 (40001): Deadlock", "ERROR 1213 (<n>): Deadlock"),
            ("SQLSTATE[HY000] [2002]", "SQLSTATE[HY000] [<n>]"),
            ("SQLSTATE[42000]: bad", "SQLSTATE[42000]: bad"),
            ("cuda runtime error (35) : x", "cuda runtime error (35) : x"),
            ("error: (-210:Unsupported format)", "error: (-210:Unsupported format)"),
            ("error[E0308]: mismatched types", "error[E0308]: mismatched types"),
            ("exited with code 137", "exited with code 137"),
            ("killed by signal 11 (segmentation fault)", "killed by signal 11 (segmentation fault)"),
            ("HTTP/1.1 404 Not Found", "HTTP 404 Not Found"),
            ("status: 503", "status: 503"),
            ("error: 5 tiles are missing", "error: <n> tiles are missing"),
            ("error 1234567", "error <n>"),
            ("Exception 0xC0000005 at 0x00007FF6", "Exception 0xc0000005 at <hex>"),
        ] {
            assert_eq!(mask_lines(text), masked, "{text}");
            assert_eq!(mask_lines(masked), masked, "again: {masked}");
        }
    }

    #[test]
    fn lines_count_once_and_chatter_does_not() {
        assert_eq!(mask_lines("[0x1f2e]\n[0x2f3e]\n\n bad \n[0x99]"), "[<hex>]\nbad");
        assert_eq!(
            mask_lines("[INFO] tile 3\n2026-01-02 10:00:00 DEBUG x\nbad: one two three four five six INFO"),
            mask_lines("bad: one two three four five six INFO")
        );
        assert_eq!(mask_lines("INFO: all is well"), "INFO: all is well");
        assert_eq!(mask_lines(" \n\t\r\n"), "");
    }

    /// A piece of a message, and the same piece of another run.
    fn piece() -> impl Strategy<Value = (String, String)> {
        let two = |a: BoxedStrategy<String>| (a.clone(), a).boxed();
        prop_oneof![
            "[a-z]{1,9}".prop_map(|word| (word.clone(), word)),
            prop::sample::select(vec!["Error:", "failed", "(core dumped)", "at line", "'x'", "::", "->", "#", "I/O"])
                .prop_map(|word| (word.to_owned(), word.to_owned())),
            two("[0-9]{1,12}".boxed()),
            two("0x[0-9a-f]{1,16}".boxed()),
            two("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}".boxed()),
            two("2026-[01][0-9]-[0-2][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?Z?".boxed()),
            two("[0-9]{1,4}(\\.[0-9]{1,3})? ?(ms|s|min)".boxed()),
            two("[0-9]{1,4} ?(MiB|kB|bytes)".boxed()),
            two("/tmp/[a-z]{1,5}/[a-z0-9]{1,8}\\.png".boxed()),
            two("'[a-z]{1,5}/[0-9]{1,4}'".boxed()),
            two("worker-[0-9]{1,3}".boxed()),
            two("main\\.cpp:[0-9]{1,5}:[0-9]{1,3}:".boxed()),
            two("10\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}:[0-9]{2,5}".boxed()),
            two("https://[a-z]{1,8}\\.example/[a-z0-9]{0,9}".boxed()),
            two("pid=[0-9]{1,7}".boxed()),
            two("\\[[0-9]{1,5}\\.[0-9]{6}\\]".boxed()),
        ]
    }

    proptest! {
        #[test]
        fn masking_twice_changes_nothing_more(text in "\\PC{0,80}|[ -~\\n]{0,200}|([a-f0-9x:/.'\"<>npath =%-]|<n>|<path>|<str>|error |://|Jan |\\n){0,80}") {
            let once = mask_lines(&text);
            prop_assert_eq!(mask_lines(&once), once);
        }

        #[test]
        fn another_run_gives_the_same(pieces in prop::collection::vec(piece(), 1..12)) {
            let join = |second: bool| {
                let words = pieces.iter().map(|(a, b)| if second { b.as_str() } else { a.as_str() });
                words.collect::<Vec<_>>().join(" ")
            };
            let (here, there) = (join(false), join(true));
            prop_assert_eq!(mask_lines(&here), mask_lines(&there), "{} / {}", here, there);
        }
    }
}
