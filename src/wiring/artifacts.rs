//! The store of files: from configuration to its port.

use std::sync::Arc;

use anyhow::Context;

use crate::artifacts::{ArtifactStore, Place, S3Settings, open};
use crate::config::{ArtifactsUrl, Config};

/// Opens the store of files that the configuration names.
///
/// # Errors
/// When the settings can't be used. A store that is away is none.
pub(super) fn open_artifacts(config: &Config) -> anyhow::Result<Arc<dyn ArtifactStore>> {
    Ok(open(&place(config)?)?)
}

fn place(config: &Config) -> anyhow::Result<Place> {
    let settings = &config.artifacts;
    Ok(match &settings.url {
        ArtifactsUrl::DataDirectory => Place::Directory(std::path::absolute(config.data_dir.join("artifacts"))?),
        ArtifactsUrl::Directory(directory) => Place::Directory(directory.clone()),
        ArtifactsUrl::S3 { bucket, prefix } => Place::S3(S3Settings {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            endpoint: settings.endpoint.clone(),
            region: settings.region.clone(),
            path_style: settings.path_style,
            keys: settings.keys.clone(),
            session_token: settings.session_token.clone(),
            ca: settings.tls_ca.as_ref().map(fs_err::read).transpose().context("artifacts.tls_ca")?,
        }),
    })
}

/// Asks the store of files whether it answers.
///
/// # Errors
/// Why not, for people.
pub async fn ask_artifacts(config: &Config) -> Result<(), String> {
    let store = open_artifacts(config).map_err(|error| format!("{error:#}"))?;
    store.look("jobber-doctor").await.map(drop).map_err(|error| error.to_string())
}
