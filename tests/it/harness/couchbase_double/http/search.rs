//! The search service: indexes over collections, and queries by vector and by simple conditions. Neighbours are found by
//! comparing with all documents.

use axum::http::Method;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::documents::Bucket;
use super::super::{Shared, State};
use super::{Call, json};

#[derive(Debug, Clone)]
pub struct Index {
    /// With the bucket and the scope before it, if it was made in a scope.
    name: String,
    bucket: String,
    definition: Value,
    collections: Vec<(String, String)>,
    vectors: Vec<VectorField>,
}

/// A field that holds vectors.
#[derive(Debug, Clone)]
struct VectorField {
    name: String,
    path: Vec<String>,
    dimension: usize,
    similarity: String,
}

/// Why a request is refused.
struct Refusal(u16, String);

pub fn answer(shared: &Shared, call: &Call) -> Response {
    let state = &mut *shared.state();
    let parts = call.parts();
    let scoped = |bucket: &str, scope: &str, name: &str| format!("{bucket}.{scope}.{name}");
    let result = match parts.as_slice() {
        ["api", "ping"] => Ok(json!({ "status": "ok" })),
        ["api", "index"] => Ok(all(state, call, "")),
        ["api", "index", name, rest @ ..] => on_index(state, call, (*name).to_owned(), None, rest),
        ["api", "bucket", bucket, "scope", scope, "index"] => Ok(all(state, call, &scoped(bucket, scope, ""))),
        ["api", "bucket", bucket, "scope", scope, "index", name, rest @ ..] => {
            on_index(state, call, scoped(bucket, scope, name), Some((bucket, scope)), rest)
        }
        _ => Err(Refusal(404, "page not found".into())),
    };
    match result {
        Ok(body) => json(200, &body),
        Err(Refusal(status, text)) => json(status, &json!({ "error": text, "request": null, "status": "fail" })),
    }
}

fn all(state: &State, call: &Call, prefix: &str) -> Value {
    let open = state.searches.iter().filter(|index| call.user.may_use(&index.bucket));
    let of_scope = open.filter(|index| index.name.starts_with(prefix));
    let definitions: Map<_, _> = of_scope.map(|index| (index.name.clone(), index.definition.clone())).collect();
    json!({ "status": "ok", "indexDefs": { "uuid": "1", "implVersion": "5.8.0", "indexDefs": definitions } })
}

fn on_index(
    state: &mut State,
    call: &Call,
    name: String,
    scope: Option<(&str, &str)>,
    rest: &[&str],
) -> Result<Value, Refusal> {
    let missing = || Refusal(400, "rest_auth: preparePerms, err: index not found".into());
    let manages = matches!(call.method, Method::PUT | Method::DELETE);
    if manages && !call.user.rights.search {
        return Err(Refusal(403, "rest_auth: forbidden, the role fts_admin is needed".into()));
    }
    let at = state.searches.iter().position(|index| index.name == name && call.user.may_use(&index.bucket));
    match (&call.method, rest) {
        (&Method::PUT, []) => put(state, call, name, scope, at),
        (&Method::GET, []) => {
            let index = &state.searches[at.ok_or_else(missing)?];
            Ok(json!({ "status": "ok", "indexDef": index.definition }))
        }
        (&Method::DELETE, []) => {
            let gone = state.searches.remove(at.ok_or_else(missing)?);
            Ok(json!({ "status": "ok", "uuid": gone.definition["uuid"] }))
        }
        (&Method::GET, ["count"]) => {
            let index = &state.searches[at.ok_or_else(missing)?];
            Ok(json!({ "status": "ok", "count": documents(state, index).len() }))
        }
        (&Method::POST, ["query"]) => query(state, &state.searches[at.ok_or_else(missing)?], call),
        _ => Err(Refusal(404, "page not found".into())),
    }
}

fn put(
    state: &mut State,
    call: &Call,
    name: String,
    scope: Option<(&str, &str)>,
    at: Option<usize>,
) -> Result<Value, Refusal> {
    let refuse = |text: &str| Refusal(400, format!("rest_create_index: error creating index: {name}, err: {text}"));
    let mut definition: Value =
        serde_json::from_slice(&call.body).map_err(|error| refuse(&format!("could not unmarshal json: {error}")))?;
    let text = |field: &str| definition[field].as_str().unwrap_or_default().to_owned();
    match (at, definition["uuid"].as_str().filter(|uuid| !uuid.is_empty())) {
        (Some(_), None) => {
            return Err(refuse("manager_api: cannot create index because an index with the same name already exists"));
        }
        (Some(at), Some(uuid)) if state.searches[at].definition["uuid"] != uuid => {
            return Err(refuse("manager_api: index UUID mismatched"));
        }
        (None, Some(_)) => return Err(refuse("manager_api: no index to update, the index is missing")),
        _ => {}
    }
    if text("type") != "fulltext-index" {
        return Err(refuse("manager_api: unknown indexType"));
    }
    let bucket = text("sourceName");
    let found = state.buckets.get(&bucket).filter(|bucket| call.user.may_use(&bucket.name));
    let found = found.ok_or_else(|| refuse("failed to connect to or retrieve information from source"))?;
    if scope.is_some_and(|(of, _)| of != bucket) {
        return Err(refuse("the index's source is not the bucket that it is made in"));
    }
    let collections = collections(found, &definition).map_err(|text| refuse(&text))?;
    let mut vectors = Vec::new();
    let mapping = &definition["params"]["mapping"];
    let types = mapping["types"].as_object().into_iter().flatten().map(|(_, mapping)| mapping);
    for mapping in types.chain([&mapping["default_mapping"]]) {
        vector_fields(mapping, &mut Vec::new(), &mut vectors).map_err(|text| refuse(&text))?;
    }
    if !vectors.is_empty() && !state.enterprise {
        return Err(refuse("unsupported: fields of type vector"));
    }
    let uuid = uuid::Uuid::new_v4().simple().to_string()[..16].to_owned();
    definition["uuid"] = json!(uuid);
    definition["name"] = json!(name);
    let index = Index { name: name.clone(), bucket, definition, collections, vectors };
    match at {
        Some(at) => state.searches[at] = index,
        None => state.searches.push(index),
    }
    Ok(json!({ "status": "ok", "name": name, "uuid": uuid }))
}

/// The collections that an index covers.
fn collections(bucket: &Bucket, definition: &Value) -> Result<Vec<(String, String)>, String> {
    let mapping = &definition["params"]["mapping"];
    let enabled = |mapping: &Value| mapping["enabled"].as_bool().unwrap_or(true);
    let mut found = Vec::new();
    for (name, mapping) in mapping["types"].as_object().into_iter().flatten() {
        if !enabled(mapping) {
            continue;
        }
        let Some((scope, collection)) = name.split_once('.') else { continue };
        if bucket.manifest.collection(scope, collection).is_none() {
            return Err(format!("collection_utils: collection: {collection} doesn't belong to scope: {scope}"));
        }
        found.push((scope.to_owned(), collection.to_owned()));
    }
    let default = &mapping["default_mapping"];
    if found.is_empty() && (mapping.is_null() || default.is_object() && enabled(default)) {
        found.push(("_default".into(), "_default".into()));
    }
    if found.is_empty() { Err("the mapping covers no collection".into()) } else { Ok(found) }
}

/// The vector fields below a mapping. A field has the names of the properties that it is in, and then its own.
fn vector_fields(mapping: &Value, path: &mut Vec<String>, found: &mut Vec<VectorField>) -> Result<(), String> {
    for field in mapping["fields"].as_array().into_iter().flatten() {
        let kind = field["type"].as_str().unwrap_or_default();
        if kind != "vector" && kind != "vector_base64" {
            continue;
        }
        let own = field["name"].as_str().unwrap_or_default();
        let parents = path.split_last().map_or(&[][..], |(_, parents)| parents);
        let name = parents.iter().map(String::as_str).chain([own]).collect::<Vec<_>>().join(".");
        let dimension = field["dims"].as_u64().unwrap_or(0) as usize;
        if !(2..=4096).contains(&dimension) {
            return Err(format!(
                "field: '{name}', invalid vector dimension: {dimension}, value should be in range (2, 4096)"
            ));
        }
        let similarity = field["similarity"].as_str().unwrap_or("l2_norm").to_owned();
        if !["l2_norm", "dot_product", "cosine"].contains(&similarity.as_str()) {
            return Err(format!("field: '{name}', invalid similarity metric: '{similarity}'"));
        }
        found.push(VectorField { name, path: path.clone(), dimension, similarity });
    }
    for (name, property) in mapping["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        vector_fields(property, path, found)?;
        path.pop();
    }
    Ok(())
}

/// The documents that an index has got to, with their names.
fn documents(state: &State, index: &Index) -> Vec<(String, Value)> {
    let bucket = &state.buckets[&index.bucket];
    let known = index.collections.iter().filter_map(|(scope, name)| bucket.manifest.collection(scope, name));
    let documents = known.flat_map(|collection| bucket.collection(collection.id));
    documents
        .filter_map(|(place, document)| Some((String::from_utf8_lossy(&place.key).into_owned(), document.as_json()?)))
        .take(state.searched.unwrap_or(usize::MAX))
        .collect()
}

fn query(state: &State, index: &Index, call: &Call) -> Result<Value, Refusal> {
    let refuse = |text: String| Refusal(400, format!("rest_index: Query, indexName: {}, err: {text}", index.name));
    let request: Value = serde_json::from_slice(&call.body).map_err(|error| refuse(error.to_string()))?;
    let documents = documents(state, index);
    let mut scores = vec![None::<f64>; documents.len()];
    for (score, (id, document)) in scores.iter_mut().zip(&documents) {
        if matches(&request["query"], id, document).map_err(refuse)? {
            *score = Some(1.0);
        }
    }
    for knn in request["knn"].as_array().into_iter().flatten() {
        for (at, similarity) in nearest(index, &documents, knn).map_err(refuse)? {
            scores[at] = Some(scores[at].unwrap_or(0.0) + similarity);
        }
    }
    let mut hits: Vec<_> = documents.iter().zip(scores).filter_map(|(doc, score)| Some((doc, score?))).collect();
    // Equals in the order of their names, so that pages fit together.
    hits.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.0.cmp(&b.0.0)));
    let number = |field: &str, default| request[field].as_u64().unwrap_or(default) as usize;
    let shown = hits.iter().skip(number("from", 0)).take(number("size", 10)).map(|((id, document), score)| {
        let mut hit = json!({ "index": index.name, "id": id, "score": score, "sort": ["_score"] });
        let fields: Map<_, _> = request["fields"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|field| {
                Some((field.as_str()?.to_owned(), value_at(document, field.as_str()?.split('.'))?.clone()))
            })
            .collect();
        if !fields.is_empty() {
            hit["fields"] = Value::Object(fields);
        }
        hit
    });
    Ok(json!({
        "status": { "total": 1, "failed": 0, "successful": 1 },
        "hits": shown.collect::<Vec<_>>(),
        "total_hits": hits.len(),
        "max_score": hits.first().map_or(0.0, |(_, score)| *score),
        "took": 1_000_000,
        "facets": null,
    }))
}

/// The nearest documents by their places, and how near they are.
fn nearest(index: &Index, documents: &[(String, Value)], knn: &Value) -> Result<Vec<(usize, f64)>, String> {
    let name = knn["field"].as_str().unwrap_or_default();
    let k = knn["k"].as_u64().unwrap_or(0) as usize;
    if k == 0 {
        return Err("knn: k must be greater than 0".into());
    }
    let Some(field) = index.vectors.iter().find(|field| field.name == name) else { return Ok(Vec::new()) };
    let wanted = vector(&knn["vector"]).filter(|vector| vector.len() == field.dimension);
    let wanted = wanted.ok_or_else(|| format!("knn: the vector must have {} numbers", field.dimension))?;
    let boost = knn["boost"].as_f64().unwrap_or(1.0);
    let mut found = Vec::new();
    for (at, (id, document)) in documents.iter().enumerate() {
        if !knn["filter"].is_null() && !matches(&knn["filter"], id, document)? {
            continue;
        }
        let value = value_at(document, field.path.iter().map(String::as_str)).and_then(vector);
        // What is of another length is not in the index.
        if let Some(vector) = value.filter(|vector| vector.len() == field.dimension) {
            found.push((at, boost * similarity(&field.similarity, &wanted, &vector)));
        }
    }
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    found.truncate(k);
    Ok(found)
}

fn similarity(kind: &str, a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    match kind {
        "dot_product" => dot(a, b),
        "cosine" => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        _ => 1.0 / a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().max(f64::MIN_POSITIVE),
    }
}

fn vector(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(Value::as_f64).collect()
}

fn value_at<'a, 'p>(document: &'a Value, path: impl Iterator<Item = &'p str>) -> Option<&'a Value> {
    path.into_iter().try_fold(document, |value, name| value.get(name))
}

/// Whether a document is what a query without vectors looks for.
fn matches(query: &Value, id: &str, document: &Value) -> Result<bool, String> {
    let field = || value_at(document, query["field"].as_str().unwrap_or_default().split('.'));
    let of_list = |list: &Value| -> Result<Vec<bool>, String> {
        list.as_array().into_iter().flatten().map(|part| matches(part, id, document)).collect()
    };
    let Some(object) = query.as_object() else { return Ok(false) };
    let has = |name: &str| object.contains_key(name);
    if has("match_none") {
        return Ok(false);
    }
    if has("match_all") {
        return Ok(true);
    }
    if has("conjuncts") {
        return Ok(of_list(&query["conjuncts"])?.into_iter().all(|holds| holds));
    }
    if has("disjuncts") {
        return Ok(of_list(&query["disjuncts"])?.into_iter().any(|holds| holds));
    }
    if has("ids") {
        return Ok(query["ids"].as_array().into_iter().flatten().any(|known| known.as_str() == Some(id)));
    }
    if has("term") {
        return Ok(field() == Some(&query["term"]));
    }
    if has("match") {
        let words = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
        let text = field().map(words).unwrap_or_default();
        return Ok(words(&query["match"]).split_whitespace().any(|word| text.contains(word)));
    }
    if has("bool") {
        return Ok(field().is_some_and(|value| *value == query["bool"]));
    }
    Err("unknown query type".into())
}
