//! Well-known codes in words, so that a model of language understands them.

use std::borrow::Cow;

/// Codes and what they mean. A code counts where it stands as a word.
const CODES: &[(&str, &str)] = &[
    ("SIGSEGV", "segmentation fault, invalid memory reference"),
    ("SIGABRT", "aborted"),
    ("SIGKILL", "killed"),
    ("ENOSPC", "no space left on device"),
    ("ENOMEM", "out of memory"),
    ("ECONNREFUSED", "network connection refused"),
    ("ETIMEDOUT", "connection timed out"),
    ("EACCES", "permission denied"),
    ("ENOENT", "no such file or directory"),
];

/// The text, followed by what the codes in it mean in words. Apply it to messages and to the texts of categories alike,
/// before they are embedded.
pub fn gloss(text: &str) -> Cow<'_, str> {
    let mut glossed = Cow::Borrowed(text);
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        if let Some((_, meaning)) = CODES.iter().find(|(code, _)| *code == word)
            && !glossed.contains(meaning)
        {
            let glossed = glossed.to_mut();
            glossed.push_str(" (");
            glossed.push_str(meaning);
            glossed.push(')');
        }
    }
    glossed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_said_in_words_once() {
        assert!(matches!(gloss("all is well"), Cow::Borrowed(_)));
        assert_eq!(gloss("SIGSEGV, SIGSEGV"), "SIGSEGV, SIGSEGV (segmentation fault, invalid memory reference)");
    }
}
