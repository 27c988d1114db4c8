//! The keys of files.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::domain::{AttemptNumber, ContentDigest, JobId, Timestamp};

/// The first part of the keys of what attempts left.
pub const KEPT_FILES: &str = "jobs";
/// The longest part of a key as it is written: file systems allow 255 bytes.
const LONGEST: usize = 200;

/// The job to which a key belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobFolder {
    /// When it was submitted: its id may come again.
    pub submitted_at: Timestamp,
    /// The queue's id of the job; `None` where it was too long to be written out.
    pub id: Option<JobId>,
    /// The part of the key.
    pub name: String,
}

/// The key of a file that an attempt of a job left. `id` is that under which the queue knows the job.
pub fn file_key(id: &JobId, submitted_at: Timestamp, attempt: AttemptNumber, name: &str) -> String {
    let mut key = format!("{KEPT_FILES}/{}~{}/{attempt}", submitted_at.as_millis(), part(id.as_str()));
    for word in name.split('/') {
        key.push('/');
        key.push_str(&part(word));
    }
    key
}

/// The job to which a key of this form belongs.
pub fn job_of_key(key: &str) -> Option<JobFolder> {
    let mut parts = key.split('/');
    let name = parts.next().filter(|first| *first == KEPT_FILES).and(parts.next())?;
    let (ms, id) = name.split_once('~')?;
    let id = written(id).and_then(|id| JobId::parse(&id).ok());
    Some(JobFolder { submitted_at: Timestamp::from_millis(ms.parse().ok()?), id, name: name.to_owned() })
}

/// A text as a part of a key: `=` and two hexadecimal digits stand for a byte that may not stand there. Of a long text only
/// the digest, behind `==`.
fn part(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for (i, byte) in text.bytes().enumerate() {
        // A part that begins with a dot could be `.` or `..`.
        if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || (byte == b'.' && i > 0) {
            part.push(char::from(byte));
        } else {
            let _ = write!(part, "={byte:02X}");
        }
    }
    if part.len() <= LONGEST {
        return part;
    }
    format!("=={}", ContentDigest::of(&Sha256::digest(text).into()))
}

/// The text of which [`part`] has made this; `None` where it kept the digest alone.
fn written(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'=' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_job() {
        let at = Timestamp::from_millis(1_795_559_400_000);
        for id in ["1", "0192-a", "repeat:x:1795559400000", "a~b@c", ".x"] {
            let id = JobId::parse(id).unwrap();
            let key = file_key(&id, at, AttemptNumber(2), "plots/a b.png");
            let folder = job_of_key(&key).unwrap();
            assert_eq!((folder.submitted_at, folder.id), (at, Some(id)), "{key}");
            assert!(key.ends_with("/2/plots/a=20b.png"), "{key}");
        }
        let long = JobId::parse(&"@".repeat(256)).unwrap();
        let key = file_key(&long, at, AttemptNumber(1), &"ä".repeat(200));
        assert!(key.split('/').all(|part| part.len() <= 255), "{key}");
        let folder = job_of_key(&key).unwrap();
        assert_eq!((folder.submitted_at, folder.id), (at, None));
        assert_eq!(job_of_key("inputs/abc"), None);
        assert_eq!(job_of_key("jobs/other/1/a"), None);
    }

    #[test]
    fn no_part_is_a_step_up() {
        let at = Timestamp::from_millis(1);
        let key = file_key(&JobId::parse("...").unwrap(), at, AttemptNumber(1), "..a");
        assert_eq!(key, "jobs/1~=2E../1/=2E.a");
    }
}
