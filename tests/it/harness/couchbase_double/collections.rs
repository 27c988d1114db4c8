//! The manifest of a bucket: its scopes and collections, their ids, and the rules for their names.

use serde_json::{Value, json};

/// The scope and the collection that are always there.
pub const DEFAULT: &str = "_default";

/// Ids below this are for the server's own use.
const FIRST_ID: u32 = 8;

#[derive(Debug, Clone)]
pub struct Collection {
    pub name: String,
    pub id: u32,
    /// Seconds that a document lives at most; 0: for ever.
    pub max_ttl: u32,
    pub history: bool,
}

#[derive(Debug, Clone)]
pub struct Scope {
    pub name: String,
    pub id: u32,
    pub collections: Vec<Collection>,
}

#[derive(Debug, Clone)]
pub struct Manifest {
    /// Grows by one with every change.
    pub uid: u64,
    pub scopes: Vec<Scope>,
    next_id: u32,
}

/// Why a change of the manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The field that is wrong, and why.
    Invalid(&'static str, String),
    NotFound(String),
}

impl Manifest {
    /// With the default collection only.
    pub fn new() -> Self {
        let collection = Collection { name: DEFAULT.into(), id: 0, max_ttl: 0, history: false };
        let scope = Scope { name: DEFAULT.into(), id: 0, collections: vec![collection] };
        Self { uid: 1, scopes: vec![scope], next_id: FIRST_ID }
    }

    pub fn scope(&self, name: &str) -> Option<&Scope> {
        self.scopes.iter().find(|scope| scope.name == name)
    }

    pub fn collection(&self, scope: &str, name: &str) -> Option<&Collection> {
        self.scope(scope)?.collections.iter().find(|collection| collection.name == name)
    }

    pub fn by_id(&self, id: u32) -> Option<&Collection> {
        self.scopes.iter().flat_map(|scope| &scope.collections).find(|collection| collection.id == id)
    }

    pub fn create_scope(&mut self, name: &str) -> Result<u64, Refusal> {
        check_name("scope", name)?;
        if self.scope(name).is_some() {
            return Err(Refusal::Invalid("_", format!("Scope with name \"{name}\" already exists")));
        }
        let id = self.fresh_id();
        self.scopes.push(Scope { name: name.into(), id, collections: Vec::new() });
        Ok(self.changed())
    }

    /// Drops a scope; the new uid and the ids of the collections that went with it.
    pub fn drop_scope(&mut self, name: &str) -> Result<(u64, Vec<u32>), Refusal> {
        if name == DEFAULT {
            return Err(Refusal::Invalid("_", "Deleting _default scope is not allowed".into()));
        }
        let at = self.scopes.iter().position(|scope| scope.name == name).ok_or_else(|| no_scope(name))?;
        let gone = self.scopes.remove(at).collections.iter().map(|collection| collection.id).collect();
        Ok((self.changed(), gone))
    }

    pub fn create_collection(&mut self, scope: &str, name: &str, max_ttl: u32, history: bool) -> Result<u64, Refusal> {
        check_name("collection", name)?;
        let id = self.fresh_id();
        let found = self.scope_mut(scope)?;
        if found.collections.iter().any(|collection| collection.name == name) {
            let text = format!("Collection with name \"{name}\" in scope \"{scope}\" already exists");
            return Err(Refusal::Invalid("_", text));
        }
        found.collections.push(Collection { name: name.into(), id, max_ttl, history });
        Ok(self.changed())
    }

    pub fn change_collection(
        &mut self,
        scope: &str,
        name: &str,
        max_ttl: Option<u32>,
        history: Option<bool>,
    ) -> Result<u64, Refusal> {
        let found = self.scope_mut(scope)?.collections.iter_mut().find(|collection| collection.name == name);
        let found = found.ok_or_else(|| no_collection(scope, name))?;
        found.max_ttl = max_ttl.unwrap_or(found.max_ttl);
        found.history = history.unwrap_or(found.history);
        Ok(self.changed())
    }

    /// Drops a collection; the new uid and its id.
    pub fn drop_collection(&mut self, scope: &str, name: &str) -> Result<(u64, u32), Refusal> {
        let found = self.scope_mut(scope)?;
        let at = found.collections.iter().position(|collection| collection.name == name);
        let gone = found.collections.remove(at.ok_or_else(|| no_collection(scope, name))?).id;
        Ok((self.changed(), gone))
    }

    /// As the protocol shows it, in both the key-value and the HTTP answer.
    pub fn to_json(&self) -> Value {
        let scopes = self.scopes.iter().map(|scope| {
            let collections = scope.collections.iter().map(|collection| {
                json!({
                    "name": collection.name,
                    "uid": format!("{:x}", collection.id),
                    "maxTTL": collection.max_ttl,
                    "history": collection.history,
                })
            });
            json!({
                "name": scope.name,
                "uid": format!("{:x}", scope.id),
                "collections": collections.collect::<Vec<_>>(),
            })
        });
        json!({ "uid": format!("{:x}", self.uid), "scopes": scopes.collect::<Vec<_>>() })
    }

    fn scope_mut(&mut self, name: &str) -> Result<&mut Scope, Refusal> {
        self.scopes.iter_mut().find(|scope| scope.name == name).ok_or_else(|| no_scope(name))
    }

    fn fresh_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn changed(&mut self) -> u64 {
        self.uid += 1;
        self.uid
    }
}

/// Whether a path of a collection or scope may be looked up at all.
pub fn is_lookup_name(name: &str) -> bool {
    name == DEFAULT || check_name("", name).is_ok()
}

fn no_scope(name: &str) -> Refusal {
    Refusal::NotFound(format!("Scope with name \"{name}\" is not found"))
}

fn no_collection(scope: &str, name: &str) -> Refusal {
    Refusal::NotFound(format!("Collection with name \"{name}\" in scope \"{scope}\" is not found"))
}

fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let refuse = |text: String| Err(Refusal::Invalid("name", text));
    if name.is_empty() || name.len() > 251 {
        return refuse(format!("Length of {what} name must be between 1 and 251"));
    }
    if name.starts_with(['_', '%']) {
        return refuse("First character must not be _ or %".into());
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-%".contains(c)) {
        return refuse("Can only contain characters A-Z, a-z, 0-9 and the following symbols _ - %".into());
    }
    Ok(())
}
