//! The cores that jobs may use, and how they are divided.

use super::Finding;
use crate::config::Config;
use crate::runner::{CpuSet, Slots};

const CHECK: &str = "cpus";

/// Answers the finding, and how many jobs run at the same time.
pub(super) fn check(config: &Config) -> (Finding, usize) {
    let worker = &config.worker;
    let list = worker.cpus.as_ref().map(|cpus| cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    let cpus = match CpuSet::detect(worker.cores, list.as_deref()) {
        Ok(cpus) => cpus.into_vec(),
        Err(error) => return (Finding::failed(CHECK, error.to_string(), "correct worker.cpus"), 1),
    };
    let slots = Slots::new(cpus.clone(), worker.cores_per_process);
    let asked = worker.cores.map(|n| n as usize).or(worker.cpus.as_ref().map(Vec::len));
    let greedy: Vec<String> = config
        .jobs
        .iter()
        .filter(|(_, rules)| rules.cores.is_some_and(|cores| cores as usize > cpus.len()))
        .map(|(name, _)| name.to_string())
        .collect();
    (judge(cpus.len(), worker.cores_per_process as usize, slots.count(), asked, &greedy), slots.count())
}

fn judge(cores: usize, each: usize, slots: usize, asked: Option<usize>, greedy: &[String]) -> Finding {
    let found = format!("{cores} cores, {each} for each job: {slots} at the same time");
    if let Some(asked) = asked.filter(|asked| *asked > cores) {
        return Finding::warning(
            CHECK,
            format!("{found}; {asked} were asked for"),
            "lower worker.cores or worker.cpus, or give this process more (its affinity, its cgroup's CPU quota)",
        );
    }
    if each > cores {
        return Finding::warning(
            CHECK,
            format!("{cores} cores are fewer than the {each} for each job: one runs at a time, with less"),
            "lower worker.cores_per_process (CORES_PER_CPP_PROCESS)",
        );
    }
    if !greedy.is_empty() {
        return Finding::warning(
            CHECK,
            format!("{found}; these ask for more and will never run here: {}", greedy.join(", ")),
            "lower their `cores`, or run a worker on a larger machine",
        );
    }
    Finding::ok(CHECK, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Health;

    #[test]
    fn more_than_there_is_is_warned_of() {
        assert_eq!(judge(8, 2, 4, None, &[]), Finding::ok("cpus", "8 cores, 2 for each job: 4 at the same time"));
        assert_eq!(judge(8, 2, 4, Some(8), &[]).status, Health::Ok);
        assert_eq!(judge(8, 2, 4, Some(9), &[]).status, Health::Warning);
        assert_eq!(judge(2, 4, 1, None, &[]).status, Health::Warning);
        assert!(judge(2, 1, 2, None, &["huge".into()]).found.ends_with("never run here: huge"));
    }
}
