//! The shapes of things that vary: times, addresses, paths, numbers. Each function says how many
//! bytes at the beginning of the text have its shape.

/// Extensions of files whose names say nothing about an error.
const DATA: &[&str] = &[
    "avi", "bin", "bmp", "bz2", "csv", "dat", "db", "dng", "exr", "gif", "gz", "h5", "ini", "jpeg", "jpg", "json",
    "lock", "log", "mkv", "mov", "mp3", "mp4", "npy", "npz", "obj", "onnx", "parquet", "pdf", "pgm", "pid", "png",
    "ppm", "pt", "raw", "sqlite", "svg", "tar", "tga", "tif", "tiff", "tmp", "toml", "txt", "wav", "webm", "webp",
    "xml", "xz", "yaml", "yml", "zip", "zst",
];

const MONTHS: &[&str] = &["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const UNITS_OF_TIME: &[&str] = &[
    "d",
    "day",
    "days",
    "h",
    "hour",
    "hours",
    "hr",
    "hrs",
    "m",
    "min",
    "mins",
    "minute",
    "minutes",
    "ms",
    "msec",
    "millisecond",
    "milliseconds",
    "ns",
    "s",
    "sec",
    "second",
    "seconds",
    "secs",
    "us",
    "µs",
    "μs",
];

const UNITS_OF_SIZE: &[&str] =
    &["B", "GB", "GiB", "K", "KB", "KiB", "M", "MB", "MiB", "PiB", "TB", "TiB", "byte", "bytes", "kB", "kb", "mb"];

/// Whether a word can have this character.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a path ends before this character.
pub(super) fn ends_path(c: char) -> bool {
    c.is_whitespace() || "'\"<>|,;()[]{}=".contains(c)
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn ends_word(text: &str) -> bool {
    !text.starts_with(is_word)
}

/// A word with its digits masked, or masked as a whole when it is one of many such.
pub(super) fn mask_word(word: &str, out: &mut String) {
    let bytes = word.as_bytes();
    let some_digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    if some_digits == 0 {
        return out.push_str(word);
    }
    if let Some(hex) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X"))
        && !hex.is_empty()
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
    {
        let known =
            hex.len() == 8 && ["c0000", "80070", "80004", "c0000"].iter().any(|k| hex[..5].eq_ignore_ascii_case(k));
        return if known { out.push_str(&word.to_ascii_lowercase()) } else { out.push_str("<hex>") };
    }
    let letters = bytes.iter().any(u8::is_ascii_alphabetic);
    if letters && bytes.len() >= 6 && some_digits >= 2 && bytes.iter().all(u8::is_ascii_hexdigit) {
        return out.push_str("<hash>");
    }
    let changes = bytes.windows(2).filter(|w| w[0].is_ascii_digit() != w[1].is_ascii_digit()).count();
    if bytes.len() >= 8 && changes >= 3 && bytes.iter().all(u8::is_ascii_alphanumeric) {
        return out.push_str("<id>");
    }
    let mut in_digits = false;
    for c in word.chars() {
        match c {
            '0'..='9' if in_digits => {}
            '0'..='9' => out.push_str("<n>"),
            other => out.push(other),
        }
        in_digits = c.is_ascii_digit();
    }
}

/// The code of a compiler's or a database's message, such as `E0308`, `C2065`, `LNK2019`, `PLS00201`.
pub(super) fn is_diagnostic(word: &str) -> bool {
    let letters = word.bytes().take_while(u8::is_ascii_uppercase).count();
    let number = &word[letters..];
    ["C", "CS", "E", "LNK", "MSB", "PLS", "TS"].contains(&&word[..letters])
        && (4..=5).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// A quoted text that varies: with digits, paths or masks in it, or long.
pub(super) fn quoted(text: &str) -> Option<usize> {
    const LONG: usize = 40;
    const LONGEST: usize = 400;
    let quote = text.chars().next()?;
    let inner = &text[1..];
    if inner.starts_with([' ', quote]) || inner.is_empty() {
        return None;
    }
    let closing = inner.match_indices(quote).find(|(at, _)| ends_word(&inner[at + 1..]))?.0;
    let inner = &inner[..closing];
    let varies = inner.len() > LONG
        || inner.bytes().any(|b| b.is_ascii_digit() || b"/\\<".contains(&b))
        || kind_of_data(inner).is_some();
    (closing <= LONGEST && varies).then_some(closing + 2)
}

/// An absolute path, or one from here or home.
pub(super) fn path(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let drive = bytes.len() > 3 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' && b"\\/".contains(&bytes[2]);
    let lead = match text {
        _ if drive => 3,
        _ if text.starts_with("../") || text.starts_with("..\\") => 3,
        _ if text.starts_with("./") || text.starts_with("~/") || text.starts_with("\\\\") => 2,
        _ if text.starts_with('/') => 1,
        _ => return None,
    };
    let rest = &text[lead..];
    if !rest.starts_with(|c: char| is_word(c) || c == '.') {
        return None;
    }
    // Line numbers follow a colon.
    let end = rest.find(|c| ends_path(c) || c == ':').unwrap_or(rest.len());
    let end = rest[..end].trim_end_matches('.').len();
    (end > 0).then_some(lead + end)
}

/// A bare or relative name of a file of data.
pub(super) fn data_file(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !(is_word(c) || "./-+@%~".contains(c))).unwrap_or(text.len());
    let name = text[..end].trim_end_matches('.');
    kind_of_data(name).map(|_| name.len())
}

/// The extension of a file of data.
pub(super) fn kind_of_data(name: &str) -> Option<&'static str> {
    let (before, extension) = name.rsplit_once('.')?;
    let known = DATA.iter().find(|kind| kind.eq_ignore_ascii_case(extension))?;
    (!before.is_empty()).then_some(*known)
}

/// A scheme, and the length of the whole address.
pub(super) fn url(text: &str) -> Option<(&str, usize)> {
    let scheme = text.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"+.-".contains(b)).count();
    let rest = text[scheme..].strip_prefix("://")?;
    let length = if rest.starts_with("<url>") {
        "<url>".len()
    } else {
        let end = rest.find(|c: char| c.is_whitespace() || "'\"<>)]}".contains(c)).unwrap_or(rest.len());
        rest[..end].trim_end_matches(['.', ',', ':', ';']).len()
    };
    (scheme > 0 && length > 0 && text.starts_with(|c: char| c.is_ascii_alphabetic()))
        .then(|| (&text[..scheme], scheme + 3 + length))
}

/// A UUID: `8-4-4-4-12` hexadecimal digits.
pub(super) fn uuid(text: &str) -> Option<usize> {
    let bytes = text.as_bytes().get(..36)?;
    let shaped = bytes.iter().enumerate().all(|(at, b)| match at {
        8 | 13 | 18 | 23 => *b == b'-',
        _ => b.is_ascii_hexdigit(),
    });
    (shaped && ends_word(&text[36..])).then_some(36)
}

/// An IP address, with its port.
pub(super) fn address(text: &str) -> Option<usize> {
    let length = four_bytes(text).or_else(|| {
        let length = text.bytes().take_while(|b| b.is_ascii_hexdigit() || *b == b':').count();
        let shape = &text[..length];
        let colons = shape.bytes().filter(|b| *b == b':').count();
        let has_digits = shape.bytes().any(|b| b.is_ascii_digit());
        let groups = shape.split(':').all(|group| group.len() <= 4);
        (has_digits && groups && (colons == 7 || colons >= 2 && shape.contains("::")) && !shape.ends_with(':'))
            .then_some(length)
    })?;
    let port = text[length..].strip_prefix(':').map_or(0, digits);
    let length = if port > 0 { length + 1 + port } else { length };
    ends_word(&text[length..]).then_some(length)
}

fn four_bytes(text: &str) -> Option<usize> {
    let mut at = 0;
    for part in 0..4 {
        let length = digits(&text[at..]);
        if !(1..=3).contains(&length) {
            return None;
        }
        at += length;
        if part < 3 {
            at += usize::from(text[at..].starts_with('.'));
            if !text[..at].ends_with('.') {
                return None;
            }
        }
    }
    Some(at)
}

/// A date, a time of day, or both.
pub(super) fn time(text: &str) -> Option<usize> {
    let Some(date) = date(text) else { return clock(text) };
    let rest = &text[date..];
    let clock = rest.strip_prefix(['T', ' ', '_']).and_then(clock);
    match clock {
        Some(length) => Some(date + 1 + length),
        None => ends_word(rest).then_some(date),
    }
}

/// A time as syslog writes it: `Jul  6 10:01:39`.
pub(super) fn month_day_clock(text: &str) -> Option<usize> {
    let month = MONTHS.iter().find(|month| text.starts_with(**month))?;
    let rest = text[month.len()..].trim_start_matches(' ');
    let day = digits(rest);
    let clock_at = rest[day..].trim_start_matches(' ');
    if !(1..=2).contains(&day) || text.len() == month.len() + rest.len() || clock_at.len() == rest.len() - day {
        return None;
    }
    clock(clock_at).map(|length| text.len() - clock_at.len() + length)
}

fn date(text: &str) -> Option<usize> {
    let bytes = text.as_bytes().get(..10)?;
    let separator = bytes[4];
    let shaped = digits(text) == 4
        && b"-/.".contains(&separator)
        && digits(&text[5..]) == 2
        && bytes[7] == separator
        && digits(&text[8..]) == 2;
    shaped.then_some(10)
}

fn clock(text: &str) -> Option<usize> {
    let hours = digits(text);
    let minutes = digits(text[hours..].strip_prefix(':')?);
    let seconds_at = hours + 1 + minutes;
    let seconds = digits(text[seconds_at..].strip_prefix(':')?);
    if !(1..=2).contains(&hours) || minutes != 2 || seconds != 2 {
        return None;
    }
    let mut at = seconds_at + 1 + seconds;
    if let Some(fraction) = text[at..].strip_prefix(['.', ',']).map(digits)
        && fraction > 0
    {
        at += 1 + fraction;
    }
    if text[at..].starts_with('Z') {
        at += 1;
    } else if let Some(zone) = text[at..].strip_prefix(['+', '-']) {
        let length = zone.bytes().take_while(|b| b.is_ascii_digit() || *b == b':').count();
        if (4..=5).contains(&length) {
            at += 1 + length;
        }
    }
    ends_word(&text[at..]).then_some(at)
}

/// A number with what belongs to it.
pub(super) struct Number {
    pub(super) length: usize,
    pub(super) mask: &'static str,
    plain: bool,
}

impl Number {
    /// Whether it is a whole number of up to five digits, without a unit.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }
}

/// A number, its sign before it and its unit behind it: `-5`, `1,024`, `7.4e-05 s`, `1h30m`, `64 MiB`, `98%`.
pub(super) fn number(text: &str) -> Option<Number> {
    let sign = usize::from(text.starts_with(['-', '+']));
    let (mut at, plain) = bare_number(&text[sign..]).map(|(length, plain)| (sign + length, plain))?;
    let unit = |at: usize| {
        let spaces = usize::from(text[at..].starts_with(' '));
        let word = &text[at + spaces..];
        let end = word.find(|c: char| !c.is_alphabetic()).unwrap_or(word.len());
        let mask = [(UNITS_OF_TIME, "<time>"), (UNITS_OF_SIZE, "<size>")];
        let mask = mask.iter().find(|(units, _)| units.contains(&&word[..end]))?.1;
        Some((at + spaces + end, mask, spaces > 0))
    };
    let Some((mut end, mask, apart)) = unit(at) else {
        // What follows without a gap belongs to a word, not to a number.
        return ends_word(&text[at..]).then_some(Number { length: at, mask: "<n>", plain });
    };
    // Several parts: 1h30m.
    while !apart
        && let Some((length, _)) = bare_number(&text[end..])
        && let Some((next, "<time>", false)) = unit(end + length)
    {
        end = next;
    }
    at = end;
    if ends_word(&text[at..]) { Some(Number { length: at, mask, plain: false }) } else { None }
}

fn bare_number(text: &str) -> Option<(usize, bool)> {
    let mut at = digits(text);
    if at == 0 {
        return None;
    }
    let plain = at <= 5;
    let whole = at;
    while let Some(more) = text[at..].strip_prefix(['.', ',']).map(digits)
        && more > 0
        && (text[at..].starts_with('.') || more == 3)
    {
        at += 1 + more;
    }
    if let Some(exponent) = text[at..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['-', '+']));
        let length = digits(&exponent[sign..]);
        if length > 0 {
            at += 1 + sign + length;
        }
    }
    Some((at, plain && at == whole))
}
