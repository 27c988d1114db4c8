//! Documents as bytes: JSON with a format number, readable for ever (see `tests/data/documents`).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Categories, ErrorRecord, JobRecord, StoreError, StoreErrorKind};
use crate::domain::JobBody;
use crate::stats::StatShard;
use crate::stats::builds::BuildHistory;

/// Writes a document as JSON.
pub fn encode<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document has only text keys and finite numbers")
}

/// Reads a job record that any version of [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no record, or one of a newer Jobber.
pub fn job(bytes: &[u8]) -> Result<JobRecord, StoreError> {
    decode(bytes, "job record", JobRecord::SCHEMA)
}

/// As [`job`], without the result and a body within the record: these are passed over, and take no memory.
///
/// # Errors
/// The same.
pub fn job_without_result(bytes: &[u8]) -> Result<JobRecord, StoreError> {
    let Ok(mut fields) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(bytes) else { return job(bytes) };
    fields.retain(|name, _| !["arguments", "data", "result"].contains(&name.as_str()));
    job(&encode(&fields))
}

impl JobRecord {
    /// A digest of everything that never changes once a job has been accepted, but for a body that is kept beside the
    /// record: a store writes that once.
    pub fn identity(&self) -> [u8; 32] {
        let Self { id, name, arguments, data, submitted_at, .. } = self;
        let identity = match self.schema <= Self::WITHIN {
            true => encode(&(id, name, arguments, data, submitted_at)),
            false => encode(&(id, name, submitted_at)),
        };
        Sha256::digest(identity).into()
    }
}

/// Reads a body that is kept beside a record.
///
/// # Errors
/// `Corrupt` when the bytes are no body.
pub fn body(bytes: &[u8]) -> Result<JobBody, StoreError> {
    JobBody::from_bytes(bytes)
        .map_err(|e| StoreError::new(StoreErrorKind::Corrupt, "a stored job's body can't be read").caused_by(e))
}

/// Reads an aggregate that any version of [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no aggregate, or one of a newer Jobber.
pub fn shard(bytes: &[u8]) -> Result<StatShard, StoreError> {
    decode(bytes, "aggregate", StatShard::SCHEMA)
}

/// As [`shard`], without the counts by error and by queue: these are passed over. They are most of an aggregate of many errors.
///
/// # Errors
/// The same.
pub fn shard_without_parts(bytes: &[u8]) -> Result<StatShard, StoreError> {
    const PARTS: [&str; 3] = ["failures", "jobs_by_errors", "by_queue"];
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
    let Ok(mut fields) = serde_json::from_slice::<Fields<'_>>(bytes) else { return shard(bytes) };
    let counts = fields.get("counts").map(|counts| serde_json::from_str::<Fields<'_>>(counts.get()));
    let Some(Ok(mut counts)) = counts else { return shard(bytes) };
    counts.retain(|name, _| !PARTS.contains(&name.as_str()));
    let Ok(counts) = serde_json::value::to_raw_value(&counts) else { return shard(bytes) };
    fields.insert("counts".to_owned(), &counts);
    fields.remove("admitted");
    shard(&encode(&fields))
}

/// Reads the history of a name's builds that any version of [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no such history, or one of a newer Jobber.
pub fn builds(bytes: &[u8]) -> Result<BuildHistory, StoreError> {
    decode(bytes, "history of builds", BuildHistory::SCHEMA)
}

/// Reads the record of an error that any version of [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no record of an error, or one of a newer Jobber.
pub fn error(bytes: &[u8]) -> Result<ErrorRecord, StoreError> {
    decode(bytes, "error record", ErrorRecord::SCHEMA)
}

/// Reads categories that any version of [`encode`] wrote.
///
/// # Errors
/// `Corrupt` when the bytes are no categories, or those of a newer Jobber.
pub fn categories(bytes: &[u8]) -> Result<Categories, StoreError> {
    decode(bytes, "set of categories", Categories::SCHEMA)
}

#[derive(Deserialize)]
struct Format {
    schema: u32,
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str, known: u32) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let message = match serde_json::from_slice(bytes) {
            Ok(Format { schema }) if schema > known => {
                format!("a stored {what} has format {schema}, this jobber reads format {known}; run a newer jobber")
            }
            _ => format!("a stored {what} can't be read"),
        };
        StoreError::new(StoreErrorKind::Corrupt, message).caused_by(e)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn golden_of(version: u32, name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/documents/v{version}"));
        fs_err::read(folder.join(name)).unwrap()
    }

    fn golden(name: &str) -> Vec<u8> {
        golden_of(1, name)
    }

    fn same(written: &[u8], read: &[u8]) {
        let value = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(written), value(read));
    }

    /// Documents as the first version wrote them: these files never change and can be read for ever.
    #[test]
    fn documents_of_every_version_can_be_read() {
        for name in ["job_waiting.json", "job_failed.json", "job_fingerprinted.json"] {
            same(&encode(&job(&golden(name)).unwrap()), &golden(name));
            let whole = job(&golden(name)).unwrap();
            assert_eq!(whole.schema, 1);
            assert!(whole.body_within().is_some());
            let without = JobRecord { arguments: None, data: None, result: None, ..whole };
            assert_eq!(job_without_result(&golden(name)).unwrap(), without, "{name}");
            // Since version 2 the body is kept beside the record.
            let now = job(&golden_of(2, name)).unwrap();
            same(&encode(&now), &golden_of(2, name));
            assert!(now.body_within().is_none() && !now.lacks_body());
        }
        let late = job(&golden_of(2, "job_late.json")).unwrap();
        assert!(late.queue_is_late && late.options.queue.is_some());
        same(&encode(&late), &golden_of(2, "job_late.json"));
        same(body(&golden_of(2, "body.json")).unwrap().as_str().as_bytes(), &golden_of(2, "body.json"));
        for name in ["shard.json", "shard_expiring.json", "shard_errors.json"] {
            same(&encode(&shard(&golden(name)).unwrap()), &golden(name));
            let whole = shard(&golden(name)).unwrap();
            let (counts, admitted) = (whole.counts.without_parts(), Default::default());
            assert_eq!(shard_without_parts(&golden(name)).unwrap(), StatShard { counts, admitted, ..whole }, "{name}");
        }
        // Since version 3 it is counted by queue, too.
        same(&encode(&shard(&golden_of(3, "shard.json")).unwrap()), &golden_of(3, "shard.json"));
        // Since builds are told apart.
        let built = job(&golden_of(3, "job_built.json")).unwrap();
        assert!(built.attempts[0].build.is_some() && built.attempts[0].report.as_ref().unwrap().build.is_some());
        same(&encode(&built), &golden_of(3, "job_built.json"));
        let history = builds(&golden_of(3, "builds.json")).unwrap();
        assert!(history.has_regression() && history.builds.len() == 2);
        same(&encode(&history), &golden_of(3, "builds.json"));
        for name in ["error.json", "error_pending.json"] {
            same(&encode(&error(&golden(name)).unwrap()), &golden(name));
        }
        same(&encode(&categories(&golden("categories.json")).unwrap()), &golden("categories.json"));
    }

    #[test]
    fn what_is_no_document_is_told_from_one_of_a_newer_jobber() {
        assert_eq!(shard_without_parts(b"{}").unwrap_err().to_string(), "a stored aggregate can't be read");
        for read in [job, job_without_result] {
            assert_eq!(read(b"{}").unwrap_err().to_string(), "a stored job record can't be read");
        }
        let newer = shard(br#"{"schema":99}"#).unwrap_err();
        assert!(newer.to_string().contains("run a newer jobber"), "{newer}");
    }
}
