//! Which category a message belongs to: the rule, and the threshold that it needs.

use crate::domain::{Category, CategoryId, Match};

/// The similarity from which a message belongs to a category, unless another is set.
pub const DEFAULT_THRESHOLD: f32 = 0.4;

/// Puts vectors into categories.
#[derive(Debug, Clone)]
pub struct Matcher {
    categories: Vec<Known>,
    threshold: f32,
}

#[derive(Debug, Clone)]
struct Known {
    id: CategoryId,
    vectors: Vec<Vec<f32>>,
}

impl Matcher {
    /// The texts whose vectors [`Matcher::new`] needs, in its order.
    pub fn texts(categories: &[Category]) -> Vec<String> {
        categories.iter().flat_map(texts_of).collect()
    }

    /// A matcher of these categories, with the vectors of [`Matcher::texts`], all of one model.
    ///
    /// # Panics
    /// When there are more or fewer vectors than texts.
    pub fn new(categories: &[Category], vectors: &[Vec<f32>], threshold: f32) -> Self {
        let mut rest = vectors;
        let known = categories.iter().map(|category| {
            let (its, others) = rest.split_at(texts_of(category).len());
            rest = others;
            Known { id: category.id.clone(), vectors: its.to_vec() }
        });
        let categories = known.collect();
        assert!(rest.is_empty(), "{} vectors belong to no text", rest.len());
        Self { categories, threshold }
    }

    /// The category that is nearest to this vector.
    pub fn nearest(&self, vector: &[f32]) -> Match {
        let similarity = |known: &Known| known.vectors.iter().map(|v| dot(v, vector)).fold(-1.0, f32::max);
        let scored = self.categories.iter().map(|known| (known, similarity(known)));
        match scored.max_by(|a, b| a.1.total_cmp(&b.1)) {
            None => Match { category: None, best: None, similarity: 0.0 },
            Some((known, similarity)) => Match {
                category: (similarity >= self.threshold).then(|| known.id.clone()),
                best: Some(known.id.clone()),
                similarity,
            },
        }
    }
}

fn texts_of(category: &Category) -> Vec<String> {
    let said = if category.description.is_empty() {
        category.name.clone()
    } else {
        format!("{}: {}", category.name, category.description)
    };
    std::iter::once(said).chain(category.examples.iter().cloned()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A labelled message's best match: what calibration learns from.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// Where it belongs; `None` for messages that belong to no category.
    pub label: Option<CategoryId>,
    /// Where the matcher put it.
    pub found: Match,
}

/// What one threshold buys.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Point {
    /// The similarity from which a message belongs to its nearest category.
    pub threshold: f32,
    /// Of the messages that are put into a category, the part that belongs there; 1 when none is.
    pub precision: f32,
    /// Of the messages that belong to a category, the part that is put there; 1 when there is none.
    pub recall: f32,
    /// Of all messages, the part that is put where it belongs, into a category or into none.
    pub accuracy: f32,
}

/// The threshold that puts most messages where they belong, and what others would do.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Calibration {
    /// The best one.
    pub best: Point,
    /// Thresholds from low to high.
    pub curve: Vec<Point>,
}

/// Picks the threshold with the highest accuracy; of equals the middle one. `None` without messages.
pub fn calibrate(labelled: &[Labelled]) -> Option<Calibration> {
    if labelled.is_empty() {
        return None;
    }
    let curve: Vec<Point> = (0..=100u8).map(|percent| point(labelled, f32::from(percent) / 100.0)).collect();
    let top = curve.iter().map(|p| p.accuracy).fold(0.0, f32::max);
    let equals: Vec<Point> = curve.iter().copied().filter(|p| p.accuracy >= top).collect();
    Some(Calibration { best: equals[equals.len() / 2], curve })
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages are small")]
fn point(labelled: &[Labelled], threshold: f32) -> Point {
    let (mut placed, mut right, mut belonging, mut left) = (0, 0, 0, 0);
    for Labelled { label, found } in labelled {
        let here = found.best.as_ref().filter(|_| found.similarity >= threshold);
        placed += usize::from(here.is_some());
        belonging += usize::from(label.is_some());
        right += usize::from(here.is_some() && here == label.as_ref());
        left += usize::from(here.is_none() && label.is_none());
    }
    let part = |n: usize, of: usize| if of == 0 { 1.0 } else { n as f32 / of as f32 };
    Point {
        threshold,
        precision: part(right, placed),
        recall: part(right, belonging),
        accuracy: part(right + left, labelled.len()),
    }
}

/// The categories of a new installation.
pub fn seeds() -> Vec<Category> {
    const SEEDS: &[(&str, &str)] = &[
        (
            "C++ error",
            "An uncaught C++ exception, a failed assertion, or heap corruption: the program called terminate or abort.",
        ),
        (
            "Javascript error",
            "An uncaught exception of JavaScript or Node.js: TypeError, ReferenceError, SyntaxError, an unhandled promise rejection.",
        ),
        (
            "Image processing error",
            "An image can't be decoded, encoded or processed: OpenCV, libpng, libjpeg, ImageMagick, ffmpeg, a corrupt or unsupported picture.",
        ),
        (
            "Memory quota exceeded",
            "Out of memory: an allocation failed, a memory limit was reached, or the kernel killed the process to free memory.",
        ),
        ("Timeout", "The time limit was reached: timed out, deadline exceeded, no answer in time."),
        (
            "Null pointer exception",
            "A null pointer or null reference was used: null pointer exception, undefined or None where an object was expected.",
        ),
    ];
    SEEDS
        .iter()
        .map(|(name, description)| Category {
            id: CategoryId::of_name(name).expect("the built-in names give ids"),
            name: (*name).to_owned(),
            description: (*description).to_owned(),
            examples: Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(name: &str, examples: &[&str]) -> Category {
        Category {
            id: CategoryId::of_name(name).unwrap(),
            name: name.to_owned(),
            description: String::new(),
            examples: examples.iter().map(|e| (*e).to_owned()).collect(),
        }
    }

    #[test]
    fn a_vector_goes_to_the_nearest_category_over_the_threshold() {
        let categories = [category("a", &["x"]), category("b", &[])];
        assert_eq!(Matcher::texts(&categories), ["a", "x", "b"]);
        let vectors = [vec![1.0, 0.0], vec![0.0, 1.0], vec![-1.0, 0.0]];
        let matcher = Matcher::new(&categories, &vectors, 0.9);
        assert_eq!(matcher.nearest(&[0.0, 1.0]).category, Some(categories[0].id.clone()));
        let far = matcher.nearest(&[-0.8, 0.6]);
        assert_eq!((far.category, far.best), (None, Some(categories[1].id.clone())));
        assert_eq!(Matcher::new(&[], &[], 0.5).nearest(&[1.0]).best, None);
    }

    #[test]
    fn calibration_finds_the_threshold_between() {
        let id = CategoryId::parse("a").unwrap();
        let found = |similarity| Match { category: None, best: Some(id.clone()), similarity };
        let labelled =
            [Labelled { label: Some(id.clone()), found: found(0.8) }, Labelled { label: None, found: found(0.4) }];
        let best = calibrate(&labelled).unwrap().best;
        assert!(best.threshold > 0.4 && best.threshold <= 0.8, "{best:?}");
        assert_eq!((best.precision, best.recall, best.accuracy), (1.0, 1.0, 1.0));
        assert!(calibrate(&[]).is_none());
    }

    #[test]
    fn the_originals_six_are_there() {
        let names: Vec<_> = seeds().into_iter().map(|c| c.name).collect();
        let expected = [
            "C++ error",
            "Javascript error",
            "Image processing error",
            "Memory quota exceeded",
            "Timeout",
            "Null pointer exception",
        ];
        assert_eq!(names, expected);
        assert!(seeds().iter().all(|c| c.validate().is_ok()));
    }
}
