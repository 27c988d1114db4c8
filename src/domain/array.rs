//! Which jobs an array has, in the notation of Slurm: `0-9999%50`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The indices of an array's jobs, and how many of them run at once.
///
/// Parts with commas between them, each one index (`7`), a range (`0-99`) or a range with a step (`0-98:2`), then the
/// limit if there is one (`%50`). The indices come in the order in which they are written, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 4096, example = "0-999%50",
    pattern = r"^[0-9]{1,10}(-[0-9]{1,10}(:[0-9]{1,10})?)?(,[0-9]{1,10}(-[0-9]{1,10}(:[0-9]{1,10})?)?)*(%[1-9][0-9]{0,9})?$")]
pub struct ArraySpec(Notation);

/// What the text says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Notation {
    parts: Vec<Part>,
    at_once: Option<u32>,
}

/// `first-last:step`; `first` alone has itself as the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    first: u32,
    last: u32,
    step: u32,
}

impl Part {
    fn parse(text: &str) -> Result<Self, InvalidArray> {
        let (range, step) = text.split_once(':').map_or((text, None), |(range, step)| (range, Some(step)));
        let (first, last) = match (range.split_once('-'), step) {
            (None, Some(_)) => return Err(InvalidArray(format!("{text:?} has a step, and no range to step through"))),
            (None, None) => (number(range)?, number(range)?),
            (Some((first, last)), _) => (number(first)?, number(last)?),
        };
        let step = step.map_or(Ok(1), number)?;
        if step == 0 {
            return Err(InvalidArray(format!("the step of {text:?} must be at least 1")));
        }
        if first > last {
            return Err(InvalidArray(format!("the range {text:?} ends before it begins")));
        }
        Ok(Self { first, last, step })
    }

    fn len(self) -> usize {
        ((self.last - self.first) / self.step) as usize + 1
    }

    fn indices(self) -> impl Iterator<Item = u32> {
        (self.first..=self.last).step_by(self.step as usize)
    }
}

/// Why a text describes no array.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidArray(String);

impl ArraySpec {
    /// The most jobs of one array.
    pub const MOST: usize = 1_000_000;
    /// The longest text, in bytes.
    const LONGEST: usize = 4096;

    /// Reads the notation.
    ///
    /// # Errors
    /// [`InvalidArray`] says what is wrong: the notation, an index that is named twice, or too many of them.
    pub fn parse(text: &str) -> Result<Self, InvalidArray> {
        if text.len() > Self::LONGEST {
            return Err(InvalidArray(format!("an array is written in at most {} bytes", Self::LONGEST)));
        }
        let (indices, at_once) = text.split_once('%').map_or((text, None), |(indices, limit)| (indices, Some(limit)));
        let at_once = at_once.map(number).transpose()?;
        if at_once == Some(0) {
            return Err(InvalidArray("at least 1 must run at once: %1".to_owned()));
        }
        let parts = indices.split(',').map(Part::parse).collect::<Result<Vec<_>, _>>()?;
        let array = Self(Notation { parts, at_once });
        if array.len() > Self::MOST {
            return Err(InvalidArray(format!("an array has at most {} jobs, not {}", Self::MOST, array.len())));
        }
        match array.first_repeated() {
            Some(index) => Err(InvalidArray(format!("the index {index} is named twice"))),
            None => Ok(array),
        }
    }

    /// How many jobs it has, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "an array is never empty")]
    pub fn len(&self) -> usize {
        self.0.parts.iter().fold(0, |sum: usize, part| sum.saturating_add(part.len()))
    }

    /// The indices, in the order in which they are written.
    pub fn indices(&self) -> impl Iterator<Item = u32> + Send + use<> {
        self.0.parts.clone().into_iter().flat_map(Part::indices)
    }

    /// How many of its jobs run at once; `None` for as many as can.
    pub fn at_once(&self) -> Option<u32> {
        self.0.at_once
    }

    fn first_repeated(&self) -> Option<u32> {
        if self.0.parts.len() < 2 {
            return None;
        }
        let mut indices: Vec<u32> = self.indices().collect();
        indices.sort_unstable();
        indices.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

fn number(text: &str) -> Result<u32, InvalidArray> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| {
        InvalidArray(format!("{text:?} is no whole number up to {}; an array is written like 0-99, 1,3,7-9 or 0-98:2, with %50 behind it for at most 50 at once", u32::MAX))
    })
}

impl fmt::Display for ArraySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Part { first, last, step }) in self.0.parts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match (first == last, step) {
                (true, 1) => write!(f, "{comma}{first}")?,
                (false, 1) => write!(f, "{comma}{first}-{last}")?,
                (_, step) => write!(f, "{comma}{first}-{last}:{step}")?,
            }
        }
        self.0.at_once.map_or(Ok(()), |limit| write!(f, "%{limit}"))
    }
}

impl FromStr for ArraySpec {
    type Err = InvalidArray;

    fn from_str(text: &str) -> Result<Self, InvalidArray> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ArraySpec {
    type Error = InvalidArray;

    fn try_from(text: String) -> Result<Self, InvalidArray> {
        Self::parse(&text)
    }
}

impl From<ArraySpec> for String {
    fn from(array: ArraySpec) -> String {
        array.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn indices(text: &str) -> Vec<u32> {
        ArraySpec::parse(text).unwrap().indices().collect()
    }

    #[test]
    fn arrays_are_written_as_for_slurm() {
        assert_eq!(indices("0-3"), [0, 1, 2, 3]);
        assert_eq!(indices("7"), [7]);
        assert_eq!(indices("9,1,3-4"), [9, 1, 3, 4]);
        assert_eq!(indices("0-7:3%2"), [0, 3, 6]);
        assert_eq!(indices("4294967294-4294967295"), [4_294_967_294, 4_294_967_295]);
        assert_eq!(ArraySpec::parse("0-9%4").unwrap().at_once(), Some(4));
        assert_eq!(ArraySpec::parse("0-999999").unwrap().len(), ArraySpec::MOST);
    }

    #[test]
    fn what_is_no_array_says_why() {
        for (text, why) in [
            ("", "whole number"),
            ("a", "whole number"),
            ("+1", "whole number"),
            ("1,,2", "whole number"),
            ("1-2-3", "whole number"),
            ("0-4294967296", "whole number"),
            ("3-1", "ends before"),
            ("0-9:0", "step"),
            ("5:2", "step"),
            ("0-9%0", "at least 1"),
            ("0-9%", "whole number"),
            ("0-1000000", "at most 1000000"),
            ("0-4294967295,0-4294967295", "at most 1000000"),
            ("1,0-3", "1 is named twice"),
        ] {
            let said = ArraySpec::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }

    proptest! {
        #[test]
        fn an_array_is_read_as_it_was_written(
            parts in prop::collection::vec((0_u32..5000, 0_u32..300, 1_u32..20), 1..6),
            at_once in prop::option::of(1_u32..1000),
        ) {
            let parts: Vec<_> =
                parts.into_iter().map(|(first, more, step)| Part { first, last: first + more, step }).collect();
            let array = ArraySpec(Notation { parts, at_once });
            let all: Vec<u32> = array.indices().collect();
            prop_assert_eq!(all.len(), array.len());
            let is_distinct = all.iter().collect::<BTreeSet<_>>().len() == all.len();
            match ArraySpec::parse(&array.to_string()) {
                Ok(again) => {
                    prop_assert!(is_distinct);
                    prop_assert_eq!(again.indices().collect::<Vec<_>>(), all);
                    prop_assert_eq!(again.to_string(), array.to_string());
                    prop_assert_eq!(again.at_once(), at_once);
                }
                Err(_) => prop_assert!(!is_distinct),
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[0-9,:%-]{0,24}") {
            if let Ok(array) = ArraySpec::parse(&text) {
                prop_assert!((1..=ArraySpec::MOST).contains(&array.len()));
            }
        }
    }
}
