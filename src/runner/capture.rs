//! Keeps the bounded end of a stream of any length.

use std::collections::VecDeque;

use crate::domain::Tail;

/// Keeps the last bytes of a stream.
#[derive(Debug)]
pub(super) struct Capture {
    limit: usize,
    kept: VecDeque<u8>,
    total: u64,
}

impl Capture {
    /// Keeps at most `limit` bytes. Memory grows with the output, and never beyond the limit.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kept: VecDeque::new(), total: 0 }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let overflow = (self.kept.len() + bytes.len()).saturating_sub(self.limit);
        self.kept.drain(..overflow);
        if self.kept.capacity() < self.kept.len() + bytes.len() {
            // Doubling as usual, but not past the limit: a flood is to cost what was configured and no more.
            let wanted = (self.kept.len() + bytes.len()).max(2 * self.kept.capacity()).min(self.limit);
            self.kept.reserve_exact(wanted - self.kept.len());
        }
        self.kept.extend(bytes);
    }

    /// The kept end of the stream, without a character cut at its front.
    pub(super) fn finish(mut self) -> Tail {
        let truncated = self.total > self.kept.len() as u64;
        let mut bytes: &[u8] = self.kept.make_contiguous();
        if truncated {
            // At most three bytes continue a character.
            let cut = bytes.iter().take(3).take_while(|b| **b & 0b1100_0000 == 0b1000_0000).count();
            bytes = &bytes[cut..];
        }
        Tail::of(bytes, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capture(limit: usize, chunks: &[&[u8]]) -> Tail {
        let mut capture = Capture::new(limit);
        chunks.iter().for_each(|chunk| capture.push(chunk));
        capture.finish()
    }

    #[test]
    fn the_end_is_kept() {
        assert_eq!(capture(10, &[b"abc", b"def"]), Tail::of(b"abcdef", 6));
        assert_eq!(capture(4, &[b"abc", b"def"]), Tail::of(b"cdef", 6));
        assert_eq!(capture(4, &[b"abcdefgh"]).text, "efgh");
        assert_eq!(capture(0, &[b"abc"]), Tail::of(b"", 3));
    }

    #[test]
    fn no_character_is_cut_at_the_front() {
        assert_eq!(capture(4, &["aé€".as_bytes()]).text, "€");
        assert_eq!(capture(9, &["x".as_bytes(), b"\xff", "é".as_bytes()]).text, "x\u{fffd}é");
        // Not truncated: a stray continuation byte is the job's own.
        assert_eq!(capture(9, &[b"\x80a"]).text, "\u{fffd}a");
        assert_eq!(capture(3, &[b"ab\xff\xfe\0"]).bytes(), b"\xff\xfe\0".as_slice());
    }

    #[test]
    fn a_flood_costs_no_more_than_the_limit() {
        let mut capture = Capture::new(1000);
        for _ in 0..10_000 {
            capture.push(&[b'x'; 777]);
        }
        assert!(capture.kept.capacity() <= 1000, "{}", capture.kept.capacity());
        let tail = capture.finish();
        assert_eq!((tail.text.len(), tail.total_bytes), (1000, 7_770_000));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(chunks in proptest::collection::vec("[a-z]{0,20}", 0..20), limit in 0usize..50) {
            let all = chunks.concat();
            let mut capture = Capture::new(limit);
            chunks.iter().for_each(|c| capture.push(c.as_bytes()));
            let tail = capture.finish();
            prop_assert_eq!(&tail.text, &all[all.len().saturating_sub(limit)..]);
            prop_assert_eq!(tail.truncated, all.len() > limit);
        }
    }
}
