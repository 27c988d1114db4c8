//! The indexes of the query service: what they are on, and which queries they serve.

use serde_json::{Value, json};

use super::super::super::State;
use super::super::Call;
use super::syntax::{Expression, Operator, Select, Statement};
use super::{Location, Refusal, locate};

#[derive(Debug, Clone)]
pub struct Index {
    pub name: String,
    pub location: Location,
    /// Empty: a primary index. With the text of each.
    keys: Vec<(Expression, String)>,
    condition: Option<(Expression, String)>,
    /// Built, and so of use.
    pub online: bool,
}

impl Index {
    /// As `system:indexes` shows it.
    pub fn row(&self) -> Value {
        let Location { bucket, scope, collection, .. } = &self.location;
        let keys: Vec<_> = self.keys.iter().map(|(_, text)| text).collect();
        let mut row = json!({
            "datastore_id": "http://127.0.0.1",
            "id": format!("{bucket}.{scope}.{collection}.{}", self.name),
            "index_key": keys,
            "keyspace_id": collection,
            "name": self.name,
            "namespace_id": "default",
            "state": if self.online { "online" } else { "deferred" },
            "using": "gsi",
        });
        if scope == "_default" && collection == "_default" {
            row["keyspace_id"] = json!(bucket);
        } else {
            row["bucket_id"] = json!(bucket);
            row["scope_id"] = json!(scope);
        }
        if self.keys.is_empty() {
            row["is_primary"] = json!(true);
        }
        if let Some((_, text)) = &self.condition {
            row["condition"] = json!(text);
        }
        row
    }

    /// Whether it can answer: every document that the query may find is in it, and it is ordered by something that the
    /// query asks for.
    fn serves(&self, conjuncts: &[Expression]) -> bool {
        let covered =
            |condition: &Expression| condition.conjuncts().iter().all(|part| conjuncts.contains(&part.without("")));
        let leading = self.keys.first().is_none_or(|(key, _)| conjuncts.iter().any(|part| asks_for(part, key)));
        self.online && leading && self.condition.as_ref().is_none_or(|(condition, _)| covered(condition))
    }
}

impl Index {
    /// Whether it holds what the query finds in the order asked for: behind keys that the query sets to one value each, its
    /// next key is what is ordered by.
    fn has_in_order(&self, conjuncts: &[Expression], select: &Select, alias: &str) -> bool {
        let mut keys = self.keys.iter().map(|(key, _)| key);
        let open = keys.find(|key| !conjuncts.iter().any(|part| sets(part, key)));
        select.order.first().is_some_and(|(by, _)| open == Some(&by.without(alias)))
    }
}

/// Whether a condition leaves one value of a key of an index.
fn sets(condition: &Expression, key: &Expression) -> bool {
    match (condition, key) {
        (Expression::Quantified(true, _, list, holds), Expression::Elements(_, _, over)) => {
            list == over && matches!(holds.as_ref(), Expression::Binary(Operator::Equal, _, _))
        }
        (Expression::Binary(Operator::Equal, left, right), key) => **left == *key || **right == *key,
        _ => false,
    }
}

/// Whether a condition narrows a key of an index.
fn asks_for(condition: &Expression, key: &Expression) -> bool {
    match (condition, key) {
        (Expression::Quantified(true, _, list, _), Expression::Elements(_, _, over)) => list == over,
        (Expression::Binary(operator, left, right), key) => {
            let comparing = !matches!(operator, Operator::And | Operator::Or | Operator::NotEqual);
            comparing && (**left == *key || **right == *key)
        }
        (Expression::In(item, _) | Expression::Like(item, _), key) => **item == *key,
        (Expression::Not(inner), key) => matches!(inner.as_ref(), Expression::Is(item, _) if **item == *key),
        (Expression::Is(item, kind), key) => **item == *key && *kind != super::syntax::Kind::Missing,
        _ => false,
    }
}

/// Refuses a query over documents that no index serves.
pub fn check(state: &State, location: &Location, select: &Select, alias: &str) -> Result<(), Refusal> {
    let conjuncts: Vec<_> = select
        .condition
        .iter()
        .flat_map(|condition| condition.conjuncts().into_iter().map(|part| part.without(alias)).collect::<Vec<_>>())
        .collect();
    let mut serving =
        state.indexes.iter().filter(|index| index.location == *location && index.serves(&conjuncts)).peekable();
    if serving.peek().is_some() {
        if !select.order.is_empty() && !serving.any(|index| index.has_in_order(&conjuncts, select, alias)) {
            state.sorts.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        return Ok(());
    }
    let Location { bucket, scope, collection, .. } = location;
    let keyspace = format!("`default`:`{bucket}`.`{scope}`.`{collection}`");
    let text = format!(
        "No index available on keyspace {keyspace} that matches your query. Use CREATE PRIMARY INDEX ON {keyspace} to \
         create a primary index, or check that your expected index is online."
    );
    Err(Refusal(404, 4000, text))
}

pub fn change(state: &mut State, call: &Call, context: &str, statement: Statement) -> Result<(), Refusal> {
    match statement {
        Statement::CreateIndex { name, lenient, keyspace, keys, condition, deferred, copies } => {
            let location = locate(state, call, context, &keyspace)?;
            let refused = |cause: String| Err(Refusal(500, 5000, format!("GSI CreateIndex() - cause: {cause}")));
            if state.storage_mode.is_empty() {
                return refused("Please Set Indexer Storage Mode Before Create Index".to_owned());
            }
            if copies > 0 && !state.enterprise {
                return refused("Index Replica not supported in non-Enterprise Edition".to_owned());
            }
            if copies >= state.nodes.len() as u64 {
                let count = copies;
                return refused(format!(
                    "Fails to create index. There are not enough indexer nodes to create index with replica count of {count}."
                ));
            }
            if find(state, &location, &name).is_some() {
                let text = format!("The index {name} already exists.");
                return if lenient { Ok(()) } else { Err(Refusal(409, 4300, text)) };
            }
            state.indexes.push(Index { name, location, keys, condition, online: !deferred });
        }
        Statement::DropIndex { name, lenient, keyspace } => {
            let location = locate(state, call, context, &keyspace)?;
            match find(state, &location, &name) {
                Some(at) => drop(state.indexes.remove(at)),
                None if lenient => {}
                None => return Err(not_found(&name)),
            }
        }
        Statement::BuildIndex { keyspace, names } => {
            let location = locate(state, call, context, &keyspace)?;
            for name in names.iter().flat_map(strings) {
                let at = find(state, &location, &name).ok_or_else(|| not_found(&name))?;
                state.indexes[at].online = true;
            }
        }
        Statement::Select(_) => unreachable!("it changes no index"),
    }
    Ok(())
}

/// The names that a BUILD INDEX lists, in strings or in arrays of strings.
fn strings(expression: &Expression) -> Vec<String> {
    match expression {
        Expression::Literal(Value::String(name)) => vec![name.clone()],
        Expression::Array(items) => items.iter().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn find(state: &State, location: &Location, name: &str) -> Option<usize> {
    state.indexes.iter().position(|index| index.location == *location && index.name == name)
}

fn not_found(name: &str) -> Refusal {
    Refusal(404, 12016, format!("Index Not Found - cause: GSI index {name} not found."))
}
