//! A job: what to run and under which rules. What is checked here is checked for every way in (HTTP, shell, Redis).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{InvalidJob, JobBody, JobId, JobName, JobOptions, RawJson, Timestamp, TraceContext, trace};

/// A job that has been accepted: its header. Id, name and time of submission never change. What it is given is its
/// [`JobBody`], which travels beside it only to a reader that asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Identifies it for ever.
    pub id: JobId,
    /// The binary to run.
    pub name: JobName,
    /// The rules under which it runs.
    pub options: JobOptions,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// The span of its submission, if its submitter traces. Older versions skip it.
    #[serde(default, deserialize_with = "trace::lenient", skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// A job with what it is given.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedJob {
    /// Its header.
    pub job: Arc<Job>,
    /// Its arguments and data.
    pub body: JobBody,
}

/// A job to submit, not yet checked.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// An id of the caller's choice.
    pub id: Option<String>,
    /// The binary to run.
    pub name: String,
    /// The binary's arguments.
    pub arguments: Vec<String>,
    /// JSON for its standard input.
    pub data: Option<RawJson>,
    /// The rules, with defaults filled in.
    pub options: JobOptions,
}

impl NewJob {
    /// Checks every field and makes the job, submitted at `now`.
    ///
    /// # Errors
    /// [`InvalidJob`] names the first field that is wrong.
    pub fn accept(self, now: Timestamp) -> Result<AcceptedJob, InvalidJob> {
        let name = JobName::parse(&self.name).map_err(|e| InvalidJob::new("name", e.to_string()))?;
        let id = match &self.id {
            Some(text) => JobId::custom(text).map_err(|e| InvalidJob::new("id", e.to_string()))?,
            None => JobId::generate(),
        };
        // Linux passes at most 128 KiB a string and, by default, 2 MiB in all to a new program.
        const ONE: usize = 128 * 1024 - 1;
        const ALL: usize = 1024 * 1024;
        for (i, argument) in self.arguments.iter().enumerate() {
            if argument.contains('\0') {
                return Err(InvalidJob::new(format!("arguments/{i}"), "must not contain a NUL byte"));
            }
            if argument.len() > ONE {
                return Err(InvalidJob::new(
                    format!("arguments/{i}"),
                    format!("must be at most {ONE} bytes; use data for more"),
                ));
            }
        }
        if self.arguments.iter().map(|a| a.len() + 9).sum::<usize>() > ALL {
            return Err(InvalidJob::new(
                "arguments",
                format!("must be at most {ALL} bytes together; use data for more"),
            ));
        }
        self.options.check(&id)?;
        let body = JobBody::new(self.arguments, self.data.as_ref());
        Ok(AcceptedJob { job: Arc::new(Job { id, name, options: self.options, submitted_at: now, trace: None }), body })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn new(name: &str) -> NewJob {
        NewJob { id: None, name: name.to_owned(), arguments: vec![], data: None, options: JobOptions::default() }
    }

    fn field(job: NewJob) -> String {
        job.accept(Timestamp::from_millis(0)).unwrap_err().field
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(field(new("../../bin/sh")), "name");
        assert_eq!(field(NewJob { id: Some("7".into()), ..new("a") }), "id");
        assert_eq!(field(NewJob { arguments: vec!["ok".into(), "a\0b".into()], ..new("a") }), "arguments/1");
        assert_eq!(field(NewJob { arguments: vec!["x".repeat(200_000)], ..new("a") }), "arguments/0");
        let with = |change: fn(&mut JobOptions)| {
            let mut job = new("a");
            change(&mut job.options);
            field(job)
        };
        assert_eq!(with(|o| o.attempts = 0), "attempts");
        assert_eq!(with(|o| o.priority = 3_000_000), "priority");
        assert_eq!(with(|o| o.cores = Some(0)), "cores");
        assert_eq!(with(|o| o.timeout = Some(Duration::ZERO)), "timeout_ms");
        assert_eq!(with(|o| o.delay = Duration::from_secs(u64::MAX)), "delay_ms");
        assert_eq!(with(|o| o.memory_bytes = Some(1)), "memory_bytes");
        assert_eq!(with(|o| o.no_retry_exit_codes = Some(vec![0])), "no_retry_exit_codes");
    }
}
