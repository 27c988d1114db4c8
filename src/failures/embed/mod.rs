//! The port of embedders, which turn texts into vectors of their meaning.

mod lexical;
pub mod openai;
mod static_model;
mod tfidf;
mod wordpiece;

pub use static_model::StaticModel;
pub use tfidf::TfIdf;

use std::time::Duration;

use async_trait::async_trait;

/// Why there are no vectors.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The embedder can't be reached, or asked to be left alone. Another try may work, not before `after` when it is
    /// given.
    #[error("the embedder is away: {problem}")]
    Away {
        /// What happened, in words for people.
        problem: String,
        /// How long to wait before another try, if that is known.
        after: Option<Duration>,
    },
    /// The day's budget is used up.
    #[error("the day's budget of {budget} embedded texts is used up")]
    Budget {
        /// How many texts may be embedded in a day.
        budget: u64,
        /// How long it is until the next day's budget.
        after: Duration,
    },
    /// It refuses these settings: the key, the model's name, the address. Only the operator can help.
    #[error("the embedder refuses: {problem}")]
    Refused {
        /// What it said, and what to do.
        problem: String,
    },
    /// It answered, but not with the vectors that were asked for.
    #[error("the embedder's answer is of no use: {problem}")]
    Garbage {
        /// What is wrong with it.
        problem: String,
    },
}

impl EmbedError {
    /// How long to wait before another try; zero when no time is known, `None` when no try is worth it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            EmbedError::Away { after, .. } => Some(after.unwrap_or_default()),
            EmbedError::Budget { after, .. } => Some(*after),
            EmbedError::Garbage { .. } => Some(Duration::ZERO),
            EmbedError::Refused { .. } => None,
        }
    }
}

/// Turns texts into vectors of length 1, near to each other where the texts mean the same.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// Names the model and everything else that vectors depend on: those of different models can't be compared.
    fn model(&self) -> &str;

    /// How many numbers its vectors have.
    fn dimension(&self) -> usize;

    /// Whether it answers at once and without cost, from within the process.
    fn is_local(&self) -> bool;

    /// One vector for each text, in the same order. Long texts may be cut.
    ///
    /// # Errors
    /// [`EmbedError`]; then no text of the call has a vector.
    async fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// Scales the vector to length 1, unless it is all zeros.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}
