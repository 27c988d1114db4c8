//! Well-known codes in words, so that a model of language understands them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// A code, in lower case, and what it means.
struct Code {
    code: &'static str,
    /// Where the code's first word begins in it.
    lead: usize,
    meaning: &'static str,
    /// Whether it says little by itself, so that its meaning counts only where no other does.
    is_weak: bool,
}

/// The codes by their first words.
static CODES: LazyLock<HashMap<&'static str, Vec<Code>>> = LazyLock::new(|| {
    let mut codes: HashMap<_, Vec<Code>> = HashMap::new();
    for line in include_str!("codes.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (code, meaning) = line.split_once('\t').expect("each line of the file has a tab");
        let (code, is_weak) = code.strip_prefix('~').map_or((code, false), |code| (code, true));
        let code: &'static str = code.to_ascii_lowercase().leak();
        let lead = code.bytes().take_while(|b| !b.is_ascii_alphanumeric()).count();
        let length = code[lead..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        codes.entry(&code[lead..lead + length]).or_default().push(Code { code, lead, meaning, is_weak });
    }
    codes
});

/// The version of the list of codes: its digits change when a code does, since other texts are embedded then.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let digest = Sha256::digest(include_bytes!("codes.txt"));
        digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    });
    &VERSION
}

/// The text, followed by what the codes in it mean in words. Apply it once to messages and to the texts of categories
/// alike, before they are embedded.
pub fn expand_codes(text: &str) -> Cow<'_, str> {
    let lower = text.to_ascii_lowercase();
    let bytes = lower.as_bytes();
    let (mut meanings, mut weak): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        if length == 0 {
            at += 1;
            continue;
        }
        for entry in CODES.get(&lower[at..at + length]).into_iter().flatten() {
            let found = if entry.is_weak { &mut weak } else { &mut meanings };
            if !found.contains(&entry.meaning) && stands_at(bytes, at, entry) {
                found.push(entry.meaning);
            }
        }
        at += length;
    }
    let meanings = if meanings.is_empty() { weak } else { meanings };
    if meanings.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(format!("{text} ({})", meanings.join("; "))) }
}

/// Whether the entry's code stands where a word begins at `word`, and ends with a word.
fn stands_at(text: &[u8], word: usize, entry: &Code) -> bool {
    let code = entry.code.as_bytes();
    let Some(start) = word.checked_sub(entry.lead) else { return false };
    if !text[start..].starts_with(code) {
        return false;
    }
    let within_word = code[code.len() - 1].is_ascii_alphanumeric()
        && text.get(start + code.len()).is_some_and(u8::is_ascii_alphanumeric);
    !within_word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_said_in_words_once() {
        assert!(matches!(expand_codes("all is well"), Cow::Borrowed(_)));
        assert_eq!(expand_codes("SIGSEGV, sigsegv"), "SIGSEGV, sigsegv (segmentation fault, invalid memory access)");
        assert_eq!(expand_codes("é ENOSPC"), "é ENOSPC (no space left on device, disk full)");
    }

    #[test]
    fn a_code_is_a_word_of_its_own() {
        for text in ["XSIGSEGVX", "signal 115", "the signal 110", "resigned", "[Errno 280]"] {
            assert!(matches!(expand_codes(text), Cow::Borrowed(_)), "{text}: {}", expand_codes(text));
        }
        for (text, meaning) in [
            ("[Errno 28] x", "disk full"),
            ("exited with code 137", "out of memory"),
            ("Process exited: 0xC0000005", "access violation"),
            ("ORA-00942: x", "Oracle"),
            ("SQLSTATE[42000]", "SQL"),
            ("cudaErrorMemoryAllocation", "GPU"),
            ("HTTP 502 from upstream", "bad gateway"),
            ("what(): x", "C++"),
        ] {
            assert!(expand_codes(text).contains(meaning), "{text}: {}", expand_codes(text));
        }
    }

    #[test]
    fn what_says_more_silences_what_says_little() {
        let wrapped = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc";
        assert_eq!(expand_codes(wrapped), format!("{wrapped} (out of memory, memory exhausted)"));
        assert!(expand_codes("terminate called after throwing an instance of 'Odd'").contains("C++"));
    }

    #[test]
    fn every_entry_can_be_found() {
        for entries in CODES.values() {
            for entry in entries {
                assert!(expand_codes(entry.code).contains(entry.meaning), "{}", entry.code);
            }
        }
    }
}
