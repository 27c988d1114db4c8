//! Parts of a whole, with intervals that say how sure they are.
//!
//! ```text
//! Wilson score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209), of x of n, p = x / n, z = 1.96:
//!   (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
//!
//! Difference of two independent parts (Newcombe 1998, Stat. Med. 17:873, method 10), with the Wilson limits l, u of each:
//!   d = p1 - p2,   d - √((p1-l1)² + (u2-p2)²)   to   d + √((u1-p1)² + (p2-l2)²)
//!
//! Difference over strata (Mantel and Haenszel's weights), of stratum i with p1 of n1 and p0 of n0:
//!   w = n1 n0/(n1 + n0) over the sum of these,   d = Σ w (p1 - p0)
//! its interval (Yan and Su 2010, Stat. Biopharm. Res. 2:329, stratified Newcombe): Newcombe's, with for each group the Wilson
//! limits of Σ w p as of 1 / Σ (w²/n) trials. Unlike an interval by the variance alone it keeps a width where all succeed.
//! ```
//! An interval of 95 %: of many such intervals, 95 in 100 hold the true value.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The 97.5 % quantile of the normal distribution: leaves 5 % outside on both sides together.
pub const Z: f64 = 1.959_963_984_540_054;
/// A rate of a whole smaller than this is not shown: it would say more than is known.
pub const FEWEST: i64 = 5;

/// A part of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// The size of the whole.
    pub n: i64,
    /// The size of the part.
    pub hits: i64,
    /// The part over the whole, 0 to 1; `None` when the whole is less than [`FEWEST`].
    pub rate: Option<f64>,
    /// The lower Wilson limit, 0 to 1; `None` when the whole is 0.
    pub low: Option<f64>,
    /// The upper Wilson limit, 0 to 1; `None` when the whole is 0.
    pub high: Option<f64>,
}

impl Rate {
    /// The rate of `hits` among `n`, with its Wilson limits.
    pub fn of(hits: i64, n: i64) -> Self {
        let limits = wilson(hits as f64, n as f64);
        let rate = (n >= FEWEST).then(|| hits as f64 / n as f64);
        Self { n, hits, rate, low: limits.map(|l| l.0), high: limits.map(|l| l.1) }
    }
}

/// The Wilson limits of `x` among `n`, which need not be whole numbers; `None` when `n` is 0.
pub fn wilson(x: f64, n: f64) -> Option<(f64, f64)> {
    if n <= 0.0 {
        return None;
    }
    let (p, z2) = (x / n, Z * Z);
    let middle = p + z2 / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).max(0.0).sqrt();
    let scale = 1.0 + z2 / n;
    Some((((middle - reach) / scale).clamp(0.0, 1.0), ((middle + reach) / scale).clamp(0.0, 1.0)))
}

/// How much larger one part is than another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The first less the second, -1 to 1.
    pub difference: f64,
    /// The lower limit of the interval of 95 %.
    pub low: f64,
    /// The upper limit of the interval of 95 %.
    pub high: f64,
}

/// The difference of two independent parts; `None` when one of the wholes is smaller than [`FEWEST`].
pub fn newcombe(first: &Rate, second: &Rate) -> Option<Difference> {
    Some(difference(first.rate?, (first.low?, first.high?), second.rate?, (second.low?, second.high?)))
}

/// Two groups within one stratum: hits and whole of the first and of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stratum {
    /// The first group: hits, and the whole.
    pub first: (i64, i64),
    /// The second group: hits, and the whole.
    pub second: (i64, i64),
}

/// The difference of two parts within strata, put together; `None` when no stratum has both groups, or when there are
/// fewer than [`FEWEST`] in one of them.
pub fn stratified(strata: &[Stratum]) -> Option<Difference> {
    let both = || strata.iter().filter(|s| s.first.1 > 0 && s.second.1 > 0);
    if both().map(|s| s.first.1).sum::<i64>() < FEWEST || both().map(|s| s.second.1).sum::<i64>() < FEWEST {
        return None;
    }
    let weight = |s: &Stratum| {
        let (n1, n0) = (s.first.1 as f64, s.second.1 as f64);
        n1 * n0 / (n1 + n0)
    };
    let whole: f64 = both().map(weight).sum();
    // The weighted part, and the variance factor: a plain part of 1 / factor trials would vary as much.
    let group = |of: fn(&Stratum) -> (i64, i64)| {
        both().fold((0.0, 0.0), |(part, spread), s| {
            let ((hits, n), w) = (of(s), weight(s) / whole);
            (part + w * hits as f64 / n as f64, spread + w * w / n as f64)
        })
    };
    let ((p1, spread1), (p0, spread0)) = (group(|s| s.first), group(|s| s.second));
    let limits = |part: f64, trials: f64| wilson(part * trials, trials);
    Some(difference(p1, limits(p1, 1.0 / spread1)?, p0, limits(p0, 1.0 / spread0)?))
}

/// Newcombe's interval for the difference of two parts with these Wilson limits.
fn difference(p1: f64, (l1, u1): (f64, f64), p0: f64, (l0, u0): (f64, f64)) -> Difference {
    let difference = p1 - p0;
    let low = difference - ((p1 - l1).powi(2) + (u0 - p0).powi(2)).sqrt();
    let high = difference + ((u1 - p1).powi(2) + (p0 - l0).powi(2)).sqrt();
    Difference { difference, low: low.max(-1.0), high: high.min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::dice::Dice;

    #[test]
    fn the_limits_are_those_of_the_papers() {
        // Newcombe 1998, Stat. Med. 17:857, table I: 81/263, 15/148, 0/20, 1/29.
        for (x, n, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let rate = Rate::of(x, n);
            let near = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 6e-5;
            assert!(near(rate.low, low) && near(rate.high, high), "{rate:?}");
        }
        // Newcombe 1998, Stat. Med. 17:873, table II, method 10: 56/70 - 48/80.
        let d = newcombe(&Rate::of(56, 70), &Rate::of(48, 80)).unwrap();
        assert!((d.low - 0.0524).abs() < 6e-5 && (d.high - 0.3339).abs() < 6e-5, "{d:?}");
    }

    #[test]
    fn of_few_no_bare_part_is_told() {
        assert_eq!((Rate::of(3, 4).rate, Rate::of(4, 5).rate), (None, Some(0.8)));
        assert!(Rate::of(3, 4).low.is_some());
        let nothing = Rate::of(0, 0);
        assert_eq!((nothing.rate, nothing.low, nothing.high), (None, None, None));
        assert_eq!(newcombe(&Rate::of(1, 4), &Rate::of(9, 10)), None);
    }

    const RUNS: u32 = 4000;

    /// The part of many intervals that holds the true value.
    fn coverage(mut holds: impl FnMut(&mut Dice) -> bool) -> f64 {
        let mut dice = Dice(20_261_124);
        let held: u32 = (0..RUNS).map(|_| u32::from(holds(&mut dice))).sum();
        f64::from(held) / f64::from(RUNS)
    }

    #[test]
    fn ninety_five_of_a_hundred_wilson_intervals_hold_the_truth() {
        for (n, p) in [(10, 0.5), (20, 0.1), (50, 0.9), (200, 0.03), (1000, 0.7)] {
            let covered = coverage(|dice| {
                let rate = Rate::of(dice.hits(n, p), n);
                rate.low.unwrap() <= p && p <= rate.high.unwrap()
            });
            // The score interval swings around 95 % with n and p: Brown, Cai, DasGupta 2001.
            assert!((0.92..=0.985).contains(&covered), "{n} {p}: {covered}");
        }
    }

    #[test]
    fn ninety_five_of_a_hundred_differences_hold_the_truth() {
        for (n1, p1, n2, p2) in [(40, 0.9, 60, 0.7), (20, 0.5, 20, 0.5), (300, 0.05, 100, 0.1)] {
            let covered = coverage(|dice| {
                let (first, second) = (Rate::of(dice.hits(n1, p1), n1), Rate::of(dice.hits(n2, p2), n2));
                let d = newcombe(&first, &second).unwrap();
                d.low <= p1 - p2 && p1 - p2 <= d.high
            });
            assert!((0.93..=0.985).contains(&covered), "{covered}");
        }
    }

    #[test]
    fn strata_keep_a_mix_from_passing_for_an_effect() {
        // Two names: one fails often and runs beside others, one never fails and runs alone. No effect within either.
        let strata = [Stratum { first: (45, 90), second: (5, 10) }, Stratum { first: (10, 10), second: (90, 90) }];
        let crude = newcombe(&Rate::of(55, 100), &Rate::of(95, 100)).unwrap();
        assert!(crude.high < -0.2, "{crude:?}");
        let fair = stratified(&strata).unwrap();
        assert!(fair.difference.abs() < 1e-9 && fair.low < 0.0 && fair.high > 0.0, "{fair:?}");
        assert_eq!(stratified(&[Stratum { first: (9, 9), second: (0, 0) }]), None);
    }

    #[test]
    fn ninety_five_of_a_hundred_stratified_differences_hold_the_truth() {
        // A common difference of -0.1 at different levels; few large strata, then many small ones.
        let levels = [0.9, 0.6, 0.4];
        for (strata, n1, n0) in [(3, 60, 80), (40, 4, 6)] {
            let covered = coverage(|dice| {
                let one = |i: usize| {
                    let p = levels[i % 3];
                    Stratum { first: (dice.hits(n1, p - 0.1), n1), second: (dice.hits(n0, p), n0) }
                };
                let all: Vec<_> = (0..strata).map(one).collect();
                let d = stratified(&all).unwrap();
                d.low <= -0.1 && -0.1 <= d.high
            });
            // It is wider than need be where the strata differ much in level: never too narrow.
            assert!((0.93..=1.0).contains(&covered), "{strata}: {covered}");
        }
    }

    #[test]
    fn near_certainty_the_interval_keeps_a_width() {
        let d = stratified(&[Stratum { first: (5, 5), second: (5, 5) }]).unwrap();
        let plain = newcombe(&Rate::of(5, 5), &Rate::of(5, 5)).unwrap();
        assert_eq!(d.difference, 0.0);
        // One stratum is no stratum. Newcombe 1998, Stat. Med. 17:873, method 10: the Wilson limits of 5/5 are 0.5655 and 1.
        assert!((d.low - plain.low).abs() < 1e-12 && (d.high - plain.high).abs() < 1e-12, "{d:?}");
        assert!((d.low + 0.4345).abs() < 1e-4 && (d.high - 0.4345).abs() < 1e-4, "{d:?}");
    }

    #[test]
    fn near_zero_and_one_stratified_intervals_hold_the_truth() {
        for (strata, n1, n0, p1, p0) in [
            (3, 6, 9, 0.98, 0.98),
            (3, 6, 9, 0.02, 0.02),
            (8, 3, 2, 0.97, 0.99),
            (2, 40, 20, 0.995, 0.9),
            (5, 10, 200, 0.01, 0.005),
            (1, 5, 5, 0.9, 0.9),
            (30, 1, 1, 0.95, 0.95),
        ] {
            let covered = coverage(|dice| {
                let one = |_| Stratum { first: (dice.hits(n1, p1), n1), second: (dice.hits(n0, p0), n0) };
                let all: Vec<_> = (0..strata).map(one).collect();
                let d = stratified(&all).unwrap();
                d.low <= p1 - p0 && p1 - p0 <= d.high
            });
            assert!(covered >= 0.93, "{strata} {n1} {n0} {p1} {p0}: {covered}");
        }
    }

    #[test]
    fn where_nothing_differs_few_intervals_say_that_something_does() {
        // Names of unlike levels and unlike shares beside others, some of them rare.
        let levels = [(0.99, 40, 3), (0.5, 10, 60), (0.05, 25, 25), (0.8, 5, 2), (0.9, 200, 400)];
        let alarms = 1.0
            - coverage(|dice| {
                let one = |(p, n1, n0)| Stratum { first: (dice.hits(n1, p), n1), second: (dice.hits(n0, p), n0) };
                let d = stratified(&levels.map(one)).unwrap();
                d.low <= 0.0 && 0.0 <= d.high
            });
        assert!(alarms <= 0.07, "{alarms}");
    }
}
