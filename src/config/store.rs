//! The store's part of the configuration: where Jobber keeps history.

use std::path::PathBuf;

use super::couchbase::CouchbaseUrl;
use super::layers::Layers;
use super::{ConfigError, must, path};
use crate::domain::WriteDurability;
use crate::sqlite::Durability;

/// Where the store is.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// In the embedded database of the data directory.
    Embedded,
    /// In a Couchbase bucket: `couchbase://` or `couchbases://`.
    Couchbase(CouchbaseUrl),
}

impl StoreUrl {
    /// The name of what holds history, as metrics show it.
    pub fn backend(&self) -> &'static str {
        match self {
            Self::Embedded => "sqlite",
            Self::Couchbase(_) => "couchbase",
        }
    }
}

/// The settings of the store.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct StoreConfig {
    pub url: StoreUrl,
    pub scope: String,
    pub key_prefix: String,
    pub tls_ca: Option<PathBuf>,
    pub replaces_log: Option<String>,
    /// How durable Couchbase must make a write of history before it answers.
    pub couchbase_durability: WriteDurability,
    pub num_replica: Option<u32>,
}

/// Reads the settings of the store from the layers.
pub(super) fn read(layers: &Layers) -> Result<StoreConfig, ConfigError> {
    Ok(StoreConfig {
        url: must(layers, "store.url", store_url)?,
        scope: must(layers, "store.scope", scope_name)?,
        key_prefix: layers.get("store.key_prefix", key_prefix)?.unwrap_or_default(),
        tls_ca: layers.get("store.tls_ca", path)?,
        replaces_log: layers.get("store.replaces_log", log_name)?,
        couchbase_durability: must(layers, DURABILITY, durability)?.1,
        num_replica: layers.get("store.num_replica", num_replica)?,
    })
}

/// The key of the setting for the durability of both stores.
pub(super) const DURABILITY: &str = "store.durability";

/// The durability of the embedded database and of Couchbase. The text uses the words of either one,
/// and the other gets the nearest level.
pub(super) fn durability(text: &str) -> Result<(Durability, WriteDurability), String> {
    match text {
        "process" => return Ok((Durability::Process, WriteDurability::Majority)),
        "power" => return Ok((Durability::Power, WriteDurability::Majority)),
        _ => {}
    }
    let known = WriteDurability::ALL.into_iter().find(|(name, _)| *name == text);
    let (_, level) = known.ok_or_else(|| {
        let names: Vec<_> = WriteDurability::ALL.iter().map(|(name, _)| *name).collect();
        format!("process or power, or for history in Couchbase {}", names.join(", "))
    })?;
    let embedded = if level > WriteDurability::Majority { Durability::Power } else { Durability::Process };
    Ok((embedded, level))
}

fn num_replica(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n <= 16).ok_or_else(|| "a number from 0 to 16".to_owned())
}

fn store_url(text: &str) -> Result<StoreUrl, String> {
    if text == "embedded" { Ok(StoreUrl::Embedded) } else { CouchbaseUrl::parse(text).map(StoreUrl::Couchbase) }
}

/// Checks the name of a scope in Couchbase.
fn scope_name(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-%".contains(c);
    let ok = (1..=251).contains(&text.len()) && text.chars().all(is_allowed) && !text.starts_with('%');
    if ok && (text == "_default" || !text.starts_with('_')) {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, '_', '-' and '%', not starting with '_' or '%' unless it is _default".to_owned())
    }
}

fn log_name(text: &str) -> Result<String, String> {
    let is_known = ["embedded ", "redis "].iter().any(|kind| text.starts_with(kind));
    if is_known { Ok(text.to_owned()) } else { Err("the name of a log as the error gives it".to_owned()) }
}

fn key_prefix(text: &str) -> Result<String, String> {
    if text.len() <= 40 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c)) {
        Ok(text.to_owned())
    } else {
        Err("at most 40 letters, digits and '.', '_', '-', ':'".to_owned())
    }
}
