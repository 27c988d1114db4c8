//! Paths into a JSON document, in the syntax of SQL++: `a.b[2].c`, with backticks around names that hold dots or
//! brackets.

use serde_json::Value;

use super::super::wire::status;

/// The limits of the protocol.
const LONGEST: usize = 1024;
const MOST_COMPONENTS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Component {
    Key(String),
    /// From the front.
    Index(usize),
    /// `[-1]`.
    Last,
}

/// Parses a path; an empty one has no components.
pub fn parse(path: &[u8]) -> Result<Vec<Component>, u16> {
    if path.len() > LONGEST {
        return Err(status::PATH_TOO_BIG);
    }
    let text = std::str::from_utf8(path).map_err(|_| status::PATH_INVALID)?;
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let (index, tail) = tail.split_once(']').ok_or(status::PATH_INVALID)?;
            found.push(match index {
                "-1" => Component::Last,
                digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                    Component::Index(digits.parse().map_err(|_| status::PATH_INVALID)?)
                }
                _ => return Err(status::PATH_INVALID),
            });
            rest = tail;
        } else {
            if !found.is_empty() {
                rest = rest.strip_prefix('.').ok_or(status::PATH_INVALID)?;
            }
            let (key, tail) = key(rest)?;
            found.push(Component::Key(key));
            rest = tail;
        }
        if found.len() > MOST_COMPONENTS {
            return Err(status::PATH_TOO_BIG);
        }
    }
    Ok(found)
}

/// Takes a name off the front. Names stand in paths as between the quotes of a JSON string.
fn key(text: &str) -> Result<(String, &str), u16> {
    let mut name = String::new();
    let mut quoted = false;
    let mut characters = text.char_indices().peekable();
    let mut end = text.len();
    while let Some((at, character)) = characters.next() {
        match character {
            '`' if characters.peek().is_some_and(|(_, next)| *next == '`') => {
                characters.next();
                name.push('`');
            }
            '`' => quoted = !quoted,
            '.' | '[' if !quoted => {
                end = at;
                break;
            }
            ']' if !quoted => return Err(status::PATH_INVALID),
            other => name.push(other),
        }
    }
    if quoted || name.is_empty() {
        return Err(status::PATH_INVALID);
    }
    let name = serde_json::from_str(&format!("\"{name}\"")).map_err(|_| status::PATH_INVALID)?;
    Ok((name, &text[end..]))
}

/// What the path leads to.
pub fn find<'a>(root: &'a Value, path: &[Component]) -> Result<&'a Value, u16> {
    let mut at = root;
    for component in path {
        at = match (component, at) {
            (Component::Key(key), Value::Object(object)) => object.get(key),
            (Component::Index(index), Value::Array(array)) => array.get(*index),
            (Component::Last, Value::Array(array)) => array.last(),
            _ => return Err(status::PATH_MISMATCH),
        }
        .ok_or(status::PATH_NOT_FOUND)?;
    }
    Ok(at)
}

/// What the path leads to, for changing it. With `make`, dictionaries that are missing on the way are made; an array's
/// elements never are.
pub fn find_mut<'a>(root: &'a mut Value, path: &[Component], make: bool) -> Result<&'a mut Value, u16> {
    let mut at = root;
    for component in path {
        at = match (component, at) {
            (Component::Key(key), Value::Object(object)) => {
                if make && !object.contains_key(key) {
                    object.insert(key.clone(), Value::Object(serde_json::Map::new()));
                }
                object.get_mut(key)
            }
            (Component::Index(index), Value::Array(array)) => array.get_mut(*index),
            (Component::Last, Value::Array(array)) => array.last_mut(),
            _ => return Err(status::PATH_MISMATCH),
        }
        .ok_or(status::PATH_NOT_FOUND)?;
    }
    Ok(at)
}

/// How many levels of arrays and dictionaries lie within each other.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(array) => 1 + array.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[test]
fn paths_are_read_as_the_description_shows_them() {
    let key = |name: &str| Component::Key(name.into());
    assert_eq!(parse(b""), Ok(vec![]));
    assert_eq!(parse(b"a[1].b[-1]"), Ok(vec![key("a"), Component::Index(1), key("b"), Component::Last]));
    assert_eq!(parse(b"`dot.ted.field`.sub"), Ok(vec![key("dot.ted.field"), key("sub")]));
    assert_eq!(parse(b"back``tick"), Ok(vec![key("back`tick")]));
    assert_eq!(parse(b"`with.\\\"quotes\\\"`"), Ok(vec![key("with.\"quotes\"")]));
    assert_eq!(parse(b"[0][1]"), Ok(vec![Component::Index(0), Component::Index(1)]));
    for wrong in ["a.", ".a", "a..b", "a[", "a[x]", "a[-2]", "a]", "`a", "a[0]b", "a\"b"] {
        assert_eq!(parse(wrong.as_bytes()), Err(status::PATH_INVALID), "{wrong}");
    }
    assert_eq!(parse(vec!["a"; 33].join(".").as_bytes()), Err(status::PATH_TOO_BIG));
    assert_eq!(parse(&[b'a'; 1025]), Err(status::PATH_TOO_BIG));
}
