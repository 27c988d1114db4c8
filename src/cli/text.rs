//! Texts for people: made safe for a terminal, cut and wrapped.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::domain;

/// Escapes everything that moves a terminal's cursor, colours text or turns its direction.
pub(super) fn escape_line(text: &str) -> String {
    escape(text, |_| false)
}

/// Like [`escape_line`], but line feeds and tabs stay.
pub(super) fn escape_text(text: &str) -> String {
    escape(&text.replace("\r\n", "\n"), |c| c == '\n' || c == '\t')
}

fn escape(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if stays(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_ascii_control() => escaped.push_str(&format!("\\x{:02x}", u32::from(c))),
            // Marks that change the direction of writing can make one text look like another.
            c if c.is_control()
                || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                escaped.extend(c.escape_unicode());
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// The first line that is not blank, cut to `width` characters.
pub(super) fn first_line(text: &str, width: usize) -> String {
    let line = domain::first_line(text);
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let cut: String = line.chars().take(width.saturating_sub(3)).collect();
    format!("{cut}...")
}

/// A moment to the second (`2026-11-24T08:00:00Z`).
pub(super) fn show_time(at: domain::Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// A cell for a value that may be missing.
pub(super) fn or_dash(value: Option<impl Into<String>>) -> String {
    value.map_or_else(|| "-".to_owned(), Into::into)
}

/// A text of at most `width` columns; an ellipsis stands for the rest.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut room = width.saturating_sub(1);
    for c in text.chars() {
        let Some(left) = room.checked_sub(c.width().unwrap_or(0)) else { break };
        room = left;
        kept.push(c);
    }
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// A text in lines of at most `width` columns, broken between words; within one only if it is longer than a line. What
/// a line begins with in spaces, the lines after it begin with, too.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        if line.width() <= width {
            lines.push(line.trim_end().to_owned());
            continue;
        }
        let words = line.trim_start();
        let indent = &line[..line.len() - words.len()];
        let indent = if indent.width() < width / 2 { indent } else { "" };
        let mut current = indent.to_owned();
        for word in words.split(' ') {
            let is_empty = current.len() == indent.len();
            if !is_empty && current.width() + 1 + word.width() > width {
                lines.push(std::mem::replace(&mut current, indent.to_owned()).trim_end().to_owned());
            } else if !is_empty {
                current.push(' ');
            }
            for c in word.chars() {
                current.push(c);
                if current.width() > width && current.chars().count() > indent.chars().count() + 1 {
                    current.pop();
                    lines.push(std::mem::replace(&mut current, format!("{indent}{c}")));
                }
            }
        }
        lines.push(current.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(escape_line("a\u{7}\u{9b}\u{202e}b\u{7f}"), "a\\x07\\u{9b}\\u{202e}b\\x7f");
    }

    #[test]
    fn a_long_first_line_is_cut() {
        assert_eq!(first_line("\n  hello world\nmore", 20), "hello world");
        assert_eq!(first_line("hello world", 8), "hello...");
    }

    #[test]
    fn a_text_is_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("  at /a/long/path of it", 10), ["  at", "  /a/long/", "  path of", "  it"]);
        assert_eq!(wrap("a\n\nb", 9), ["a", "", "b"]);
    }

    proptest! {
        #[test]
        fn a_cut_text_has_the_width(text in "[a-z日ü]{0,30}", width in 0_usize..40) {
            let cut = cut(&text, width);
            prop_assert!(cut.width() <= width);
            prop_assert!(text.width() > width || cut == text);
        }

        #[test]
        fn nothing_is_lost_and_nothing_is_too_wide(text in "[a-z日 ]{0,80}", width in 4_usize..40) {
            let lines = wrap(&text, width);
            prop_assert!(lines.iter().all(|line| line.width() <= width), "{:?}", lines);
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
