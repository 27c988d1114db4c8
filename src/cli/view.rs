//! How a command prints its data in every format: serde writes a [`View`] as JSON, and the view
//! itself writes its table.

use serde::Serialize;

use crate::domain;

/// Something that can be printed. A list is a struct with its `items`, as in the API: one shape for all lists.
pub(super) trait View: Serialize {
    /// Writes the data for people.
    fn table(&self, out: &mut Table);

    /// Writes the data for programs that read lines: one compact JSON object each. A list gives one
    /// line for each item.
    fn lines(&self) -> Vec<String> {
        vec![json_line(self)]
    }
}

/// Serialises a value as one compact line of JSON.
pub(super) fn json_line<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("views have only string keys")
}

enum Block {
    Fields(Vec<(&'static str, String)>),
    Grid { head: &'static [&'static str], rows: Vec<Vec<String>> },
    Text { title: String, text: String },
}

/// Text for people: aligned fields, grids and blocks of text. It escapes everything that could play
/// tricks on a terminal.
#[derive(Default)]
pub(super) struct Table {
    blocks: Vec<Block>,
}

impl Table {
    /// Adds `name  value`, below the field before.
    pub(super) fn field(&mut self, name: &'static str, value: impl AsRef<str>) {
        let field = (name, escape_line(value.as_ref()));
        match self.blocks.last_mut() {
            Some(Block::Fields(fields)) => fields.push(field),
            _ => self.blocks.push(Block::Fields(vec![field])),
        }
    }

    /// Adds a field if it has a value.
    pub(super) fn optional(&mut self, name: &'static str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// Adds a grid with a head. The head is printed without rows too, so that scripts can rely on
    /// it.
    pub(super) fn grid(&mut self, head: &'static [&'static str], rows: impl IntoIterator<Item = Vec<String>>) {
        let rows = rows.into_iter().map(|row| row.iter().map(|cell| escape_line(cell)).collect()).collect();
        self.blocks.push(Block::Grid { head, rows });
    }

    /// Adds lines of text under a title.
    pub(super) fn text(&mut self, title: impl Into<String>, text: &str) {
        self.blocks.push(Block::Text { title: title.into(), text: escape_text(text) });
    }

    /// The whole text, with an empty line between blocks.
    pub(super) fn render(&self) -> String {
        let blocks: Vec<String> = self.blocks.iter().map(render_block).collect();
        blocks.join("\n")
    }
}

/// A view as text for people.
pub(super) fn render_table<V: View + ?Sized>(view: &V) -> String {
    let mut table = Table::default();
    view.table(&mut table);
    table.render()
}

fn render_block(block: &Block) -> String {
    match block {
        Block::Fields(fields) => {
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            fields.iter().map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned() + "\n").collect()
        }
        Block::Grid { head, rows } => {
            let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
            for row in rows {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = (*width).max(cell.chars().count());
                }
            }
            let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
            std::iter::once(&head).chain(rows).map(|row| render_row(row, &widths)).collect()
        }
        Block::Text { title, text } => {
            let lines: String = text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect();
            format!("{title}\n{lines}")
        }
    }
}

fn render_row(row: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    cells.join("  ").trim_end().to_owned() + "\n"
}

/// Escapes everything that moves a terminal's cursor, colours text or turns its direction.
pub(super) fn escape_line(text: &str) -> String {
    escape(text, |_| false)
}

/// Like [`escape_line`], but line feeds and tabs stay.
fn escape_text(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_set_apart() {
        let mut table = Table::default();
        table.field("id", "a");
        table.field("longer name", "b");
        table.optional("missing", None::<&str>);
        table.grid(
            &["N", "OUTCOME", "ERROR"],
            [
                vec!["1".into(), "exit 1".into(), "é\tb\n".into()],
                vec!["10".into(), "signal 11 (SIGSEGV)".into(), String::new()],
            ],
        );
        table.text("stderr", "one\r\n\u{1b}[31mtwo\n");
        insta::assert_snapshot!(table.render(), @r"
        id           a
        longer name  b

        N   OUTCOME              ERROR
        1   exit 1               é\tb\n
        10  signal 11 (SIGSEGV)

        stderr
          one
          \x1b[31mtwo
        ");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(escape_line("a\u{7}\u{9b}\u{202e}b\u{7f}"), "a\\x07\\u{9b}\\u{202e}b\\x7f");
    }

    #[test]
    fn a_long_first_line_is_cut() {
        assert_eq!(first_line("\n  hello world\nmore", 20), "hello world");
        assert_eq!(first_line("hello world", 8), "hello...");
    }
}
