//! The embedder within the binary: a table of vectors, one for each piece of a word.
//!
//! A text's vector has two parts of equal weight. The first is the mean of its pieces' vectors, which were fitted to
//! what a sentence model says of whole texts, so that it tells of meaning. The second tells of spelling, so that codes
//! and names that the sentence model never met count too. `tools/static-model` makes the table; docs say from what.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;

use super::wordpiece::Vocabulary;
use super::{EmbedError, Embedder, lexical, normalise};
use crate::failures::codes;

/// How many pieces of a text count; about 1500 characters.
const MOST_PIECES: usize = 384;
const MAGIC: &[u8] = b"jobber static 1\n";
/// Stands for a piece without a vector: a rare word of no use here.
const NO_ROW: u16 = u16::MAX;

static BUILT_IN: LazyLock<Table> = LazyLock::new(|| {
    Table::parse(include_bytes!("model.bin")).expect("the file is part of the source and was checked")
});

/// The model that comes with Jobber. It is indexed at first use, which takes a few milliseconds: a worker without
/// policies by category never needs it.
pub struct StaticModel(());

/// A table of vectors. The whole table lies in the binary.
struct Table {
    vocabulary: Vocabulary,
    /// For each piece the row of its vector.
    rows: Vec<u16>,
    scales: Vec<f32>,
    /// The vectors, eight bits a number.
    numbers: &'static [u8],
    width: usize,
}

impl StaticModel {
    /// The model that comes with Jobber.
    pub fn built_in() -> Arc<Self> {
        Arc::new(Self(()))
    }

    /// How many bytes it adds to the binary.
    pub fn size() -> usize {
        include_bytes!("model.bin").len()
    }

    /// The text's vector, of length 1; zeros for a text that says nothing.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        BUILT_IN.vector(text)
    }
}

impl Table {
    /// Reads the format that `tools/static-model` writes: the mark, four little-endian `u32`
    /// (width, rows, pieces, bytes of the vocabulary), the vocabulary, a row number (`u16`) for
    /// each piece, and for each row a scale (`f32`) and `width` numbers (`i8`).
    fn parse(bytes: &'static [u8]) -> Result<Self, String> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or("it is no static model")?;
        let mut take = |length: usize| {
            let (taken, others) = rest.split_at_checked(length).ok_or("it is cut short")?;
            rest = others;
            Ok::<_, String>(taken)
        };
        let mut number = || take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let (width, rows, pieces, text) = (number()?, number()?, number()?, number()?);
        let text = std::str::from_utf8(take(text)?).map_err(|e| e.to_string())?;
        let vocabulary = Vocabulary::parse(text)?;
        let row_of: Vec<u16> = take(2 * pieces)?.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        let scales = take(4 * rows)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let numbers = take(width * rows)?;
        let whole = vocabulary.len() == pieces && row_of.iter().all(|row| *row == NO_ROW || usize::from(*row) < rows);
        if !rest.is_empty() || !whole || width == 0 {
            return Err("its parts do not fit together".to_owned());
        }
        Ok(Self { vocabulary, rows: row_of, scales, numbers, width })
    }

    fn vector(&self, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0_f32; self.width];
        for piece in self.vocabulary.tokenize(text, MOST_PIECES) {
            let row = self.rows[usize::from(piece)];
            if row != NO_ROW {
                let scale = self.scales[usize::from(row)];
                let numbers = &self.numbers[usize::from(row) * self.width..][..self.width];
                for (sum, number) in vector.iter_mut().zip(numbers) {
                    *sum += scale * f32::from(i8::from_ne_bytes([*number]));
                }
            }
        }
        normalise(&mut vector);
        vector.extend(lexical::vector(text));
        normalise(&mut vector);
        vector
    }
}

#[async_trait]
impl Embedder for StaticModel {
    fn model(&self) -> &'static str {
        static NAME: LazyLock<String> = LazyLock::new(|| format!("jobber-static-1/{}", codes::version()));
        &NAME
    }

    fn dimension(&self) -> usize {
        BUILT_IN.width + lexical::DIMENSION
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failures::codes::expand_codes;

    #[test]
    fn the_tokenizer_cuts_as_the_teachers_does() {
        let model = &*BUILT_IN;
        for line in include_str!("tokens.jsonl").lines() {
            let (text, expected): (String, Vec<String>) = serde_json::from_str(line).unwrap();
            let pieces = model.vocabulary.tokenize(&text, 10_000);
            let pieces: Vec<_> = pieces.into_iter().map(|p| model.vocabulary.piece(p)).collect();
            assert_eq!(pieces, expected, "{text:?}");
        }
    }

    #[test]
    fn what_means_the_same_is_near() {
        let model = StaticModel::built_in();
        let near = |a: &str, b: &str| -> f32 {
            let (a, b) = (model.vector(&expand_codes(a)), model.vector(&expand_codes(b)));
            a.iter().zip(&b).map(|(a, b)| a * b).sum()
        };
        for (one, same, other) in [
            ("std::bad_alloc", "Killed: out of memory", "connection refused"),
            ("the disk is full", "ENOSPC", "permission denied"),
            ("ECONNREFUSED", "the server can't be reached over the network", "segmentation fault"),
            ("SIGSEGV", "invalid memory access", "syntax error in SQL"),
        ] {
            assert!(near(one, same) > near(one, other) + 0.1, "{one}: {} {}", near(one, same), near(one, other));
        }
    }

    #[test]
    fn vectors_have_length_one_whatever_the_text() {
        let model = StaticModel::built_in();
        for text in
            ["a", "\u{0}\u{200b}x", "日本語のエラー", &"é".repeat(5000), &"word ".repeat(5000), "0x7f \u{1f4a5}"]
        {
            let vector = model.vector(text);
            assert_eq!(vector.len(), model.dimension());
            let length: f32 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-4, "{text:.20}: {length}");
        }
        assert!(model.vector("").iter().all(|x| *x == 0.0));
    }

    #[test]
    fn the_size_is_bounded() {
        assert!(StaticModel::size() <= 5_000_000, "{}", StaticModel::size());
    }

    #[test]
    fn broken_models_are_refused() {
        let whole: &[u8] = include_bytes!("model.bin");
        for cut in [0, 10, MAGIC.len() + 3, whole.len() / 2, whole.len() - 1] {
            assert!(Table::parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
