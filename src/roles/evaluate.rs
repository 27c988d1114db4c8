//! What the configured endpoint makes of labelled messages, for `jobber category evaluate`.

use crate::config::{Config, EmbedderConfig};
use crate::domain::Clock;
use crate::failures::evaluate::{Endpoint, Message};
use crate::wiring;

/// Asks the endpoint for all vectors that are needed; `None` when none is configured. Not counted in the day's budget: it
/// was asked for by hand.
///
/// # Errors
/// When it gives no vectors.
pub async fn evaluate(config: &Config, messages: &[Message]) -> anyhow::Result<Option<Endpoint>> {
    if let EmbedderConfig::BuiltIn = config.embedder {
        return Ok(None);
    }
    let embedder = wiring::open_embedder(&config.embedder, None, &Clock::system())?;
    Ok(Some(Endpoint::ask(&*embedder, messages).await?))
}
