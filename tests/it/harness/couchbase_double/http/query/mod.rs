//! The query service: selects from the documents of one keyspace and keeps its indexes.
//!
//! As a real service does, it refuses a query that no index serves, and an index that is not built yet serves none.

mod evaluate;
mod expressions;
mod indexes;
mod parse;
mod select;
mod syntax;
mod tokens;
mod value;

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::{Shared, State};
use super::{Call, json};
pub use indexes::Index;
use syntax::{Keyspace, Statement};

/// Why a statement is refused: the status of HTTP, the code and the text of the service.
#[derive(Debug)]
struct Refusal(u16, u32, String);

/// Where the documents of a keyspace are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub bucket: String,
    pub scope: String,
    pub collection: String,
    id: u32,
}

pub fn answer(shared: &Shared, call: &Call) -> Response {
    match call.parts().as_slice() {
        ["query", "service"] => {}
        ["admin", "ping"] => return json(200, &json!({})),
        _ => return json(404, &json!({})),
    }
    let request = match serde_json::from_slice::<Value>(&call.body) {
        Ok(Value::Object(request)) => request,
        _ => call.form.iter().map(|(name, value)| (name.clone(), parsed(value))).collect(),
    };
    let context_id = request.get("client_context_id").cloned().unwrap_or_default();
    let mut body = json!({ "requestID": uuid::Uuid::new_v4().to_string(), "clientContextID": context_id });
    match execute(&mut shared.state(), call, &request) {
        Ok(results) => {
            let metrics = json!({
                "elapsedTime": "1ms",
                "executionTime": "1ms",
                "resultCount": results.len(),
                "resultSize": Value::Array(results.clone()).to_string().len(),
            });
            body["signature"] = json!("json");
            body["results"] = Value::Array(results);
            body["status"] = json!("success");
            body["metrics"] = metrics;
            json(200, &body)
        }
        Err(Refusal(status, code, text)) => {
            body["errors"] = json!([{ "code": code, "msg": text }]);
            body["status"] = json!("fatal");
            body["metrics"] = json!({ "elapsedTime": "1ms", "executionTime": "1ms", "errorCount": 1 });
            json(status, &body)
        }
    }
}

/// A field of a form: JSON if it is, else text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn execute(state: &mut State, call: &Call, request: &Map<String, Value>) -> Result<Vec<Value>, Refusal> {
    let text = request.get("statement").and_then(Value::as_str);
    let text = text.ok_or_else(|| Refusal(400, 1050, "No statement or prepared value".into()))?;
    let statement = parse::statement(text).map_err(|text| Refusal(400, 3000, text))?;
    let context = request.get("query_context").and_then(Value::as_str).unwrap_or_default();
    let readonly = request.get("readonly").is_some_and(|readonly| *readonly == json!(true));
    if readonly && !matches!(statement, Statement::Select(_)) {
        let text = "The server or request is read-only and cannot accept this write statement.";
        return Err(Refusal(403, 1000, text.into()));
    }
    // What a collection that was just made looks like to the query service, which hears of it a moment later.
    if let Some(keyspace) = statement.keyspace().filter(|keyspace| !keyspace.system) {
        let location = locate(state, call, context, keyspace)?;
        let Location { bucket, scope, collection, id } = location;
        let lag = if collection == "_default" { 0 } else { state.query_lag };
        let seen = state.unknown.entry(id).or_default();
        if *seen < lag {
            *seen += 1;
            let full = format!("default:{bucket}.{scope}.{collection}");
            return Err(Refusal(404, 12003, format!("Keyspace not found in CB datastore: {full}")));
        }
    }
    if let Statement::Select(select) = &statement {
        return select::run(state, call, context, select, &parameters(request));
    }
    if !call.user.rights.indexes {
        let text = "User does not have credentials to run index operations. Add role query_manage_index to allow the \
                    statement to run.";
        return Err(Refusal(401, 13014, text.into()));
    }
    indexes::change(state, call, context, statement)?;
    Ok(Vec::new())
}

/// `$name` fields, and `args` by their places.
fn parameters(request: &Map<String, Value>) -> Map<String, Value> {
    let named = request.iter().filter_map(|(name, value)| Some((name.strip_prefix('$')?.to_owned(), value.clone())));
    let positional = request.get("args").and_then(Value::as_array).into_iter().flatten();
    let positional = positional.enumerate().map(|(at, value)| ((at + 1).to_string(), value.clone()));
    named.chain(positional).collect()
}

/// Finds a keyspace, with the bucket and the scope of the context where it names none.
fn locate(state: &State, call: &Call, context: &str, keyspace: &Keyspace) -> Result<Location, Refusal> {
    let context: Vec<_> = context
        .trim_start_matches("default:")
        .split('.')
        .map(|part| part.trim_matches('`').to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let default = || "_default".to_owned();
    let (bucket, scope, collection) = match (keyspace.path.as_slice(), context.as_slice()) {
        ([bucket, scope, collection], _) => (bucket.clone(), scope.clone(), collection.clone()),
        ([collection], [bucket, scope]) => (bucket.clone(), scope.clone(), collection.clone()),
        ([bucket], _) => (bucket.clone(), default(), default()),
        _ => return Err(Refusal(400, 3000, "syntax error - a keyspace has one part or three".into())),
    };
    let open = state.buckets.get(&bucket).filter(|bucket| call.user.may_use(&bucket.name));
    let full = format!("default:{bucket}.{scope}.{collection}");
    let Some(found) = open else {
        return Err(Refusal(404, 12003, format!("Keyspace not found in CB datastore: default:{bucket}")));
    };
    if found.manifest.scope(&scope).is_none() {
        return Err(Refusal(404, 12021, format!("Scope not found in CB datastore default:{bucket}.{scope}")));
    }
    match found.manifest.collection(&scope, &collection) {
        Some(known) => Ok(Location { id: known.id, bucket, scope, collection }),
        None => Err(Refusal(404, 12003, format!("Keyspace not found in CB datastore: {full}"))),
    }
}
