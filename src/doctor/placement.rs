//! What the configuration has this worker run: whether it could.

use super::Finding;
use crate::config::Config;
use crate::domain::{Capacity, JobName, JobOptions, Misfit, Needs};
use crate::runner::CpuSet;

/// How many jobs that can't be run here are named.
const NAMED: usize = 3;

/// Looks for names in the configuration whose jobs ask for what this worker does not have. Nothing to say without such
/// rules, labels, resources or memory to divide.
pub(super) fn check(config: &Config) -> Option<Finding> {
    const CHECK: &str = "placement";
    let worker = &config.worker;
    let cores = CpuSet::detect(worker.cores, None)
        .map_or(u32::MAX, |cpus| u32::try_from(cpus.into_vec().len()).unwrap_or(u32::MAX));
    let capacity = Capacity {
        cores,
        memory_bytes: worker.memory,
        labels: worker.labels.clone(),
        resources: worker.resources.amounts(),
    };
    let misfits = misfits(&capacity, config.jobs.iter());
    if misfits.is_empty() {
        let Capacity { labels, resources, .. } = &capacity;
        let has = [(labels.is_empty(), labels.to_string()), (resources.is_empty(), resources.to_string())];
        let has: Vec<_> = has.into_iter().filter(|(none, _)| !none).map(|(_, has)| has).collect();
        return (!has.is_empty()).then(|| Finding::ok(CHECK, format!("a worker here has {}", has.join(", "))));
    }
    let told: Vec<_> = misfits.iter().take(NAMED).map(|(name, misfit)| format!("{name}: it {misfit}")).collect();
    let more = misfits.len() - told.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(Finding::warning(
        CHECK,
        format!("a worker here can't run some jobs of the configuration: {}{more}", told.join("; ")),
        "no matter if others can; give such jobs a queue of their own ([jobs.NAME] queue), served by those, so that they \
         make no detour",
    ))
}

fn misfits<'j>(
    capacity: &Capacity,
    jobs: impl Iterator<Item = (&'j JobName, &'j JobOptions)>,
) -> Vec<(&'j JobName, Misfit)> {
    jobs.filter_map(|(name, rules)| Some((name, capacity.misfit(&Needs::of(name, rules))?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Amounts;

    #[test]
    fn jobs_that_ask_for_too_much_are_named() {
        let resources = Some(Amounts::parse("gpu=1").unwrap());
        let jobs = [("train", JobOptions { resources, ..JobOptions::default() }), ("plain", JobOptions::default())];
        let jobs: Vec<_> = jobs.into_iter().map(|(name, rules)| (JobName::parse(name).unwrap(), rules)).collect();
        let capacity = Capacity { cores: 1, ..Capacity::default() };
        let found = misfits(&capacity, jobs.iter().map(|(name, rules)| (name, rules)));
        let found: Vec<_> = found.iter().map(|(name, misfit)| format!("{name}: it {misfit}")).collect();
        assert_eq!(found, ["train: it has 0 of 1 gpu"]);
    }
}
