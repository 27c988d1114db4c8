//! Values as SQL++ compares them: types in their order, then what is in them. `None` is MISSING.

use std::cmp::Ordering;

use serde_json::Value;

/// By type first: missing, null, false, true, numbers, strings, arrays, objects.
pub fn compare(left: Option<&Value>, right: Option<&Value>) -> Ordering {
    rank(left).cmp(&rank(right)).then_with(|| match (left, right) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0)),
        },
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Array(a)), Some(Value::Array(b))) => lists(a.iter(), b.iter()).then(a.len().cmp(&b.len())),
        (Some(Value::Object(a)), Some(Value::Object(b))) => a.len().cmp(&b.len()).then_with(|| {
            let sorted = |object: &serde_json::Map<String, Value>| {
                let mut fields: Vec<_> = object.clone().into_iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                fields
            };
            let (a, b) = (sorted(a), sorted(b));
            let names = a.iter().map(|field| &field.0).cmp(b.iter().map(|field| &field.0));
            names.then_with(|| lists(a.iter().map(|field| &field.1), b.iter().map(|field| &field.1)))
        }),
        _ => Ordering::Equal,
    })
}

fn lists<'a>(left: impl Iterator<Item = &'a Value>, right: impl Iterator<Item = &'a Value>) -> Ordering {
    left.zip(right).map(|(a, b)| compare(Some(a), Some(b))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn rank(value: Option<&Value>) -> u8 {
    match value {
        None => 0,
        Some(Value::Null) => 1,
        Some(Value::Bool(false)) => 2,
        Some(Value::Bool(true)) => 3,
        Some(Value::Number(_)) => 4,
        Some(Value::String(_)) => 5,
        Some(Value::Array(_)) => 6,
        Some(Value::Object(_)) => 7,
    }
}

/// Whether a value counts as true.
pub fn truth(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(yes)) => *yes,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(array)) => !array.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
    }
}

/// Whether a text is as a pattern of LIKE has it: `%` is any text, `_` any character, a backslash takes the next as it is.
pub fn like(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|skipped| like(&text[skipped..], rest)),
        ['_', rest @ ..] => !text.is_empty() && like(&text[1..], rest),
        ['\\', next, rest @ ..] | [next, rest @ ..] => text.first() == Some(next) && like(&text[1..], rest),
    }
}
