//! Which build of a binary a file is.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// A build of a job's binary, as it lies in a jobs directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    /// The size of the file.
    #[schema(example = 48_216)]
    pub bytes: u64,
    /// What tells this build from others.
    pub digest: BuildDigest,
}

/// The build that an attempt ran, and the file that it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileBuild {
    /// What tells this build from others.
    pub digest: BuildDigest,
    /// The size of the file.
    #[schema(example = 48_216)]
    pub bytes: u64,
    /// When the contents of the file last changed, by the clock of its file system.
    pub modified_at: Timestamp,
}

/// What tells a build from others: the build id that the linker wrote into the file, in hexadecimal, which outlives
/// stripping; of a file that has none `sha256:` and the first 16 bytes of the digest of what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "8f2a1c9d3b7e60415a2c8d9e0f1b2a3c4d5e6f70")]
pub struct BuildDigest(String);

impl BuildDigest {
    /// Of a file with this build id.
    pub fn of_build_id(id: &[u8]) -> Self {
        Self(hex(id))
    }

    /// Of a file whose contents have this digest.
    pub fn of_contents(sha256: &[u8; 32]) -> Self {
        Self(format!("sha256:{}", hex(&sha256[..16])))
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As much as tells the builds of one name apart, for people.
    pub fn short(&self) -> &str {
        let digits = self.0.rfind(':').map_or(0, |colon| colon + 1);
        self.0.get(..digits + 12).unwrap_or(&self.0)
    }
}

impl fmt::Display for BuildDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// These bytes in small hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_where_it_is_from() {
        let id = BuildDigest::of_build_id(&[0x8f, 0x2a, 1, 2, 3, 4, 5, 6]);
        assert_eq!((id.as_str(), id.short()), ("8f2a010203040506", "8f2a01020304"));
        let contents = BuildDigest::of_contents(&[0xab; 32]);
        assert_eq!(contents.as_str(), format!("sha256:{}", "ab".repeat(16)));
        assert_eq!(contents.short(), "sha256:abababababab");
        assert_eq!(BuildDigest::of_build_id(&[1]).short(), "01");
    }
}
