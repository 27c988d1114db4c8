//! What is the same about two failures: the text without what varies, and its SHA-256.

use sha2::{Digest, Sha256};

use crate::domain::outcome::signal_name;
use crate::domain::{Fingerprint, Outcome, SpawnFailure};

/// How much of the end of an error's text counts, in bytes.
const TAIL: usize = 2048;

/// What a failure says: for a signal, a timeout, a lack of memory or a process that did not start a sentence of Jobber's
/// own, followed by the end of what the program wrote. Depends on neither the job's name nor its limits.
pub fn canonical_text(outcome: &Outcome, error: Option<&str>) -> String {
    let said = tail(error.unwrap_or_default());
    match own_words(outcome, said) {
        Some(own) if said.is_empty() => own,
        Some(own) => format!("{own}\n{said}"),
        None => said.to_owned(),
    }
}

fn own_words(outcome: &Outcome, said: &str) -> Option<String> {
    match outcome {
        Outcome::Exit { .. } if !said.is_empty() => None,
        Outcome::Exit { code } => Some(format!("exited with code {code} and wrote nothing to standard error")),
        Outcome::Signal { signal } => Some(match signal_name(*signal) {
            Some(name) => format!("killed by signal {signal} (SIG{name})"),
            None => format!("killed by signal {signal}"),
        }),
        Outcome::Timeout => Some("timed out: the time limit was reached".to_owned()),
        Outcome::Cancelled => Some("cancelled".to_owned()),
        Outcome::Oom => Some("out of memory: the memory limit was reached".to_owned()),
        Outcome::SpawnError { reason: SpawnFailure::NotFound } => {
            Some("could not be started: no such binary".to_owned())
        }
        Outcome::SpawnError { reason: SpawnFailure::NotExecutable } => {
            Some("could not be started: not an executable file".to_owned())
        }
        Outcome::SpawnError { reason: SpawnFailure::System } => {
            Some("could not be started: the system refused".to_owned())
        }
        Outcome::Lost => Some("lost with its worker".to_owned()),
    }
}

/// The end of a text, without a line cut at its front.
fn tail(text: &str) -> &str {
    let text = text.trim();
    if text.len() <= TAIL {
        return text;
    }
    let mut start = text.len() - TAIL;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let end = &text[start..];
    end.split_once('\n').map_or(end, |(_, whole_lines)| whole_lines).trim()
}

/// The text with what varies between two runs masked, and its spacing made even. Masking twice changes nothing more.
pub fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !masked.is_empty() {
            masked.push(' ');
        }
        let mut digits = false;
        for c in word.chars() {
            match c {
                '0'..='9' if digits => {}
                '0'..='9' => masked.push('#'),
                other => masked.push(other),
            }
            digits = c.is_ascii_digit() || c == '#';
        }
    }
    masked
}

/// The fingerprint of a failure that says this.
pub fn of(text: &str) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(mask(text)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_count() {
        assert_eq!(of("tile 17 failed"), of("tile  4 failed\n"));
        assert_ne!(of("tile 17 failed"), of("file 17 failed"));
    }
}
