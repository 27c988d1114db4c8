//! The words of SQL++.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A name or a keyword; in backticks it is a name whatever it says.
    Word {
        text: String,
        quoted: bool,
    },
    Literal(Value),
    /// `$name`, `$1`.
    Parameter(String),
    Symbol(&'static str),
}

/// Longer ones first, so that `<=` is not `<`.
const SYMBOLS: &[&str] = &[
    "==", "!=", "<>", "<=", ">=", "||", "(", ")", "[", "]", "{", "}", ",", ".", ":", ";", "=", "<", ">", "+", "-", "*",
    "/", "%",
];

/// Takes a text apart; the place of what is no word.
pub fn split(text: &str) -> Result<Vec<(usize, Token)>, usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = match first {
            space if space.is_whitespace() => {
                at += space.len_utf8();
                continue;
            }
            '\'' | '"' => {
                let (string, length) = quoted(rest, first).ok_or(at)?;
                (Token::Literal(Value::String(string)), length)
            }
            '`' => {
                let (name, length) = quoted(rest, first).ok_or(at)?;
                (Token::Word { text: name, quoted: true }, length)
            }
            '$' | '@' => {
                let name = word(&rest[1..]);
                if name.is_empty() {
                    return Err(at);
                }
                (Token::Parameter(name.to_owned()), 1 + name.len())
            }
            digit if digit.is_ascii_digit() => {
                let length = number(rest);
                let value = serde_json::from_str(&rest[..length]).map_err(|_| at)?;
                (Token::Literal(value), length)
            }
            letter if letter.is_alphabetic() || letter == '_' => {
                let name = word(rest);
                (Token::Word { text: name.to_owned(), quoted: false }, name.len())
            }
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)).ok_or(at)?;
                (Token::Symbol(symbol), symbol.len())
            }
        };
        found.push((at, token));
        at += length;
    }
    Ok(found)
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn number(text: &str) -> usize {
    let mut end = 0;
    for (at, character) in text.char_indices() {
        let exponent = text[..at].ends_with(['e', 'E']);
        if !(character.is_ascii_digit() || ".eE".contains(character) || exponent && "+-".contains(character)) {
            break;
        }
        end = at + 1;
    }
    end
}

/// What stands between quotes, a doubled quote standing for one, and how long it is with them. In strings a backslash
/// escapes as in JSON.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut inner = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if quote != '`' => {
                inner.push('\\');
                inner.push(characters.next()?.1);
            }
            same if same == quote => {
                if characters.peek().is_some_and(|(_, next)| *next == quote) {
                    characters.next();
                    inner.push(quote);
                    continue;
                }
                let inner = if quote == '`' { inner } else { unescaped(&inner)? };
                return Some((inner, at + 1));
            }
            other => inner.push(other),
        }
    }
    None
}

fn unescaped(text: &str) -> Option<String> {
    // A backslash before a quote of the other kind is none of JSON's.
    let text = text.replace("\\'", "'");
    let mut json = String::from("\"");
    let mut escaped = false;
    for character in text.chars() {
        match character {
            '"' if !escaped => json.push_str("\\\""),
            control if control.is_control() => json.push_str(&format!("\\u{:04x}", control as u32)),
            other => json.push(other),
        }
        escaped = character == '\\' && !escaped;
    }
    json.push('"');
    serde_json::from_str(&json).ok()
}
