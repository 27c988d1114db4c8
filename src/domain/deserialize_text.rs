//! Reads values that are written as text, without a copy of the text.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

/// Deserialises a text by `parse`. A history of millions of events is read through here, several times for each.
///
/// # Errors
/// When there is no text, or `parse` refuses it.
pub fn deserialize_text<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text(parse))
}

struct Text<F>(F);

impl<'de, T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> Visitor<'de> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<X: Error>(self, text: &str) -> Result<T, X> {
        (self.0)(text).map_err(X::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::domain::{Fingerprint, JobId, JobName, Timestamp};

    #[test]
    fn a_text_is_read_wherever_it_stands_and_anything_else_refused() {
        let escaped: JobName = serde_json::from_str(r#""hel\u006co""#).unwrap();
        assert_eq!(escaped.as_str(), "hello");
        let of_value: JobId = serde_json::from_value(serde_json::json!("a:1")).unwrap();
        assert_eq!(of_value.as_str(), "a:1");
        let keys: BTreeMap<JobName, u32> = serde_json::from_slice(br#"{"b":2,"a":1}"#).unwrap();
        assert_eq!(keys.keys().map(JobName::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(serde_json::to_string(&keys).unwrap(), r#"{"a":1,"b":2}"#);
        let of_reader: Timestamp = serde_json::from_reader(&br#""2026-11-24T08:00:00.000Z""#[..]).unwrap();
        assert_eq!(of_reader.to_string(), "2026-11-24T08:00:00.000Z");
        let refused = |text: &str| serde_json::from_str::<JobName>(text).unwrap_err().to_string();
        assert!(refused("7").starts_with("invalid type: integer `7`, expected a string"), "{}", refused("7"));
        assert!(refused(r#""../x""#).contains("is not valid"), "{}", refused(r#""../x""#));
        assert!(serde_json::from_str::<Fingerprint>("null").is_err());
    }
}
