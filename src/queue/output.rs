//! The output of running jobs: its pieces, and the outbox that holds those of one lease until its queue has written
//! them.
//!
//! An outbox joins pieces that follow on each other, and is bounded. The holder of the lease is asked to publish no
//! more while the outbox is full ([`Outbox::has_room`]); a holder that goes on all the same loses the oldest pieces,
//! which the places of the others show.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::{Progress, Stream};

/// How long all output is kept after a job's end, or after a client last read it then.
pub(super) const LINGER: Duration = Duration::from_secs(60);
/// How long a client that has read is taken to read on.
pub(super) const READS_ON: Duration = Duration::from_secs(60);

/// From so many bytes on the holder is asked to wait.
const FULL: usize = 4 << 20;
/// So many bytes are never exceeded.
const MOST: usize = 2 * FULL;
/// Pieces that follow on each other are joined up to this size.
const PIECE: usize = 64 << 10;

/// A piece of a running job's output, for clients that follow it. The queue keeps it only as long as the job, and
/// bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Which start of the job wrote it.
    pub attempt: u32,
    /// Standard output or standard error.
    pub stream: Stream,
    /// How many bytes of the stream came before it, lost ones included. `None` in what an older Jobber wrote, which did
    /// not count them: such a piece follows on the one before it.
    pub at: Option<u64>,
    /// What the job wrote.
    pub bytes: Vec<u8>,
}

impl OutputChunk {
    fn is_followed_by(&self, next: &Self) -> bool {
        (self.attempt, self.stream) == (next.attempt, next.stream)
            && self.at.is_some()
            && self.at.map(|at| at + self.bytes.len() as u64) == next.at
    }

    /// Takes off its first bytes.
    pub(super) fn cut(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
        self.at = self.at.map(|at| at + bytes as u64);
    }
}

/// What one lease has published, and its queue has not written yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// How far the job said last that it is.
    pub(super) progress: Option<Progress>,
    chunks: VecDeque<OutputChunk>,
    bytes: usize,
}

impl Outbox {
    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.progress.is_none() && self.chunks.is_empty()
    }

    /// Whether more may be said.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < FULL
    }

    /// Adds a piece, joined to the last one if it follows on that.
    pub(super) fn push(&mut self, chunk: OutputChunk) {
        self.bytes += chunk.bytes.len();
        match self.chunks.back_mut() {
            Some(last) if last.is_followed_by(&chunk) && last.bytes.len() + chunk.bytes.len() <= PIECE => {
                last.bytes.extend_from_slice(&chunk.bytes);
            }
            _ => self.chunks.push_back(chunk),
        }
        self.drop_oldest();
    }

    /// Takes out all of it.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Takes back pieces that could not be written. The next try may write some of them twice, which their places show.
    pub(super) fn put_back(&mut self, mut chunks: VecDeque<OutputChunk>) {
        self.bytes += chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
        chunks.append(&mut self.chunks);
        self.chunks = chunks;
        self.drop_oldest();
    }

    fn drop_oldest(&mut self) {
        while self.bytes > MOST {
            let Some(dropped) = self.chunks.pop_front() else { break };
            self.bytes -= dropped.bytes.len();
        }
    }

    /// The pieces, and their bytes together.
    pub(super) fn into_chunks(self) -> (VecDeque<OutputChunk>, usize) {
        (self.chunks, self.bytes)
    }
}

/// Leaves at most `limit` bytes of the end of these pieces.
pub(super) fn keep_the_end(chunks: &mut VecDeque<OutputChunk>, limit: usize) {
    let mut bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    while bytes > limit {
        let Some(first) = chunks.front_mut() else { return };
        let surplus = bytes - limit;
        if surplus >= first.bytes.len() {
            bytes -= first.bytes.len();
            chunks.pop_front();
        } else {
            first.cut(surplus);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stream: Stream, at: u64, text: &str) -> OutputChunk {
        OutputChunk { attempt: 1, stream, at: Some(at), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn what_follows_is_joined_and_what_does_not_is_not() {
        let mut outbox = Outbox::default();
        for piece in [
            chunk(Stream::Stdout, 0, "a"),
            chunk(Stream::Stdout, 1, "b"),
            chunk(Stream::Stderr, 0, "c"),
            chunk(Stream::Stdout, 2, "d"),
            chunk(Stream::Stdout, 9, "e"),
        ] {
            outbox.push(piece);
        }
        let (chunks, bytes) = outbox.take().into_chunks();
        let expected = [
            chunk(Stream::Stdout, 0, "ab"),
            chunk(Stream::Stderr, 0, "c"),
            chunk(Stream::Stdout, 2, "d"),
            chunk(Stream::Stdout, 9, "e"),
        ];
        assert_eq!((chunks, bytes), (expected.into(), 5));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_flood_that_nobody_stops_costs_what_is_oldest() {
        let mut outbox = Outbox::default();
        let piece = "x".repeat(PIECE);
        let mut at = 0;
        while at < 3 * MOST as u64 {
            outbox.push(chunk(Stream::Stdout, at, &piece));
            at += PIECE as u64;
        }
        assert!(!outbox.has_room());
        let (chunks, bytes) = outbox.take().into_chunks();
        assert!(bytes <= MOST);
        let last = chunks.back().unwrap();
        assert_eq!(last.at.unwrap() + last.bytes.len() as u64, at, "the newest is there");
        assert_eq!(chunks.front().unwrap().at.unwrap(), at - bytes as u64, "and all before it without a gap");
    }

    #[test]
    fn the_end_is_cut_to_the_byte() {
        let mut chunks: VecDeque<_> = [chunk(Stream::Stdout, 0, "abc"), chunk(Stream::Stdout, 3, "defg")].into();
        keep_the_end(&mut chunks, 3);
        assert_eq!(chunks, [chunk(Stream::Stdout, 4, "efg")]);
        keep_the_end(&mut chunks, 0);
        assert!(chunks.is_empty());
    }
}
