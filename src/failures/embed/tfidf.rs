//! The baseline that models are compared with: it compares the spelling of texts, and nothing else.

use std::collections::{HashMap, HashSet};

use super::lexical::{finish, fnv};
use super::normalise;

const DIMENSION: usize = 4096;

/// Runs of three to five characters, weighted by how rare they are (TF-IDF), hashed.
pub struct TfIdf {
    weights: HashMap<u32, f32>,
    /// The weight of a run that no known text has.
    rarest: f32,
}

impl TfIdf {
    /// Learns from the known texts how rare each run is.
    #[expect(clippy::cast_precision_loss, reason = "counts of texts are small")]
    pub fn of(known: &[String]) -> Self {
        let mut texts: HashMap<u32, usize> = HashMap::new();
        for text in known {
            let runs: HashSet<u32> = runs(text).into_iter().collect();
            runs.into_iter().for_each(|run| *texts.entry(run).or_default() += 1);
        }
        let weight = |n: usize| ((1 + known.len()) as f32 / (1 + n) as f32).ln() + 1.0;
        Self { weights: texts.into_iter().map(|(run, n)| (run, weight(n))).collect(), rarest: weight(0) }
    }

    /// The text's vector, of length 1.
    #[expect(clippy::cast_precision_loss, reason = "counts of runs are small")]
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        runs(text).into_iter().for_each(|run| *counts.entry(run).or_default() += 1);
        let mut vector = vec![0.0; DIMENSION];
        for (run, n) in counts {
            let weight = self.weights.get(&run).copied().unwrap_or(self.rarest);
            vector[run as usize % DIMENSION] += (1.0 + (n as f32).ln()) * weight;
        }
        normalise(&mut vector);
        vector
    }
}

fn runs(text: &str) -> Vec<u32> {
    let text = format!(" {} ", text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" "));
    let bytes = text.as_bytes();
    (3..=5).flat_map(|length| bytes.windows(length).map(|run| finish(fnv(run)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_runs_weigh_more() {
        let model = TfIdf::of(&["error in file".to_owned(), "error in memory".to_owned(), "error at all".to_owned()]);
        let near = |a: &str, b: &str| -> f32 { model.vector(a).iter().zip(model.vector(b)).map(|(a, b)| a * b).sum() };
        assert!(near("error: memory", "memory") > near("error: memory", "error"));
        assert!((near("x y z", "x  Y z") - 1.0).abs() < 1e-5);
    }
}
