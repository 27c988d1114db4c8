//! What jobs that wait will probably take, by what attempts of their names have taken.

use std::collections::BTreeMap;

use super::{Counts, NameSums};
use crate::domain::JobName;

/// What attempts of one job name have taken on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptMean {
    /// Wall time, in seconds.
    seconds: f64,
    /// Cores, in proportion to how long each was held.
    cores: f64,
}

impl AttemptMean {
    fn of(counts: &Counts) -> Option<Self> {
        let n = counts.run_us().count();
        // Older versions did not count cores. One core an attempt is what they gave by default.
        let cores = match counts.wall_us {
            wall if wall > 0 && counts.reserved_core_us > 0 => counts.reserved_core_us as f64 / wall as f64,
            _ => 1.0,
        };
        (n > 0).then(|| Self { seconds: counts.wall_us.max(0) as f64 / 1e6 / n as f64, cores })
    }

    /// The core-seconds of a job that asks for so many cores; of one that does not ask, with as many as others were given.
    pub fn core_seconds(&self, cores: Option<u32>) -> f64 {
        self.seconds * cores.map_or(self.cores, f64::from)
    }
}

/// The means of all names of which an attempt was measured.
pub fn attempt_means(names: NameSums) -> BTreeMap<JobName, AttemptMean> {
    names.0.into_iter().filter_map(|(name, counts)| Some((name, AttemptMean::of(&counts)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Day;
    use crate::stats::{ShardKey, StatShard};

    fn shard(day: &str, seconds: &[i64], cores: i64) -> StatShard {
        let name = "a".parse().unwrap();
        let mut shard = StatShard::new(ShardKey { day: Day::parse(day).unwrap(), name });
        for seconds in seconds {
            shard.counts.wall_us += seconds * 1_000_000;
            shard.counts.run_us.record(u64::try_from(*seconds).unwrap() * 1_000_000);
            shard.counts.reserved_core_us += seconds * cores * 1_000_000;
        }
        shard
    }

    #[test]
    fn a_job_takes_what_others_of_its_name_took_on_the_cores_that_it_asks_for() {
        let of = |shards: Vec<StatShard>| {
            let mut names = NameSums::default();
            shards.into_iter().for_each(|shard| names.add(shard));
            attempt_means(names)
        };
        let means = of(vec![shard("2026-11-24", &[1, 3], 2), shard("2026-11-25", &[8], 2)]);
        let mean = means[&JobName::parse("a").unwrap()];
        assert!((mean.core_seconds(Some(3)) - 12.0).abs() < 1e-9, "{mean:?}");
        assert!((mean.core_seconds(None) - 8.0).abs() < 1e-9, "{mean:?}");
        assert!(of(vec![shard("2026-11-24", &[], 1)]).is_empty(), "nothing is known of it");
    }
}
