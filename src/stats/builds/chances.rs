//! The chances on which an alarm rests.
//!
//! ```text
//! Fisher's exact test, one side (Fisher 1935): x of n fail in the new build, y of m before. Given x + y failures in all,
//!   P(X ≥ x) where X is hypergeometric: C(n, i) C(m, x + y - i) / C(n + m, x + y), summed over i ≥ x.
//!
//! Precedence test by exceedances (Gumbel and von Schelling 1950, Ann. Math. Stat. 21:247; Nelson 1963, Technometrics 5:491):
//!   of m values before, a lie above a threshold; of n new ones k do. Without a change the number of new values above it is
//!   beta-binomial, of n draws with the parameters a + 1 and m - a, whatever the distribution of the values.
//! ```
//! Inputs come in batches, so counts vary more than those of independent draws. All four counts are divided by a dispersion
//! (Pearson's statistic over its degrees of freedom: McCullagh and Nelder 1989, section 4.5) before a test sees them.

use statrs::function::beta::ln_beta;
use statrs::function::factorial::ln_binomial;

/// Hits among a whole, in a new build and before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    /// Hits of the new build.
    pub(super) hits: i64,
    /// All of the new build.
    pub(super) n: i64,
    /// Hits before.
    pub(super) hits_before: i64,
    /// All before.
    pub(super) n_before: i64,
}

impl Table {
    /// The counts over a dispersion of at least 1, as whole numbers; rounded against an alarm.
    fn scaled(self, dispersion: f64) -> [u64; 4] {
        let over = |count: i64| count.max(0) as f64 / dispersion.max(1.0);
        let n = over(self.n).round();
        let hits = over(self.hits).floor().min(n);
        let n_before = over(self.n_before).floor();
        let hits_before = over(self.hits_before).ceil().min(n_before);
        [hits, n, hits_before, n_before].map(|count| count as u64)
    }

    /// The chance of so many hits of the new build or more, if they are as likely as before.
    pub(super) fn fisher(self, dispersion: f64) -> f64 {
        let [hits, n, hits_before, n_before] = self.scaled(dispersion);
        let all = hits + hits_before;
        let whole = ln_binomial(n + n_before, all);
        let chance = |i: u64| (ln_binomial(n, i) + ln_binomial(n_before, all - i) - whole).exp();
        tail(hits, n.min(all), chance)
    }

    /// The chance of so many new values above a threshold or more, if they are distributed as those before.
    pub(super) fn precedence(self, dispersion: f64) -> f64 {
        let [hits, n, hits_before, n_before] = self.scaled(dispersion);
        let (above, below) = ((hits_before + 1) as f64, (n_before - hits_before).max(1) as f64);
        let whole = ln_beta(above, below);
        let chance = |k: u64| (ln_binomial(n, k) + ln_beta(k as f64 + above, (n - k) as f64 + below) - whole).exp();
        tail(hits, n, chance)
    }
}

/// The sum of these chances from `from` to `to`. Ends where what is left adds nothing.
fn tail(from: u64, to: u64, chance: impl Fn(u64) -> f64) -> f64 {
    if from == 0 {
        return 1.0;
    }
    let (mut sum, mut before) = (0.0, 0.0);
    for i in from..=to {
        let one = chance(i);
        sum += one;
        if one <= before && one < sum * 1e-12 {
            break;
        }
        before = one;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(hits: i64, n: i64, hits_before: i64, n_before: i64) -> Table {
        Table { hits, n, hits_before, n_before }
    }

    #[test]
    fn fishers_chances_are_those_of_counting() {
        // The lady tasting tea: 3 of 4, 1 of 4 before: (C(4,3) C(4,1) + 1) / C(8,4) = 17/70.
        assert!((table(3, 4, 1, 4).fisher(1.0) - 17.0 / 70.0).abs() < 1e-12);
        assert!((table(4, 4, 0, 4).fisher(1.0) - 1.0 / 70.0).abs() < 1e-12);
        assert_eq!(table(0, 4, 3, 4).fisher(1.0), 1.0);
        assert_eq!(table(0, 0, 0, 0).fisher(1.0), 1.0);
    }

    #[test]
    fn exceedances_are_as_likely_as_ranks_make_them() {
        // All 3 new values above the largest of 4: one order of 7 values in C(7,3) = 35.
        assert!((table(3, 3, 0, 4).precedence(1.0) - 1.0 / 35.0).abs() < 1e-12);
        // Above the second largest, one of the old ones is above too: (k above) counted by hand over the 35 orders.
        let p = table(3, 3, 1, 4).precedence(1.0);
        assert!((p - 4.0 / 35.0).abs() < 1e-12, "{p}");
    }

    #[test]
    fn a_dispersion_makes_an_alarm_less_likely() {
        let one = table(20, 100, 20, 1000);
        let (plain, spread) = (one.fisher(1.0), one.fisher(4.0));
        assert!(plain < spread && spread < 0.1, "{plain} {spread}");
        assert!(one.precedence(1.0) < one.precedence(4.0));
    }

    proptest::proptest! {
        #[test]
        fn chances_are_chances_and_fall_with_more_hits(
            n in 1i64..400, m in 1i64..3000, part in 0.0..1.0f64, before in 0.0..1.0f64, dispersion in 1.0..20.0f64,
        ) {
            let (hits, hits_before) = ((part * n as f64) as i64, (before * m as f64) as i64);
            for test in [Table::fisher, Table::precedence] {
                let p = test(table(hits, n, hits_before, m), dispersion);
                proptest::prop_assert!((0.0..=1.0).contains(&p));
                let more = test(table((hits + 1).min(n), n, hits_before, m), dispersion);
                proptest::prop_assert!(more <= p + 1e-9, "{p} {more}");
            }
        }
    }
}
