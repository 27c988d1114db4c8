//! The files of a job: those that an attempt leaves and that are kept with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::build::hex;
use super::deserialize_text;

/// The SHA-256 of some content, in 64 small hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$", example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
pub struct ContentDigest(String);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a SHA-256: 64 hexadecimal digits in small letters")]
pub struct InvalidDigest;

impl ContentDigest {
    /// From the bytes of the digest.
    pub fn of(sha256: &[u8; 32]) -> Self {
        Self(hex(sha256))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContentDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 64 && text.bytes().all(is_digit) { Ok(Self(text.to_owned())) } else { Err(InvalidDigest) }
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, |text| text.parse::<Self>())
    }
}

/// A file that an attempt left in `$JOBBER_OUTPUT_DIR` and that is kept with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptFile {
    /// Its path below that directory, with `/` between its parts.
    #[schema(example = "plots/set.png")]
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What tells its content from others.
    pub sha256: ContentDigest,
    /// What it seems to be, by its name and its first bytes.
    #[schema(example = "image/png")]
    pub content_type: String,
}

/// A content that a job finds under a name in `$JOBBER_INPUT_DIR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Its path below that directory, with `/` between its parts.
    #[schema(example = "scene.json")]
    pub name: String,
    /// What tells its content from others: it must have been uploaded.
    pub sha256: ContentDigest,
    /// Its size in bytes. The server knows it.
    #[serde(default)]
    pub size: u64,
}

/// The most inputs of a job.
pub const MOST_INPUTS: usize = 100;

/// What is wrong with these inputs of a job: which one, and why. `None` when nothing is.
pub(super) fn trouble_of_inputs(inputs: &[InputFile]) -> Option<(usize, &'static str)> {
    inputs.iter().enumerate().find_map(|(i, InputFile { name, .. })| {
        let stands_in_way = |other: &&InputFile| {
            let rest = other.name.strip_prefix(name.as_str()).or_else(|| name.strip_prefix(other.name.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !is_file_name(name) {
            Some((i, "must be a relative path without control characters"))
        } else if inputs[..i].iter().find(stands_in_way).is_some() {
            Some((i, "is the name of another input, or of a folder of one"))
        } else {
            None
        }
    })
}

/// The most bytes in the name of a file that is kept.
const LONGEST_NAME: usize = 512;

/// Whether a file of this name can be kept, and be written below a directory without leaving it: a relative path of parts
/// that are neither empty, `.` nor `..`, without control characters.
pub fn is_file_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && !name.chars().any(|c| c.is_control() || c == '\\')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_its_directory() {
        for name in ["a", "plots/set.png", "ä b/…", ".hidden", "..a"] {
            assert!(is_file_name(name), "{name}");
        }
        let long = "x".repeat(513);
        for name in ["", "/a", "a/", "a//b", "..", "a/../b", ".", "./a", "a\nb", "a\\b", "a\0", &long] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn inputs_do_not_stand_in_each_others_way() {
        let trouble = |names: &[&str]| {
            let sha256 = ContentDigest::of(&[1; 32]);
            let input = |name: &&str| InputFile { name: (*name).to_owned(), sha256: sha256.clone(), size: 0 };
            trouble_of_inputs(&names.iter().map(input).collect::<Vec<_>>()).map(|(i, _)| i)
        };
        assert_eq!(trouble(&["a", "b/a", "ab", "b/c"]), None);
        assert_eq!(trouble(&["a", "b", "a"]), Some(2));
        assert_eq!(trouble(&["a", "a/b"]), Some(1));
        assert_eq!(trouble(&["a/b", "a"]), Some(1));
        assert_eq!(trouble(&["a", "../b"]), Some(1));
    }

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = ContentDigest::of(&[0xab; 32]);
        assert_eq!(digest.as_str().parse(), Ok(digest.clone()));
        assert!("AB".repeat(32).parse::<ContentDigest>().is_err() && "ab".parse::<ContentDigest>().is_err());
        assert!(serde_json::from_str::<ContentDigest>("\"../../etc/passwd\"").is_err());
    }
}
