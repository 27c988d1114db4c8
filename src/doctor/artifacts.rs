//! Judges the store of files.

use super::Finding;
use crate::config::{ArtifactsUrl, Config, QueueUrl};

const CHECK: &str = "files of jobs";

/// Judges where files are kept. `answer` is what a bucket answered to a look at a file that is not there.
pub fn judge(config: &Config, answer: &Result<(), String>) -> Finding {
    let is_alone = matches!(config.queue.url, QueueUrl::Embedded);
    let found = match &config.artifacts.url {
        ArtifactsUrl::S3 { bucket, .. } => {
            let at = config.artifacts.endpoint.as_deref().unwrap_or("Amazon S3");
            return match answer {
                Ok(()) => Finding::ok(CHECK, format!("the bucket {bucket} at {at} answers")),
                Err(why) => Finding::failed(
                    CHECK,
                    format!("the bucket {bucket} at {at} can't be used: {why}"),
                    "correct [artifacts]: url, endpoint, region, keys; until then jobs lose their files and wait for their inputs",
                ),
            };
        }
        ArtifactsUrl::Directory(directory) => format!("in {}", directory.display()),
        ArtifactsUrl::DataDirectory => "in the data directory".to_owned(),
    };
    let found =
        if is_alone { found } else { format!("{found}, which workers on other machines must share, or set an S3 URL") };
    Finding::ok(CHECK, found)
}
