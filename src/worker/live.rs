//! What a running job says, on its way to those who watch. Called on the attempt's own thread.

use std::sync::{Mutex, PoisonError};

use crate::domain::{AttemptNumber, Progress, Stream};
use crate::queue::{OutputChunk, Publisher};
use crate::runner::OutputSink;

/// Publishes output and progress through the lease.
pub(super) struct Live {
    publisher: Publisher,
    attempt: AttemptNumber,
    stdout: Mutex<Text>,
    stderr: Mutex<Text>,
}

impl Live {
    pub(super) fn new(publisher: Publisher, attempt: AttemptNumber) -> Self {
        Self { publisher, attempt, stdout: Mutex::default(), stderr: Mutex::default() }
    }
}

impl OutputSink for Live {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        let text = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        let text = text.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
        if !text.is_empty() {
            self.publisher.output(OutputChunk { attempt: self.attempt.0, stream, text });
        }
    }

    fn progress(&self, progress: Progress) {
        self.publisher.progress(&progress);
    }
}

/// Pieces of a stream in, text out: a character that comes in two pieces is held until it is whole. What is never
/// completed is in the tail that the attempt's report keeps.
#[derive(Default)]
struct Text {
    held: Vec<u8>,
}

impl Text {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - unfinished(&self.held);
        let text = String::from_utf8_lossy(&self.held[..whole]).into_owned();
        self.held.drain(..whole);
        text
    }
}

/// How many bytes at the end begin a character of UTF-8 that is not all there.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.iter().rev().take(3).enumerate();
    for (behind, byte) in tail {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return 0,
        };
        return if behind + 1 < length { behind + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(pieces: &[&[u8]]) -> Vec<String> {
        let mut text = Text::default();
        pieces.iter().map(|piece| text.take(piece)).collect()
    }

    #[test]
    fn a_character_in_two_pieces_stays_one() {
        assert_eq!(pieces(&[b"gr\xc3", b"\xbcn"]), ["gr", "ün"]);
        assert_eq!(pieces(&[b"\xf0\x9f", b"\x9a", b"\x80!"]), ["", "", "🚀!"]);
        assert_eq!(pieces(&[b"\xff", b"\x80\x80\x80\x80", b"a"]), ["\u{fffd}", "\u{fffd}".repeat(4).as_str(), "a"]);
        assert_eq!(pieces(&[b"\xc3", b"a"]), ["", "\u{fffd}a"]);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same_text(text in "[a\u{e4}\u{65e5}\u{1f680}]{0,20}", cuts in prop::collection::vec(0usize..60, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut joined = Text::default();
            let mut out = String::new();
            let mut from = 0;
            for to in cuts.into_iter().chain([text.len()]) {
                out.push_str(&joined.take(&text.as_bytes()[from..to]));
                from = to;
            }
            prop_assert_eq!(out, text);
        }
    }
}
