//! Carries a running job's output and progress to its followers. The runner calls this on the attempt's own thread.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::{AttemptNumber, Progress, Stream, unfinished};
use crate::queue::{OutputChunk, Publisher};
use crate::runner::{OutputDirectory, OutputSink};

/// How long a job's output waits at most while the queue does not take it. After that the output is
/// lost until the queue takes some again: a job must not stand still because a follower can't see it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes output and progress through the lease.
pub(super) struct OutputPublisher {
    publisher: Publisher,
    attempt: AttemptNumber,
    stdout: Mutex<Pieces>,
    stderr: Mutex<Pieces>,
    held_up: Mutex<HeldUp>,
    files: Mutex<Option<OutputDirectory>>,
}

/// Whether the job's output has to wait for the queue.
#[derive(Debug, Clone, Copy)]
enum HeldUp {
    No,
    Since(Instant),
    GivenUp,
}

impl OutputPublisher {
    pub(super) fn new(publisher: Publisher, attempt: AttemptNumber) -> Self {
        Self {
            publisher,
            attempt,
            stdout: Mutex::default(),
            stderr: Mutex::default(),
            held_up: Mutex::new(HeldUp::No),
            files: Mutex::default(),
        }
    }

    /// The files that the job has left, if it has left any.
    pub(super) fn take_files(&self) -> Option<OutputDirectory> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn pieces(&self, stream: Stream) -> MutexGuard<'_, Pieces> {
        let pieces = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, stream: Stream, (at, bytes): (u64, Vec<u8>)) {
        if !bytes.is_empty() {
            self.publisher.output(OutputChunk { attempt: self.attempt.0, stream, at: Some(at), bytes });
        }
    }
}

impl OutputSink for OutputPublisher {
    fn output(&self, stream: Stream, bytes: &[u8]) {
        let piece = self.pieces(stream).cut(bytes);
        self.publish(stream, piece);
    }

    fn has_room(&self) -> bool {
        let mut held_up = self.held_up.lock().unwrap_or_else(PoisonError::into_inner);
        if self.publisher.has_room() {
            *held_up = HeldUp::No;
            return true;
        }
        match *held_up {
            HeldUp::No => *held_up = HeldUp::Since(Instant::now()),
            HeldUp::Since(since) if since.elapsed() < PATIENCE => {}
            HeldUp::Since(_) => {
                tracing::warn!(
                    "the queue does not take a job's output; the job goes on, and what is missing is marked"
                );
                *held_up = HeldUp::GivenUp;
            }
            HeldUp::GivenUp => {}
        }
        matches!(*held_up, HeldUp::GivenUp)
    }

    fn progress(&self, progress: Progress) {
        self.publisher.progress(&progress);
    }

    fn files(&self, directory: OutputDirectory) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory);
    }

    fn end(&self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = self.pieces(stream).rest();
            self.publish(stream, rest);
        }
    }
}

/// Cuts a stream into pieces and gives each its place in the stream. No piece ends within a
/// character of UTF-8, unless the stream does.
#[derive(Default)]
struct Pieces {
    /// How many bytes it has given out, which is the place of the next piece.
    at: u64,
    held: Vec<u8>,
}

impl Pieces {
    fn cut(&mut self, bytes: &[u8]) -> (u64, Vec<u8>) {
        self.held.extend_from_slice(bytes);
        let held = self.held.split_off(self.held.len() - unfinished(&self.held));
        self.give(held)
    }

    fn rest(&mut self) -> (u64, Vec<u8>) {
        self.give(Vec::new())
    }

    fn give(&mut self, held: Vec<u8>) -> (u64, Vec<u8>) {
        let (at, piece) = (self.at, std::mem::replace(&mut self.held, held));
        self.at += piece.len() as u64;
        (at, piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(pieces: &[&[u8]]) -> Vec<(u64, Vec<u8>)> {
        let mut stream = Pieces::default();
        pieces.iter().map(|piece| stream.cut(piece)).collect()
    }

    #[test]
    fn a_character_in_two_pieces_stays_one() {
        assert_eq!(pieces(&[b"gr\xc3", b"\xbcn"]), [(0, b"gr".to_vec()), (2, "ün".as_bytes().to_vec())]);
        assert_eq!(pieces(&[b"\xf0\x9f", b"\x9a", b"\x80!"])[2], (0, "🚀!".as_bytes().to_vec()));
        assert_eq!(pieces(&[b"\xff", b"a"]), [(0, b"\xff".to_vec()), (1, b"a".to_vec())]);
    }

    #[test]
    fn what_never_becomes_a_character_comes_at_the_end() {
        let mut stream = Pieces::default();
        assert_eq!(stream.cut(b"a\xc3"), (0, b"a".to_vec()));
        assert_eq!(stream.rest(), (1, b"\xc3".to_vec()));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same_text(text in "[a\u{e4}\u{65e5}\u{1f680}]{0,20}", cuts in prop::collection::vec(0usize..60, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut stream, mut out, mut from) = (Pieces::default(), String::new(), 0);
            for to in cuts.into_iter().chain([text.len()]) {
                let (at, piece) = stream.cut(&text.as_bytes()[from..to]);
                prop_assert_eq!(at, out.len() as u64);
                out.push_str(std::str::from_utf8(&piece).unwrap());
                from = to;
            }
            prop_assert_eq!(out, text);
        }
    }
}
