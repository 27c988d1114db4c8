//! Categories of errors: what a team calls the causes of its failures.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Identifies a category: lower-case letters, digits and single `-`, at most 64, such as `cpp-error`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, max_length = 64, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", example = "disk-full")]
pub struct CategoryId(String);

/// The name under which errors are counted that are near to no category. No category may have it.
pub const UNCATEGORISED: &str = "uncategorised";

/// Why a text is not a category's id, or a category not acceptable. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCategory(String);

impl CategoryId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`InvalidCategory`] unless it has the form described above, or when it is [`UNCATEGORISED`].
    pub fn parse(text: &str) -> Result<Self, InvalidCategory> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let edges = !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
        if !(1..=64).contains(&text.len()) || !plain || !edges {
            let shown: String = text.chars().take(80).collect();
            return Err(InvalidCategory(format!(
                "category id {shown:?} is not valid: lower-case letters, digits and single '-' between them, at most 64"
            )));
        }
        if text == UNCATEGORISED {
            return Err(InvalidCategory(format!("the category id {text:?} stands for errors without a category")));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id that a name gives: `C++ error` is `cpp-error`.
    ///
    /// # Errors
    /// [`InvalidCategory`] when no letter or digit is left of the name, or it gives [`UNCATEGORISED`].
    pub fn of_name(name: &str) -> Result<Self, InvalidCategory> {
        let mut slug = String::new();
        for c in name.chars() {
            match c {
                'a'..='z' | '0'..='9' => slug.push(c),
                'A'..='Z' => slug.push(c.to_ascii_lowercase()),
                '+' => slug.push('p'),
                '#' => slug.push_str("sharp"),
                _ if slug.ends_with('-') || slug.is_empty() => {}
                _ => slug.push('-'),
            }
        }
        slug.truncate(64);
        let slug = slug.trim_end_matches('-');
        if slug.is_empty() {
            return Err(InvalidCategory(format!(
                "the name {name:?} gives no id: it needs a letter or digit of ASCII, or an id of its own"
            )));
        }
        Self::parse(slug)
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CategoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for CategoryId {
    type Err = InvalidCategory;
    fn from_str(text: &str) -> Result<Self, InvalidCategory> {
        Self::parse(text)
    }
}

impl TryFrom<String> for CategoryId {
    type Error = InvalidCategory;
    fn try_from(text: String) -> Result<Self, InvalidCategory> {
        Self::parse(&text)
    }
}

impl From<CategoryId> for String {
    fn from(id: CategoryId) -> String {
        id.0
    }
}

/// A kind of error that a team wants to count, told by its name, what it means, and messages that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Category {
    /// Never changes, whatever becomes of the name.
    pub id: CategoryId,
    /// The name that people read.
    pub name: String,
    /// What belongs to it, in words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Messages that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Category {
    /// The longest name, in characters.
    pub const MAX_NAME: usize = 100;
    /// The longest description, in bytes.
    pub const MAX_DESCRIPTION: usize = 4096;
    /// The longest example, in bytes.
    pub const MAX_EXAMPLE: usize = 2048;
    /// Examples at most.
    pub const MAX_EXAMPLES: usize = 200;

    /// Checks the sizes.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), InvalidCategory> {
        let wrong = |text: String| Err(InvalidCategory(format!("category {}: {text}", self.id)));
        let name = self.name.chars().count();
        if self.name.trim().is_empty() || name > Self::MAX_NAME || self.name.chars().any(char::is_control) {
            return wrong(format!("the name must be 1 to {} visible characters", Self::MAX_NAME));
        }
        if self.description.len() > Self::MAX_DESCRIPTION {
            return wrong(format!("the description is longer than {} bytes", Self::MAX_DESCRIPTION));
        }
        if self.examples.len() > Self::MAX_EXAMPLES {
            return wrong(format!("it has more than {} examples", Self::MAX_EXAMPLES));
        }
        if self.examples.iter().any(|e| e.trim().is_empty() || e.len() > Self::MAX_EXAMPLE) {
            return wrong(format!("an example must be 1 to {} bytes", Self::MAX_EXAMPLE));
        }
        Ok(())
    }
}

/// Where a message belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// The category, when the nearest one is near enough.
    pub category: Option<CategoryId>,
    /// The nearest category, however far; `None` when there is none at all.
    pub best: Option<CategoryId>,
    /// How near that one is: 1 for the same meaning, 0 for nothing in common.
    pub similarity: f32,
}

/// Which categories a new installation starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// All that come with Jobber.
    Library,
    /// The six that the first Jobber had.
    Original,
    /// None.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_ids() {
        for (name, id) in [
            ("C++ error", "cpp-error"),
            ("C# crash!", "csharp-crash"),
            ("  Memory  quota exceeded ", "memory-quota-exceeded"),
            ("Disk/filesystem", "disk-filesystem"),
        ] {
            assert_eq!(CategoryId::of_name(name).unwrap().as_str(), id);
        }
        assert_eq!(CategoryId::of_name(&"abc ".repeat(50)).unwrap().as_str().len(), 63);
        for bad in ["", "—", "Uncategorised", "日本"] {
            assert!(CategoryId::of_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_plain() {
        for bad in ["", "-a", "a-", "a--b", "A", "a b", "uncategorised", &"a".repeat(65)] {
            assert!(CategoryId::parse(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<CategoryId>(bad.into()).is_err(), "{bad:?}");
        }
        assert_eq!(CategoryId::parse("a-1").unwrap().to_string(), "a-1");
    }

    #[test]
    fn sizes_are_checked() {
        let good = Category {
            id: CategoryId::parse("timeout").unwrap(),
            name: "Timeout".into(),
            description: String::new(),
            examples: vec!["timed out".into()],
        };
        assert_eq!(good.validate(), Ok(()));
        for bad in [
            Category { name: " ".into(), ..good.clone() },
            Category { name: "a\nb".into(), ..good.clone() },
            Category { name: "x".repeat(101), ..good.clone() },
            Category { description: "x".repeat(4097), ..good.clone() },
            Category { examples: vec![" ".into()], ..good.clone() },
            Category { examples: vec!["x".into(); 201], ..good.clone() },
        ] {
            assert!(bad.validate().unwrap_err().to_string().starts_with("category timeout: "));
        }
    }
}
