//! Numbers that look random and are the same every time, for simulations in tests.

/// A linear congruential generator (Knuth's MMIX constants), seeded by its number.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// The next number, from 0 to below 1.
    pub(super) fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How many of `n` tries hit, each with the chance `p`.
    pub(super) fn hits(&mut self, n: i64, p: f64) -> i64 {
        (0..n).map(|_| i64::from(self.roll() < p)).sum()
    }

    /// An exponentially distributed time with this mean.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.roll()).ln()
    }
}
