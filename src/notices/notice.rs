//! What a notice says: the payload that receivers get.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::{
    BuildDigest, Fingerprint, GroupName, JobId, JobName, JobState, Outcome, QueueName, Timestamp, WorkerId, first_line,
};
use crate::stats::builds::{Alarm, Change};
use crate::store::JobRecord;

/// What a target can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeEvent {
    /// A job has failed for good: no attempt follows.
    Failed,
    /// A job has completed.
    Completed,
    /// A job has failed for good, with an error of a category.
    Category,
    /// A build of a binary does worse than those before it.
    Regression,
    /// A part of the server can't work, or works again.
    Unhealthy,
}

impl NoticeEvent {
    /// All of them.
    pub const ALL: [NoticeEvent; 5] =
        [Self::Failed, Self::Completed, Self::Category, Self::Regression, Self::Unhealthy];

    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Completed => "completed",
            Self::Category => "category",
            Self::Regression => "regression",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl std::str::FromStr for NoticeEvent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|event| event.as_str() == text)
            .ok_or_else(|| "failed, completed, category, regression or unhealthy".to_owned())
    }
}

/// One notice for one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Notice {
    /// What happened.
    pub event: NoticeEvent,
    /// Identifies the notice: the same on each try.
    pub id: String,
    /// The name of the target.
    pub target: String,
    /// When it happened.
    pub at: Timestamp,
    /// All of it in one line for people.
    pub text: String,
    /// Of `failed`, `completed` and `category`: the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<NoticeJob>,
    /// Of `regression`: the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regression: Option<NoticeRegression>,
    /// Of `unhealthy`: what turned, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthTurn>,
    /// Whether it is a sample that `jobber notify test` has sent: nothing happened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
}

/// A job that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoticeJob {
    /// The job.
    pub id: JobId,
    /// The binary that it ran.
    pub name: JobName,
    /// The queue in which it waited.
    pub queue: QueueName,
    /// The jobs to which it belongs; absent if to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Which job of an array it is; absent if of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_index: Option<u32>,
    /// `completed` or `failed`.
    pub state: JobState,
    /// How its last attempt ended; null for a job that never ran.
    pub outcome: Option<Outcome>,
    /// Why it failed, at most 4 KiB; null for a job that completed.
    pub error: Option<String>,
    /// The fingerprint of that error; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// The id of the error's category; absent where that is not known (yet), or it is near to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// How many attempts were started.
    pub attempts: u32,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How long its last attempt ran, in milliseconds; absent when no process ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// The worker of its last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// The host of that worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The build that ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildDigest>,
}

/// The most bytes of an error that a notice holds.
const ERROR_BYTES: usize = 4096;

impl NoticeJob {
    /// The job of a record that has ended. `default_queue` is that of jobs that name none.
    pub fn of(record: &JobRecord, default_queue: &QueueName) -> Self {
        let last = record.attempts.last();
        let report = last.and_then(|attempt| attempt.report.as_ref());
        let is_failed = record.state == JobState::Failed;
        let error = record.error.as_ref().filter(|_| is_failed);
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            queue: record.options.queue.clone().unwrap_or_else(|| default_queue.clone()),
            group: record.options.group.clone(),
            array_index: record.options.array_index,
            state: record.state,
            outcome: record.outcome,
            error: error.map(|error| error[..error.floor_char_boundary(ERROR_BYTES)].to_owned()),
            fingerprint: last.and_then(|attempt| attempt.fingerprint).filter(|_| is_failed),
            category: None,
            attempts: u32::try_from(record.attempts.len()).unwrap_or(u32::MAX),
            submitted_at: record.submitted_at,
            finished_at: record.finished_at.unwrap_or(record.submitted_at),
            duration_ms: report.filter(|report| report.usage.is_some()).map(|report| report.wall_ms()),
            worker: last.map(|attempt| attempt.worker.clone()),
            host: last.map(|attempt| attempt.host.clone()).filter(|host| !host.is_empty()),
            build: report.and_then(|report| report.build.as_ref()).map(|build| build.digest.clone()),
        }
    }
}

/// A build that does worse than those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NoticeRegression {
    /// The binary.
    pub name: JobName,
    /// The build.
    pub build: BuildDigest,
    /// When its first attempt was started.
    pub first_seen: Timestamp,
    /// What the look at it found.
    pub found: Vec<Alarm>,
}

/// A part of the server that can't work, or works again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthTurn {
    /// The part: `queue`, `store`, `events`, `history`, `workers of HOST`, or `worker ID`.
    pub part: String,
    /// Whether it is well now.
    pub healthy: bool,
    /// What is or was wrong.
    pub problem: String,
    /// Since when it is or was.
    pub since: Timestamp,
    /// The host of the server that tells.
    pub server: String,
}

impl Notice {
    /// The id of a notice: a digest of what makes it another than all others.
    pub fn id_of(target: &str, event: NoticeEvent, what: &[&str]) -> String {
        let mut digest = Sha256::new();
        for part in [target, event.as_str()].iter().chain(what) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A notice of something that has not happened, to try out a target or a template.
    pub fn sample(event: NoticeEvent, target: &str, now: Timestamp) -> Self {
        let name = || JobName::parse("sample").expect("it is a name");
        let is_failed = event != NoticeEvent::Completed;
        let job = || NoticeJob {
            id: JobId::parse("sample").expect("it is an id"),
            name: name(),
            queue: QueueName::parse("jobs").expect("it is a name"),
            group: None,
            array_index: None,
            state: if is_failed { JobState::Failed } else { JobState::Completed },
            outcome: Some(Outcome::Exit { code: is_failed.into() }),
            error: is_failed.then(|| "nothing has happened: this notice is a test".to_owned()),
            fingerprint: None,
            category: None,
            attempts: 1,
            submitted_at: now,
            finished_at: now,
            duration_ms: Some(0),
            worker: None,
            host: None,
            build: None,
        };
        let regression = || NoticeRegression {
            name: name(),
            build: BuildDigest::of_build_id(&[0; 20]),
            first_seen: now,
            found: Vec::new(),
        };
        let turn = || HealthTurn {
            part: "queue".to_owned(),
            healthy: true,
            problem: "nothing has happened: this notice is a test".to_owned(),
            since: now,
            server: "sample".to_owned(),
        };
        let of_job = matches!(event, NoticeEvent::Failed | NoticeEvent::Completed | NoticeEvent::Category);
        let mut notice = Self {
            event,
            id: Self::id_of(target, event, &["test"]),
            target: target.to_owned(),
            at: now,
            text: String::new(),
            job: of_job.then(job),
            regression: (event == NoticeEvent::Regression).then(regression),
            health: (event == NoticeEvent::Unhealthy).then(turn),
            test: true,
        };
        notice.write_text();
        notice
    }

    /// Writes `text` anew from the rest.
    pub(super) fn write_text(&mut self) {
        let says = match (&self.job, &self.regression, &self.health) {
            (Some(job), _, _) => job_text(self.event, job),
            (None, Some(regression), _) => regression_text(regression),
            (None, None, Some(turn)) if turn.healthy => {
                format!("{} on {} is well again; it was not: {}", turn.part, turn.server, turn.problem)
            }
            (None, None, Some(turn)) => format!("{} on {} is not well: {}", turn.part, turn.server, turn.problem),
            (None, None, None) => String::new(),
        };
        self.text = if self.test { format!("Test of {}: {says}", self.target) } else { says };
    }
}

fn job_text(event: NoticeEvent, job: &NoticeJob) -> String {
    let (name, id) = (&job.name, &job.id);
    if event == NoticeEvent::Completed {
        return format!("{name} has completed (job {id})");
    }
    let outcome = job.outcome.map_or_else(|| "it never ran".to_owned(), |outcome| outcome.to_string());
    let category = job.category.as_ref().map_or_else(String::new, |category| format!(" [{category}]"));
    let attempts = if job.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", job.attempts) };
    let error = job.error.as_deref().map(first_line).map(|line| line.chars().take(200).collect::<String>());
    let error = error.filter(|line| !line.is_empty()).map_or_else(String::new, |line| format!(": {line}"));
    format!("{name} has failed{category} after {attempts}, {outcome} (job {id}){error}")
}

fn regression_text(regression: &NoticeRegression) -> String {
    let found = regression.found.iter().map(|alarm| {
        let what = match alarm.change {
            Change::Failures => "first attempts fail".to_owned(),
            Change::Error { fingerprint } => format!("first attempts fail with error {}", fingerprint.short()),
            Change::Duration => "first attempts run for long".to_owned(),
            Change::Cpu => "first attempts use much CPU time".to_owned(),
            Change::Memory => "first attempts use much memory".to_owned(),
        };
        format!("{} of {} {what}, before {} of {}", alarm.hits, alarm.n, alarm.hits_before, alarm.n_before)
    });
    let found: Vec<String> = found.collect();
    format!("{} does worse since build {}: {}", regression.name, regression.build.short(), found.join("; "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{JobOptions, NewJob};

    pub(in crate::notices) fn failed_job() -> NoticeJob {
        NoticeJob {
            id: JobId::parse("j1").unwrap(),
            name: JobName::parse("resize").unwrap(),
            queue: QueueName::parse("jobs").unwrap(),
            group: Some(GroupName::parse("batch-7").unwrap()),
            array_index: None,
            state: JobState::Failed,
            outcome: Some(Outcome::Exit { code: 3 }),
            error: Some("can't open \"in.png\" & co\nmore".to_owned()),
            fingerprint: Some(Fingerprint::from_bytes([0xab; 32])),
            category: Some("file-not-found".to_owned()),
            attempts: 2,
            submitted_at: Timestamp::from_millis(1_795_507_200_000),
            finished_at: Timestamp::from_millis(1_795_507_202_500),
            duration_ms: Some(1200),
            worker: Some(WorkerId::parse("w1").unwrap()),
            host: Some("node-3".to_owned()),
            build: Some(BuildDigest::of_build_id(&[7; 20])),
        }
    }

    pub(in crate::notices) fn failed() -> Notice {
        let id = Notice::id_of("ops", NoticeEvent::Failed, &["j1"]);
        let at = Timestamp::from_millis(1_795_507_202_500);
        let mut notice = Notice {
            event: NoticeEvent::Failed,
            id,
            target: "ops".to_owned(),
            at,
            text: String::new(),
            job: Some(failed_job()),
            regression: None,
            health: None,
            test: false,
        };
        notice.write_text();
        notice
    }

    #[test]
    fn an_id_depends_on_every_part() {
        let id = |target: &str, what: &[&str]| Notice::id_of(target, NoticeEvent::Failed, what);
        assert_eq!(id("a", &["b"]), id("a", &["b"]));
        assert_eq!(id("a", &["b"]).len(), 32);
        for other in [id("a", &["c"]), id("ab", &[""]), id("a", &["b", ""]), id("b", &["b"])] {
            assert_ne!(id("a", &["b"]), other);
        }
    }

    #[test]
    fn a_notice_tells_of_the_job_in_one_line() {
        let mut notice = failed();
        assert_eq!(
            notice.text,
            "resize has failed [file-not-found] after 2 attempts, exit 3 (job j1): can't open \"in.png\" & co"
        );
        notice.event = NoticeEvent::Completed;
        notice.test = true;
        notice.write_text();
        assert_eq!(notice.text, "Test of ops: resize has completed (job j1)");
    }

    #[test]
    fn a_record_gives_its_job() {
        let options = JobOptions::default();
        let job = NewJob { id: Some("a".into()), name: "n".into(), arguments: vec![], data: None, options };
        let mut record = JobRecord::new(&job.accept(Timestamp::from_millis(5)).unwrap().job);
        record.state = JobState::Failed;
        record.outcome = Some(Outcome::Lost);
        record.error = Some("ü".repeat(4000));
        record.finished_at = Some(Timestamp::from_millis(9));
        let told = NoticeJob::of(&record, &QueueName::parse("main").unwrap());
        assert_eq!((told.queue.as_str(), told.attempts, told.fingerprint), ("main", 0, None));
        assert_eq!(told.error.unwrap().len(), ERROR_BYTES);
        record.state = JobState::Completed;
        assert_eq!(NoticeJob::of(&record, &QueueName::parse("main").unwrap()).error, None);
    }

    const PAGE: &str = include_str!("../../docs/operations/notices.md");

    /// The examples on the page for receivers.
    fn examples() -> Vec<serde_json::Value> {
        let example = |rest: &str| rest.split("```json\n").nth(1)?.split("\n```").next().map(str::to_owned);
        let texts = PAGE.split("<!-- payload: ").skip(1).filter_map(example);
        texts.map(|text| serde_json::from_str(&text).unwrap()).collect()
    }

    #[test]
    fn the_page_for_receivers_shows_notices_as_they_are() {
        let examples = examples();
        assert_eq!(examples.len(), 3);
        for example in examples {
            let mut notice: Notice = serde_json::from_value(example.clone()).unwrap();
            notice.write_text();
            assert_eq!(serde_json::to_value(&notice).unwrap(), example);
        }
    }

    #[test]
    fn the_page_for_receivers_tells_of_every_field() {
        let told = |field: &str| PAGE.contains(&format!("`{field}`"));
        let samples = NoticeEvent::ALL.into_iter().map(|event| Notice::sample(event, "t", Timestamp::EPOCH));
        for notice in samples.chain([failed()]) {
            let value = serde_json::to_value(notice).unwrap();
            for (key, value) in value.as_object().unwrap() {
                match (key.as_str(), value.as_object()) {
                    ("job" | "regression" | "health", Some(inner)) => {
                        assert!(inner.keys().all(|inner| told(&format!("{key}.{inner}"))), "{key}: {inner:?}");
                    }
                    _ => assert!(told(key), "{key}"),
                }
            }
        }
    }
}
