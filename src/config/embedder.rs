//! The configuration of the embedder, which finds out what an error means.

use std::time::Duration;

use super::layers::{ConfigError, Layers};
use super::{must, within};
use crate::domain::Secret;
use crate::domain::notation::{self, number};

/// The embedder, which turns texts into vectors.
#[derive(Debug, Clone)]
pub enum EmbedderConfig {
    /// The model that is built into the binary.
    BuiltIn,
    /// An endpoint that speaks OpenAI's protocol.
    Endpoint(EndpointConfig),
}

impl EmbedderConfig {
    /// How many texts go to the embedder at once.
    pub fn batch(&self) -> usize {
        match self {
            EmbedderConfig::BuiltIn => 64,
            EmbedderConfig::Endpoint(endpoint) => endpoint.batch,
        }
    }
}

/// The settings of an endpoint that makes vectors.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct EndpointConfig {
    pub url: String,
    pub model: String,
    /// The length of the vectors. `None` for the length that the model is known to have.
    pub dimension: Option<usize>,
    pub api_key: Option<Secret>,
    pub batch: usize,
    pub concurrency: usize,
    pub timeout: Duration,
    pub daily_budget: u64,
}

const OPENAI: &str = "https://api.openai.com/v1";

pub(super) fn embedder(layers: &Layers) -> Result<EmbedderConfig, ConfigError> {
    let url = must(layers, "embedder.url", |text| match text {
        "built-in" => Ok(None),
        "openai" => Ok(Some(OPENAI.to_owned())),
        _ if ["http://", "https://"].iter().any(|s| text.strip_prefix(s).is_some_and(|host| !host.is_empty())) => {
            Ok(Some(text.to_owned()))
        }
        _ => Err("built-in, openai, or an address that begins with http:// or https://".to_owned()),
    })?;
    let endpoint = EndpointConfig {
        url: url.clone().unwrap_or_default(),
        model: must(layers, "embedder.model", |text| {
            if text.trim().is_empty() { Err("a model's name".to_owned()) } else { Ok(text.to_owned()) }
        })?,
        dimension: layers.get("embedder.dimension", |text| within(number(text)?, 1, 65_536))?,
        api_key: layers
            .get("embedder.api_key", |text| Ok(Secret::new(text.trim())))?
            .filter(|k| !k.reveal().is_empty()),
        batch: must(layers, "embedder.batch", |text| within(number(text)?, 1, 2048))?,
        concurrency: must(layers, "embedder.concurrency", |text| within(number(text)?, 1, 64))?,
        timeout: must(layers, "embedder.timeout", |text| {
            within(notation::duration(text)?.as_millis(), 100, 3_600_000).map_err(|_| "100ms to 1h".to_owned())?;
            notation::duration(text)
        })?,
        daily_budget: must(layers, "embedder.daily_budget", number)?,
    };
    if url.is_none() {
        return Ok(EmbedderConfig::BuiltIn);
    }
    if endpoint.url == OPENAI && endpoint.api_key.is_none() {
        return Err(ConfigError::Conflict(
            "embedder.url is openai, which needs a key: set OPENAI_API_KEY, or embedder.url = \"built-in\"".to_owned(),
        ));
    }
    let known = endpoint.model.starts_with("text-embedding-3-") || endpoint.model == "text-embedding-ada-002";
    if endpoint.dimension.is_none() && !known {
        return Err(ConfigError::Conflict(format!(
            "embedder.model is {:?}, of which Jobber does not know how long its vectors are: set embedder.dimension",
            endpoint.model
        )));
    }
    Ok(EmbedderConfig::Endpoint(endpoint))
}
