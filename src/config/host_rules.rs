//! The rules of this host for its jobs, from `[defaults]` and `[jobs.NAME]`.

use std::path::PathBuf;
use std::sync::Arc;

use super::layers::{ConfigError, Layers};
use super::{boolean, one_of};
use crate::domain::{CrashReport, HostRules, HostRulesByName, Sandbox, SandboxLevel, Unsupported};

pub(super) fn host_rules(layers: &Layers) -> Result<HostRulesByName, ConfigError> {
    let defaults = Arc::new(rules(layers, "defaults", &HostRules::default())?);
    let mut jobs = std::collections::BTreeMap::new();
    for name in &layers.job_names {
        let its = rules(layers, &format!("jobs.{name}"), &defaults)?;
        if its != *defaults {
            jobs.insert(name.clone(), Arc::new(its));
        }
    }
    Ok(HostRulesByName { defaults, jobs })
}

/// The rules of one section; what it leaves open is as in `base`.
fn rules(layers: &Layers, section: &str, base: &HostRules) -> Result<HostRules, ConfigError> {
    let key = |name: &str| format!("{section}.{name}");
    let paths = |name: &str, base: &Vec<PathBuf>| {
        Ok::<_, ConfigError>(layers.list(&key(name), absolute)?.unwrap_or_else(|| base.clone()))
    };
    let sandbox = Sandbox {
        level: layers
            .get(&key("sandbox"), |t| one_of(t, &SandboxLevel::ALL, "off, basic or strict"))?
            .unwrap_or(base.sandbox.level),
        network: layers.get(&key("network"), boolean)?.unwrap_or(base.sandbox.network),
        read: paths("sandbox_read", &base.sandbox.read)?,
        write: paths("sandbox_write", &base.sandbox.write)?,
        unsupported: layers
            .get(&key("sandbox_unsupported"), |t| one_of(t, &Unsupported::ALL, "refuse or best_effort"))?
            .unwrap_or(base.sandbox.unsupported),
    };
    if sandbox.level == SandboxLevel::Off && !sandbox.network {
        return Err(ConfigError::Conflict(format!(
            "[{section}] forbids the network to jobs that have no sandbox; set sandbox = \"basic\" there, or \
             network = true"
        )));
    }
    let crash_report = layers
        .get(&key("crash_report"), |t| one_of(t, &CrashReport::ALL, "true, false or \"tree\""))?
        .unwrap_or(base.crash_report);
    Ok(HostRules { crash_report, sandbox })
}

/// The files and directories that settings name and that hold secrets: the data directory, the file of the
/// configuration itself, and those of tokens and keys.
pub(super) fn secret_paths(layers: &Layers) -> Result<Vec<PathBuf>, ConfigError> {
    let mut paths: Vec<PathBuf> = layers.files.clone();
    for key in ["data_dir", "serve.token_file", "serve.view_token_file", "serve.tls_key", super::artifacts::SECRET_FILE]
    {
        paths.extend(layers.get(key, super::path)?);
    }
    Ok(paths)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = super::path(text).ok().filter(|path| path.is_absolute());
    path.ok_or_else(|| "absolute paths, such as [\"/srv/models\"]".to_owned())
}
