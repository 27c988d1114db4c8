//! The rules for failures by category, from the sections `[policies.<category>]`.

use std::collections::BTreeMap;

use super::layers::{ConfigError, Layers};
use super::{backoff, boolean};
use crate::domain::{Backoff, CategoryId, CategoryRule, LimitScale};

pub(super) fn policies(layers: &Layers, base: &Backoff) -> Result<BTreeMap<CategoryId, CategoryRule>, ConfigError> {
    let mut policies = BTreeMap::new();
    for name in &layers.policy_names {
        let id =
            CategoryId::parse(name).map_err(|e| ConfigError::Conflict(format!("section [policies.{name}]: {e}")))?;
        policies.insert(id, rule(layers, &format!("policies.{name}"), base)?);
    }
    Ok(policies)
}

fn rule(layers: &Layers, section: &str, base: &Backoff) -> Result<CategoryRule, ConfigError> {
    let key = |name: &str| format!("{section}.{name}");
    let factor = |name: &str| {
        let read = |t: &str| {
            let most = LimitScale::MOST;
            t.parse().ok().filter(|n| (0.1..=most).contains(n)).ok_or_else(|| format!("a number from 0.1 to {most}"))
        };
        Ok(layers.get(&key(name), read)?.unwrap_or(1.0))
    };
    let own = backoff(layers, section, base)?;
    Ok(CategoryRule {
        retry: layers.get(&key("retry"), boolean)?.unwrap_or(true),
        backoff: (own != *base).then_some(own),
        timeout_factor: factor("timeout_factor")?,
        memory_factor: factor("memory_factor")?,
    })
}

pub(super) fn similarity(text: &str) -> Result<f32, String> {
    let number = text.trim().parse().ok().filter(|n| (-1.0..=1.0).contains(n));
    number.ok_or_else(|| "a number from -1 to 1".to_owned())
}
