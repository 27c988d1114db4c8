//! Tells which failures are alike: by their text without the parts that vary, and its SHA-256.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::mask::mask_lines;
use crate::domain::crash::{CALLED_FROM, IN, PLACE, split_place};
use crate::domain::outcome::signal_name;
use crate::domain::{Crash, Fingerprint, Outcome, SpawnFailure, last_lines};

/// How much of the end of an error's text counts, in bytes.
const TAIL: usize = 2048;

/// The text of a failure. For a signal, a timeout, a lack of memory or a process that did not start
/// it is a sentence of Jobber's own, followed by the end of what the program wrote. It depends on
/// neither the job's name nor its limits. Of a crash, a line says by its functions where it was.
///
/// `error` is an attempt's error text as the runner words it, or what the program wrote.
pub fn canonical_text(outcome: &Outcome, error: Option<&str>, crash: Option<&Crash>) -> String {
    // Where Jobber itself stopped the program, a crash on the way is not why it failed.
    let crash = crash.filter(|_| matches!(outcome, Outcome::Exit { .. } | Outcome::Signal { .. }));
    let error = error.unwrap_or_default().trim();
    let said = match crash.and_then(|crash| error.strip_prefix(&crash.sentence())) {
        Some(rest) => rest.strip_prefix(": ").unwrap_or(rest),
        None => without_preface(outcome, error),
    };
    let said = last_lines(said, TAIL);
    let place = crash.and_then(place);
    let own = own_words(outcome, said).filter(|_| place.is_none() || !matches!(outcome, Outcome::Exit { .. }));
    let first = match (own, place) {
        (Some(own), Some(place)) => Some(format!("{own}{IN}{place}")),
        (None, Some(place)) => Some(format!("{PLACE}{place}")),
        (own, None) => own,
    };
    let said = Some(said).filter(|said| !said.is_empty());
    [first.as_deref(), said].into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// Where a crash was. It is no part of what is masked: `f1` and `f2` are two places.
fn place(crash: &Crash) -> Option<String> {
    let functions = crash.fingerprint_frames().join(CALLED_FROM).replace(['\n', '\r'], " ");
    (!functions.is_empty()).then_some(functions)
}

/// The text without the place of a crash: what a failure means does not depend on the names of functions.
pub fn without_place(text: &str) -> Cow<'_, str> {
    split_place(text).0
}

fn own_words(outcome: &Outcome, said: &str) -> Option<String> {
    Some(match outcome {
        Outcome::Exit { .. } if !said.is_empty() => return None,
        Outcome::Exit { code } => format!("exited with code {code} and wrote nothing to standard error"),
        Outcome::Signal { signal } => format!("killed by signal {signal} ({})", signal_meaning(*signal)),
        Outcome::Timeout => "timed out: the job ran past its time limit".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Oom => "out of memory: the job ran past its memory limit".to_owned(),
        Outcome::SpawnError { reason } => {
            let why = match reason {
                SpawnFailure::NotFound => "there is no such program",
                SpawnFailure::NotExecutable => "the file can't be executed",
                SpawnFailure::System => "the system refused",
            };
            format!("failed to start the process: {why}")
        }
        Outcome::Lost => "lost with its worker".to_owned(),
    })
}

/// A signal as the C library describes it, in lower case.
fn signal_meaning(signal: i32) -> String {
    let meaning = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        31 => "bad system call",
        other => return signal_name(other).map_or_else(|| "unknown signal".to_owned(), |name| format!("SIG{name}")),
    };
    meaning.to_owned()
}

/// The text without the sentence that the runner puts before what the program wrote: it names limits, which vary.
fn without_preface<'a>(outcome: &Outcome, error: &'a str) -> &'a str {
    let starts: &[&str] = match outcome {
        Outcome::Signal { .. } => &["killed by signal "],
        Outcome::Timeout => &["timed out after ", "timed out"],
        Outcome::Oom => &["ran out of memory"],
        Outcome::SpawnError { .. } => &["could not be started"],
        Outcome::Cancelled => &["cancelled"],
        Outcome::Exit { .. } => &["exited with code "],
        Outcome::Lost => &["stopped because its worker had to give it up"],
    };
    let error = error.trim();
    if !starts.iter().any(|start| error.starts_with(start)) {
        return error;
    }
    let first = error.lines().next().unwrap_or_default();
    match (outcome, first.split_once(": ")) {
        (Outcome::Exit { .. }, _) if !first.ends_with("wrote nothing to standard error") => error,
        (_, Some((preface, _))) => &error[preface.len() + 2..],
        (_, None) => error[first.len()..].trim_start(),
    }
}

/// The text with what varies between two runs masked: numbers, addresses, times, paths and the like, lines that say no
/// more than another, lines that only inform. Its spacing is made even. Masking twice changes nothing more.
pub fn mask(text: &str) -> String {
    mask_lines(text)
}

/// The fingerprint of a failure that says this.
pub fn of(text: &str) -> Fingerprint {
    let (text, place) = split_place(text);
    let mut digest = Sha256::new_with_prefix(mask(&text));
    if let Some(place) = place {
        digest.update("\n");
        digest.update(place);
    }
    Fingerprint::from_bytes(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::crash::Frame;

    #[test]
    fn outcomes_have_words_of_their_own() {
        let signal = |signal| Outcome::Signal { signal };
        let spawn = |reason| Outcome::SpawnError { reason };
        for (outcome, error, expected) in [
            (Outcome::Exit { code: 1 }, Some(" no luck \n"), "no luck"),
            (Outcome::Exit { code: 3 }, None, "exited with code 3 and wrote nothing to standard error"),
            (
                Outcome::Exit { code: 3 },
                Some("exited with code 3 and wrote nothing to standard error"),
                "exited with code 3 and wrote nothing to standard error",
            ),
            (Outcome::Exit { code: 3 }, Some("exited with code 9: child"), "exited with code 9: child"),
            (signal(11), None, "killed by signal 11 (segmentation fault)"),
            (signal(11), Some("killed by signal 11 (SIGSEGV)"), "killed by signal 11 (segmentation fault)"),
            (signal(6), Some("killed by signal 6 (SIGABRT): a: b\nc"), "killed by signal 6 (aborted)\na: b\nc"),
            (signal(12), Some("x"), "killed by signal 12 (SIGUSR2)\nx"),
            (signal(40), None, "killed by signal 40 (unknown signal)"),
            (
                Outcome::Timeout,
                Some("timed out after 1h 5m: tile 3"),
                "timed out: the job ran past its time limit\ntile 3",
            ),
            (Outcome::Timeout, Some("timed out after 5s"), "timed out: the job ran past its time limit"),
            (
                Outcome::Oom,
                Some("ran out of memory (limit 64 MiB): x"),
                "out of memory: the job ran past its memory limit\nx",
            ),
            (
                spawn(SpawnFailure::NotFound),
                Some("could not be started: there is no job binary x"),
                "failed to start the process: there is no such program\nthere is no job binary x",
            ),
        ] {
            assert_eq!(canonical_text(&outcome, error, None), expected, "{outcome:?} {error:?}");
        }
    }

    #[test]
    fn a_crash_is_told_by_its_place_and_not_by_its_lines() {
        let outcome = Outcome::Signal { signal: 11 };
        let crash = |functions: &[&str], line, address: &str| {
            let frame = |function: &&str| Frame {
                function: Some((*function).to_owned()),
                file: Some("a.cpp".into()),
                line: Some(line),
                address: address.into(),
                own: true,
                ..Frame::default()
            };
            let frames = functions.iter().map(frame).collect();
            Crash { signal: 11, address: Some(address.into()), frames, ..Crash::default() }
        };
        let text = |crash: &Crash, said: &str| {
            let error = if said.is_empty() { crash.sentence() } else { format!("{}: {said}", crash.sentence()) };
            canonical_text(&outcome, Some(&error), Some(crash))
        };
        let first = crash(&["Image::resize(int)", "main"], 42, "0x0");
        assert_eq!(
            text(&first, "tile 7: bad"),
            "killed by signal 11 (segmentation fault) in Image::resize < main\ntile 7: bad"
        );
        assert_eq!(without_place(&text(&first, "tile 7")), "killed by signal 11 (segmentation fault)\ntile 7");
        assert_eq!(without_place("no crash\nat all"), "no crash\nat all");
        let of = |crash: &Crash, said: &str| of(&text(crash, said));
        assert_eq!(of(&first, "tile 7"), of(&crash(&["Image::resize(int)", "main"], 43, "0x8"), "tile 8"));
        assert_ne!(of(&first, "tile 7"), of(&crash(&["Image::rotate(int)", "main"], 42, "0x0"), "tile 7"));
        assert_ne!(of(&crash(&["f1"], 1, "0x0"), ""), of(&crash(&["f2"], 1, "0x0"), ""));
        // A crash of a child, of which the job tells by its exit code.
        let child = Crash { of_child: true, command: "tiler".into(), ..first };
        let error = format!("{}: no tiles", child.sentence());
        assert!(error.starts_with("tiler crashed: segmentation fault in Image::resize at a.cpp:42"), "{error}");
        let exit = canonical_text(&Outcome::Exit { code: 1 }, Some(&error), Some(&child));
        assert_eq!(exit, "[crashed in] Image::resize < main\nno tiles");
        // Who was stopped by Jobber did not fail by a crash.
        let stopped = canonical_text(&Outcome::Timeout, Some("timed out after 5s"), Some(&child));
        assert_eq!(stopped, canonical_text(&Outcome::Timeout, Some("timed out after 5s"), None));
    }

    #[test]
    fn a_long_text_counts_by_its_end() {
        let long = format!("{}\nwhole line\nlast", "é".repeat(4000));
        assert_eq!(canonical_text(&Outcome::Exit { code: 1 }, Some(&long), None), "whole line\nlast");
        assert_eq!(canonical_text(&Outcome::Exit { code: 1 }, Some(&"é".repeat(4000)), None).len(), TAIL);
    }

    #[test]
    fn limits_do_not_tell_failures_apart() {
        let at = |after: &str| of(&canonical_text(&Outcome::Timeout, Some(after), None));
        assert_eq!(at("timed out after 5s: step 1"), at("timed out after 2h 3m: step 77"));
        assert_ne!(at("timed out after 5s: step 1"), at("timed out after 5s: reading"));
    }
}
