//! One operation of the API: what a client sends, and what it gets.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::problems::{self, Code};
use crate::wire::{OriginalError, Problem};

/// The group of the routes of the original program. Its errors have another shape.
pub(super) const ORIGINAL: &str = "Original";
/// The tag of operations on failures.
pub(super) const FAILURES: &str = "Failures";
/// The tag of statistics.
pub(super) const STATISTICS: &str = "Statistics";
/// The tag of operations on queues.
pub(super) const QUEUES: &str = "Queues";
/// The tag of operations on the files of jobs.
pub(super) const FILES: &str = "Files";
/// The tag of operations on schedules.
pub(super) const SCHEDULES: &str = "Schedules";
/// The tag of operations on notices.
pub(super) const NOTICES: &str = "Notices";
/// What the header of a submission's key does.
pub(super) const KEY: &str = "Makes a repetition harmless: the same key with the same body gets the first answer again";
/// What a client can do with the id of a job.
pub(super) const JOB_LINKS: [(&str, &str); 6] = [
    ("getJob", "id"),
    ("explainJob", "id"),
    ("cancelJob", "id"),
    ("retryJob", "id"),
    ("promoteJob", "id"),
    ("removeJob", "id"),
];

/// The named schemas of the document, collected while operations name them.
#[derive(Default)]
pub(super) struct Schemas {
    of_types: BTreeMap<String, RefOr<Schema>>,
    pages: BTreeMap<String, Value>,
}

impl Schemas {
    /// A reference to the schema of a type, which the document holds from now on.
    pub(super) fn of<T: ToSchema>(&mut self) -> Value {
        let name = T::name();
        if !self.of_types.contains_key(&*name) {
            self.of_types.insert(name.to_string(), T::schema());
            let mut others = Vec::new();
            T::schemas(&mut others);
            self.of_types.extend(others);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    pub(super) fn into_components(self) -> Value {
        let mut components = serde_json::to_value(self.of_types).expect("schemas are JSON");
        for (name, page) in self.pages {
            components[name] = page;
        }
        components
    }
}

/// How a body is described: a reference to a schema, or a schema itself.
pub(super) type Describe = fn(&mut Schemas) -> Value;

/// A page of `T`, or a list that has only one.
pub(super) fn page_of<T: ToSchema>(schemas: &mut Schemas) -> Value {
    let name = format!("{}Page", T::name());
    let page = json!({
        "type": "object",
        "description": "A list.",
        "required": ["items", "next_cursor"],
        "properties": {
            "items": {"type": "array", "items": schemas.of::<T>(), "description": "The items, in order."},
            "next_cursor": {"type": ["string", "null"], "description": "Give it back as `cursor`; null on the last page."},
        },
    });
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    schemas.pages.insert(name, page);
    reference
}

/// The media type of server-sent events.
pub(super) const STREAM: &str = "text/event-stream";

/// Lines of a file.
pub(super) fn text(_: &mut Schemas) -> Value {
    json!({"type": "string"})
}

struct Answer {
    about: &'static str,
    bodies: Vec<(&'static str, Describe)>,
    example: Option<Value>,
    header: Option<(&'static str, &'static str)>,
    links: Vec<Link>,
}

/// Where a client can go on from an answer: an operation, its parameter, and where the answer has the value.
type Link = (&'static str, &'static str, &'static str);

/// One operation, for the document.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// The path as OpenAPI writes it, with the verb: `/api/v1/jobs/{id}:cancel`.
    pub(super) path: &'static str,
    /// The name of the function in generated clients.
    pub(super) id: &'static str,
    summary: &'static str,
    about: &'static str,
    tag: &'static str,
    parameters: Vec<Value>,
    body: Option<(Describe, Value, bool)>,
    takes_bytes: bool,
    answers: BTreeMap<u16, Answer>,
    codes: BTreeSet<&'static str>,
    is_open: bool,
    is_deprecated: bool,
}

impl Operation {
    pub(super) fn new(
        tag: &'static str,
        method: &'static str,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        let mut codes = BTreeSet::from(problems::ALWAYS);
        if method != "get" {
            codes.extend(problems::WRITES);
        }
        let mut operation = Self {
            method,
            path,
            id,
            summary,
            about: "",
            tag,
            parameters: Vec::new(),
            body: None,
            takes_bytes: false,
            answers: BTreeMap::new(),
            codes,
            is_open: false,
            is_deprecated: false,
        };
        let segments = path.split('/').filter_map(|part| part.strip_prefix('{')?.split('}').next());
        for name in segments {
            operation.codes.extend(["invalid_path", "not_found"]);
            operation.parameters.push(path_parameter(tag, name));
        }
        operation
    }

    /// What the summary does not say.
    pub(super) fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// Takes a parameter of the query.
    pub(super) fn query(mut self, name: &str, schema: Value, about: &str) -> Self {
        self.codes.insert("invalid_query");
        let mut parameter = json!({"name": name, "in": "query", "description": about, "schema": schema});
        if parameter["schema"]["type"] == "array" {
            parameter["style"] = "form".into();
            parameter["explode"] = false.into();
        }
        self.parameters.push(parameter);
        self
    }

    /// Takes a parameter of the query without which there is no answer.
    pub(super) fn needed(self, name: &str, schema: Value, about: &str) -> Self {
        let mut operation = self.query(name, schema, about);
        if let Some(parameter) = operation.parameters.last_mut() {
            parameter["required"] = true.into();
        }
        operation
    }

    /// Takes a header.
    pub(super) fn header(mut self, name: &str, schema: Value, about: &str) -> Self {
        self.codes.insert("invalid_header");
        self.parameters.push(json!({"name": name, "in": "header", "description": about, "schema": schema}));
        self
    }

    /// Takes a body of JSON.
    pub(super) fn body(mut self, describe: Describe, example: Value) -> Self {
        self.codes.extend(problems::BODY);
        self.body = Some((describe, example, true));
        self
    }

    /// Takes a body of bytes, whatever they are.
    pub(super) fn bytes(mut self) -> Self {
        self.codes.extend(["body_too_large", "broken_body", "body_timeout"]);
        self.takes_bytes = true;
        self
    }

    /// Takes a body of JSON that may be left out.
    pub(super) fn optional_body(self, describe: Describe, example: Value) -> Self {
        let mut operation = self.body(describe, example);
        if let Some((_, _, is_needed)) = &mut operation.body {
            *is_needed = false;
        }
        operation
    }

    /// Answers with JSON.
    pub(super) fn answer(self, status: u16, about: &'static str, describe: Describe) -> Self {
        self.answer_as(status, about, &[("application/json", describe)])
    }

    /// Answers in one of these media types.
    pub(super) fn answer_as(mut self, status: u16, about: &'static str, bodies: &[(&'static str, Describe)]) -> Self {
        self.answers
            .insert(status, Answer { about, bodies: bodies.to_vec(), example: None, header: None, links: Vec::new() });
        self
    }

    /// Shows an answer.
    pub(super) fn example(mut self, example: Value) -> Self {
        if let Some(answer) = self.answers.values_mut().next_back() {
            answer.example = Some(example);
        }
        self
    }

    /// The last answer has this header.
    pub(super) fn with_header(mut self, name: &'static str, about: &'static str) -> Self {
        if let Some(answer) = self.answers.values_mut().next_back() {
            answer.header = Some((name, about));
        }
        self
    }

    /// From the last answer a client can go on to these operations, with the value at a JSON pointer of the body.
    pub(super) fn leads_to(mut self, pointer: &'static str, operations: &[(&'static str, &'static str)]) -> Self {
        if let Some(answer) = self.answers.values_mut().next_back() {
            answer.links.extend(operations.iter().map(|(operation, parameter)| (*operation, *parameter, pointer)));
        }
        self
    }

    /// May be refused with these codes, besides those that follow from the rest.
    pub(super) fn refuses(mut self, codes: &[&'static str]) -> Self {
        self.codes.extend(codes);
        if codes.contains(&problems::STORE) {
            // A store may need room for a read, too: SQLite sorts in a file.
            self.codes.insert("store_full");
        }
        self
    }

    /// Needs no token.
    pub(super) fn open(mut self) -> Self {
        self.is_open = true;
        self.codes.remove("unauthorized");
        self
    }

    /// Stays for old clients.
    pub(super) fn deprecated(mut self) -> Self {
        self.is_deprecated = true;
        self
    }

    /// The codes with which it may be refused.
    pub(super) fn codes(&self) -> impl Iterator<Item = &'static Code> {
        problems::CODES.iter().filter(|code| self.codes.contains(code.code))
    }

    /// The operation as OpenAPI has it.
    pub(super) fn describe(&self, schemas: &mut Schemas) -> Value {
        let mut operation = json!({"operationId": self.id, "summary": self.summary, "tags": [self.tag]});
        if !self.about.is_empty() {
            operation["description"] = self.about.into();
        }
        if !self.parameters.is_empty() {
            operation["parameters"] = self.parameters.clone().into();
        }
        if let Some((describe, example, is_needed)) = &self.body {
            let media = json!({"schema": describe(schemas), "example": example});
            operation["requestBody"] = json!({"required": is_needed, "content": {"application/json": media}});
        }
        if self.takes_bytes {
            let media = json!({"schema": {"type": "string", "format": "binary"}});
            operation["requestBody"] = json!({"required": true, "content": {"application/octet-stream": media}});
        }
        if self.is_open {
            operation["security"] = json!([]);
        }
        if self.is_deprecated {
            operation["deprecated"] = true.into();
        }
        let mut responses = Map::new();
        for (status, answer) in &self.answers {
            let mut content = Map::new();
            for (media, describe) in &answer.bodies {
                // OpenAPI 3.1 has no schema for the events of a stream.
                let mut body = if *media == STREAM { json!({}) } else { json!({"schema": describe(schemas)}) };
                if let Some(example) = answer.example.as_ref().filter(|_| *media == "application/json") {
                    body["example"] = example.clone();
                }
                content.insert((*media).to_owned(), body);
            }
            let mut response = json!({"description": answer.about});
            if !content.is_empty() {
                response["content"] = content.into();
            }
            if let Some((name, about)) = answer.header {
                response["headers"] = json!({name: {"description": about, "schema": {"type": "string"}}});
            }
            for (operation, parameter, pointer) in &answer.links {
                let value = format!("$response.body#{pointer}");
                response["links"][operation] = json!({"operationId": operation, "parameters": {*parameter: value}});
            }
            responses.insert(status.to_string(), response);
        }
        for (status, codes) in self.codes_by_status() {
            let lines: Vec<_> = codes.iter().map(|code| format!("- `{}`: {}", code.code, code.about)).collect();
            let lines = lines.join("\n");
            let mut response = responses.remove(&status.to_string()).unwrap_or_else(|| json!({"description": ""}));
            let described = response["description"].as_str().unwrap_or_default();
            let description = if described.is_empty() { lines } else { format!("{described}\n\n{lines}") };
            response["description"] = description.into();
            let (media, schema) = match self.is_original() {
                true => ("application/json", schemas.of::<OriginalError>()),
                false => ("application/problem+json", schemas.of::<Problem>()),
            };
            response["content"][media] = json!({"schema": schema});
            if status == 503 || status == 507 {
                let about = "After how many seconds another try is sensible";
                response["headers"]["Retry-After"] = json!({"description": about, "schema": {"type": "string"}});
            }
            responses.insert(status.to_string(), response);
        }
        operation["responses"] = responses.into();
        operation
    }

    /// The codes by the status with which they come: for a wrong body the original knew only 400.
    fn codes_by_status(&self) -> BTreeMap<u16, Vec<&'static Code>> {
        let mut by_status: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        for code in self.codes() {
            let status = if self.is_original() && code.status == 422 { 400 } else { code.status };
            by_status.entry(status).or_default().push(code);
        }
        by_status
    }

    /// Whether it is one of the original program's, which answers errors in its own shape.
    fn is_original(&self) -> bool {
        self.tag == ORIGINAL
    }
}

/// The parameter of a path: an id, whose kind the tag tells.
fn path_parameter(tag: &str, name: &str) -> Value {
    let (about, example, most) = match (tag, name) {
        (_, "n") => {
            return json!({
                "name": "n", "in": "path", "required": true, "description": "The number of an attempt, from 1",
                "schema": {"type": "integer", "minimum": 1, "maximum": u32::MAX}, "example": 1,
            });
        }
        (_, "sha256") => {
            return json!({
                "name": "sha256", "in": "path", "required": true, "description": "The SHA-256 of the content",
                "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "example": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            });
        }
        (_, "path") => ("The name of a file, with `/` between its parts", "set.png", 512),
        (_, "fingerprint") => ("A fingerprint, or its first digits", "3f2a", 64),
        (_, "group") => ("The name of a group", "alice", 128),
        ("Schedules", _) => ("The id of a schedule", "nightly", 128),
        ("Workers", _) => ("The id of a worker", "host-4242-9f86d081", 128),
        ("Failures", _) => ("The id or the name of a category", "disk-full", 100),
        _ => ("The id of a job", "01a20ba2-8b54-7171-9566-b15d432fef8b", 256),
    };
    let pattern = if tag == "Schedules" { "^[A-Za-z0-9][A-Za-z0-9._-]*$" } else { "^[A-Za-z0-9._-]+$" };
    json!({
        "name": name, "in": "path", "required": true, "description": about, "example": example,
        "schema": {"type": "string", "minLength": 1, "maxLength": most, "pattern": pattern},
    })
}

/// The schema of a whole number within bounds.
pub(super) fn number(least: u64, most: u64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

/// The schema of a list of words, written with commas; the words are the named schema's.
pub(super) fn words(name: &str) -> Value {
    json!({"type": "array", "minItems": 1, "items": {"$ref": format!("#/components/schemas/{name}")}})
}

/// The schema of a moment.
pub(super) fn moment() -> Value {
    json!({"type": "string", "format": "date-time", "example": "2026-11-24T03:38:51Z"})
}

/// The schema of a text of some length.
pub(super) fn string(most: usize) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": most})
}

/// The schema of true and false.
pub(super) fn flag() -> Value {
    json!({"type": "boolean"})
}

/// The schema of an object whose fields are documented in words only.
pub(super) fn object(_: &mut Schemas) -> Value {
    json!({"type": "object"})
}
