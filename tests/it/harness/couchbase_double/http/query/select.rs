//! Running a SELECT: find, filter, group, order, cut, show.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::super::super::State;
use super::super::Call;
use super::evaluate::{Row, Scope};
use super::syntax::{Expression, Item, Keyspace, Projection, Select};
use super::value::compare;
use super::{Refusal, indexes, locate};

pub fn run(
    state: &State,
    call: &Call,
    context: &str,
    select: &Select,
    parameters: &Map<String, Value>,
) -> Result<Vec<Value>, Refusal> {
    let wrong = |text: String| Refusal(400, 5010, text);
    let nothing = Scope { alias: "", parameters, rows: &[], variables: &[] };
    let (alias, rows) = match &select.from {
        None => (String::new(), vec![Row { document: Value::Null, meta: Value::Null }]),
        Some((keyspace, alias)) => (alias.clone(), rows(state, call, context, select, keyspace, alias, &nothing)?),
    };
    let scope = Scope { alias: &alias, ..nothing };
    let mut found = Vec::new();
    for row in rows {
        let holds = match &select.condition {
            Some(condition) => Scope { rows: std::slice::from_ref(&row), ..scope }.holds(condition).map_err(wrong)?,
            None => true,
        };
        found.extend(holds.then_some(row));
    }
    let mut groups = if select.grouped {
        group(&scope, select, found).map_err(wrong)?
    } else {
        found.into_iter().map(|row| vec![row]).collect()
    };
    if let Some(having) = &select.having {
        let mut kept = Vec::new();
        for rows in groups {
            if (Scope { rows: &rows, ..scope }).holds(having).map_err(wrong)? {
                kept.push(rows);
            }
        }
        groups = kept;
    }
    let mut shown = Vec::new();
    for rows in &groups {
        let scope = Scope { rows, ..scope };
        if let Some(value) = show(&scope, &select.projection).map_err(wrong)? {
            shown.push((order_keys(&scope, select, &value).map_err(wrong)?, value));
        }
    }
    shown.sort_by(|left, right| order(&left.0, &right.0, select));
    let mut values: Vec<_> = shown.into_iter().map(|(_, value)| value).collect();
    if select.distinct {
        let mut seen: Vec<Value> = Vec::new();
        values.retain(|value| {
            let new = !seen.contains(value);
            seen.extend(new.then(|| value.clone()));
            new
        });
    }
    let number = |expression: &Option<Expression>, default: usize| match expression {
        None => Ok(default),
        Some(expression) => {
            let value = nothing.value(expression).map_err(wrong)?;
            let number = value.and_then(|value| value.as_i64());
            number.map(|number| number.max(0) as usize).ok_or_else(|| wrong("Invalid LIMIT or OFFSET value".into()))
        }
    };
    let (offset, limit) = (number(&select.offset, 0)?, number(&select.limit, usize::MAX)?);
    Ok(values.into_iter().skip(offset).take(limit).collect())
}

/// The rows of a keyspace, of which `USE KEYS` takes some.
fn rows(
    state: &State,
    call: &Call,
    context: &str,
    select: &Select,
    keyspace: &Keyspace,
    alias: &str,
    scope: &Scope<'_>,
) -> Result<Vec<Row>, Refusal> {
    if keyspace.system {
        return system(state, call, keyspace);
    }
    let location = locate(state, call, context, keyspace)?;
    let keys = match &select.keys {
        None => {
            indexes::check(state, &location, select, alias)?;
            None
        }
        Some(keys) => Some(match scope.value(keys).map_err(|text| Refusal(400, 5010, text))? {
            Some(Value::Array(keys)) => keys,
            Some(key @ Value::String(_)) => vec![key],
            _ => Vec::new(),
        }),
    };
    let documents = state.buckets[&location.bucket].collection(location.id);
    let rows = documents.filter_map(|(place, document)| {
        let id = String::from_utf8_lossy(&place.key).into_owned();
        if keys.as_ref().is_some_and(|keys| !keys.iter().any(|key| key.as_str() == Some(&id))) {
            return None;
        }
        // The indexes hold JSON only.
        let meta = json!({ "id": id, "cas": document.cas, "expiration": document.expiry, "flags": document.flags });
        Some(Row { document: document.as_json()?, meta })
    });
    Ok(rows.collect())
}

/// What the service tells of itself.
fn system(state: &State, call: &Call, keyspace: &Keyspace) -> Result<Vec<Row>, Refusal> {
    let row = |document: Value| Row { document, meta: Value::Null };
    match keyspace.path.as_slice() {
        [name] if name == "indexes" => {
            let open = state.indexes.iter().filter(|index| call.user.may_use(&index.location.bucket));
            Ok(open.map(|index| row(index.row())).collect())
        }
        [name] if name == "keyspaces" => {
            let open = state.buckets.values().filter(|bucket| call.user.may_use(&bucket.name));
            let rows = open.flat_map(|bucket| {
                bucket.manifest.scopes.iter().flat_map(|scope| {
                    scope.collections.iter().map(|collection| {
                        row(json!({
                            "bucket": bucket.name,
                            "scope": scope.name,
                            "name": collection.name,
                            "id": collection.name,
                            "namespace": "default",
                            "path": format!("default:{}.{}.{}", bucket.name, scope.name, collection.name),
                        }))
                    })
                })
            });
            Ok(rows.collect())
        }
        path => Err(Refusal(404, 12003, format!("Keyspace not found in CB datastore: system:{}", path.join(".")))),
    }
}

fn group(scope: &Scope<'_>, select: &Select, rows: Vec<Row>) -> Result<Vec<Vec<Row>>, String> {
    let mut groups: Vec<(Vec<Option<Value>>, Vec<Row>)> = Vec::new();
    if select.group.is_empty() {
        return Ok(vec![rows]);
    }
    for row in rows {
        let one = Scope { rows: std::slice::from_ref(&row), ..*scope };
        let key = select.group.iter().map(|by| one.value(by)).collect::<Result<Vec<_>, _>>()?;
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    Ok(groups.into_iter().map(|(_, rows)| rows).collect())
}

/// What a row shows; a raw value that is missing shows nothing.
fn show(scope: &Scope<'_>, projection: &Projection) -> Result<Option<Value>, String> {
    let items = match projection {
        Projection::Raw(expression) => return scope.value(expression),
        Projection::Fields(items) => items,
    };
    let mut object = Map::new();
    for (at, item) in items.iter().enumerate() {
        match item {
            Item::All => {
                let document = scope.rows.first().map(|row| row.document.clone());
                object.extend(document.map(|document| (scope.alias.to_owned(), document)));
            }
            Item::FieldsOf(expression) => {
                if let Some(Value::Object(fields)) = scope.value(expression)? {
                    object.extend(fields);
                }
            }
            Item::Named(expression, alias) => {
                let name = alias.clone().or_else(|| implied(expression)).unwrap_or_else(|| format!("${}", at + 1));
                object.extend(scope.value(expression)?.map(|value| (name, value)));
            }
        }
    }
    Ok(Some(Value::Object(object)))
}

/// The name that an expression has without being given one.
fn implied(expression: &Expression) -> Option<String> {
    match expression {
        Expression::Name(name) | Expression::Field(_, name) => Some(name.clone()),
        _ => None,
    }
}

/// What to order by: expressions of the row, or names of what it shows.
fn order_keys(scope: &Scope<'_>, select: &Select, shown: &Value) -> Result<Vec<Option<Value>>, String> {
    let keys = select.order.iter().map(|(by, _)| match by {
        Expression::Name(name) if shown.get(name).is_some() => Ok(shown.get(name).cloned()),
        by => scope.value(by),
    });
    keys.collect()
}

fn order(left: &[Option<Value>], right: &[Option<Value>], select: &Select) -> Ordering {
    let pairs = left.iter().zip(right).zip(&select.order);
    pairs
        .map(|((left, right), (_, descending))| {
            let order = compare(left.as_ref(), right.as_ref());
            if *descending { order.reverse() } else { order }
        })
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}
