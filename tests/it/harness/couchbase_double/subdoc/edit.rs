//! What each sub-document command does to a JSON value.

use serde_json::{Map, Value};

use super::super::wire::{opcode, status};
use super::path::{self, Component};

/// How deep a document may be.
const DEEPEST: usize = 32;

/// One operation of a command.
#[derive(Debug, Clone)]
pub struct Spec {
    pub opcode: u8,
    pub make_parents: bool,
    pub xattr: bool,
    pub expand: bool,
    pub path: Vec<u8>,
    pub value: Vec<u8>,
}

/// Reads; what goes into the result.
pub fn look(root: &Value, spec: &Spec) -> Result<Vec<u8>, u16> {
    let path = path::parse(&spec.path)?;
    if path.is_empty() && spec.opcode != opcode::SUBDOC_GET_COUNT {
        return Err(status::PATH_INVALID);
    }
    let found = path::find(root, &path)?;
    match (spec.opcode, found) {
        (opcode::SUBDOC_EXISTS, _) => Ok(Vec::new()),
        (opcode::SUBDOC_GET, value) => Ok(value.to_string().into_bytes()),
        (_, Value::Array(array)) => Ok(array.len().to_string().into_bytes()),
        (_, Value::Object(object)) => Ok(object.len().to_string().into_bytes()),
        _ => Err(status::PATH_MISMATCH),
    }
}

/// Changes; what goes into the result, which only a counter has.
pub fn change(root: &mut Value, spec: &Spec) -> Result<Option<Vec<u8>>, u16> {
    let path = path::parse(&spec.path)?;
    let result = match spec.opcode {
        opcode::SUBDOC_DICT_ADD | opcode::SUBDOC_DICT_UPSERT => set_key(root, &path, spec)?,
        opcode::SUBDOC_REPLACE => replace(root, &path, spec)?,
        opcode::SUBDOC_DELETE => delete(root, &path)?,
        opcode::SUBDOC_ARRAY_PUSH_FIRST | opcode::SUBDOC_ARRAY_PUSH_LAST => push(root, &path, spec)?,
        opcode::SUBDOC_ARRAY_INSERT => insert(root, &path, spec)?,
        opcode::SUBDOC_ARRAY_ADD_UNIQUE => add_unique(root, &path, spec)?,
        opcode::SUBDOC_COUNTER => Some(count(root, &path, spec)?),
        _ => return Err(status::INVALID_COMBO),
    };
    if path::depth(root) > DEEPEST {
        return Err(status::VALUE_TOO_DEEP);
    }
    Ok(result)
}

fn json(value: &[u8]) -> Result<Value, u16> {
    serde_json::from_slice(value).map_err(|_| status::VALUE_CANT_INSERT)
}

/// One or more values, with commas between them.
fn list(value: &[u8]) -> Result<Vec<Value>, u16> {
    match json(&[b"[", value, b"]"].concat())? {
        Value::Array(values) if !values.is_empty() => Ok(values),
        _ => Err(status::VALUE_CANT_INSERT),
    }
}

type Changed = Result<Option<Vec<u8>>, u16>;

/// The dictionary that holds the last component, and that component.
fn entry<'a, 'p>(
    root: &'a mut Value,
    path: &'p [Component],
    make: bool,
) -> Result<(&'a mut Map<String, Value>, &'p String), u16> {
    let Some((Component::Key(key), parents)) = path.split_last() else { return Err(status::PATH_INVALID) };
    match path::find_mut(root, parents, make)? {
        Value::Object(object) => Ok((object, key)),
        _ => Err(status::PATH_MISMATCH),
    }
}

fn set_key(root: &mut Value, path: &[Component], spec: &Spec) -> Changed {
    let value = json(&spec.value)?;
    let (object, key) = entry(root, path, spec.make_parents)?;
    if spec.opcode == opcode::SUBDOC_DICT_ADD && object.contains_key(key) {
        return Err(status::PATH_EXISTS);
    }
    object.insert(key.clone(), value);
    Ok(None)
}

fn replace(root: &mut Value, path: &[Component], spec: &Spec) -> Changed {
    if path.is_empty() {
        return Err(status::PATH_INVALID);
    }
    let value = json(&spec.value)?;
    *path::find_mut(root, path, false)? = value;
    Ok(None)
}

fn delete(root: &mut Value, path: &[Component]) -> Changed {
    let (last, parents) = path.split_last().ok_or(status::PATH_INVALID)?;
    match (last, path::find_mut(root, parents, false)?) {
        (Component::Key(key), Value::Object(object)) => object.shift_remove(key).map(|_| ()),
        (Component::Index(index), Value::Array(array)) => {
            (*index < array.len()).then(|| array.remove(*index)).map(|_| ())
        }
        (Component::Last, Value::Array(array)) => array.pop().map(|_| ()),
        _ => return Err(status::PATH_MISMATCH),
    }
    .ok_or(status::PATH_NOT_FOUND)?;
    Ok(None)
}

/// The array that the path names; made if it is missing and may be.
fn array<'a>(root: &'a mut Value, path: &[Component], make: bool) -> Result<&'a mut Vec<Value>, u16> {
    if make && let Some((Component::Key(key), parents)) = path.split_last() {
        match path::find_mut(root, parents, true)? {
            Value::Object(object) => object.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new())),
            _ => return Err(status::PATH_MISMATCH),
        };
    }
    match path::find_mut(root, path, false)? {
        Value::Array(array) => Ok(array),
        _ => Err(status::PATH_MISMATCH),
    }
}

fn push(root: &mut Value, path: &[Component], spec: &Spec) -> Changed {
    let values = list(&spec.value)?;
    let array = array(root, path, spec.make_parents)?;
    let at = if spec.opcode == opcode::SUBDOC_ARRAY_PUSH_FIRST { 0 } else { array.len() };
    array.splice(at..at, values);
    Ok(None)
}

fn insert(root: &mut Value, path: &[Component], spec: &Spec) -> Changed {
    let Some((Component::Index(index), parents)) = path.split_last() else { return Err(status::PATH_INVALID) };
    let values = list(&spec.value)?;
    let array = array(root, parents, false)?;
    if *index > array.len() {
        return Err(status::PATH_NOT_FOUND);
    }
    array.splice(index..index, values);
    Ok(None)
}

fn add_unique(root: &mut Value, path: &[Component], spec: &Spec) -> Changed {
    let compound = |value: &Value| value.is_array() || value.is_object();
    let value = json(&spec.value)?;
    if compound(&value) {
        return Err(status::VALUE_CANT_INSERT);
    }
    let array = array(root, path, spec.make_parents)?;
    if array.iter().any(compound) {
        return Err(status::PATH_MISMATCH);
    }
    if array.contains(&value) {
        return Err(status::PATH_EXISTS);
    }
    array.push(value);
    Ok(None)
}

fn count(root: &mut Value, path: &[Component], spec: &Spec) -> Result<Vec<u8>, u16> {
    let delta: i64 = std::str::from_utf8(&spec.value)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|delta| *delta != 0)
        .ok_or(status::SUBDOC_BAD_DELTA)?;
    let (last, parents) = path.split_last().ok_or(status::PATH_INVALID)?;
    let sum = |old: &Value| match old {
        Value::Number(number) if number.is_i64() => {
            let old = number.as_i64().expect("it is one");
            old.checked_add(delta).ok_or(status::VALUE_CANT_INSERT)
        }
        Value::Number(number) if number.is_u64() => Err(status::BAD_RANGE),
        _ => Err(status::PATH_MISMATCH),
    };
    let new = match (last, path::find_mut(root, parents, spec.make_parents)?) {
        (Component::Key(key), Value::Object(object)) => {
            let new = object.get(key).map_or(Ok(delta), sum)?;
            object.insert(key.clone(), new.into());
            new
        }
        (Component::Index(_) | Component::Last, Value::Array(array)) => {
            let at = if let Component::Index(at) = last { *at } else { array.len().wrapping_sub(1) };
            let element = array.get_mut(at).ok_or(status::PATH_NOT_FOUND)?;
            let new = sum(element)?;
            *element = new.into();
            new
        }
        _ => return Err(status::PATH_MISMATCH),
    };
    Ok(new.to_string().into_bytes())
}
