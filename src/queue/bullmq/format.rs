//! A job as BullMQ stores it, in both directions.
//!
//! The original wrote a bare array of strings: the arguments. Jobber writes that too wherever it
//! says all; attempts, backoff, delay, priority and deduplication stand in BullMQ's own options.
//! For all that those can't say, Jobber writes an object
//! `{"arguments": [..], "data": .., "jobber": {..}}`. Any other JSON is a foreign producer's: data
//! for stdin. Without `jobber` the rules of the reader's configuration hold, with it they do not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bullmq::types::BackoffStrategy;
use bullmq::{DeduplicationOptions, JobOptions as BullOptions};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::BullSettings;
use super::options::Wanted;
use crate::domain::time::millis;
use crate::domain::{Backoff, BackoffKind, Job, JobId, JobName, JobOptions, Timestamp};

/// The name in history of jobs whose own can't be one.
const NO_NAME: &str = "invalid-job-name";

/// The options for which BullMQ has no word.
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
    /// The delay once the jobs before it have ended: until then BullMQ's own delay is another.
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

/// The job's data as it is stored. Readers fill in from `rules` what it does not say.
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

/// A job as it lies in Redis, or as the crate has read it from there.
pub(super) struct Stored<'s> {
    id: &'s str,
    name: &'s str,
    data: Data<'s>,
    wanted: Result<Wanted, String>,
    submitted_at: Timestamp,
}

enum Data<'s> {
    Read(&'s Value),
    Text(&'s str),
}

impl<'s> Stored<'s> {
    /// Takes the job as the crate has read it. See [`is_doubtful`].
    pub(super) fn of(job: &'s bullmq::Job) -> Self {
        Self {
            id: job.id(),
            name: job.name(),
            data: Data::Read(job.data()),
            wanted: Wanted::of(job.opts()),
            submitted_at: Timestamp::from_millis(i64::try_from(job.timestamp()).unwrap_or(i64::MAX)),
        }
    }

    /// Takes the job as its hash in Redis has it.
    pub(super) fn of_hash(id: &'s str, fields: &'s HashMap<String, String>) -> Self {
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let ms = field("timestamp").parse::<f64>().unwrap_or(0.0);
        Self {
            id,
            name: field("name"),
            data: Data::Text(field("data")),
            wanted: Wanted::read(fields.get("opts").map_or("{}", String::as_str)),
            submitted_at: Timestamp::from_millis(ms as i64),
        }
    }

    fn data(&self) -> Result<Value, String> {
        match &self.data {
            Data::Read(value) => Ok((*value).clone()),
            Data::Text(text) => json(text).map_err(|e| format!("data: {e}")),
        }
    }

    /// The text for stdin, where a [`Value`] does not hold it exactly.
    pub(super) fn exact_input(&self) -> Option<Arc<str>> {
        #[derive(Deserialize)]
        struct Wrapped<'t> {
            #[serde(borrow)]
            data: Option<&'t RawValue>,
        }
        let Data::Text(text) = self.data else { return None };
        let exact = serde_json::from_str::<Value>(text).is_ok() && !has_long_number(text);
        let (_, Some(_), _) = content(self.data().ok()?).ok()? else { return None };
        if exact {
            return None;
        }
        let is_wrapped = json(text).ok().is_some_and(|value| is_wrapped(&value));
        let wrapped = is_wrapped.then(|| serde_json::from_str::<Wrapped<'_>>(text).ok()?.data).flatten();
        Some(wrapped.map_or(text.trim(), RawValue::get).into())
    }
}

/// Whether the crate may have read something else than what lies in Redis: it takes data that it
/// can't read for nothing, bytes that are no text for replacement characters, and knows no jitter.
pub(super) fn is_doubtful(job: &bullmq::Job) -> bool {
    fn is_inexact(value: &Value) -> bool {
        /// Up to here whole numbers stay what they are as floating-point ones.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match value {
            Value::Number(n) => n.is_f64() && n.as_f64().is_some_and(|n| n.abs() >= EXACT),
            Value::String(text) => text.contains('\u{fffd}'),
            Value::Array(items) => items.iter().any(is_inexact),
            Value::Object(members) => {
                members.iter().any(|(name, value)| name.contains('\u{fffd}') || is_inexact(value))
            }
            Value::Null | Value::Bool(_) => false,
        }
    }
    let opts = job.opts();
    let is_ours = || uuid::Uuid::parse_str(job.id()).is_ok();
    job.data().is_null()
        || opts.attempts.is_none()
        || job.timestamp() == 0
        || (opts.backoff.is_some() && !is_ours())
        || is_inexact(job.data())
}

/// Reads JSON as BullMQ's producers write it. A half of a surrogate pair becomes a replacement
/// character. JSON that is well formed but too deep or too large for a [`Value`] becomes its own text.
///
/// # Errors
/// Why it is none, for people.
pub(super) fn json(text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let error = match serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_halves(text))) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) if !text.contains("\"arguments\"") => Ok(Value::String(text.to_owned())),
        Ok(_) | Err(_) => Err(format!("can't be read as JSON: {error}")),
    }
}

/// The text with each escaped half of a surrogate pair that stands alone replaced.
fn without_halves(text: &str) -> String {
    let escaped = |at: usize| -> Option<u16> {
        let code = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(code, 16).ok()
    };
    let mut whole = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(next) = text[at..].find('\\').map(|i| at + i) {
        whole.push_str(&text[at..next]);
        let (kept, replaced) = match (escaped(next), escaped(next + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, false),
            (Some(0xd800..=0xdfff), _) => (6, true),
            (Some(_), _) => (6, false),
            (None, _) => (1 + text[next + 1..].chars().next().map_or(0, char::len_utf8), false),
        };
        whole.push_str(if replaced { "\\ufffd" } else { &text[next..next + kept] });
        at = next + kept;
    }
    whole.push_str(&text[at..]);
    whole
}

/// Whether so many digits stand together that a number of them may not be kept exactly.
fn has_long_number(text: &str) -> bool {
    text.as_bytes().split(|b| !b.is_ascii_digit()).any(|digits| digits.len() >= 17)
}

/// The job that a producer meant. The settings say what the producer did not.
///
/// # Errors
/// Why it can't be run, for people.
pub(super) fn read(stored: &Stored<'_>, settings: &BullSettings) -> Result<Job, String> {
    let id = JobId::parse(stored.id).map_err(|e| e.to_string())?;
    let name = JobName::parse(stored.name).map_err(|e| e.to_string())?;
    let (arguments, data, extra) = content(stored.data()?)?;
    let extra = extra.unwrap_or_else(|| Extra::of(settings.rules(&name)));
    if let Some(i) = arguments.iter().position(|a| a.contains('\0')) {
        return Err(format!("arguments/{i}: must not contain a NUL byte"));
    }
    let wanted = stored.wanted.clone()?;
    let options = JobOptions {
        attempts: wanted.attempts,
        backoff: Backoff {
            kind: wanted.kind,
            delay: wanted.backoff,
            max: extra.backoff_max,
            jitter: wanted.jitter.or(extra.backoff_jitter).unwrap_or(0.0).clamp(0.0, 1.0),
        },
        delay: extra.delay.unwrap_or(wanted.delay),
        priority: wanted.priority,
        timeout: extra.timeout,
        grace: extra.grace,
        cores: extra.cores,
        memory_bytes: extra.memory_bytes,
        no_retry_exit_codes: extra.no_retry_exit_codes,
        deduplication: wanted.deduplication,
        after: extra.after,
    };
    Ok(Job { id, name, arguments, data, options, submitted_at: stored.submitted_at })
}

/// The outline of a job that can't be run, for history; `None` when its id can't be told.
pub(super) fn outline(stored: &Stored<'_>) -> Option<Job> {
    let id = JobId::parse(stored.id).ok()?;
    let name = JobName::parse(stored.name).or_else(|_| JobName::parse(NO_NAME)).ok()?;
    let whole = stored.data().unwrap_or_else(|_| match &stored.data {
        Data::Text(text) => Value::String((*text).to_owned()),
        Data::Read(value) => (*value).clone(),
    });
    let (arguments, data, _) = content(whole.clone()).unwrap_or_else(|_| (Vec::new(), Some(whole), None));
    Some(Job { id, name, arguments, data, options: JobOptions::default(), submitted_at: stored.submitted_at })
}

/// Arguments, data for stdin, and the other options if the producer gave any.
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
    let Some(listed) = object.get("arguments").filter(|_| is_wrapped(&stored)) else {
        return Ok((Vec::new(), Some(stored), None));
    };
    let arguments = strings(listed).ok_or("arguments: must be a list of strings")?;
    let extra = match object.get("jobber") {
        Some(extra) => Some(Extra::deserialize(extra).map_err(|e| format!("jobber: {e}"))?),
        None => None,
    };
    Ok((arguments, object.get("data").cloned(), extra))
}

/// Whether this is Jobber's object around arguments and data.
fn is_wrapped(stored: &Value) -> bool {
    let is_ours = |key: &String| ["arguments", "data", "jobber"].contains(&key.as_str());
    stored.as_object().is_some_and(|object| object.contains_key("arguments") && object.keys().all(is_ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Deduplication, NewJob};

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
        assert_eq!(read(&Stored::of(&kept), &settings), Ok(plain));
        // Another value than the rule's, none included, holds whatever the reader's rules are.
        for options in [JobOptions { cores: Some(3), ..rules }, JobOptions::default()] {
            let job = job(options);
            assert_eq!(read(&Stored::of(&stored(&job, &settings)), &settings), Ok(job));
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
        assert_eq!(read(&Stored::of(&stored(&job, &settings)), &settings), Ok(job));
    }

    fn foreign(data: &str) -> HashMap<String, String> {
        let fields = [("name", "a"), ("data", data), ("opts", r#"{"attempts":0}"#), ("timestamp", "1700000000000")];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn data_that_no_value_holds_reaches_the_job_as_it_is() {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for (text, input) in [
            (r#""party \ud83c""#, r#""party \ud83c""#),
            (r#"{"a": "\udc00 \ud83c\udf89"}"#, r#"{"a": "\udc00 \ud83c\udf89"}"#),
            (r#"{"arguments": ["x"], "data": ["\ud83c"]}"#, r#"["\ud83c"]"#),
            (r#"{"n": 12345678901234567890123}"#, r#"{"n": 12345678901234567890123}"#),
            (r#"{"n": 1e999}"#, r#"{"n": 1e999}"#),
            (deep.as_str(), deep.as_str()),
        ] {
            let fields = foreign(text);
            let stored = Stored::of_hash("1", &fields);
            let job = read(&stored, &BullSettings::default()).unwrap();
            assert!(job.data.is_some(), "{text}");
            assert_eq!(stored.exact_input().as_deref(), Some(input));
        }
        for text in [r#"["x"]"#, r#"{"a": 1.5, "b": "\u00e9\\ud83c"}"#, "null", "", "{}", "17"] {
            assert_eq!(Stored::of_hash("1", &foreign(text)).exact_input(), None, "{text}");
        }
    }

    #[test]
    fn halves_of_pairs_in_arguments_are_what_node_makes_of_them() {
        let fields = foreign(r#"["\ud83c", "\ud83c\udf89", "a\\ud83c"]"#);
        let job = read(&Stored::of_hash("1", &fields), &BullSettings::default()).unwrap();
        assert_eq!(job.arguments, ["\u{fffd}", "\u{1f389}", "a\\ud83c"]);
    }

    #[test]
    fn data_that_is_no_json_is_named() {
        for text in ["{", "NaN", r#"{"a": NaN}"#, "'x'", r#"{"arguments": ["\ud83c"], "data": {"x": 1e999}}"#] {
            let said = read(&Stored::of_hash("1", &foreign(text)), &BullSettings::default()).unwrap_err();
            assert!(said.starts_with("data: "), "{text}: {said}");
        }
    }

    #[test]
    fn what_the_crate_may_have_misread_is_looked_at_again() {
        let doubtful = |data: &str, opts: &str| {
            let mut fields = foreign(data);
            fields.insert("opts".to_owned(), opts.to_owned());
            is_doubtful(&bullmq::Job::from_redis_hash("1", &fields).unwrap())
        };
        let plain = r#"{"attempts":0}"#;
        for data in [r#"["x"]"#, r#"{"a":1.5}"#] {
            assert!(!doubtful(data, plain), "{data}");
        }
        for data in [r#""\ud83c""#, "{", r#"{"n":12345678901234567890123}"#, "\"\u{fffd}\""] {
            assert!(doubtful(data, plain), "{data}");
        }
        assert!(doubtful("[]", r#"{"attempts":4,"delay":10.5}"#));
        assert!(doubtful("[]", r#"{"attempts":4,"backoff":{"type":"fixed","delay":1,"jitter":0.5}}"#));
    }
}
