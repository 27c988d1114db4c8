//! Names and identifiers, each checked where it is made: a value of these types is always well formed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::{Timestamp, deserialize_text};

/// Why a text is not a job name or a job id. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    pub(super) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        let mut text: String = text.chars().take(80).collect();
        text.shrink_to_fit();
        Self { what, text, rule }
    }
}

fn is_plain_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::parse(&text)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserialize_text(deserializer, Self::parse)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

/// Identifies a job for ever. Made by Jobber (a UUID, version 7), chosen by the caller, or given by a BullMQ producer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 256, pattern = r##"^[!$&-.0->@-\[\]-~]+$"##, example = "01a20ba2-8b54-7171-9566-b15d432fef8b")]
pub struct JobId(String);
text_type!(JobId);

impl JobId {
    /// The most characters of an id.
    const LONGEST: usize = 256;
    /// What [`JobId::come_again`] keeps of an id that has no room for a time behind it.
    const KEPT: usize = 200;

    /// A new id that sorts by the time it was made.
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// Any id that a queue may hold: 1 to 256 visible ASCII characters without `/`, `?`, `#`, `%`, so that it can
    /// stand in a URL. Wider than [`JobId::custom`], because BullMQ counts its own jobs and writes `repeat:...` ids.
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let ok = (1..=Self::LONGEST).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"/?#%\\\"".contains(&b));
        if ok && text != "." && text != ".." {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("job id", text, "1 to 256 visible ASCII characters, none of / ? # % \\ \""))
        }
    }

    /// An id that a caller chose: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}` and not a whole number, because BullMQ
    /// keeps numbers for itself and uses `:` in its keys.
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn custom(text: &str) -> Result<Self, InvalidName> {
        if is_plain_word(text) && !text.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "job id",
                text,
                "letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128, and not only digits",
            ))
        }
    }

    /// Whether BullMQ has counted it: such an id comes again for a job that has nothing to do with the first, when the
    /// queue was obliterated.
    pub fn is_counted(&self) -> bool {
        self.0.bytes().all(|b| b.is_ascii_digit())
    }

    /// Whether [`JobId::generate`] made it.
    pub fn is_generated(&self) -> bool {
        uuid::Uuid::parse_str(&self.0).is_ok_and(|id| id.get_version_num() == 7)
    }

    /// A text behind all ids that begin with `prefix`, and before all others that are behind these.
    pub fn beyond_prefix(prefix: &str) -> String {
        // Ids are ASCII without control characters, and this is the last of these.
        format!("{prefix}\u{7f}")
    }

    /// Whether a schedule has made the job: such ids are `repeat:...`, and no caller can choose one.
    pub fn is_scheduled(&self) -> bool {
        self.0.starts_with("repeat:")
    }

    /// The id under which history keeps a job when its own stands for an earlier job there, and at which exactly this
    /// job is found while the queue has it. An id comes again when BullMQ counts anew, or when the caller that chose it chooses
    /// it again after the queue has let go of the first.
    ///
    /// An id that leaves no room for the time is shortened, and can't be had back from what is made of it: then the
    /// record itself says which it was ([`JobRecord::own_id`](crate::store::JobRecord::own_id)).
    pub fn come_again(&self, submitted_at: Timestamp) -> Self {
        let ms = submitted_at.as_millis();
        let whole = format!("{}~{ms}", self.0);
        if whole.len() <= Self::LONGEST {
            return Self(whole);
        }
        // Ids are ASCII. The digest (FNV-1a) tells apart what has a beginning in common.
        let digest = self
            .0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(format!("{}.{digest:016x}~{ms}", &self.0[..Self::KEPT]))
    }

    /// The job's own id and its time of submission, if this id is made of both (see [`JobId::come_again`]) and was not
    /// shortened.
    pub fn split_come_again(&self) -> Option<(Self, Timestamp)> {
        let (id, submitted_at) = self.parts()?;
        (!Self::is_digested(id)).then_some((Self::parse(id).ok()?, submitted_at))
    }

    /// Whether this id looks as one that [`JobId::come_again`] has shortened: its job's own id stands in its record.
    pub fn is_shortened(&self) -> bool {
        self.parts().is_some_and(|(id, _)| Self::is_digested(id))
    }

    fn parts(&self) -> Option<(&str, Timestamp)> {
        let (id, ms) = self.0.rsplit_once('~')?;
        Some((id, Timestamp::from_millis(ms.parse().ok()?)))
    }

    fn is_digested(id: &str) -> bool {
        let digest = id.get(Self::KEPT..).and_then(|rest| rest.strip_prefix('.'));
        digest.is_some_and(|hex| hex.len() == 16 && hex.bytes().all(|b| b"0123456789abcdef".contains(&b)))
    }
}

/// Names the binary that a job runs: `<jobs_dir>/<name>`. Matches `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, so that it can
/// never be a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", example = "hello")]
pub struct JobName(String);
text_type!(JobName);

impl JobName {
    /// The only way to a job name.
    ///
    /// # Errors
    /// [`InvalidName`] when the text does not match the pattern above.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if is_plain_word(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "job name",
                text,
                "letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128",
            ))
        }
    }
}

/// Names a queue: one of BullMQ's on Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 128, pattern = r##"^[ -\-/-9;-~][ -9;-~]*$"##, example = "encode")]
pub struct QueueName(String);
text_type!(QueueName);

impl QueueName {
    /// What is allowed, for people.
    pub const RULE: &'static str = "1 to 128 printable ASCII characters, none of them ':', and the first no '.'";

    /// A name that BullMQ's keys can hold (a colon parts them) and the path of a URL (which takes a dot for a place).
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let is_printable = |b: u8| matches!(b, b' '..=b'~') && b != b':';
        let ok = (1..=128).contains(&text.len()) && text.bytes().all(is_printable) && !text.starts_with('.');
        if ok { Ok(Self(text.to_owned())) } else { Err(InvalidName::new("queue name", text, Self::RULE)) }
    }
}

/// Names a group of jobs: an array's, a user's, a team's. Its jobs are looked at, waited for and limited together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 128, pattern = r##"^[!$&-.0->@-\[\]-~]+$"##, example = "alice")]
pub struct GroupName(String);
text_type!(GroupName);

impl GroupName {
    /// 1 to 128 visible ASCII characters, none of `/ ? # % \ "`.
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match JobId::parse(text) {
            Ok(JobId(text)) if text.len() <= 128 => Ok(Self(text)),
            _ => Err(InvalidName::new("group", text, "1 to 128 visible ASCII characters, none of / ? # % \\ \"")),
        }
    }
}

/// Identifies a schedule. The caller that makes it chooses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 200, pattern = r##"^[!$&-.0->@-\[\]-~]+$"##, example = "nightly")]
pub struct ScheduleId(String);
text_type!(ScheduleId);

impl ScheduleId {
    /// Any id that a queue may hold: as [`JobId::parse`], but at most 200 characters, so that the ids of its jobs are
    /// short enough. Wider than [`ScheduleId::custom`], for schedules of other producers.
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match JobId::parse(text) {
            Ok(JobId(text)) if text.len() <= 200 => Ok(Self(text)),
            _ => Err(InvalidName::new("schedule id", text, "1 to 200 visible ASCII characters, none of / ? # % \\ \"")),
        }
    }

    /// An id that a caller chose for a schedule: with the characters of a job name.
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn custom(text: &str) -> Result<Self, InvalidName> {
        if is_plain_word(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "schedule id",
                text,
                "letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128",
            ))
        }
    }

    /// The id of this schedule's job that is due at `due`. As BullMQ builds it.
    pub fn job_id(&self, due: super::Timestamp) -> JobId {
        JobId(format!("repeat:{}:{}", self.0, due.as_millis()))
    }
}

/// Identifies one run of a worker process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 128, pattern = "^[!-.0-~]+$", example = "host-4242-9f86d081")]
pub struct WorkerId(String);
text_type!(WorkerId);

impl WorkerId {
    /// A new id for this process, readable by people and different at every start: `<host>-<pid>-<8 hex digits>`.
    pub fn generate(host: &str) -> Self {
        let host: String =
            host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(64).collect();
        let random = uuid::Uuid::new_v4().simple().to_string();
        Self(format!("{host}-{}-{}", std::process::id(), &random[..8]))
    }

    /// Whether it is of the form that [`WorkerId::generate`] gives: other programs name their workers as they like.
    pub fn is_generated(&self) -> bool {
        let mut parts = self.0.rsplitn(3, '-');
        let is_random = |part: &str| part.len() == 8 && part.bytes().all(|b| b"0123456789abcdef".contains(&b));
        parts.next().is_some_and(is_random)
            && parts.next().is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
            && parts.next().is_some()
    }

    /// Stands for a worker of which nothing is known.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }

    /// Reads an id that [`WorkerId::generate`] made.
    ///
    /// # Errors
    /// [`InvalidName`] unless it is 1 to 128 visible ASCII characters without `/`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("worker id", text, "1 to 128 visible ASCII characters without '/'"))
        }
    }
}

/// The number of an attempt, counting from 1 without holes. Attempts are numbered by starts and budgeted by finishes, so
/// a run that was lost with its worker keeps its place in history; one that was given back before its process was spawned
/// leaves its number to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct AttemptNumber(pub u32);

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_is_never_a_path() {
        for bad in ["", ".", "..", "../../bin/sh", "a/b", ".hidden", "-x", "a\0b", "a b", "é", &"x".repeat(129)] {
            assert!(JobName::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "dummy-job", "7zip", "a.b_c-d", &"x".repeat(128)] {
            assert!(JobName::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn chosen_ids_leave_numbers_and_colons_to_bullmq() {
        assert!(JobId::custom("42").is_err());
        assert!(JobId::custom("a:b").is_err());
        assert!(JobId::custom("order-42").is_ok());
        assert!(JobId::parse("42").is_ok());
        assert!(JobId::parse("repeat:abc:170").is_ok());
        assert!(JobId::parse("../x").is_err());
    }

    #[test]
    fn a_worker_of_ours_is_known_by_its_name() {
        assert!(WorkerId::generate("my host").is_generated());
        for other in ["node", "w", "a-1", "a-1-xyz", "host-1-0123456g", "1-01234567"] {
            assert!(!WorkerId::parse(other).unwrap().is_generated(), "{other}");
        }
    }

    #[test]
    fn an_id_that_comes_again_is_one_that_can_be_read_back() {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let id = JobId::parse("jobA").unwrap();
        assert_eq!(id.come_again(at).as_str(), "jobA~1700000000000");
        assert_eq!(id.come_again(at).split_come_again(), Some((id, at)));
        assert_eq!(JobId::parse("a~b").unwrap().split_come_again(), None);
        let [a, b] = ["a", "b"].map(|end| JobId::parse(&format!("{}{end}", "x".repeat(255))).unwrap());
        assert_ne!(a.come_again(at), b.come_again(at));
        assert!(JobId::parse(a.come_again(at).as_str()).is_ok());
    }

    proptest::proptest! {
        /// Each is a valid id, is had back wherever that is possible, and else shows that it is not.
        #[test]
        fn an_id_of_any_length_comes_again_as_one_that_can_be_taken_apart_or_shows_that_it_cannot(
            text in "[!$&-.0-9:-<>A-Z^-z{-~]{1,256}", ms in -9_000_000_000_000_i64..9_000_000_000_000_000,
        ) {
            let (Ok(id), at) = (JobId::parse(&text), Timestamp::from_millis(ms)) else { return Ok(()) };
            let made = id.come_again(at);
            proptest::prop_assert!(JobId::parse(made.as_str()).is_ok());
            let has_room = text.len() + 1 + at.as_millis().to_string().len() <= 256;
            proptest::prop_assert_eq!(made.split_come_again(), has_room.then_some((id, at)));
            proptest::prop_assert_eq!(made.is_shortened(), !has_room);
        }
    }

    #[test]
    fn generated_ids_are_valid_and_sorted_by_time() {
        let (a, b) = (JobId::generate(), JobId::generate());
        assert!(JobId::custom(a.as_str()).is_ok());
        assert!(a <= b);
    }
}
