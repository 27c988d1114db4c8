//! Writes rows as comma-separated values (RFC 4180).

use std::io;

use csv::{Terminator, WriterBuilder};
use serde::Serialize;
use serde_json::Value;

/// A head and a line for each row. What lies within an object gets the names of both, joined by `_`; what lies in a
/// list or in a map of days shares one cell.
pub(super) fn csv<T: Serialize>(rows: &[T]) -> io::Result<Vec<u8>> {
    let mut head: Vec<String> = Vec::new();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let mut cells = Vec::new();
        flatten("", serde_json::to_value(row)?, &mut cells);
        for (name, _) in &cells {
            if !head.contains(name) {
                head.push(name.clone());
            }
        }
        lines.push(cells);
    }
    // An object that is null in some row left a column of its own name there, which is dropped.
    let nested: Vec<String> = head.iter().map(|name| format!("{name}_")).collect();
    let is_bare = |i: usize| head.iter().any(|other| other.starts_with(&nested[i]));
    let columns: Vec<&String> = head.iter().enumerate().filter(|(i, _)| !is_bare(*i)).map(|(_, name)| name).collect();
    if columns.is_empty() {
        // The writer takes an empty record for one with an empty cell.
        return Ok(b"\r\n".to_vec());
    }
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(&columns)?;
    for cells in lines {
        let value = |name: &&String| cells.iter().find(|(n, _)| n == *name).map_or("", |(_, value)| value);
        writer.write_record(columns.iter().map(value))?;
    }
    writer.into_inner().map_err(|error| error.into_error())
}

fn flatten(prefix: &str, value: Value, cells: &mut Vec<(String, String)>) {
    let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}_{key}") };
    match value {
        Value::Object(map) if prefix == "trend" => {
            let parts: Vec<_> = map.iter().map(|(day, n)| format!("{day}={n}")).collect();
            cells.push((prefix.to_owned(), parts.join(";")));
        }
        Value::Array(days) if prefix == "trend" => {
            let parts =
                days.iter().filter_map(|day| Some(format!("{}={}", day.get("day")?.as_str()?, day.get("count")?)));
            cells.push((prefix.to_owned(), parts.collect::<Vec<_>>().join(";")));
        }
        Value::Object(map) => map.into_iter().for_each(|(key, value)| flatten(&name(&key), value, cells)),
        Value::Array(items) => {
            let parts: Vec<_> =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
            cells.push((prefix.to_owned(), parts.join(" | ")));
        }
        Value::Null => cells.push((prefix.to_owned(), String::new())),
        Value::String(text) => cells.push((prefix.to_owned(), harmless(text))),
        other => cells.push((prefix.to_owned(), other.to_string())),
    }
}

/// Puts an apostrophe before a text that a spreadsheet would take for a formula, because texts come from jobs.
fn harmless(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_lines_whatever_they_hold() {
        let rows = [
            serde_json::json!({"name": "a,b", "rate": {"n": 3, "low": 0.5}, "trend": {"2026-11-24": 2, "2026-11-25": 1}, "text": "=1+\"x\""}),
            serde_json::json!({"name": "c", "rate": null, "trend": {}, "text": "two\nlines", "list": ["x", "y"]}),
        ];
        assert_eq!(
            String::from_utf8(csv(&rows).unwrap()).unwrap(),
            "name,rate_n,rate_low,trend,text,list\r\n\"a,b\",3,0.5,2026-11-24=2;2026-11-25=1,\"'=1+\"\"x\"\"\",\r\nc,,,,\"two\nlines\",x | y\r\n"
        );
        assert_eq!(csv::<Value>(&[]).unwrap(), b"\r\n");
    }
}
