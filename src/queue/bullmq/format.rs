//! A job as BullMQ stores it, in both directions.
//!
//! The original wrote a bare array of strings: the arguments. That is what is written here too wherever it says all;
//! attempts, backoff, delay, priority and deduplication stand in BullMQ's own options. What those can't say makes an
//! object `{"arguments": [..], "data": .., "jobber": {..}}`. Any other JSON is a foreign producer's: data for stdin.
//! Without `jobber` the rules of the reader's configuration hold, with it they do not.

use std::time::Duration;

use bullmq::types::BackoffStrategy;
use bullmq::{DeduplicationOptions, JobOptions as BullOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::BullSettings;
use crate::domain::time::millis;
use crate::domain::{Backoff, BackoffKind, Deduplication, Job, JobId, JobName, JobOptions, Timestamp};

/// The name in history of jobs whose own can't be one.
const NO_NAME: &str = "invalid-job-name";

/// What BullMQ's options have no word for.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Extra {
    #[serde(rename = "timeout_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    timeout: Option<Duration>,
    #[serde(rename = "grace_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    grace: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    no_retry_exit_codes: Vec<u8>,
    #[serde(rename = "backoff_max_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    backoff_max: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_jitter: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    after: Vec<JobId>,
    /// Once nothing is waited for: BullMQ's own delay is then another.
    #[serde(rename = "delay_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    delay: Option<Duration>,
}

impl Extra {
    fn of(options: &JobOptions) -> Self {
        Self {
            timeout: options.timeout,
            grace: options.grace,
            cores: options.cores,
            memory_bytes: options.memory_bytes,
            no_retry_exit_codes: options.no_retry_exit_codes.clone(),
            backoff_max: options.backoff.max,
            backoff_jitter: (options.backoff.jitter != 0.0).then_some(options.backoff.jitter),
            after: options.after.clone(),
            delay: (!options.after.is_empty()).then_some(options.delay),
        }
    }
}

/// The job's data as it is stored where these rules hold for what it does not say.
pub(super) fn data(job: &Job, rules: &JobOptions) -> Value {
    let extra = Extra::of(&job.options);
    let plain = extra == Extra::of(rules);
    if plain && job.data.is_none() {
        return json!(job.arguments);
    }
    let mut object = Map::new();
    object.insert("arguments".to_owned(), json!(job.arguments));
    if let Some(data) = &job.data {
        object.insert("data".to_owned(), data.clone());
    }
    if !plain {
        object.insert("jobber".to_owned(), json!(extra));
    }
    Value::Object(object)
}

/// The job's options as BullMQ knows them.
pub(super) fn options(job: &Job) -> BullOptions {
    let options = &job.options;
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let delay = ms(options.backoff.delay);
    BullOptions {
        job_id: Some(job.id.to_string()),
        timestamp: Some(job.submitted_at.as_millis().unsigned_abs()),
        attempts: Some(options.attempts),
        backoff: Some(match options.backoff.kind {
            BackoffKind::Fixed => BackoffStrategy::Fixed(delay),
            BackoffKind::Exponential => BackoffStrategy::Exponential(delay),
        }),
        delay: (!options.delay.is_zero()).then(|| ms(options.delay).max(1)),
        priority: (options.priority > 0).then_some(options.priority),
        deduplication: options.deduplication.as_ref().map(|d| DeduplicationOptions {
            id: d.key.clone(),
            ttl: d.ttl.map(ms),
            extend: None,
            replace: None,
            keep_last_if_active: None,
        }),
        ..BullOptions::default()
    }
}

/// The job that a producer meant, where the settings say what it does not.
///
/// # Errors
/// Why it can't be run, for people.
pub(super) fn read(stored: &bullmq::Job, settings: &BullSettings) -> Result<Job, String> {
    let id = JobId::parse(stored.id()).map_err(|e| e.to_string())?;
    let name = JobName::parse(stored.name()).map_err(|e| e.to_string())?;
    let (arguments, data, extra) = content(stored.data().clone())?;
    let extra = extra.unwrap_or_else(|| Extra::of(settings.rules(&name)));
    if let Some(i) = arguments.iter().position(|a| a.contains('\0')) {
        return Err(format!("arguments/{i}: must not contain a NUL byte"));
    }
    let opts = stored.opts();
    let (kind, delay) = match &opts.backoff {
        Some(BackoffStrategy::Exponential(delay)) => (BackoffKind::Exponential, *delay),
        Some(BackoffStrategy::Fixed(delay)) => (BackoffKind::Fixed, *delay),
        // BullMQ: no backoff is no wait; a strategy of somebody's own is not known here.
        Some(BackoffStrategy::Custom(_)) | None => (BackoffKind::Fixed, 0),
    };
    let within = |ms: u64| Duration::from_millis(ms).min(JobOptions::MAX_DURATION);
    let options = JobOptions {
        attempts: opts.attempts.unwrap_or(1).clamp(1, JobOptions::MAX_ATTEMPTS),
        backoff: Backoff {
            kind,
            delay: within(delay),
            max: extra.backoff_max,
            jitter: extra.backoff_jitter.unwrap_or(0.0).clamp(0.0, 1.0),
        },
        delay: extra.delay.unwrap_or_else(|| within(opts.delay.unwrap_or(0))),
        priority: opts.priority.unwrap_or(0).min(JobOptions::MAX_PRIORITY),
        timeout: extra.timeout,
        grace: extra.grace,
        cores: extra.cores,
        memory_bytes: extra.memory_bytes,
        no_retry_exit_codes: extra.no_retry_exit_codes,
        deduplication: opts.deduplication.as_ref().map(|d| Deduplication { key: d.id.clone(), ttl: d.ttl.map(within) }),
        after: extra.after,
    };
    let submitted_at = Timestamp::from_millis(i64::try_from(stored.timestamp()).unwrap_or(i64::MAX));
    Ok(Job { id, name, arguments, data, options, submitted_at })
}

/// What there is to say in history of a job that can't be run; nothing without an id that can be told.
pub(super) fn outline(stored: &bullmq::Job) -> Option<Job> {
    let id = JobId::parse(stored.id()).ok()?;
    let name = JobName::parse(stored.name()).or_else(|_| JobName::parse(NO_NAME)).ok()?;
    let (arguments, data, _) =
        content(stored.data().clone()).unwrap_or_else(|_| (Vec::new(), Some(stored.data().clone()), None));
    let submitted_at = Timestamp::from_millis(i64::try_from(stored.timestamp()).unwrap_or(i64::MAX));
    Some(Job { id, name, arguments, data, options: JobOptions::default(), submitted_at })
}

/// Arguments, data for stdin, and the rest if it is said.
type Content = (Vec<String>, Option<Value>, Option<Extra>);

fn content(stored: Value) -> Result<Content, String> {
    let strings = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
    };
    if let Some(arguments) = strings(&stored) {
        return Ok((arguments, None, None));
    }
    let Value::Object(object) = &stored else {
        let data = (!stored.is_null()).then_some(stored);
        return Ok((Vec::new(), data, None));
    };
    if object.is_empty() {
        return Ok((Vec::new(), None, None));
    }
    let ours = object.keys().all(|key| ["arguments", "data", "jobber"].contains(&key.as_str()));
    let Some(listed) = object.get("arguments").filter(|_| ours) else {
        return Ok((Vec::new(), Some(stored), None));
    };
    let arguments = strings(listed).ok_or("arguments: must be a list of strings")?;
    let extra = match object.get("jobber") {
        Some(extra) => Some(Extra::deserialize(extra).map_err(|e| format!("jobber: {e}"))?),
        None => None,
    };
    Ok((arguments, object.get("data").cloned(), extra))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    fn job(options: JobOptions) -> Job {
        let new = NewJob { id: None, name: "a".to_owned(), arguments: vec!["x".to_owned()], data: None, options };
        new.accept(Timestamp::from_millis(1_700_000_000_000)).unwrap()
    }

    /// Through what BullMQ stores.
    fn stored(job: &Job, writer: &BullSettings) -> bullmq::Job {
        let fields = [
            ("name", job.name.to_string()),
            ("data", data(job, writer.rules(&job.name)).to_string()),
            ("opts", serde_json::to_string(&options(job)).unwrap()),
            ("timestamp", job.submitted_at.as_millis().to_string()),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        bullmq::Job::from_redis_hash(job.id.as_str(), &fields).unwrap()
    }

    #[test]
    fn what_the_configuration_says_anyway_is_not_written() {
        let rules = JobOptions { grace: Some(Duration::from_secs(10)), cores: Some(2), ..JobOptions::default() };
        let settings = BullSettings { defaults: rules.clone(), ..BullSettings::default() };
        let plain = job(rules.clone());
        let kept = stored(&plain, &settings);
        assert_eq!(kept.data(), &json!(["x"]));
        assert_eq!(read(&kept, &settings), Ok(plain));
        // Another value than the rule's, none included, holds whatever the reader's rules are.
        for options in [JobOptions { cores: Some(3), ..rules }, JobOptions::default()] {
            let job = job(options);
            assert_eq!(read(&stored(&job, &settings), &settings), Ok(job));
        }
    }

    #[test]
    fn a_backoff_with_all_its_parts_comes_back() {
        let backoff = Backoff {
            kind: BackoffKind::Fixed,
            delay: Duration::from_millis(7),
            max: Some(Duration::from_secs(1)),
            jitter: 0.25,
        };
        let deduplication = Some(Deduplication { key: "k".to_owned(), ttl: Some(Duration::from_secs(2)) });
        let delay = Duration::from_millis(9);
        let job = job(JobOptions { backoff, deduplication, delay, attempts: 9, priority: 4, ..JobOptions::default() });
        let settings = BullSettings::default();
        assert_eq!(read(&stored(&job, &settings), &settings), Ok(job));
    }
}
