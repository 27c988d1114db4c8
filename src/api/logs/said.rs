//! What has been told of one stream, and what of its tail has not.

/// The end of what has been told of one stream of one attempt.
#[derive(Debug, Default)]
pub(super) struct Said(String);

impl Said {
    /// Enough to find the place in any tail of the usual size.
    const KEPT: usize = 256 * 1024;
    /// A shorter text is found in a tail by accident too easily.
    const CERTAIN: usize = 64;
    /// The piece that is looked for when pieces before it were lost.
    const ANCHOR: usize = 4096;

    /// Notes what is told.
    pub(super) fn push(&mut self, text: &str) {
        self.0.push_str(text);
        if self.0.len() > 2 * Self::KEPT {
            let cut = self.0.ceil_char_boundary(self.0.len() - Self::KEPT);
            self.0.drain(..cut);
        }
    }

    /// What of `tail`, the end of the whole stream, comes after what has been told.
    ///
    /// What was told ends somewhere in the tail, or before it. It may lack a beginning (who comes late gets what the
    /// queue still has) and pieces in the middle (they are passed on as well as can be). So the place is searched by
    /// text: the longest overlap if it is a whole one, else the last place where the end of what was told stands, else
    /// a part of an overlap.
    pub(super) fn rest<'t>(&self, tail: &'t str) -> &'t str {
        let said = self.0.as_str();
        let overlap = overlap(said.as_bytes(), tail.as_bytes());
        if overlap == said.len().min(tail.len()) {
            return &tail[overlap..];
        }
        for length in [said.len(), Self::ANCHOR, Self::CERTAIN] {
            if length < Self::CERTAIN.min(said.len()) {
                continue;
            }
            let end = &said[said.ceil_char_boundary(said.len().saturating_sub(length))..];
            if let Some(at) = tail.rfind(end) {
                return &tail[at + end.len()..];
            }
        }
        &tail[overlap..]
    }
}

/// The length of the longest end of `said` that `tail` begins with (Knuth, Morris and Pratt's table of borders).
fn overlap(said: &[u8], tail: &[u8]) -> usize {
    let mut borders = vec![0; tail.len()];
    let step = |borders: &[usize], mut matched: usize, byte: u8| {
        while matched > 0 && (matched == tail.len() || tail[matched] != byte) {
            matched = borders[matched - 1];
        }
        if matched < tail.len() && tail[matched] == byte { matched + 1 } else { matched }
    };
    let mut matched = 0;
    for i in 1..tail.len() {
        matched = step(&borders, matched, tail[i]);
        borders[i] = matched;
    }
    said.iter().fold(0, |matched, byte| step(&borders, matched, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rest<'t>(said: &str, tail: &'t str) -> &'t str {
        let mut told = Said::default();
        told.push(said);
        told.rest(tail)
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        assert_eq!(rest("", "abc"), "abc", "nothing came through");
        assert_eq!(rest("abc", "abc"), "");
        assert_eq!(rest("ab", "abc"), "c", "the last piece did not");
        assert_eq!(rest("0123456789abc", "abc"), "", "only the tail was kept");
        assert_eq!(rest("0123456789ab", "abc"), "c");
        assert_eq!(rest("0123", "abc"), "abc", "the tail begins later");
        assert_eq!(rest("x\nx\nx\n", "x\nx\nx\nx\nx\n"), "x\nx\n", "equal lines are counted");
        assert_eq!(rest("grün", "grüne Äpfel"), "e Äpfel");
    }

    #[test]
    fn who_came_late_or_missed_a_piece_gets_only_the_end() {
        let line = |n: u32| format!("line {n} of what the job has to say, which is rather a lot of text\n");
        let lines = |range: std::ops::Range<u32>| range.map(line).collect::<String>();
        assert_eq!(rest(&lines(3..7), &lines(0..9)), lines(7..9));
        let with_gap = lines(0..2) + &lines(4..6);
        assert_eq!(rest(&with_gap, &lines(0..8)), lines(6..8));
    }

    proptest! {
        #[test]
        fn told_and_rest_are_the_whole(text in "[ab\u{e4}]{0,40}", told in 0usize..60, kept in 0usize..60) {
            let told = text.floor_char_boundary(told.min(text.len()));
            let kept = text.ceil_char_boundary(text.len().saturating_sub(kept));
            // All was told up to `told`, and the tail begins at the start of the text: the whole must come out.
            prop_assert_eq!(format!("{}{}", &text[..told], rest(&text[..told], &text)), text.clone());
            // All was told: nothing is left, wherever the tail begins.
            prop_assert_eq!(rest(&text, &text[kept..]), "");
        }

        #[test]
        fn the_overlap_is_the_longest(a in "[ab]{0,12}", b in "[ab]{0,12}") {
            let longest = (0..=a.len().min(b.len())).rev().find(|n| a.ends_with(&b[..*n])).unwrap();
            prop_assert_eq!(overlap(a.as_bytes(), b.as_bytes()), longest);
        }
    }
}
