//! The keys and bodies of documents, and the collections that hold them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::{Fingerprint, GroupName, JobId, JobName, Timestamp};
use crate::stats::ShardKey;
use crate::store::{ErrorRecord, JobRecord, JobSummary, StoreError, StoreErrorKind, codec};

/// Where a bucket keeps documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each kind is in a collection of its own.
    Collections,
    /// All documents are in the bucket's default collection, with the name of their own in their
    /// keys. This is for servers without collections, or where this user may not make them.
    Flat,
}

/// A collection of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Two documents for each job: its record, and what it is given.
    Jobs,
    /// One document for each error, with its vector.
    Errors,
    /// One document with all categories.
    Categories,
    /// The aggregates, the directory that finds them, and the lease with the cursor.
    Aggregates,
}

impl Room {
    pub(super) const ALL: [Room; 4] = [Room::Jobs, Room::Errors, Room::Categories, Room::Aggregates];

    /// The name of the collection in the bucket.
    pub(super) fn name(self) -> &'static str {
        match self {
            Room::Jobs => "jobs",
            Room::Errors => "errorMessageVectors",
            Room::Categories => "errorCategoriesVectors",
            Room::Aggregates => "aggregates",
        }
    }
}

/// The key of the document with the lease and the cursor.
pub(super) const PROJECTOR: &str = "projector";
/// The key of the document with all job names.
pub(super) const NAMES: &str = "names";

pub(super) fn shard_key(key: &ShardKey) -> String {
    format!("shard:{}:{}", key.day, key.name)
}

pub(super) fn builds_key(name: &JobName) -> String {
    format!("builds:{name}")
}

pub(super) fn name_key(name: &JobName) -> String {
    format!("name:{name}")
}

pub(super) fn days_key(name: &JobName, year: &str) -> String {
    format!("days:{year}:{name}")
}

pub(super) fn recent_key(name: &JobName) -> String {
    format!("recent:{name}")
}

/// The key of what a job is given, among the jobs' documents: no id has a `/`.
pub(super) fn body_key(id: &JobId) -> String {
    format!("{id}/body")
}

/// A job's place in lists, as a text that sorts: the moment of its submission in hexadecimal, then its id.
pub(super) fn place(submitted_at: Timestamp, id: &JobId) -> String {
    format!("{:016x}:{id}", submitted_at.as_millis())
}

/// The beginning of all places at or after this moment.
pub(super) fn place_from(moment: Timestamp) -> String {
    format!("{:016x}:", moment.as_millis())
}

/// A text after every place: no hexadecimal digit is as large.
pub(super) const LAST_PLACE: &str = "~";

/// Splits a place into the moment and the id.
pub(super) fn read_place(text: &str) -> Option<(Timestamp, JobId)> {
    let (ms, id) = text.split_once(':')?;
    let ms = i64::from_str_radix(ms, 16).ok()?;
    Some((Timestamp::from_millis(ms), JobId::parse(id).ok()?))
}

/// A place as the cursor of a list, safe in a URL whatever the id.
pub(super) fn to_cursor(place: &str) -> String {
    let (ms, id) = place.split_once(':').unwrap_or((place, ""));
    let id: String = id.bytes().map(|b| format!("{b:02x}")).collect();
    format!("{ms}-{id}")
}

/// Reads a cursor that [`to_cursor`] wrote.
pub(super) fn from_cursor(text: &str) -> Result<String, StoreError> {
    let place = || {
        let (ms, hex) = text.split_once('-')?;
        // The parser of numbers would accept signs, too.
        if !text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') || !hex.len().is_multiple_of(2) {
            return None;
        }
        let pairs = hex.as_bytes().chunks(2);
        let id = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let place = format!("{ms}:{}", String::from_utf8(id.collect::<Option<Vec<u8>>>()?).ok()?);
        read_place(&place).filter(|(at, id)| self::place(*at, id) == place).map(|_| place)
    };
    place().ok_or_else(|| {
        let message = "the cursor is not one of this list; give back the `next` of the page before";
        StoreError::new(StoreErrorKind::Rejected, message)
    })
}

/// The most bytes of a record. The server takes 20 MiB in one document, which leaves room for the other fields.
const LARGEST: usize = 16 << 20;

/// The fields of a job's document besides its record.
#[derive(Debug, Serialize)]
struct Extras<'a> {
    place: &'a str,
    summary: &'a JobSummary,
    /// The fingerprints of its failed attempts, each once, for the index.
    errors: &'a [Fingerprint],
    /// Its group, for the indexes, and its place there.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_group: Option<&'a GroupName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_order: Option<i64>,
}

/// The fields that are written with the first version of a document and never again.
const WRITTEN_ONCE: [&str; 11] = [
    "schema",
    "id",
    "name",
    "arguments",
    "data",
    "submitted_at",
    "options",
    "queued_as",
    "queue_is_late",
    "job_group",
    "group_order",
];
/// How many paths one request may change.
pub(super) const MOST_PATHS: usize = 16;
/// The fields that a record may lack.
const OPTIONAL: [&str; 7] =
    ["outcome", "result", "error", "finished_at", "due_at", "cancel_requested", "retried_after"];
/// A job's whole document: the fields of its record, its place in lists and its line there.
pub(super) fn job_document(record: &JobRecord, key_prefix: &str) -> Map<String, Value> {
    let place = format!("{key_prefix}{}", place(record.submitted_at, &record.id));
    let Value::Object(mut document) = to_value(&*fitting(record)) else { unreachable!("a record is an object") };
    let (summary, errors) = (record.summary(), record.errors());
    let extras = Extras {
        place: &place,
        summary: &summary,
        errors: errors.as_slice(),
        job_group: record.options.group.as_ref(),
        group_order: record.group_order(),
    };
    let Value::Object(extras) = to_value(&extras) else { unreachable!("a struct is an object") };
    document.extend(extras);
    document
}

/// The changes of a job's document from one version to the next, by path. A field that is gone
/// becomes `null`, which reads the same.
pub(super) fn job_changes(document: Map<String, Value>) -> Vec<(String, Value)> {
    let gone: Vec<_> = OPTIONAL.iter().filter(|name| !document.contains_key(**name)).collect();
    let gone = gone.into_iter().map(|name| ((*name).to_owned(), Value::Null));
    let kept = |name: &str| name != "place" && !WRITTEN_ONCE.contains(&name);
    document.into_iter().filter(|(name, _)| kept(name)).chain(gone).collect()
}

fn to_value<T: Serialize>(document: &T) -> Value {
    serde_json::to_value(document).expect("a document has only text keys and finite numbers")
}

/// The record, without the output of its oldest attempts when it would be too large for the server.
fn fitting(record: &JobRecord) -> std::borrow::Cow<'_, JobRecord> {
    let mut record = std::borrow::Cow::Borrowed(record);
    let mut excess = rough_size(&record).saturating_sub(LARGEST);
    let mut oldest = 0;
    while excess > 0 && oldest < record.attempts.len() {
        if let Some(report) = record.to_mut().attempts[oldest].report.as_mut() {
            for tail in [&mut report.stdout, &mut report.stderr] {
                excess = excess.saturating_sub(tail.text.len());
                tail.truncated |= !tail.text.is_empty();
                tail.text.clear();
                tail.base64 = None;
            }
        }
        oldest += 1;
    }
    record
}

/// The size of the record's JSON if it may be near the limit, else 0.
fn rough_size(record: &JobRecord) -> usize {
    let output: usize = record
        .attempts
        .iter()
        .filter_map(|a| a.report.as_ref())
        .flat_map(|r| [&r.stdout, &r.stderr])
        .map(|tail| tail.text.len() + tail.base64.as_ref().map_or(0, String::len))
        .sum();
    // Escaping may make six bytes of one.
    if output > LARGEST / 8 { codec::encode(record).len() } else { 0 }
}

/// The fields of an error's document besides its record.
#[derive(Debug, Serialize)]
struct ErrorDocument<'a> {
    #[serde(flatten)]
    record: &'a ErrorRecord,
    /// The name of the vectors among which its own is looked for. `None` while it has no vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    space: Option<String>,
}

/// Names the vectors that can be compared: those of one history by one model.
pub(super) fn space(key_prefix: &str, model: &str) -> String {
    format!("{key_prefix}{model}")
}

/// The whole document of an error.
pub(super) fn error_document(record: &ErrorRecord, key_prefix: &str) -> Vec<u8> {
    let space = record.knowledge.as_ref().map(|known| space(key_prefix, &known.model));
    codec::encode(&ErrorDocument { record, space })
}

/// Reads a document of Jobber's own bookkeeping.
pub(super) fn read<T: for<'de> Deserialize<'de>>(what: &str, body: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body).map_err(|e| {
        StoreError::new(
            StoreErrorKind::Corrupt,
            format!("{what} in Couchbase can't be read; `jobber rebuild` makes it anew"),
        )
        .caused_by(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttemptNumber, AttemptReport, Job, JobOptions, Outcome, Tail, WorkerId};
    use crate::store::{AttemptRecord, FirstEnd, RetriedAfter};

    fn record() -> JobRecord {
        JobRecord::new(&Job {
            id: JobId::parse("j").unwrap(),
            name: JobName::parse("n").unwrap(),
            options: JobOptions::default(),
            submitted_at: Timestamp::from_millis(17),
            trace: None,
        })
    }

    fn with_output(attempts: usize, bytes: usize) -> JobRecord {
        let mut record = record();
        for n in 1..=attempts {
            let at = record.submitted_at;
            let mut report = AttemptReport::bare(Outcome::Timeout, at, at, "slow");
            report.stdout = Tail::of("x".repeat(bytes).as_bytes(), bytes as u64);
            record.attempts.push(AttemptRecord {
                number: AttemptNumber(u32::try_from(n).unwrap()),
                worker: WorkerId::parse("w").unwrap(),
                host: "h".to_owned(),
                started_at: at,
                report: Some(report),
                fingerprint: None,
                build: None,
            });
        }
        record
    }

    #[test]
    fn places_sort_by_time_and_then_by_id() {
        let place = |ms, id: &str| place(Timestamp::from_millis(ms), &JobId::parse(id).unwrap());
        let sorted = [place(0, "z"), place(9, "b"), place(10, "a"), place(10, "b"), place(4_000_000_000_000, "a")];
        assert!(sorted.is_sorted() && sorted.iter().all(|p| p.as_str() < LAST_PLACE));
        assert!(place(10, "!") > place_from(Timestamp::from_millis(10)));
        assert_eq!(from_cursor(&to_cursor(&sorted[3])).unwrap(), sorted[3]);
        assert_eq!(read_place(&sorted[1]), Some((Timestamp::from_millis(9), JobId::parse("b").unwrap())));
    }

    #[test]
    fn a_document_is_read_as_the_record_that_was_written() {
        let record = record();
        let body = serde_json::to_vec(&job_document(&record, "p:")).unwrap();
        assert_eq!(codec::job(&body).unwrap(), record);
    }

    /// A change never touches a field that is written once, leaves nothing of the version before,
    /// and fits one request.
    #[test]
    fn changes_make_the_document_of_the_new_version() {
        let mut full = with_output(2, 10);
        full.outcome = Some(Outcome::Timeout);
        full.result = Some(Value::from(1));
        full.error = Some("slow".to_owned());
        full.finished_at = Some(full.submitted_at);
        full.due_at = Some(full.submitted_at);
        full.cancel_requested = Some("why".to_owned());
        full.retried_after =
            Some(RetriedAfter::Known { attempts: 1, first: FirstEnd { attempts: 1, outcome: Some(Outcome::Timeout) } });
        for (before, after) in [(record(), full.clone()), (full, record())] {
            let mut document = job_document(&before, "");
            let changes = job_changes(job_document(&after, ""));
            assert!(changes.len() <= MOST_PATHS, "{}", changes.len());
            for (path, value) in changes {
                assert!(!WRITTEN_ONCE.contains(&path.as_str()), "{path}");
                document.insert(path, value);
            }
            assert_eq!(codec::job(&serde_json::to_vec(&document).unwrap()).unwrap(), after);
        }
    }

    #[test]
    fn a_record_too_large_for_a_document_loses_its_oldest_output() {
        let record = with_output(5, 6 << 20);
        let document = serde_json::to_vec(&job_document(&record, "")).unwrap();
        assert!(document.len() < LARGEST + 1000, "{}", document.len());
        let read = codec::job(&document).unwrap();
        let lengths: Vec<_> = read.attempts.iter().map(|a| a.report.as_ref().unwrap().stdout.text.len()).collect();
        assert_eq!(lengths, [0, 0, 0, 6 << 20, 6 << 20]);
        assert!(read.attempts[0].report.as_ref().unwrap().stdout.truncated);
        assert_eq!(read.identity(), record.identity());
    }
}
