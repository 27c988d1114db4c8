//! Evaluates the configured endpoint on labelled messages, for `jobber category evaluate`.

use crate::config::{Config, EmbedderConfig};
use crate::domain::Clock;
use crate::failures::evaluate::{Endpoint, Message};
use crate::wiring;

/// Asks the endpoint for the vectors of all messages. `None` when no endpoint is configured. This
/// does not count against the day's budget, because a person asked for it.
///
/// # Errors
/// When the endpoint gives no vectors.
pub async fn evaluate(config: &Config, messages: &[Message]) -> anyhow::Result<Option<Endpoint>> {
    if let EmbedderConfig::BuiltIn = config.embedder {
        return Ok(None);
    }
    let embedder = wiring::open_embedder(&config.embedder, None, &Clock::system())?;
    Ok(Some(Endpoint::ask(&*embedder, messages).await?))
}
