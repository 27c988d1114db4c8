//! Errors that have been seen before, told apart by what they say.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::deserialize_text;

/// The SHA-256 of an error text in which numbers, paths and the like are masked: the same for the same kind of error.
/// Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Stands for all errors that were too many to be counted each: the SHA-256 of [`Fingerprint::OTHER_TEXT`].
    pub const OTHER: Fingerprint = Fingerprint([
        0xb5, 0x6a, 0xf4, 0xd4, 0x15, 0x5b, 0xf6, 0x43, 0x6e, 0x72, 0x4b, 0xbe, 0x0b, 0xba, 0x7f, 0x7c, 0xad, 0xcd,
        0xcc, 0x87, 0x16, 0x16, 0x5a, 0xb2, 0x11, 0x01, 0x85, 0x33, 0x8e, 0xcb, 0x7a, 0xce,
    ]);
    /// What an error with the fingerprint [`Fingerprint::OTHER`] is said to have said.
    pub const OTHER_TEXT: &str = "too many different errors";

    /// Takes a digest for a fingerprint.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As much as tells errors apart, for people: 12 digits.
    pub fn short(&self) -> String {
        self.0[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |digit: u8| char::from(digit).to_digit(16);
        // Statistics of many errors read little else: nothing is done for a digit but looking it up.
        let mut bytes = [0; 32];
        let mut are_digits = pairs.len() == bytes.len() && rest.is_empty();
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => *byte = (high << 4 | low) as u8,
                _ => are_digits = false,
            }
        }
        match are_digits {
            true => Ok(Self(bytes)),
            false => Err(format!("{text:?} is not a fingerprint of 64 hexadecimal digits")),
        }
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, str::parse)
    }
}

/// An error whose meaning has been worked out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownError {
    /// The fingerprint of the error.
    pub fingerprint: Fingerprint,
    /// The id of the category that it was put into; `None` when none was near enough.
    pub category: Option<String>,
    /// Its text as a vector of length 1.
    pub vector: Vec<f32>,
    /// The model that made the vector. Vectors of different models can't be compared.
    pub model: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_of_all_others_is_that_of_its_text() {
        use sha2::Digest;
        let digest: [u8; 32] = sha2::Sha256::digest(Fingerprint::OTHER_TEXT).into();
        assert_eq!(Fingerprint::OTHER, Fingerprint::from_bytes(digest));
    }

    #[test]
    fn a_fingerprint_reads_back_from_its_digits() {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (0x0a, 0xff);
        let fingerprint = Fingerprint::from_bytes(bytes);
        let text = fingerprint.to_string();
        assert_eq!((text.len(), &text[..2], &text[62..]), (64, "0a", "ff"));
        assert_eq!(fingerprint.short(), text[..12]);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(serde_json::from_str::<Fingerprint>(&format!("{text:?}")).unwrap(), fingerprint);
        for bad in ["", "0a", &"+1".repeat(32), &"é".repeat(32), &"0".repeat(65)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad:?}");
        }
    }
}
