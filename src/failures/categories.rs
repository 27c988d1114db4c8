//! Which category a message belongs to: the rule, and the threshold that it needs.

pub use super::library::{library, named, seeds};
use crate::domain::{Category, CategoryId, Match};

/// The similarity from which a message belongs to a category, unless another is set.
pub const DEFAULT_THRESHOLD: f32 = 0.4;

/// How much the regression smooths.
const RIDGE: f64 = 0.5;

/// Puts vectors into categories.
///
/// Every text of a category (its name with its description, each example) is a point with the value 1 for that category
/// and 0 for the others; between them kernel ridge regression (Saunders, Gammerman and Vovk, 1998) with the similarity
/// of vectors as its kernel says how much a vector belongs to each. Unlike the nearest example it weighs what tells
/// categories apart, and it costs one scalar product a category. The ridge grows with a category's number of texts, so
/// that one with few is not drowned by one with many.
#[derive(Debug, Clone)]
pub struct Matcher {
    categories: Vec<CategoryVector>,
    threshold: f32,
}

#[derive(Debug, Clone)]
struct CategoryVector {
    id: CategoryId,
    /// The scalar product with this is the similarity.
    weights: Vec<f32>,
}

impl Matcher {
    /// The texts whose vectors [`Matcher::new`] needs, in its order. Expand their codes before they are embedded.
    pub fn texts(categories: &[Category]) -> Vec<String> {
        categories.iter().flat_map(texts_of).collect()
    }

    /// A matcher of these categories, with the vectors of [`Matcher::texts`], all of one model. It takes the third
    /// power of the number of texts: a fraction of a second for a thousand.
    ///
    /// # Panics
    /// When there are more or fewer vectors than texts.
    pub fn new(categories: &[Category], vectors: &[Vec<f32>], threshold: f32) -> Self {
        let owner: Vec<usize> =
            categories.iter().enumerate().flat_map(|(at, c)| std::iter::repeat_n(at, texts_of(c).len())).collect();
        assert_eq!(owner.len(), vectors.len(), "every text of a category needs a vector, and no other");
        let weights = fit(categories.len(), &owner, vectors);
        let categories =
            categories.iter().zip(weights).map(|(c, weights)| CategoryVector { id: c.id.clone(), weights }).collect();
        Self { categories, threshold }
    }

    /// [`Matcher::new`] on a thread that may be busy: a library of categories takes seconds on a slow machine, and no
    /// task of the process waits for that. `None` when it panicked, or the process ends.
    pub async fn fit(categories: Vec<Category>, vectors: Vec<Vec<f32>>, threshold: f32) -> Option<Self> {
        tokio::task::spawn_blocking(move || Self::new(&categories, &vectors, threshold)).await.ok()
    }

    /// The category that this vector belongs to most.
    pub fn nearest(&self, vector: &[f32]) -> Match {
        let scored = self.categories.iter().map(|known| (known, dot(&known.weights, vector)));
        match scored.max_by(|a, b| a.1.total_cmp(&b.1)) {
            None => Match { category: None, best: None, similarity: 0.0 },
            Some((known, similarity)) => {
                let similarity = similarity.clamp(0.0, 1.0);
                Match {
                    category: (similarity >= self.threshold).then(|| known.id.clone()),
                    best: Some(known.id.clone()),
                    similarity,
                }
            }
        }
    }
}

fn texts_of(category: &Category) -> Vec<String> {
    let named = if category.description.is_empty() {
        category.name.clone()
    } else {
        format!("{}: {}", category.name, category.description)
    };
    std::iter::once(named).chain(category.examples.iter().cloned()).collect()
}

/// Computes the weights of the regression for each category. `owner` names the category of each point.
#[expect(clippy::cast_precision_loss, reason = "counts of texts are small")]
fn fit(categories: usize, owner: &[usize], points: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut texts = vec![0_usize; categories];
    owner.iter().for_each(|category| texts[*category] += 1);
    let average = owner.len() as f64 / categories.max(1) as f64;
    let mut kernel = Vec::with_capacity(points.len());
    for (row, point) in points.iter().enumerate() {
        // Only the lower half is needed.
        let mut line: Vec<f64> = points[..=row].iter().map(|other| f64::from(dot(point, other))).collect();
        line[row] += RIDGE * texts[owner[row]] as f64 / average;
        kernel.push(line);
    }
    factorise(&mut kernel);
    let width = points.first().map_or(0, Vec::len);
    let fitted = (0..categories).map(|category| {
        let wanted = owner.iter().map(|o| f64::from(u8::from(*o == category))).collect();
        let mut weights = vec![0.0_f32; width];
        for (share, point) in solve(&kernel, wanted).into_iter().zip(points) {
            #[expect(clippy::cast_possible_truncation, reason = "single precision is what vectors have")]
            let share = share as f32;
            weights.iter_mut().zip(point).for_each(|(w, x)| *w += share * x);
        }
        weights
    });
    fitted.collect()
}

/// The Cholesky factor of a symmetric, positive definite matrix, in place of its lower half.
fn factorise(matrix: &mut [Vec<f64>]) {
    for row in 0..matrix.len() {
        let (above, rest) = matrix.split_at_mut(row);
        let line = &mut rest[0];
        for column in 0..row {
            let other = &above[column];
            let sum: f64 = line[..column].iter().zip(&other[..column]).map(|(a, b)| a * b).sum();
            line[column] = (line[column] - sum) / other[column];
        }
        let sum: f64 = line[..row].iter().map(|a| a * a).sum();
        // The ridge keeps it positive; rounding may not take that away.
        line[row] = (line[row] - sum).max(1e-9).sqrt();
    }
}

/// Solves for the right side `wanted`, given the Cholesky factor.
fn solve(factor: &[Vec<f64>], mut wanted: Vec<f64>) -> Vec<f64> {
    for row in 0..factor.len() {
        let sum: f64 = factor[row][..row].iter().zip(&wanted[..row]).map(|(a, b)| a * b).sum();
        wanted[row] = (wanted[row] - sum) / factor[row][row];
    }
    for row in (0..factor.len()).rev() {
        let value = wanted[row] / factor[row][row];
        wanted[row] = value;
        for (earlier, a) in wanted[..row].iter_mut().zip(&factor[row][..row]) {
            *earlier -= a * value;
        }
    }
    wanted
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Sums side by side, which the compiler turns into vector instructions.
    let mut sums = [0.0_f32; 16];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for at in 0..16 {
            sums[at] += a[at] * b[at];
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// A labelled message's best match: what calibration learns from.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// The category that it belongs to; `None` for messages that belong to no category.
    pub label: Option<CategoryId>,
    /// Where the matcher put it.
    pub found: Match,
}

/// How well one threshold sorts the messages.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = CalibrationPoint)]
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
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Calibration {
    /// The threshold with the highest accuracy, and how well it sorts.
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
        let vectors = [vec![1.0, 0.0], vec![0.8, 0.6], vec![-1.0, 0.0]];
        let matcher = Matcher::new(&categories, &vectors, 0.3);
        assert_eq!(matcher.nearest(&[1.0, 0.0]).category, Some(categories[0].id.clone()));
        assert_eq!(matcher.nearest(&[-1.0, 0.0]).category, Some(categories[1].id.clone()));
        let far = matcher.nearest(&[0.0, -1.0]);
        assert!(far.category.is_none() && far.best.is_some() && far.similarity < 0.3, "{far:?}");
        assert_eq!(Matcher::new(&[], &[], 0.5).nearest(&[1.0]).best, None);
    }

    #[test]
    fn the_regression_solves_its_equations() {
        // (K + ridge) a = y, checked against the definition on points that are not orthogonal.
        let points = [vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, 1.0]];
        let owner = [0, 0, 1];
        let weights = fit(2, &owner, &points);
        let ridge = [RIDGE * 2.0 / 1.5, RIDGE * 2.0 / 1.5, RIDGE / 1.5];
        for (category, fitted) in weights.iter().enumerate() {
            // At the solution what the ridge holds back is the point's share: w = sum (y - f(x)) / ridge * x.
            let mut again = [0.0_f64; 2];
            for (point, (owner, ridge)) in points.iter().zip(owner.iter().zip(ridge)) {
                let wanted = f64::from(u8::from(*owner == category));
                let share = (wanted - f64::from(dot(fitted, point))) / ridge;
                again[0] += share * f64::from(point[0]);
                again[1] += share * f64::from(point[1]);
            }
            for (w, again) in fitted.iter().zip(again) {
                assert!((f64::from(*w) - again).abs() < 1e-5, "{w} {again}");
            }
        }
    }

    #[test]
    fn few_texts_are_not_drowned_by_many() {
        let many: Vec<&str> = vec!["x"; 30];
        let categories = [category("many", &many), category("few", &[])];
        let mut vectors = vec![vec![1.0, 0.0, 0.0]; 31];
        vectors.push(vec![0.8, 0.6, 0.0]);
        let found = Matcher::new(&categories, &vectors, 0.0).nearest(&[0.8, 0.6, 0.0]);
        assert_eq!(found.best, Some(categories[1].id.clone()));
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
}
