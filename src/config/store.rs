//! Where history is kept: the store's part of the configuration.

use std::path::PathBuf;

use super::couchbase::CouchbaseUrl;
use super::layers::Layers;
use super::{ConfigError, must, path};

/// Where history is kept.
#[derive(Debug, Clone)]
pub enum StoreUrl {
    /// In the data directory.
    Embedded,
    /// In a Couchbase bucket: `couchbase://` or `couchbases://`.
    Couchbase(CouchbaseUrl),
}

/// The store's part.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct StoreConfig {
    pub url: StoreUrl,
    pub scope: String,
    pub key_prefix: String,
    pub tls_ca: Option<PathBuf>,
    pub replaces_log: Option<String>,
}

/// Reads the store's part.
pub(super) fn read(layers: &Layers) -> Result<StoreConfig, ConfigError> {
    Ok(StoreConfig {
        url: must(layers, "store.url", store_url)?,
        scope: must(layers, "store.scope", scope_name)?,
        key_prefix: layers.get("store.key_prefix", key_prefix)?.unwrap_or_default(),
        tls_ca: layers.get("store.tls_ca", path)?,
        replaces_log: layers.get("store.replaces_log", log_name)?,
    })
}

fn store_url(text: &str) -> Result<StoreUrl, String> {
    if text == "embedded" { Ok(StoreUrl::Embedded) } else { CouchbaseUrl::parse(text).map(StoreUrl::Couchbase) }
}

/// The name of a scope in Couchbase.
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
