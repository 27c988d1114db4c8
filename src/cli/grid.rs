//! Grids for people: aligned columns that give way where the terminal is narrow.
//!
//! Off a terminal a grid is whole. On one, each id has as many characters as tell it from the others, and no line is
//! longer than the terminal is wide: the least important columns are left out until the rest has room when texts are
//! shortened, and what room is left goes to the most important columns first.

use std::collections::BTreeSet;

use unicode_width::UnicodeWidthStr;

use super::terminal::{Look, Paint};
use super::text::{cut, escape_line, or_dash, show_time};
use crate::domain::{JobId, Timestamp};

/// Between two columns.
const GAP: usize = 2;
/// A text that gives way keeps so many columns.
const LEAST_TEXT: usize = 16;
/// The fewest characters of an id.
const LEAST_ID: usize = 8;
/// So many characters of an id that Jobber makes are the time to the millisecond at which it was made: fewer would be
/// those of many jobs, of which the table shows few.
const TIME_OF_ID: usize = 13;

/// What a cell shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    /// A moment: how long ago it was, or exactly.
    Time(Timestamp),
}

impl Cell {
    /// The cell as text without colour, safe for a terminal.
    pub(super) fn text(&self, look: &Look) -> String {
        match self {
            Self::Text(text) => escape_line(text),
            Self::Time(at) if look.utc => show_time(*at),
            Self::Time(at) => ago(*at, look.now),
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Timestamp> for Cell {
    fn from(at: Timestamp) -> Self {
        Self::Time(at)
    }
}

impl From<Option<Timestamp>> for Cell {
    fn from(at: Option<Timestamp>) -> Self {
        at.map_or_else(|| or_dash(None::<String>).into(), Self::Time)
    }
}

/// A row of a grid: cells of any kind.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::cli::grid::Cell::from($cell)),*] };
}
pub(super) use row;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Ids: shown as far as they differ.
    Id,
    /// Texts: shortened where there is no room for them.
    Text,
    /// Words for states, which have colours.
    State,
}

/// A column of a grid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    head: &'static str,
    kind: Kind,
    rank: u8,
}

impl Column {
    const fn new(head: &'static str, kind: Kind) -> Self {
        Self { head, kind, rank: 1 }
    }

    pub(super) const fn plain(head: &'static str) -> Self {
        Self::new(head, Kind::Plain)
    }

    pub(super) const fn id(head: &'static str) -> Self {
        Self::new(head, Kind::Id).rank(0)
    }

    pub(super) const fn text(head: &'static str) -> Self {
        Self::new(head, Kind::Text)
    }

    pub(super) const fn state(head: &'static str) -> Self {
        Self::new(head, Kind::State)
    }

    /// The importance: columns of the highest rank give way first, of those of one rank the last. 1 unless told.
    pub(super) const fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

impl From<&'static str> for Column {
    fn from(head: &'static str) -> Self {
        Self::plain(head)
    }
}

/// How much room a column wants, and with how little it does.
#[derive(Debug, Clone, Copy)]
struct Want {
    natural: usize,
    least: usize,
    rank: u8,
}

/// The text of a grid, its head first.
pub(super) fn render(columns: &[Column], rows: &[Vec<Cell>], look: &Look) -> String {
    let mut texts: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| cell.text(look)).collect()).collect();
    let mut wants = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let distinct = (column.kind == Kind::Id).then(|| {
            let ids: BTreeSet<&str> = texts.iter().filter_map(|row| row.get(i)).map(String::as_str).collect();
            unique_prefix(&ids)
        });
        if let (Some(distinct), Some(_)) = (distinct, look.width) {
            texts.iter_mut().filter_map(|row| row.get_mut(i)).for_each(|id| shorten_generated(id, distinct));
        }
        let widest = texts.iter().filter_map(|row| row.get(i)).map(|text| text.width()).max().unwrap_or(0);
        let natural = widest.max(column.head.len());
        let least = match column.kind {
            Kind::Plain | Kind::State => natural,
            Kind::Id => natural.min(distinct.unwrap_or(natural).max(column.head.len())),
            Kind::Text => natural.min(column.head.len().max(LEAST_TEXT)),
        };
        wants.push(Want { natural, least, rank: column.rank });
    }
    let widths = match look.width {
        Some(width) => fit(&wants, width),
        None => wants.iter().map(|want| Some(want.natural)).collect(),
    };
    let head: Vec<String> = columns.iter().map(|column| column.head.to_owned()).collect();
    let head =
        line(columns, &head, &widths, |_, text| if look.colour { Paint::Bold.paint(text) } else { text.to_owned() });
    let rows = texts.iter().map(|row| {
        line(columns, row, &widths, |column, text| match Paint::of(text.trim_end()) {
            Some(paint) if look.colour && column.kind == Kind::State => paint.paint(text),
            _ => text.to_owned(),
        })
    });
    std::iter::once(head).chain(rows).collect()
}

/// The width of each column, in a line of at most `width`; `None` for a column that is left out.
fn fit(wants: &[Want], width: usize) -> Vec<Option<usize>> {
    let mut widths: Vec<Option<usize>> = wants.iter().map(|want| Some(want.least)).collect();
    let taken = |widths: &[Option<usize>]| {
        let kept = widths.iter().flatten().count();
        widths.iter().flatten().sum::<usize>() + kept.saturating_sub(1) * GAP
    };
    while taken(&widths) > width {
        let kept = || (0..wants.len()).filter(|i| widths[*i].is_some());
        match kept().max_by_key(|i| (wants[*i].rank, *i)) {
            Some(last) if kept().count() > 1 => widths[last] = None,
            // Even the most important column alone is too wide.
            Some(only) => {
                widths[only] = Some(width);
                break;
            }
            None => break,
        }
    }
    let mut room = width.saturating_sub(taken(&widths));
    let mut by_rank: Vec<usize> = (0..wants.len()).filter(|i| widths[*i].is_some()).collect();
    by_rank.sort_by_key(|i| wants[*i].rank);
    for i in by_rank {
        if let Some(given) = &mut widths[i] {
            let more = wants[i].natural.saturating_sub(*given).min(room);
            *given += more;
            room -= more;
        }
    }
    widths
}

fn line(
    columns: &[Column],
    row: &[String],
    widths: &[Option<usize>],
    paint: impl Fn(&Column, &str) -> String,
) -> String {
    let mut text = String::new();
    let mut gap = 0;
    for ((column, cell), width) in columns.iter().zip(row).zip(widths) {
        let Some(width) = width else { continue };
        let cell = if column.kind == Kind::Id { cut_id(cell, *width) } else { cut(cell, *width) };
        if !cell.is_empty() {
            text.push_str(&" ".repeat(gap));
            text.push_str(&paint(column, &cell));
            gap = 0;
        }
        gap += width.saturating_sub(cell.width()) + GAP;
    }
    text.push('\n');
    text
}

/// The beginning of an id, without a mark: as it stands it can be given back to Jobber. Ids are ASCII.
fn cut_id(id: &str, width: usize) -> String {
    id.get(..width.min(id.len())).map_or_else(|| cut(id, width), str::to_owned)
}

/// With so many characters the ids are still different, and at least [`LEAST_ID`]. An id that is the beginning of
/// another is whole then.
fn unique_prefix(ids: &BTreeSet<&str>) -> usize {
    let neighbours = ids.iter().zip(ids.iter().skip(1));
    let common = neighbours.map(|(a, b)| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count());
    common.max().map_or(LEAST_ID, |common| (common + 1).max(LEAST_ID))
}

/// Shortens an id that Jobber made: such a one tells people nothing. One that a person chose stays whole if it can.
fn shorten_generated(id: &mut String, distinct: usize) {
    if JobId::parse(id).is_ok_and(|id| id.is_generated()) {
        id.truncate(distinct.max(TIME_OF_ID));
    }
}

/// How long ago a moment was, or how far away it is. When that is long, the day, or of what is still to come the moment.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    const DAY: i64 = 86_400;
    let seconds = (now.as_millis() - at.as_millis()) / 1000;
    let amount = match seconds.abs() {
        0 => return "now".to_owned(),
        s @ ..60 => format!("{s} s"),
        s @ ..3600 => format!("{} min", s / 60),
        s @ ..DAY => format!("{} h", s / 3600),
        _ if seconds < 0 => return show_time(at),
        s if s < 30 * DAY => format!("{} d", s / DAY),
        _ => return at.day().to_string(),
    };
    if seconds > 0 { format!("{amount} ago") } else { format!("in {amount}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(width: Option<usize>) -> Look {
        Look { width, colour: false, utc: false, now: Timestamp::from_millis(1_795_507_200_000) }
    }

    const COLUMNS: [Column; 5] = [
        Column::id("ID"),
        Column::plain("NAME"),
        Column::state("STATE").rank(0),
        Column::plain("SUBMITTED").rank(3),
        Column::text("ERROR").rank(2),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        let at = |s: i64| Timestamp::from_millis(1_795_507_200_000 - s * 1000);
        vec![
            row![
                "01a20ba2-8b54-7171-9566-b15d432fef8b",
                "resize",
                "failed",
                at(200),
                "the file /srv/a.png is no image at all"
            ],
            row!["01a20ba2-8b55-7171-9566-b15d432fef8b", "thumb", "completed", at(7200), ""],
            row!["01a20ba2-8b55-7999-9566-b15d432fef8b", "thumb", "active", at(-90), "größer als 日本"],
        ]
    }

    #[test]
    fn columns_give_way_by_importance() {
        insta::assert_snapshot!(render(&COLUMNS, &rows(), &look(None)), @r"
        ID                                    NAME    STATE      SUBMITTED  ERROR
        01a20ba2-8b54-7171-9566-b15d432fef8b  resize  failed     3 min ago  the file /srv/a.png is no image at all
        01a20ba2-8b55-7171-9566-b15d432fef8b  thumb   completed  2 h ago
        01a20ba2-8b55-7999-9566-b15d432fef8b  thumb   active     in 1 min   größer als 日本
        ");
        insta::assert_snapshot!(render(&COLUMNS, &rows(), &look(Some(70))), @r"
        ID                NAME    STATE      SUBMITTED  ERROR
        01a20ba2-8b54-71  resize  failed     3 min ago  the file /srv/a.png i…
        01a20ba2-8b55-71  thumb   completed  2 h ago
        01a20ba2-8b55-79  thumb   active     in 1 min   größer als 日本
        ");
        insta::assert_snapshot!(render(&COLUMNS, &rows(), &look(Some(40))), @r"
        ID                NAME    STATE
        01a20ba2-8b54-71  resize  failed
        01a20ba2-8b55-71  thumb   completed
        01a20ba2-8b55-79  thumb   active
        ");
    }

    #[test]
    fn states_have_colours_that_take_no_room() {
        let plain = render(&COLUMNS, &rows(), &look(Some(80)));
        let coloured = render(&COLUMNS, &rows(), &Look { colour: true, ..look(Some(80)) });
        assert!(coloured.contains("\x1b[31mfailed\x1b[0m") && coloured.contains("\x1b[1mSTATE\x1b[0m"), "{coloured}");
        let mut stripped = coloured;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[36m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain);
    }

    #[test]
    fn a_custom_id_is_whole_where_there_is_room() {
        let rows = vec![row!["nightly-of-monday"], row!["nightly-of-tuesday"]];
        let shown = |width| render(&[Column::id("ID")], &rows, &look(Some(width)));
        assert_eq!(shown(80), "ID\nnightly-of-monday\nnightly-of-tuesday\n");
        assert_eq!(shown(14), "ID\nnightly-of-mon\nnightly-of-tue\n");
    }

    #[test]
    fn a_moment_is_told_by_its_distance() {
        let now = Timestamp::from_millis(1_795_507_200_000);
        let told = |s: i64| ago(Timestamp::from_millis(now.as_millis() - s * 1000), now);
        let seconds = [0, 1, 59, 60, 3599, 3600, 86_399, 86_400, 29 * 86_400, 30 * 86_400, -5, -7200];
        let texts: Vec<_> = seconds.map(told).to_vec();
        let expected =
            ["now", "1 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "23 h ago", "1 d ago", "29 d ago"];
        assert_eq!(texts[..9], expected);
        assert_eq!(texts[9..], ["2026-10-25", "in 5 s", "in 2 h"]);
        assert_eq!(told(-2 * 86_400), "2026-11-26T08:00:00Z");
    }

    proptest! {
        #[test]
        fn the_shortest_prefix_tells_ids_apart_and_no_shorter_one_does(
            ids in prop::collection::btree_set("[ab]{1,20}", 1..30)
        ) {
            let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
            let length = unique_prefix(&ids);
            let prefixes = |n: usize| ids.iter().map(|id| &id[..n.min(id.len())]).collect::<BTreeSet<_>>().len();
            prop_assert_eq!(prefixes(length), ids.len());
            prop_assert!(length == LEAST_ID || prefixes(length - 1) < ids.len());
        }

        #[test]
        fn no_line_is_wider_than_the_terminal_and_the_most_important_column_stays(
            cells in prop::collection::vec(prop::collection::vec("[a-z日ü ]{0,40}", 5), 0..6), width in 1_usize..200
        ) {
            let rows: Vec<Vec<Cell>> = cells.iter().map(|row| row.iter().map(Cell::from).collect()).collect();
            let shown = render(&COLUMNS, &rows, &look(Some(width)));
            for line in shown.lines() {
                prop_assert!(line.width() <= width, "{:?} in {}", line, width);
            }
            prop_assert_eq!(shown.lines().count(), rows.len() + 1);
            if width >= 2 {
                prop_assert!(shown.starts_with("ID") || width < LEAST_ID, "{}", shown);
            }
        }
    }
}
