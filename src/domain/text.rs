//! Cuts long texts short: to their first line, or to their last lines.

/// The first line that is not blank, without the spaces around it; empty when there is none.
pub fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("")
}

/// The whole lines within the last `limit` bytes, without the spaces around them; of a line that alone is longer, its end.
pub fn last_lines(text: &str, limit: usize) -> &str {
    let text = text.trim();
    if text.len() <= limit {
        return text;
    }
    let end = &text[text.ceil_char_boundary(text.len() - limit)..];
    end.split_once('\n').map_or(end, |(_, whole_lines)| whole_lines).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_first_that_says_something() {
        assert_eq!(first_line(" \n\t\r\n  hello world \r\nmore"), "hello world");
        assert_eq!(first_line(" \n"), "");
    }

    #[test]
    fn the_last_lines_are_whole() {
        assert_eq!(last_lines("  a\nb \n", 4096), "a\nb");
        let long = format!("{}\nwhole line\nlast", "x".repeat(5000));
        assert_eq!(last_lines(&long, 4096), "whole line\nlast");
        assert_eq!(last_lines(&"é".repeat(5000), 4096).len(), 4096);
        assert_eq!(last_lines(&"é".repeat(5000), 4095).len(), 4094);
    }
}
