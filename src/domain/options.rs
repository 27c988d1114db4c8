//! The rules under which a job runs.
//!
//! Two kinds of options: those of the queue (how often, when, in which order), for which BullMQ has words of its own,
//! are fields of [`JobOptions`]. Those of a run, which the worker obeys, are declared in [`with_run_options`], once: the
//! table gives them to JSON, to BullMQ's `jobber` object, to the command line, to the configuration and to the docs.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::files::{MOST_INPUTS, trouble_of_inputs};
use super::time::{self, millis};
use super::{Backoff, GroupName, InputFile, JobId, QueueName, notation};

/// Gives the table of run options to another macro.
///
/// A row says: the field and its type; what it does; its name in JSON (and how its type is written there, where serde does
/// not know); its flag and its key in the configuration's `[defaults]`; how people write a value; which values are allowed;
/// the variables that set its default; the default as TOML has it, or what holds when there is none.
///
/// A new option is a new row here, and the line in the runner that obeys it.
macro_rules! with_run_options {
    ($make:ident) => {
        $make! {
            {
                timeout: Duration, "Stops an attempt that runs longer",
                json: "timeout_ms" as "crate::domain::time::millis::option",
                flag: "timeout", key: "timeout", written: "DURATION" by duration,
                allowed: |t| !t.is_zero() && *t <= JobOptions::MAX_DURATION, "1 ms to ten years",
                default: ["JOBBER_TIMEOUT"] "" or "no limit",
            }
            {
                grace: Duration, "Between SIGTERM and SIGKILL",
                json: "grace_ms" as "crate::domain::time::millis::option",
                flag: "grace", key: "grace", written: "DURATION" by duration,
                allowed: |t| *t <= JobOptions::MAX_DURATION, "at most ten years",
                default: ["JOBBER_GRACE"] "\"10s\"" or "",
            }
            {
                cores: u32, "CPU cores that it runs on",
                json: "cores",
                flag: "cores", key: "cores", written: "N" by number,
                allowed: |n| (1..=65_536).contains(n), "1 to 65536",
                default: [] "" or "worker.cores_per_process",
            }
            {
                memory_bytes: u64, "Memory limit, such as 2GiB",
                json: "memory_bytes",
                flag: "memory", key: "memory", written: "SIZE" by size,
                allowed: |n| (1 << 20..=1 << 50).contains(n), "1 MiB (1048576) to 1 PiB",
                default: ["JOBBER_MEMORY"] "" or "none",
            }
            {
                require: crate::domain::Labels, "Labels that its worker must have",
                json: "require",
                flag: "require", key: "require", written: "NAME=VALUE,..." by labels,
                allowed: |labels| labels.is_valid(), "at most 64 pairs NAME=VALUE",
                default: [] "" or "none",
            }
            {
                resources: crate::domain::Amounts, "Resources of its worker that it holds while it runs",
                json: "resources",
                flag: "resource", key: "resource", written: "NAME=N,..." by amounts,
                allowed: |amounts| amounts.is_valid(), "at most 64 pairs NAME=N such as gpu=1",
                default: [] "" or "none",
            }
            {
                nice: u8, "How much lower than the worker the kernel's scheduler ranks it",
                json: "nice",
                flag: "nice", key: "nice", written: "N" by number,
                allowed: |n| *n <= 19, "0 to 19",
                default: [] "" or "worker.nice",
            }
            {
                no_retry_exit_codes: Vec<u8>, "Exit codes after which another attempt is pointless",
                json: "no_retry_exit_codes",
                flag: "no-retry-exit-codes", key: "no_retry_exit_codes", written: "CODE,..." by exit_codes,
                allowed: |codes| !codes.contains(&0), "1 to 255 each",
                default: ["JOBBER_NO_RETRY_EXIT_CODES"] "[]" or "",
            }
        }
    };
}
pub(crate) use with_run_options;

/// A run option, for code that handles all of them alike: command line, configuration, docs.
#[derive(Debug)]
pub struct RunOption {
    /// Its name in JSON.
    pub json: &'static str,
    /// Its flag, without dashes.
    pub flag: &'static str,
    /// Its key in `[jobs.NAME]` of the configuration.
    pub key: &'static str,
    /// The setting that gives its default: its key in `[defaults]`.
    pub setting: &'static str,
    /// The word that stands for a value on the command line.
    pub value_name: &'static str,
    /// What it does: a sentence without its full stop.
    pub help: &'static str,
    /// Which values are allowed: what follows "must be".
    pub allowed: &'static str,
    /// The environment variables that set its default.
    pub variables: &'static [&'static str],
    /// Its default as TOML, or nothing.
    pub default: &'static str,
    /// What holds when it is not set.
    pub unset: &'static str,
    /// Reads a value as people write it into these options.
    ///
    /// # Errors
    /// How a value is written, for people.
    pub set: fn(&mut JobOptions, &str) -> Result<(), String>,
    /// Whether these options say nothing of it, or a value that is allowed.
    pub is_allowed: fn(&JobOptions) -> bool,
}

macro_rules! define_options {
    ($({
        $field:ident: $type:ty, $help:literal,
        json: $json:literal $(as $with:literal)?,
        flag: $flag:literal, key: $key:literal, written: $value_name:literal by $read:ident,
        allowed: |$value:ident| $is_allowed:expr, $allowed:literal,
        default: [$($variable:literal),*] $default:literal or $unset:literal,
    })*) => {
        /// The rules under which a job runs. A run option that is `None` is decided by the worker's configuration.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
        pub struct JobOptions {
            /// How many attempts may finish badly before the job has failed, 1 to [`JobOptions::MAX_ATTEMPTS`].
            #[schema(minimum = 1, maximum = 1000)]
            pub attempts: u32,
            /// How long to wait between attempts.
            pub backoff: Backoff,
            /// Not before this long after submission.
            #[schema(value_type = u64, maximum = 316_224_000_000u64)]
            #[serde(default, rename = "delay_ms", with = "millis", skip_serializing_if = "Duration::is_zero")]
            pub delay: Duration,
            /// 0: none, and first. 1 to [`JobOptions::MAX_PRIORITY`]: behind all without, 1 before 2.
            #[serde(default, skip_serializing_if = "is_zero")]
            pub priority: u32,
            /// The queue in which it waits; `None` for the default one, `queue.name`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub queue: Option<QueueName>,
            /// The jobs to which it belongs.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub group: Option<GroupName>,
            /// It starts only while fewer jobs of its group run, at least 1.
            #[schema(minimum = 1)]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub group_limit: Option<u32>,
            /// Which job of an array it is.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub array_index: Option<u32>,
            $(
                #[doc = $help]
                $(#[schema(value_type = Option<u64>)] #[serde(with = $with)])?
                #[serde(default, rename = $json, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
            /// Keeps equal jobs from piling up.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub deduplication: Option<Deduplication>,
            /// Not before these jobs have completed; when one of them fails, so does this one. A delay counts from then on.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub after: Vec<JobId>,
            /// What it finds in `$JOBBER_INPUT_DIR`, at most 100 files.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub inputs: Vec<InputFile>,
        }

        impl Default for JobOptions {
            /// Three attempts with exponential backoff from one second, as the original had.
            fn default() -> Self {
                Self {
                    attempts: 3,
                    backoff: Backoff::default(),
                    delay: Duration::ZERO,
                    priority: 0,
                    queue: None,
                    group: None,
                    group_limit: None,
                    array_index: None,
                    $($field: None,)*
                    deduplication: None,
                    after: Vec::new(),
                    inputs: Vec::new(),
                }
            }
        }

        impl JobOptions {
            /// Takes from `rules` every run option of which these options say nothing.
            pub fn fill_run_options(&mut self, rules: &JobOptions) {
                $(if self.$field.is_none() {
                    self.$field.clone_from(&rules.$field);
                })*
            }
        }

        impl RunOption {
            /// All run options.
            pub const ALL: &'static [RunOption] = &[$(RunOption {
                json: $json,
                flag: $flag,
                key: $key,
                setting: concat!("defaults.", $key),
                value_name: $value_name,
                help: $help,
                allowed: $allowed,
                variables: &[$($variable),*],
                default: $default,
                unset: $unset,
                set: |options, text| {
                    options.$field = Some(notation::$read(text)?);
                    Ok(())
                },
                is_allowed: |options| {
                    let is_allowed = |$value: &$type| $is_allowed;
                    options.$field.as_ref().is_none_or(is_allowed)
                },
            }),*];
        }
    };
}
with_run_options!(define_options);

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// While a key is taken, jobs submitted with it are answered with the one that took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deduplication {
    /// 1 to 256 characters.
    pub key: String,
    /// How long the key stays taken, in milliseconds; without it, until the job has ended.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 316_224_000_000u64)]
    #[serde(default, rename = "ttl_ms", with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// Why a job can't be accepted: which field, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidJob {
    /// The field, as the caller wrote it, e.g. `arguments/3`.
    pub field: String,
    /// What is wrong with it and what is allowed.
    pub problem: String,
}

impl InvalidJob {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl JobOptions {
    /// The most attempts that can be asked for.
    pub const MAX_ATTEMPTS: u32 = 1000;
    /// The lowest priority (BullMQ's limit).
    pub const MAX_PRIORITY: u32 = 2_097_151;
    /// The most jobs that one can wait for.
    pub const MAX_AFTER: usize = 1000;
    /// The longest delay, timeout or time to live: ten years.
    pub const MAX_DURATION: Duration = time::LONGEST;

    /// Checks every option of the job with this id.
    ///
    /// # Errors
    /// [`InvalidJob`] names the first that is wrong.
    pub(super) fn check(&self, id: &JobId) -> Result<(), InvalidJob> {
        let range = |field: &str, ok: bool, allowed: &str| {
            if ok { Ok(()) } else { Err(InvalidJob::new(field, format!("must be {allowed}"))) }
        };
        let short = |d: Duration| d <= Self::MAX_DURATION;
        range("attempts", (1..=Self::MAX_ATTEMPTS).contains(&self.attempts), &format!("1 to {}", Self::MAX_ATTEMPTS))?;
        range("priority", self.priority <= Self::MAX_PRIORITY, &format!("0 to {}", Self::MAX_PRIORITY))?;
        range("delay_ms", short(self.delay), "at most ten years")?;
        range("backoff/delay_ms", short(self.backoff.delay), "at most ten years")?;
        range("backoff/max_ms", self.backoff.max.is_none_or(short), "at most ten years")?;
        range("backoff/jitter", (0.0..=1.0).contains(&self.backoff.jitter), "0 to 1")?;
        range("group_limit", self.group_limit.is_none_or(|n| n > 0), "at least 1")?;
        if self.group_limit.is_some() && self.group.is_none() {
            return Err(InvalidJob::new("group_limit", "limits a group, and needs one"));
        }
        for option in RunOption::ALL {
            range(option.json, (option.is_allowed)(self), option.allowed)?;
        }
        if let Some(Deduplication { key, ttl }) = &self.deduplication {
            let is_key = (1..=256).contains(&key.len()) && !key.contains('\0');
            range("deduplication/key", is_key, "1 to 256 bytes without NUL")?;
            range("deduplication/ttl_ms", ttl.is_none_or(|t| short(t) && !t.is_zero()), "1 ms to ten years")?;
        }
        if self.inputs.len() > MOST_INPUTS {
            return Err(InvalidJob::new("inputs", format!("must be at most {MOST_INPUTS} files")));
        }
        if let Some((i, problem)) = trouble_of_inputs(&self.inputs) {
            return Err(InvalidJob::new(format!("inputs/{i}/name"), problem));
        }
        self.check_after(id)
    }

    fn check_after(&self, id: &JobId) -> Result<(), InvalidJob> {
        if self.after.len() > Self::MAX_AFTER {
            return Err(InvalidJob::new("after", format!("must be at most {} jobs", Self::MAX_AFTER)));
        }
        let mut seen = HashSet::new();
        for (i, other) in self.after.iter().enumerate() {
            if other == id {
                return Err(InvalidJob::new(format!("after/{i}"), "must be another job than this one"));
            }
            if !seen.insert(other) {
                return Err(InvalidJob::new(format!("after/{i}"), "is named twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_run_options_are_alike_in_all_places() {
        for option in RunOption::ALL {
            assert_eq!(option.flag.replace('-', "_"), option.key, "{}", option.json);
            assert!(
                option.json == option.key
                    || option.json == format!("{}s", option.key)
                    || option.json.starts_with(&format!("{}_", option.key)),
                "{}",
                option.json
            );
            assert!(
                !option.help.ends_with('.') && option.default.is_empty() != option.unset.is_empty(),
                "{}",
                option.json
            );
        }
    }

    #[test]
    fn what_a_job_says_stands_before_the_rules() {
        let rules = JobOptions { cores: Some(2), grace: Some(Duration::ZERO), ..JobOptions::default() };
        let mut options = JobOptions { cores: Some(1), no_retry_exit_codes: Some(vec![]), ..JobOptions::default() };
        options.fill_run_options(&rules);
        assert_eq!((options.cores, options.grace, options.timeout), (Some(1), Some(Duration::ZERO), None));
        assert_eq!(options.no_retry_exit_codes, Some(vec![]));
    }
}
