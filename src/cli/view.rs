//! How a command prints its data in every format: serde writes a [`View`] as JSON, and the view
//! itself writes its table.

use serde::Serialize;

use super::grid;
pub(super) use super::grid::{Cell, Column, row};
use super::terminal::{Look, Paint};
use super::text::{escape_text, wrap};
pub(super) use super::text::{first_line, or_dash, show_time};

/// The longest text in a cell, in characters. A terminal shows as much as it has room for.
pub(super) const LONGEST_CELL: usize = 500;

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
    Fields(Vec<(&'static str, Cell)>),
    Grid { columns: Vec<Column>, rows: Vec<Vec<Cell>> },
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
    pub(super) fn field(&mut self, name: &'static str, value: impl Into<Cell>) {
        let field = (name, value.into());
        match self.blocks.last_mut() {
            Some(Block::Fields(fields)) => fields.push(field),
            _ => self.blocks.push(Block::Fields(vec![field])),
        }
    }

    /// Adds a field if it has a value.
    pub(super) fn optional(&mut self, name: &'static str, value: Option<impl Into<Cell>>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// Adds a grid with a head. The head is printed without rows too, so that scripts can rely on
    /// it.
    pub(super) fn grid<H: Into<Column> + Copy, C: Into<Cell>>(
        &mut self,
        head: &[H],
        rows: impl IntoIterator<Item = Vec<C>>,
    ) {
        let rows = rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect();
        self.blocks.push(Block::Grid { columns: head.iter().map(|column| (*column).into()).collect(), rows });
    }

    /// Adds lines of text under a title.
    pub(super) fn text(&mut self, title: impl Into<String>, text: &str) {
        self.blocks.push(Block::Text { title: title.into(), text: escape_text(text) });
    }

    /// The whole text, with an empty line between blocks.
    pub(super) fn render(&self, look: &Look) -> String {
        let blocks: Vec<String> = self.blocks.iter().map(|block| render_block(block, look)).collect();
        blocks.join("\n")
    }
}

/// A view as text for people.
pub(super) fn render_table<V: View + ?Sized>(view: &V, look: &Look) -> String {
    let mut table = Table::default();
    view.table(&mut table);
    table.render(look)
}

fn render_block(block: &Block, look: &Look) -> String {
    match block {
        Block::Fields(fields) => {
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            fields.iter().map(|(name, value)| render_field(name, value, width, look)).collect()
        }
        Block::Grid { columns, rows } => grid::render(columns, rows, look),
        Block::Text { title, text } => {
            let lines: String = text
                .lines()
                .flat_map(|line| wrapped(line, 2, look))
                .map(|line| format!("  {line}").trim_end().to_owned() + "\n")
                .collect();
            format!("{}\n{lines}", wrapped(title, 0, look).join("\n"))
        }
    }
}

/// One field, in further lines below its value where the terminal is too narrow.
fn render_field(name: &str, value: &Cell, width: usize, look: &Look) -> String {
    let text = match value {
        // There is room for both.
        Cell::Time(at) if !look.utc => format!("{} ({})", show_time(*at), grid::ago(*at, look.now)),
        value => value.text(look),
    };
    let paint = Paint::of(&text).filter(|_| look.colour && ["state", "status", "queue"].contains(&name));
    let lines = match paint {
        Some(paint) => vec![paint.paint(&text)],
        None => wrapped(&text, width + 2, look),
    };
    let text = lines.join(&format!("\n{}", " ".repeat(width + 2)));
    format!("{name:width$}  {text}").trim_end().to_owned() + "\n"
}

/// A line as it stands beside `indent` columns: as lines on a terminal that has no room for it.
fn wrapped(line: &str, indent: usize, look: &Look) -> Vec<String> {
    /// A narrower terminal wraps by itself.
    const NARROWEST: usize = 20;
    match look.width {
        Some(width) if width >= indent + NARROWEST => wrap(line, width - indent),
        _ => vec![line.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn look(width: Option<usize>, utc: bool) -> Look {
        Look { width, colour: false, utc, now: Timestamp::from_millis(1_795_507_200_000) }
    }

    #[test]
    fn blocks_are_aligned_and_set_apart() {
        let mut table = Table::default();
        table.field("id", "a");
        table.field("longer name", "b");
        table.optional("missing", None::<&str>);
        table.grid(&["N", "OUTCOME", "ERROR"], [vec!["1", "exit 1", "é\tb\n"], vec!["10", "signal 11 (SIGSEGV)", ""]]);
        table.text("stderr", "one\r\n\u{1b}[31mtwo\n");
        insta::assert_snapshot!(table.render(&look(None, true)), @r"
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
    fn fields_and_texts_are_wrapped_on_a_terminal() {
        let mut table = Table::default();
        table.field("state", "failed");
        table.field("finished", Timestamp::from_millis(1_795_507_140_000));
        table.field("note", "alone and beside are first attempts by what ran when they started");
        table.text("error", "  at /srv/jobs/resize: the file is no image at all\n");
        insta::assert_snapshot!(table.render(&look(Some(40), false)), @r"
        state     failed
        finished  2026-11-24T07:59:00Z (1 min
                  ago)
        note      alone and beside are first
                  attempts by what ran when they
                  started

        error
            at /srv/jobs/resize: the file is no
            image at all
        ");
    }
}
