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
use serde_json::Value;
use serde_json::value::RawValue;

use super::options::{self, Wanted};
use super::{BullSettings, keys, telemetry};
use crate::domain::options::with_run_options;
use crate::domain::time::millis;
use crate::domain::{
    AcceptedJob, Backoff, BackoffKind, GroupName, InputFile, Job, JobBody, JobId, JobName, JobOptions, RawJson,
    Timestamp, TraceContext,
};

/// The name in history of jobs whose own can't be one.
const NO_NAME: &str = "invalid-job-name";

macro_rules! define_extra {
    ($({
        $field:ident: $type:ty, $help:literal,
        json: $json:literal $(as $with:literal)?,
        $($rest:tt)*
    })*) => {
        /// The options for which BullMQ has no word: all run options, and a few details.
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Extra {
            $(
                #[serde(rename = $json, $(with = $with,)? skip_serializing_if = "Option::is_none")]
                $field: Option<$type>,
            )*
            #[serde(rename = "backoff_max_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
            backoff_max: Option<Duration>,
            #[serde(skip_serializing_if = "Option::is_none")]
            backoff_jitter: Option<f64>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            after: Vec<JobId>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            inputs: Vec<InputFile>,
            #[serde(skip_serializing_if = "Option::is_none")]
            group: Option<GroupName>,
            #[serde(skip_serializing_if = "Option::is_none")]
            group_limit: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            array_index: Option<u32>,
            /// The delay of a job that waits for others, or for its group's limit: BullMQ's own delay is another then.
            #[serde(rename = "delay_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
            delay: Option<Duration>,
        }

        impl Extra {
            fn of(options: &JobOptions) -> Self {
                Self {
                    $($field: options.$field.clone(),)*
                    backoff_max: options.backoff.max,
                    backoff_jitter: (options.backoff.jitter != 0.0).then_some(options.backoff.jitter),
                    after: options.after.clone(),
                    inputs: options.inputs.clone(),
                    group: options.group.clone(),
                    group_limit: options.group_limit,
                    array_index: options.array_index,
                    delay: (!options.after.is_empty() || options.group_limit.is_some()).then_some(options.delay),
                }
            }

            /// The options of a job whose producer wants these in BullMQ's own words.
            fn options(self, wanted: Wanted) -> JobOptions {
                JobOptions {
                    attempts: wanted.attempts,
                    backoff: Backoff {
                        kind: wanted.kind,
                        delay: wanted.backoff,
                        max: self.backoff_max,
                        jitter: wanted.jitter.or(self.backoff_jitter).unwrap_or(0.0).clamp(0.0, 1.0),
                    },
                    delay: self.delay.unwrap_or(wanted.delay),
                    priority: wanted.priority,
                    // Where it lies says so, not what it holds.
                    queue: None,
                    group: self.group,
                    group_limit: self.group_limit,
                    array_index: self.array_index,
                    $($field: self.$field,)*
                    deduplication: wanted.deduplication,
                    after: self.after,
                    inputs: self.inputs,
                }
            }
        }
    };
}
with_run_options!(define_extra);

/// The job's data as it is stored where these rules hold for what it does not say.
pub(super) fn data(AcceptedJob { job, body }: &AcceptedJob, rules: &JobOptions) -> RawJson {
    #[derive(Serialize)]
    struct Wrapped<'j> {
        arguments: &'j [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'j RawJson>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jobber: Option<&'j Extra>,
    }
    let extra = Extra::of(&job.options);
    let jobber = (extra != Extra::of(rules)).then_some(&extra);
    let (arguments, data) = body.parts();
    let stored = match (&data, jobber) {
        (None, None) => RawJson::of(&arguments),
        (data, jobber) => RawJson::of(&Wrapped { arguments: &arguments, data: data.as_ref(), jobber }),
    };
    stored.expect("texts, numbers and raw JSON can be written")
}

/// The delay that BullMQ is told: one without end for a job that waits for its group's limit.
pub(super) fn bull_delay(job: &Job) -> Option<Duration> {
    let options = &job.options;
    if options.group_limit.is_some() { Some(keys::FAR) } else { Some(options.delay).filter(|delay| !delay.is_zero()) }
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
        delay: bull_delay(job).map(|delay| ms(delay).max(1)),
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
    trace: Option<TraceContext>,
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
            trace: None,
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
            trace: fields.get("opts").and_then(|opts| telemetry::context(opts)),
        }
    }

    /// Adds the trace context, which the crate does not read.
    pub(super) fn traced(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    fn content(&self) -> Result<Content, String> {
        match &self.data {
            Data::Read(value) => content(value),
            Data::Text(text) => content_of_text(text).map_err(|e| format!("data: {e}")),
        }
    }

    /// All that is stored as the job's data, whatever it is.
    fn whole(&self) -> RawJson {
        match &self.data {
            Data::Read(value) => RawJson::from(*value),
            Data::Text(text) => RawJson::parse(text).unwrap_or_else(|_| RawJson::from(&Value::from(*text))),
        }
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
/// Why it is no JSON, or its members are not what they must be, for people.
fn content_of_text(text: &str) -> Result<Content, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Content::default());
    }
    let whole: &RawValue = serde_json::from_str(text).map_err(|e| format!("can't be read as JSON: {e}"))?;
    let strings = |json: &RawValue| {
        serde_json::from_str(json.get())
            .or_else(|_| serde_json::from_str::<Vec<String>>(&options::without_halves(json.get())))
            .ok()
    };
    if let Some(arguments) = strings(whole) {
        return Ok(Content { arguments, ..Content::default() });
    }
    let data = |json: &RawValue| (json.get() != "null").then(|| RawJson::from(json.to_owned()));
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).unwrap_or_default();
    let Some(listed) = members.get("arguments").filter(|_| is_wrapped(members.keys())) else {
        let is_empty = members.is_empty() && text.starts_with('{') && text[1..].trim_start() == "}";
        return Ok(Content { data: data(whole).filter(|_| !is_empty), ..Content::default() });
    };
    let arguments = strings(listed).ok_or("arguments: must be a list of strings")?;
    let extra =
        members.get("jobber").map(|extra| serde_json::from_str(extra.get()).map_err(|e| format!("jobber: {e}")));
    Ok(Content { arguments, data: members.get("data").and_then(|json| data(json)), extra: extra.transpose()? })
}

/// The job that a producer meant, where the settings say what it does not.
///
/// # Errors
/// Why it can't be run, for people.
pub(super) fn read(stored: &Stored<'_>, settings: &BullSettings) -> Result<AcceptedJob, String> {
    let id = JobId::parse(stored.id).map_err(|e| e.to_string())?;
    let name = JobName::parse(stored.name).map_err(|e| e.to_string())?;
    let Content { arguments, data, extra } = stored.content()?;
    let extra = extra.unwrap_or_else(|| Extra::of(settings.rules(&name)));
    if let Some(i) = arguments.iter().position(|a| a.contains('\0')) {
        return Err(format!("arguments/{i}: must not contain a NUL byte"));
    }
    let options = JobOptions { queue: settings.named.clone(), ..extra.options(stored.wanted.clone()?) };
    let job = Arc::new(Job { id, name, options, submitted_at: stored.submitted_at, trace: stored.trace.clone() });
    Ok(AcceptedJob { job, body: JobBody::new(arguments, data.as_ref()) })
}

/// What there is to say in history of a job that can't be run; nothing without an id that can be told.
pub(super) fn outline(stored: &Stored<'_>) -> Option<AcceptedJob> {
    let id = JobId::parse(stored.id).ok()?;
    let name = JobName::parse(stored.name).or_else(|_| JobName::parse(NO_NAME)).ok()?;
    let Content { arguments, data, .. } =
        stored.content().unwrap_or_else(|_| Content { data: Some(stored.whole()), ..Content::default() });
    let (options, trace) = (JobOptions::default(), stored.trace.clone());
    let job = Arc::new(Job { id, name, options, submitted_at: stored.submitted_at, trace });
    Some(AcceptedJob { job, body: JobBody::new(arguments, data.as_ref()) })
}

/// What a job's data says.
#[derive(Default)]
struct Content {
    arguments: Vec<String>,
    /// For the standard input.
    data: Option<RawJson>,
    /// What it says of the rules, if it does.
    extra: Option<Extra>,
}

/// Takes apart what the crate has read.
fn content(stored: &Value) -> Result<Content, String> {
    let strings = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
    };
    if let Some(arguments) = strings(stored) {
        return Ok(Content { arguments, ..Content::default() });
    }
    let data = |value: &Value| (!value.is_null()).then(|| RawJson::from(value));
    let Value::Object(object) = stored else {
        return Ok(Content { data: data(stored), ..Content::default() });
    };
    if object.is_empty() {
        return Ok(Content::default());
    }
    let Some(listed) = object.get("arguments").filter(|_| is_wrapped(object.keys())) else {
        return Ok(Content { data: data(stored), ..Content::default() });
    };
    let arguments = strings(listed).ok_or("arguments: must be a list of strings")?;
    let extra = match object.get("jobber") {
        Some(extra) => Some(Extra::deserialize(extra).map_err(|e| format!("jobber: {e}"))?),
        None => None,
    };
    Ok(Content { arguments, data: object.get("data").and_then(data), extra })
}

/// Whether these are the members of an object of ours around arguments and data.
fn is_wrapped<'k>(keys: impl Iterator<Item = &'k String>) -> bool {
    let mut keys = keys.map(String::as_str).peekable();
    keys.peek().is_some() && keys.all(|key| ["arguments", "data", "jobber"].contains(&key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{Deduplication, NewJob};

    fn job(options: JobOptions) -> AcceptedJob {
        let new = NewJob { id: None, name: "a".to_owned(), arguments: vec!["x".to_owned()], data: None, options };
        new.accept(Timestamp::from_millis(1_700_000_000_000)).unwrap()
    }

    /// Through what BullMQ stores.
    fn stored(accepted: &AcceptedJob, writer: &BullSettings) -> bullmq::Job {
        let job = &accepted.job;
        let fields = [
            ("name", job.name.to_string()),
            ("data", data(accepted, writer.rules(&job.name)).to_string()),
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
            assert_eq!(read(&stored, &BullSettings::default()).unwrap().body.data(), Some(input));
        }
        for text in [r#"["x"]"#, "null", "", "{ }", r#"{"arguments":[],"data":null}"#] {
            let fields = foreign(text);
            assert_eq!(
                read(&Stored::of_hash("1", &fields), &BullSettings::default()).unwrap().body.data(),
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn halves_of_pairs_in_arguments_are_what_node_makes_of_them() {
        let fields = foreign(r#"["\ud83c", "\ud83c\udf89", "a\\ud83c"]"#);
        let job = read(&Stored::of_hash("1", &fields), &BullSettings::default()).unwrap();
        assert_eq!(job.body.arguments(), ["\u{fffd}", "\u{1f389}", "a\\ud83c"]);
    }

    #[test]
    fn data_that_is_no_json_is_named() {
        for text in ["{", "NaN", r#"{"a": NaN}"#, "'x'", r#"{"arguments": [7], "data": {"x": 1e999}}"#] {
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
