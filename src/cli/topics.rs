//! The topics of `jobber help`. Their text is that of the documentation, so that it stands in one place.

use super::text::wrap;
use crate::config;

/// What there is to read.
pub(super) const NAMES: [&str; 3] = ["exit-codes", "configuration", "job-contract"];

/// The widest that a text is laid out.
pub(super) const WIDTH: usize = 100;

/// The text of a topic, in Markdown; `None` if there is no such topic.
pub(super) fn text(topic: &str) -> Option<String> {
    match topic {
        "exit-codes" => Some(section(include_str!("../../docs/development/cli-reference.md"), "Exit codes").to_owned()),
        "job-contract" => {
            Some(section(include_str!("../../docs/development/job-development.md"), "The contract").to_owned())
        }
        "configuration" => Some(format!("```\n{}```\n", config::example())),
        _ => None,
    }
}

/// A section of a page, with its heading; all of the page if there is no such section.
fn section<'t>(page: &'t str, title: &str) -> &'t str {
    let begin = page.find(&format!("\n## {title}\n")).map_or(0, |at| at + 1);
    let end = page[begin..].find("\n## ").map_or(page.len(), |at| begin + at + 1);
    &page[begin..end]
}

/// Lays out Markdown for a terminal: paragraphs wrapped, tables aligned, and no marks of emphasis or links.
pub(super) fn render(markdown: &str, width: usize) -> String {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code: String =
                lines.by_ref().take_while(|line| !line.starts_with("```")).map(|l| format!("{l}\n")).collect();
            blocks.push(code);
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(next) = lines.next_if(|next| next.starts_with('|')) {
                rows.push(cells(next));
            }
            blocks.push(grid(rows, width));
        } else if let Some(title) = line.strip_prefix("## ") {
            blocks.push(format!("{}\n", plain(title).to_uppercase()));
        } else if !line.trim().is_empty() {
            let mut paragraph = line.to_owned();
            while let Some(next) = lines.next_if(|next| !next.trim().is_empty() && !next.starts_with(['|', '`'])) {
                paragraph.push(' ');
                paragraph.push_str(next.trim());
            }
            blocks.push(wrap(&plain(&paragraph), width).join("\n") + "\n");
        }
    }
    blocks.join("\n")
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| plain(cell.trim())).collect()
}

/// A table, whose last column is wrapped.
fn grid(mut rows: Vec<Vec<String>>, width: usize) -> String {
    // The second line only parts the head from the rest.
    if rows.len() > 1 {
        rows.remove(1);
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    // What has room beside the others is not cut short.
    let others: usize = widths.iter().take(columns.saturating_sub(1)).map(|width| width + 2).sum();
    let room = width.saturating_sub(others).max(20);
    let mut text = String::new();
    for row in &rows {
        let Some((last, first)) = row.split_last() else { continue };
        let first: String = first.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        let indent = format!("\n{}", " ".repeat(others));
        text.push_str(format!("{first}{}", wrap(last, room).join(&indent)).trim_end());
        text.push('\n');
    }
    text
}

/// A text without the marks of Markdown.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let (before, link) = rest.split_at(at);
        plain.push_str(before);
        let is_name = |name: &str| !name[1..].contains(['[', ']']);
        let parts = link.split_once("](").filter(|(name, _)| is_name(name));
        match parts.and_then(|(name, after)| Some((name, after.split_once(')')?.1))) {
            Some((name, after)) => {
                plain.push_str(&name[1..]);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = &link[1..];
            }
        }
    }
    plain.push_str(rest);
    plain.replace("**", "").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_reads_well_without_its_marks() {
        let page = "# Page\n\n## One\n\nA **long** text with a [link](x.md) that is wrapped [not].\n\n\
            | code | meaning |\n|---|---|\n| 0 | all `well` in a text that is wrapped |\n| 12 | not |\n\n\
            ```sh\nls  -l\n```\n\n## Two\n\nNo.\n";
        insta::assert_snapshot!(render(section(page, "One"), 30), @r"
        ONE

        A long text with a link that
        is wrapped [not].

        code  meaning
        0     all well in a text that
              is wrapped
        12    not

        ls  -l
        ");
    }
}
