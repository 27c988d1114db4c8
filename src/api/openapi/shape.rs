//! Tells of schemas what the types don't: flattened structs as one object, and what a value must be beyond its type.

use serde_json::{Map, Value, json};

use super::LONGEST_MS;
use crate::domain::{Category, JobOptions, MOST_INPUTS, RunOption};
use crate::wire::MOST_JOBS;

/// Refines the schemas of the document in place.
pub(super) fn refine(components: &mut Value) {
    let known = components.clone();
    merge_flattened(components, &known);
    correct(components);
    for schema in ["JobOptions", "SubmitJob"] {
        let properties = components[schema]["properties"].as_object_mut().expect("options have properties");
        for option in RunOption::ALL {
            // The derived schema has fields that a macro renames by their old names.
            if let Some(property) = properties.remove(option.key) {
                properties.insert(option.json.to_owned(), property);
            }
        }
        for (name, least, most) in BOUNDS {
            let property = properties.get_mut(*name).expect("bounds are of options that there are");
            let bounded = if property["items"].is_null() { property } else { &mut property["items"] };
            bounded["minimum"] = (*least).into();
            bounded["maximum"] = (*most).into();
        }
    }
    for (pointer, limits) in limits() {
        let place = components.pointer_mut(pointer).and_then(Value::as_object_mut);
        let place = place.expect("limits are of places that there are");
        let Value::Object(limits) = limits else { unreachable!("limits are written as objects") };
        place.extend(limits);
    }
}

/// Corrects what the derived schemas say of values of any kind, and what their descriptions owe to Rust.
fn correct(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let any = fields.get("oneOf").and_then(|kinds| kinds.get(0)).filter(|kind| kind["$ref"] == ANY).cloned();
            if let Some(Value::Object(any)) = any {
                // It may be null as it is: one of it and null would be both.
                *fields = any;
            }
            if let Some(Value::String(description)) = fields.get_mut("description") {
                *description = description.replace("[`", "`").replace("`]", "`").replace("`None`", "null");
            }
            fields.values_mut().for_each(correct);
        }
        Value::Array(items) => items.iter_mut().for_each(correct),
        _ => {}
    }
}

/// The schema that every value fits.
const ANY: &str = "#/components/schemas/RawJson";

/// The least and the greatest value of each numeric option of a job; a list has them for its items.
pub(super) const BOUNDS: &[(&str, u64, u64)] = &[
    ("attempts", 1, JobOptions::MAX_ATTEMPTS as u64),
    ("delay_ms", 0, LONGEST_MS),
    ("priority", 0, JobOptions::MAX_PRIORITY as u64),
    ("timeout_ms", 1, LONGEST_MS),
    ("grace_ms", 0, LONGEST_MS),
    ("cores", 1, 65_536),
    ("memory_bytes", 1 << 20, 1 << 50),
    ("nice", 0, 19),
    ("no_retry_exit_codes", 1, 255),
];

/// A text without NUL.
const NO_NUL: &str = "^[^\\u0000]*$";
/// The name of a binary, and the id of a schedule.
const WORD: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";

/// The name of a label.
const WORD_64: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

/// The bounds of a map from such names to these values.
fn pairs(values: Value, names: &str) -> Value {
    json!({"maxProperties": 64, "additionalProperties": values, "propertyNames": {"type": "string", "pattern": names}})
}

/// What values must be beyond their types, by the place of their schema.
fn limits() -> Vec<(&'static str, Value)> {
    let text = json!({"minLength": 1, "maxLength": 2048, "pattern": "\\S"});
    let name = json!({"minLength": 1, "maxLength": Category::MAX_NAME, "pattern": "[A-Za-z0-9]"});
    let examples = json!({"maxItems": Category::MAX_EXAMPLES});
    let description = json!({"maxLength": Category::MAX_DESCRIPTION});
    vec![
        ("/SubmitJob/properties/name", json!({"pattern": WORD, "examples": ["hello"]})),
        ("/SubmitJob/properties/id", json!({"pattern": "^(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"})),
        ("/SubmitJob/properties/arguments/items", json!({"pattern": NO_NUL, "maxLength": 131_071})),
        ("/SubmitJob/properties/after", json!({"maxItems": JobOptions::MAX_AFTER, "uniqueItems": true})),
        (
            "/Labels",
            pairs(json!({"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[ -+\\--~]+$"}), WORD_64),
        ),
        (
            "/Amounts",
            pairs(
                json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65_536}),
                "^[A-Za-z][A-Za-z0-9._-]{0,63}$",
            ),
        ),
        ("/SubmitJob/properties/inputs", json!({"maxItems": MOST_INPUTS})),
        ("/SubmitJobs/properties/jobs", json!({"minItems": 1, "maxItems": MOST_JOBS})),
        ("/Deduplication/properties/key", json!({"minLength": 1, "maxLength": 256, "pattern": NO_NUL})),
        ("/OriginalJob/properties/name", json!({"pattern": WORD})),
        ("/OriginalJob/properties/arguments/items", json!({"pattern": NO_NUL, "maxLength": 131_071})),
        ("/ActOnJobs", json!({"additionalProperties": false})),
        ("/ActOnJobs/properties/ids", json!({"maxItems": 10_000})),
        ("/ActOnJobs/properties/limit", json!({"minimum": 1, "maximum": 10_000})),
        ("/ActOnJobs/properties/category", json!({"minLength": 1, "maxLength": 100})),
        ("/ActOnJobs/properties/fingerprint", json!({"pattern": "^[0-9a-f]{4,64}$"})),
        ("/ActOnJobs/properties/q", json!({"maxLength": 500, "pattern": NO_NUL})),
        ("/ActOnJobs/properties/signal", json!({"minimum": 1, "maximum": 64})),
        ("/CleanBody/properties/state", json!({"enum": ["completed", "failed"]})),
        ("/CleanBody/properties/limit", json!({"minimum": 1, "maximum": 100_000})),
        ("/CleanBody/properties/older_than_ms", json!({"minimum": 0, "maximum": LONGEST_MS})),
        ("/NewCategory/properties/name", name.clone()),
        ("/NewCategory/properties/description", description.clone()),
        ("/NewCategory/properties/examples", examples.clone()),
        ("/NewCategory/properties/examples/items", text.clone()),
        ("/CategoryBody/properties/name", name),
        ("/CategoryBody/properties/description", description),
        ("/CategoryBody/properties/examples", examples),
        ("/CategoryBody/properties/examples/items", text),
        ("/ThresholdBody/properties/threshold", json!({"minimum": -1, "maximum": 1})),
        ("/TestBody/properties/text", json!({"minLength": 1, "pattern": "\\S"})),
        ("/CalibrateBody/properties/labelled", json!({"minItems": 1, "maxItems": 5000})),
        ("/PutSchedule/properties/id", json!({"pattern": WORD})),
        ("/PutSchedule/properties/every_ms", json!({"minimum": 1000, "maximum": LONGEST_MS})),
    ]
}

/// Makes one object of each `allOf` of objects, which is what a flattened struct is described as. Its parts would refuse
/// each other's fields where they refuse unknown ones, and generated clients would make a type of each.
fn merge_flattened(schema: &mut Value, known: &Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(|field| merge_flattened(field, known));
            let parts = fields.get("allOf").and_then(Value::as_array).filter(|parts| parts.len() > 1);
            let objects = parts.and_then(|parts| parts.iter().map(|part| object_of(part, known)).collect());
            let Some(objects): Option<Vec<Map<String, Value>>> = objects else { return };
            fields.remove("allOf");
            objects.into_iter().for_each(|object| merge(fields, object));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| merge_flattened(item, known)),
        _ => {}
    }
}

/// The object that a part of an `allOf` describes, if it describes one.
fn object_of(part: &Value, known: &Value) -> Option<Map<String, Value>> {
    let mut whole = match part["$ref"].as_str() {
        Some(reference) => known[reference.rsplit('/').next()?].clone(),
        None => part.clone(),
    };
    merge_flattened(&mut whole, known);
    match whole {
        Value::Object(object) if object.get("type").is_some_and(|kind| kind == "object") => Some(object),
        _ => None,
    }
}

fn merge(into: &mut Map<String, Value>, object: Map<String, Value>) {
    for (key, value) in object {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(had)), Value::Object(more)) => had.extend(more),
            (Some(Value::Array(had)), Value::Array(more)) => had.extend(more),
            // The whole has its own description.
            (Some(_), _) => {}
            (None, value) => {
                into.insert(key, value);
            }
        }
    }
}
