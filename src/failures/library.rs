//! Well-described categories that come with Jobber: a new installation starts with them, and can be given others.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::domain::{Category, CategoryId, Seed};

/// A category of the library.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct LibraryEntry {
    name: String,
    /// Other names that mean the same.
    aliases: Vec<String>,
    description: String,
    examples: Vec<String>,
}

static LIBRARY: LazyLock<Vec<LibraryEntry>> =
    LazyLock::new(|| serde_json::from_str(include_str!("library.json")).expect("the file is part of the source"));

/// The categories of the first Jobber.
const ORIGINAL: [&str; 6] = [
    "C++ error",
    "Javascript error",
    "Image processing error",
    "Memory quota exceeded",
    "Timeout",
    "Null pointer exception",
];

/// The categories of a new installation. The original's six come first.
pub fn seeds(seed: Seed) -> Vec<Category> {
    let original = ORIGINAL.iter().map(|name| preset(name).expect("the library has the first Jobber's categories"));
    let others = LIBRARY.iter().filter(|entry| !ORIGINAL.iter().any(|name| names(entry).any(|n| n == name)));
    match seed {
        Seed::Library => original.chain(others.map(|entry| category(entry, &entry.name))).collect(),
        Seed::Original => original.collect(),
        Seed::None => Vec::new(),
    }
}

/// The names of an entry.
fn names(entry: &LibraryEntry) -> impl Iterator<Item = &String> {
    std::iter::once(&entry.name).chain(&entry.aliases)
}

/// All categories of the library under their own names, with other names that mean the same.
pub fn library() -> Vec<(Category, &'static [String])> {
    LIBRARY.iter().map(|entry| (category(entry, &entry.name), entry.aliases.as_slice())).collect()
}

/// The library's description and examples under this name, if it knows it or another name for the same.
pub fn preset(name: &str) -> Option<Category> {
    find(name).map(|entry| category(entry, name))
}

/// The category of the library that goes by this name, or by an id made of one of its names, under its own name.
pub fn named(name: &str) -> Option<Category> {
    let of_id =
        |entry: &&LibraryEntry| names(entry).any(|n| CategoryId::of_name(n).is_ok_and(|id| id.as_str() == name));
    find(name).or_else(|| LIBRARY.iter().find(of_id)).map(|entry| category(entry, &entry.name))
}

fn find(name: &str) -> Option<&'static LibraryEntry> {
    let means = |entry: &&LibraryEntry| names(entry).any(|n| n.eq_ignore_ascii_case(name));
    LIBRARY.iter().find(means)
}

fn category(entry: &LibraryEntry, name: &str) -> Category {
    Category {
        id: CategoryId::of_name(name).expect("the library's names give ids"),
        name: name.to_owned(),
        description: entry.description.clone(),
        examples: entry.examples.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_a_category_that_could_be_added() {
        let mut names = Vec::new();
        for entry in LIBRARY.iter() {
            assert_eq!(category(entry, &entry.name).validate(), Ok(()));
            assert!(entry.examples.len() >= 20, "{}", entry.name);
            names.extend(super::names(entry).map(|n| n.to_lowercase()));
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "a name that stands for two");
    }

    #[test]
    fn a_new_installation_has_the_whole_library_the_first_jobbers_six_or_nothing() {
        let original: Vec<_> = seeds(Seed::Original).into_iter().map(|c| c.name).collect();
        assert_eq!(original, ORIGINAL);
        let all: Vec<_> = seeds(Seed::Library).into_iter().map(|c| c.name).collect();
        assert_eq!(all[..ORIGINAL.len()], ORIGINAL);
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), LIBRARY.len());
        assert_eq!(seeds(Seed::None), []);
        assert_eq!(preset("out of MEMORY").unwrap().description, preset("Memory quota exceeded").unwrap().description);
        assert!(preset("no such category").is_none());
        assert_eq!(named("disk-or-filesystem-error"), named("disk full"));
        assert_eq!(named("disk-full"), named("disk full"));
        assert_eq!(named("DISK FULL").unwrap().name, "Disk or filesystem error");
        assert!(named("no such category").is_none());
    }
}
