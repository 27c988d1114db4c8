//! Cuts texts into the pieces of words that a BERT model knows, as its own tokenizer does for uncased English models:
//! lower case, accents taken off, punctuation by itself, then the longest known piece first.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::lexical::{FNV_START, finish, fnv, fnv_step};

/// The number of a piece in the vocabulary.
pub(super) type Piece = u16;

/// Longer words are unknown as a whole.
const LONGEST_WORD: usize = 100;
const SLOTS: usize = 1 << 17;

/// The pieces, found by their bytes.
pub(super) struct Vocabulary {
    pieces: Vec<&'static str>,
    /// An open hash table: piece numbers plus one, 0 for an empty slot.
    slots: Vec<u16>,
    unknown: Piece,
}

/// The word that is being read.
#[derive(Default)]
struct Word {
    text: String,
    /// The hashes of the beginnings of its part that is still to be cut, kept to save allocations.
    hashes: Vec<u32>,
}

impl Vocabulary {
    /// Reads a vocabulary of one piece a line. Pieces that go on with a word begin with `##`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the vocabulary.
    pub(super) fn parse(lines: &'static str) -> Result<Self, String> {
        let pieces: Vec<&str> = lines.split('\n').collect();
        if pieces.len() >= usize::from(u16::MAX) {
            return Err(format!("{} pieces are too many", pieces.len()));
        }
        let mut slots = vec![0; SLOTS];
        for (number, piece) in (1..).zip(&pieces) {
            let mut slot = finish(fnv(piece.as_bytes())) as usize % SLOTS;
            while slots[slot] != 0 {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = number;
        }
        let vocabulary = Self { pieces, slots, unknown: 0 };
        let unknown = vocabulary.find("", b"[UNK]", fnv(b"[UNK]")).ok_or("there is no [UNK]")?;
        Ok(Self { unknown, ..vocabulary })
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    fn find(&self, prefix: &str, rest: &[u8], hash: u32) -> Option<Piece> {
        let mut slot = finish(hash) as usize % SLOTS;
        loop {
            let number = self.slots[slot].checked_sub(1)?;
            let piece = self.pieces[usize::from(number)].as_bytes();
            if piece.strip_prefix(prefix.as_bytes()) == Some(rest) {
                return Some(number);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// The pieces of a text, in order, `most` at most.
    pub(super) fn tokenize(&self, text: &str, most: usize) -> Vec<Piece> {
        let mut found = Vec::with_capacity(most.min(text.len() / 3 + 8));
        let mut word = Word::default();
        for c in text.chars() {
            if found.len() >= most {
                break;
            }
            if c.is_ascii() {
                self.push(c.to_ascii_lowercase(), &mut word, &mut found);
            } else {
                c.to_lowercase()
                    .nfd()
                    .filter(|c| !is_combining_mark(*c))
                    .for_each(|c| self.push(c, &mut word, &mut found));
            }
        }
        self.end(&mut word, &mut found);
        found.truncate(most);
        found
    }

    fn push(&self, c: char, word: &mut Word, found: &mut Vec<Piece>) {
        if c.is_whitespace() {
            self.end(word, found);
        } else if c.is_control() || c == '\u{fffd}' || is_format(c) {
        } else if stands_alone(c) {
            self.end(word, found);
            word.text.push(c);
            self.end(word, found);
        } else {
            word.text.push(c);
        }
    }

    /// Cuts the word into pieces, the longest known one first.
    fn end(&self, word: &mut Word, found: &mut Vec<Piece>) {
        let before = found.len();
        if !word.text.is_empty() && !self.cut(word, found) {
            found.truncate(before);
            found.push(self.unknown);
        }
        word.text.clear();
    }

    fn cut(&self, word: &mut Word, found: &mut Vec<Piece>) -> bool {
        let Word { text: word, hashes } = word;
        if word.len() > LONGEST_WORD && word.chars().count() > LONGEST_WORD {
            return false;
        }
        let bytes = word.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let prefix = if start == 0 { "" } else { "##" };
            let mut hash = if start == 0 { FNV_START } else { fnv(b"##") };
            hashes.clear();
            hashes.extend(bytes[start..].iter().map(|byte| {
                hash = fnv_step(hash, *byte);
                hash
            }));
            let lengths = (1..=bytes.len() - start).rev();
            let piece = lengths.filter(|length| word.is_char_boundary(start + length)).find_map(|length| {
                Some((length, self.find(prefix, &bytes[start..start + length], hashes[length - 1])?))
            });
            let Some((length, piece)) = piece else { return false };
            found.push(piece);
            start += length;
        }
        true
    }

    #[cfg(test)]
    pub(super) fn piece(&self, number: Piece) -> &'static str {
        self.pieces[usize::from(number)]
    }
}

/// Whether a character is a word by itself: punctuation, and the characters of Chinese.
fn stands_alone(c: char) -> bool {
    match c {
        _ if c.is_ascii() => c.is_ascii_punctuation(),
        '\u{a1}' | '\u{a7}' | '\u{ab}' | '\u{b6}' | '\u{b7}' | '\u{bb}' | '\u{bf}' => true,
        '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{2043}' | '\u{2045}'..='\u{2051}' | '\u{2053}'..='\u{205e}' => true,
        '\u{2308}'..='\u{230b}' | '\u{2329}' | '\u{232a}' | '\u{2768}'..='\u{2775}' | '\u{27e6}'..='\u{27ef}' => true,
        '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{30fb}' => true,
        '\u{ff01}'..='\u{ff03}' | '\u{ff05}'..='\u{ff0a}' | '\u{ff0c}'..='\u{ff0f}' | '\u{ff1a}' | '\u{ff1b}' => true,
        '\u{ff1f}' | '\u{ff20}' | '\u{ff3b}'..='\u{ff3d}' | '\u{ff3f}' | '\u{ff5b}' | '\u{ff5d}' => true,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' => true,
        '\u{20000}'..='\u{2ceaf}' | '\u{2f800}'..='\u{2fa1f}' => true,
        _ => false,
    }
}

/// Characters without a shape, such as joiners and marks of direction.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}')
}
