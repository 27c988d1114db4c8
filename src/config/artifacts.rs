//! The configuration of the store of jobs' files.

use std::path::PathBuf;
use std::time::Duration;

use super::layers::{ConfigError, Layers};
use super::{boolean, must, path, within};
use crate::domain::Secret;
use crate::domain::notation::{self, number};

/// Where files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactsUrl {
    /// In the directory `artifacts` of the data directory.
    DataDirectory,
    /// In this directory.
    Directory(PathBuf),
    /// In a bucket of an S3-compatible store, under keys that begin with a prefix, which may be empty.
    S3 {
        /// The bucket.
        bucket: String,
        /// What all keys begin with.
        prefix: String,
    },
}

/// The settings of the store of files.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "documented setting by setting in config.example.toml")]
pub struct ArtifactsConfig {
    pub url: ArtifactsUrl,
    pub endpoint: Option<String>,
    pub region: String,
    pub path_style: bool,
    /// Key and secret key.
    pub keys: Option<(Secret, Secret)>,
    pub session_token: Option<Secret>,
    pub tls_ca: Option<PathBuf>,
    pub max_bytes: u64,
    pub max_files: usize,
    pub patience: Duration,
    pub max_input_bytes: u64,
}

/// Where a secret key may be read from.
pub(super) const SECRET_FILE: &str = "artifacts.secret_access_key_file";

pub(super) fn artifacts(layers: &Layers) -> Result<ArtifactsConfig, ConfigError> {
    let text = |key: &str| {
        let given = layers.get(key, |text| Ok(text.trim().to_owned()))?;
        Ok::<_, ConfigError>(given.filter(|text| !text.is_empty()))
    };
    let file = layers.get(SECRET_FILE, path)?;
    let secret = match (text("artifacts.secret_access_key")?, file) {
        (None, Some(file)) => {
            let read = fs_err::read_to_string(&file).map_err(|e| ConfigError::File {
                file: layers.origin(SECRET_FILE).to_string(),
                problem: format!("{SECRET_FILE}: {e}"),
            })?;
            Some(read.trim().to_owned())
        }
        (given, _) => given,
    };
    let keys = match (text("artifacts.access_key_id")?, secret) {
        (Some(id), Some(secret)) => Some((Secret::new(id), Secret::new(secret))),
        (None, None) => None,
        _ => {
            return Err(ConfigError::Conflict(
                "artifacts.access_key_id and artifacts.secret_access_key go together: set both, or none for the keys of \
                 the machine's role"
                    .to_owned(),
            ));
        }
    };
    let bounded = |text: &str| within(notation::size(text)?, 0, 64 << 30).map_err(|_| "0 to 64GiB".to_owned());
    Ok(ArtifactsConfig {
        url: layers.get("artifacts.url", url)?.unwrap_or(ArtifactsUrl::DataDirectory),
        endpoint: layers.get("artifacts.endpoint", endpoint)?,
        region: must(layers, "artifacts.region", |text| Ok(text.to_owned()))?,
        path_style: must(layers, "artifacts.path_style", boolean)?,
        keys,
        session_token: text("artifacts.session_token")?.map(Secret::new),
        tls_ca: layers.get("artifacts.tls_ca", path)?,
        max_bytes: must(layers, "artifacts.max_bytes", bounded)?,
        max_input_bytes: must(layers, "artifacts.max_input_bytes", bounded)?,
        max_files: must(layers, "artifacts.max_files", |text| within(number(text)?, 0, 1000))?,
        patience: must(layers, "artifacts.patience", |text| {
            let patience = notation::duration(text)?;
            let is_allowed = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&patience);
            is_allowed.then_some(patience).ok_or_else(|| "1s to 1h".to_owned())
        })?,
    })
}

fn url(text: &str) -> Result<ArtifactsUrl, String> {
    let allowed = || "file:///an/absolute/path, or s3://bucket or s3://bucket/prefix".to_owned();
    if let Some(place) = text.strip_prefix("file://") {
        let directory = PathBuf::from(place);
        let is_plain = directory.is_absolute() && !place.contains(['\0', '?', '#', '%']);
        return is_plain.then_some(ArtifactsUrl::Directory(directory)).ok_or_else(allowed);
    }
    let (bucket, prefix) = match text.strip_prefix("s3://").ok_or_else(allowed)?.split_once('/') {
        Some((bucket, prefix)) => (bucket, prefix.trim_end_matches('/')),
        None => (text.trim_start_matches("s3://"), ""),
    };
    let is_word = |word: &str, more: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
    };
    let is_prefix = prefix.is_empty() || prefix.split('/').all(|part| is_word(part, "._-") && part != "..");
    if !is_word(bucket, ".-") || !is_prefix {
        return Err(allowed());
    }
    Ok(ArtifactsUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_plain = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']));
    is_plain
        .then(|| text.trim_end_matches('/').to_owned())
        .ok_or_else(|| "an address such as http://127.0.0.1:9000, without keys in it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_directory_or_a_bucket() {
        assert_eq!(url("file:///srv/files"), Ok(ArtifactsUrl::Directory("/srv/files".into())));
        let s3 = |bucket: &str, prefix: &str| Ok(ArtifactsUrl::S3 { bucket: bucket.into(), prefix: prefix.into() });
        assert_eq!(url("s3://jobs"), s3("jobs", ""));
        assert_eq!(url("s3://jobs/"), s3("jobs", ""));
        assert_eq!(url("s3://jobs/a/b"), s3("jobs", "a/b"));
        for bad in [
            "",
            "/srv",
            "file://srv",
            "file:///a%20b",
            "s3://",
            "s3:///a",
            "s3://a b",
            "s3://a/../b",
            "gs://a",
            "s3://k:s@a",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_hold_no_keys() {
        assert_eq!(endpoint("http://127.0.0.1:9000/"), Ok("http://127.0.0.1:9000".to_owned()));
        for bad in ["127.0.0.1:9000", "http://", "http://key:secret@host", "ftp://x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
