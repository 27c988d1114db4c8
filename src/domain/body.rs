//! What a job is given: its arguments and its data, as one JSON text that is checked at the door and then only carried.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A JSON text, passed on byte for byte as it came. Clones share it.
#[derive(Clone, ToSchema)]
#[schema(value_type = serde_json::Value)]
pub struct RawJson(Arc<RawValue>);

impl RawJson {
    /// Writes a value as JSON.
    ///
    /// # Errors
    /// When the value has no form in JSON: a map with keys that are no text, for instance.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self::from)
    }

    /// Takes a text that is JSON, without the white space around it.
    ///
    /// # Errors
    /// When the text does not follow JSON's grammar. What the grammar allows and no tree holds (numbers out of range, halves
    /// of surrogate pairs, any depth) is taken.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<&RawValue>(text).map(|raw| Self::from(raw.to_owned()))
    }

    /// Takes a text that a reader of the usual kind can take, too: without numbers out of range, halves of surrogate pairs,
    /// and more than 127 levels. The white space between its parts goes: a job may read its data as one line.
    ///
    /// # Errors
    /// Where in the text the fault is.
    pub fn parse_readable(text: &str) -> Result<Self, serde_json::Error> {
        check_readable(text.as_bytes())?;
        Self::parse(text).map(Self::compact)
    }

    /// The same JSON without white space between its parts.
    fn compact(self) -> Self {
        let text = self.get();
        let (mut kept, mut is_text, mut is_escaped) = (String::new(), false, false);
        let mut from = 0;
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = is_text,
                b'"' => is_text = !is_text,
                b' ' | b'\t' | b'\n' | b'\r' if !is_text => {
                    kept.push_str(&text[from..at]);
                    from = at + 1;
                }
                _ => {}
            }
        }
        if from == 0 {
            return self;
        }
        kept.push_str(&text[from..]);
        RawValue::from_string(kept).expect("white space between parts means nothing").into()
    }

    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl From<Box<RawValue>> for RawJson {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw.into())
    }
}

impl From<&serde_json::Value> for RawJson {
    fn from(value: &serde_json::Value) -> Self {
        Self::of(value).expect("a tree of JSON has text keys and finite numbers")
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl fmt::Display for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

/// Checks a text that comes from outside as [`RawJson::parse_readable`] does.
///
/// # Errors
/// Where in the text the fault is.
pub fn check_readable(json: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<Readable>(json).map(drop)
}

/// Reads a part of a text that was checked ([`check_readable`]), without the white space between its parts; `null` is none.
/// For serde's `deserialize_with`.
///
/// # Errors
/// When it is no JSON.
pub fn compact<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RawJson>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(raw.map(|raw| RawJson::from(raw).compact()))
}

/// JSON that a tree could hold; none is made.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Readable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Readable, E> {
                Ok(Readable)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Readable, E> {
                Ok(Readable)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Readable, E> {
                Ok(Readable)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Readable, E> {
                Ok(Readable)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Readable, E> {
                Ok(Readable)
            }

            fn visit_str<E>(self, _: &str) -> Result<Readable, E> {
                Ok(Readable)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Readable, A::Error> {
                while items.next_element::<Readable>()?.is_some() {}
                Ok(Readable)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Readable, A::Error> {
                while members.next_entry::<Readable, Readable>()?.is_some() {}
                Ok(Readable)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A job's arguments and data: the JSON object `{"arguments": [..], "data": ..}`, each member only where there is something.
/// Written once when the job is accepted; never changed and never made a tree of. Clones share it.
#[derive(Clone, PartialEq)]
pub struct JobBody(RawJson);

/// The members of a [`JobBody`].
#[derive(Serialize, Deserialize)]
struct Members<'b> {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    arguments: Vec<String>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    data: Option<&'b RawValue>,
}

impl JobBody {
    /// The body of these arguments and this data. It is one line.
    pub fn new(arguments: Vec<String>, data: Option<&RawJson>) -> Self {
        let one_line = data.filter(|data| data.get().contains(['\n', '\r'])).map(|data| data.clone().compact());
        let members = Members { arguments, data: one_line.as_ref().or(data).map(|data| &*data.0) };
        let size = members.data.map_or(0, |data| data.get().len()) + 64;
        let mut text = Vec::with_capacity(size + members.arguments.iter().map(|one| one.len() + 8).sum::<usize>());
        serde_json::to_writer(&mut text, &members).expect("texts and raw JSON can be written");
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        Self(RawValue::from_string(text).expect("what was written is JSON").into())
    }

    /// Takes the bytes of a body that was stored.
    ///
    /// # Errors
    /// When they are no body.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_slice(bytes)?;
        Self::try_from(RawJson::from(raw.to_owned()))
    }

    /// The body of a job as version 0.1.0 kept it: among the job's own members.
    ///
    /// # Errors
    /// When the bytes are no such job.
    pub fn within_job(json: &[u8]) -> Result<Self, serde_json::Error> {
        let Members { arguments, data } = serde_json::from_slice(json)?;
        let data = data.map(|data| RawJson::from(data.to_owned()));
        Ok(Self::new(arguments, data.as_ref()))
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    fn members(&self) -> Members<'_> {
        serde_json::from_str(self.as_str()).expect("the members were read when the body was made")
    }

    /// The binary's arguments.
    pub fn arguments(&self) -> Vec<String> {
        self.members().arguments
    }

    /// The JSON text for the binary's standard input; `None` for an empty input.
    pub fn data(&self) -> Option<&str> {
        self.members().data.map(RawValue::get)
    }

    /// Where in [`JobBody::as_str`] the data stands, so that it can be written out without a copy.
    pub fn data_range(&self) -> Option<Range<usize>> {
        let data = self.data()?;
        let start = data.as_ptr().addr() - self.as_str().as_ptr().addr();
        Some(start..start + data.len())
    }

    /// Copies of the arguments and of the data, by one look at the text.
    pub fn parts(&self) -> (Vec<String>, Option<RawJson>) {
        let Members { arguments, data } = self.members();
        (arguments, data.map(|data| data.to_owned().into()))
    }
}

impl TryFrom<RawJson> for JobBody {
    type Error = serde_json::Error;

    fn try_from(raw: RawJson) -> Result<Self, serde_json::Error> {
        // A list would do for a struct.
        if !raw.get().starts_with('{') {
            return Err(serde_json::Error::custom("a job's body is an object"));
        }
        serde_json::from_str::<Members<'_>>(raw.get())?;
        Ok(Self(raw))
    }
}

impl fmt::Debug for JobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for JobBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JobBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(RawJson::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_gives_back_what_it_was_made_of_byte_for_byte() {
        let data = r#"{"b":1,  "a":[1.10,12345678901234567890123]}"#;
        let arguments = vec!["x".to_owned(), "\u{0}\"é".to_owned()];
        let body = JobBody::new(arguments.clone(), Some(&RawJson::parse(data).unwrap()));
        let again = JobBody::from_bytes(body.as_str().as_bytes()).unwrap();
        assert_eq!(again, body);
        assert_eq!((again.arguments(), again.data()), (arguments, Some(data)));
        assert_eq!(&again.as_str()[again.data_range().unwrap()], data);
        assert_eq!(JobBody::new(vec![], None).as_str(), "{}");
        for wrong in [&b"[]"[..], b"{\"arguments\":7}", b"{", b"\xff"] {
            assert!(JobBody::from_bytes(wrong).is_err());
        }
    }

    #[test]
    fn what_no_tree_holds_is_refused_at_the_door_and_carried_behind_it() {
        #[derive(Deserialize)]
        struct Door {
            #[serde(default, deserialize_with = "compact")]
            data: Option<RawJson>,
        }
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for text in ["1e999", r#""\ud83c""#, r#"{"\udc00":1}"#, &deep] {
            assert!(check_readable(format!("{{\"data\":{text}}}").as_bytes()).is_err(), "{text}");
            assert!(RawJson::parse_readable(text).is_err(), "{text}");
            assert_eq!(RawJson::parse(text).unwrap().get(), text);
        }
        for (text, data) in [
            ("{\"data\": {\"n \\\"\" : [1.50,\n 2]} }", Some(r#"{"n \"":[1.50,2]}"#)),
            (r#"{"data":null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(serde_json::from_str::<Door>(text).unwrap().data.as_ref().map(RawJson::get), data);
        }
    }
}
