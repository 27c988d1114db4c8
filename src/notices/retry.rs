//! When a notice is tried again, and when it is given up.

use std::time::Duration;

use crate::domain::Timestamp;

/// The wait after the first try.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two tries, unless the receiver asks for a longer one.
const LONGEST: Duration = Duration::from_secs(600);

/// When a notice is due again after so many tries that failed, the last one at `now`; `None` when it is to be given up.
/// `since` is when its tries began. Waits double, from half of them to all of them by `dice` (0 to 1), so that the notices
/// of an outage do not come back in step. The last try is when its time is over.
pub(super) fn next_try(
    tries: u32,
    since: Timestamp,
    now: Timestamp,
    give_up_after: Duration,
    asked: Option<Duration>,
    dice: f64,
) -> Option<Timestamp> {
    let end = since + give_up_after;
    if now >= end {
        return None;
    }
    let full = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST);
    let wait = full.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0)).max(asked.unwrap_or_default());
    Some((now + wait).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn waits_double_with_jitter_up_to_the_longest() {
        let wait = |tries, dice| next_try(tries, at(0), at(0), DAY, None, dice).unwrap().as_millis();
        assert_eq!([1, 2, 3, 4].map(|tries| wait(tries, 1.0)), [1000, 2000, 4000, 8000]);
        assert_eq!([1, 2, 3, 4].map(|tries| wait(tries, 0.0)), [500, 1000, 2000, 4000]);
        assert_eq!([11, 40, u32::MAX].map(|tries| wait(tries, 1.0)), [600_000; 3]);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_wait_and_not_for_a_shorter_one() {
        let asked = |seconds| next_try(1, at(0), at(0), DAY, Some(Duration::from_secs(seconds)), 1.0).unwrap();
        assert_eq!([asked(0), asked(30)], [at(1000), at(30_000)]);
    }

    #[test]
    fn the_last_try_is_when_its_time_is_over() {
        let give_up = Duration::from_secs(10);
        let next = |now| next_try(9, at(0), at(now), give_up, None, 1.0);
        assert_eq!([next(0), next(9_999), next(10_000)], [Some(at(10_000)), Some(at(10_000)), None]);
    }
}
