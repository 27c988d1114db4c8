//! What a worker divides among its jobs: CPUs, and where it has them memory and resources. Which parts are free, and
//! which of them a job gets. Nothing here waits.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{Amounts, Free, ResourceName, ResourceUnits};

/// All that a worker divides.
#[derive(Debug, Clone, Default)]
pub struct Divided {
    /// The numbers of the CPUs.
    pub cpus: Vec<u32>,
    /// The CPUs of each node of memory. A job's CPUs come from one node where they fit.
    pub nodes: Vec<Vec<u32>>,
    /// Cores that a job gets unless it asks for others, at least 1.
    pub cores_per_process: u32,
    /// Memory that jobs' limits add up to at most, in bytes; `None` for no such bound.
    pub memory_bytes: Option<u64>,
    /// The units of each resource.
    pub resources: ResourceUnits,
}

/// What a job holds at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotRequest {
    /// Cores; `None` for as many as the worker gives by default.
    pub cores: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Units of resources.
    pub resources: Amounts,
}

impl From<Option<u32>> for SlotRequest {
    /// So many cores, and nothing else.
    fn from(cores: Option<u32>) -> Self {
        Self { cores, ..Self::default() }
    }
}

/// A request in which nothing is left open, and nothing exceeds what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) resources: Amounts,
}

/// Particular parts: those that one job holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) cpus: Vec<u32>,
    memory_bytes: u64,
    /// By resource, the places of its units in [`Divided::resources`].
    units: BTreeMap<ResourceName, Vec<usize>>,
}

#[cfg(test)]
impl Parts {
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

/// Knows which parts are free.
#[derive(Debug)]
pub(super) struct Allocator {
    total: Divided,
    cpus: BTreeSet<u32>,
    memory_bytes: u64,
    units: BTreeMap<ResourceName, BTreeSet<usize>>,
}

/// How much may be taken, whichever parts that are.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    cores: usize,
    memory_bytes: u64,
    resources: Amounts,
}

impl Budget {
    pub(super) fn covers(&self, demand: &Demand) -> bool {
        self.cores >= demand.cores
            && self.memory_bytes >= demand.memory_bytes
            && self.resources.cover(&demand.resources)
    }

    /// Takes the demand away, as far as it is there.
    pub(super) fn take(&mut self, demand: &Demand) {
        self.cores = self.cores.saturating_sub(demand.cores);
        self.memory_bytes = self.memory_bytes.saturating_sub(demand.memory_bytes);
        self.resources.take(&demand.resources);
    }

    /// Whether no demand can be covered any more: each has a core.
    pub(super) fn is_spent(&self) -> bool {
        self.cores == 0
    }
}

impl Allocator {
    /// All of it is free. Without a CPU there is CPU 0.
    pub(super) fn new(mut total: Divided) -> Self {
        let mut cpus: BTreeSet<u32> = total.cpus.iter().copied().collect();
        if cpus.is_empty() {
            cpus.insert(0);
        }
        total.cpus = cpus.iter().copied().collect();
        for node in &mut total.nodes {
            node.retain(|cpu| cpus.contains(cpu));
        }
        total.nodes.retain(|node| !node.is_empty());
        let units = total.resources.iter().map(|(name, units)| (name.clone(), (0..units.len()).collect())).collect();
        Self { memory_bytes: total.memory_bytes.unwrap_or(u64::MAX), cpus, units, total }
    }

    /// All there is, free or not.
    pub(super) fn total(&self) -> &Divided {
        &self.total
    }

    /// How many CPUs are free.
    pub(super) fn free_cores(&self) -> usize {
        self.cpus.len()
    }

    /// The request with what it leaves open, held to what there is: so each can be served once all is free.
    pub(super) fn demand(&self, request: &SlotRequest) -> Demand {
        let cores = request.cores.unwrap_or(self.total.cores_per_process);
        let held_to = |(name, wanted): (&ResourceName, u32)| {
            let there = self.total.resources.amount(name);
            (there > 0).then(|| (name.clone(), wanted.min(there)))
        };
        Demand {
            cores: (cores as usize).clamp(1, self.total.cpus.len()),
            memory_bytes: self.total.memory_bytes.map_or(0, |most| request.memory_bytes.min(most)),
            resources: request.resources.iter().filter_map(held_to).collect(),
        }
    }

    pub(super) fn budget(&self) -> Budget {
        let units = |(name, free): (&ResourceName, &BTreeSet<usize>)| {
            (name.clone(), u32::try_from(free.len()).unwrap_or(u32::MAX))
        };
        Budget {
            cores: self.cpus.len(),
            memory_bytes: self.memory_bytes,
            resources: self.units.iter().map(units).collect(),
        }
    }

    /// What of memory and resources is free beyond these demands.
    pub(super) fn free_beyond<'d>(&self, demands: impl Iterator<Item = &'d Demand>) -> Free {
        let mut left = self.budget();
        demands.for_each(|demand| left.take(demand));
        let memory_bytes = self.total.memory_bytes.map(|_| left.memory_bytes);
        Free { memory_bytes, resources: left.resources }
    }

    /// Whether there is enough of everything now.
    pub(super) fn covers(&self, demand: &Demand) -> bool {
        let units = |name: &ResourceName| self.units.get(name).map_or(0, BTreeSet::len);
        self.cpus.len() >= demand.cores
            && self.memory_bytes >= demand.memory_bytes
            && demand.resources.iter().all(|(name, wanted)| units(name) >= wanted as usize)
    }

    /// Takes particular parts for a demand that is covered.
    pub(super) fn take(&mut self, demand: &Demand) -> Parts {
        let cpus = self.choose_cpus(demand.cores);
        for cpu in &cpus {
            self.cpus.remove(cpu);
        }
        self.memory_bytes -= demand.memory_bytes;
        let mut units = BTreeMap::new();
        for (name, wanted) in demand.resources.iter() {
            let Some(free) = self.units.get_mut(name) else { continue };
            let taken: Vec<usize> = free.iter().copied().take(wanted as usize).collect();
            for unit in &taken {
                free.remove(unit);
            }
            units.insert(name.clone(), taken);
        }
        Parts { cpus, memory_bytes: demand.memory_bytes, units }
    }

    /// Makes parts free again.
    pub(super) fn give_back(&mut self, parts: &Parts) {
        self.cpus.extend(&parts.cpus);
        self.memory_bytes += parts.memory_bytes;
        for (name, units) in &parts.units {
            if let Some(free) = self.units.get_mut(name) {
                free.extend(units);
            }
        }
    }

    /// The names of the units, by resource.
    pub(super) fn names(&self, parts: &Parts) -> BTreeMap<ResourceName, Vec<String>> {
        let name = |resource: &ResourceName, units: &[usize]| {
            let all = self.total.resources.units(resource);
            units.iter().filter_map(|at| all.get(*at).cloned()).collect()
        };
        parts.units.iter().map(|(resource, units)| (resource.clone(), name(resource, units))).collect()
    }

    /// Chooses the lowest free CPUs, which ran a job last and whose caches are warm: of the fullest node that has
    /// enough, so that others keep room for wide jobs; else of as few nodes as may be.
    fn choose_cpus(&self, cores: usize) -> Vec<u32> {
        if self.total.nodes.len() < 2 {
            return self.cpus.iter().copied().take(cores).collect();
        }
        let free_of = |node: &Vec<u32>| node.iter().copied().filter(|cpu| self.cpus.contains(cpu)).collect::<Vec<_>>();
        let mut nodes: Vec<Vec<u32>> = self.total.nodes.iter().map(free_of).collect();
        if let Some(node) = nodes.iter().filter(|free| free.len() >= cores).min_by_key(|free| free.len()) {
            return node[..cores].to_vec();
        }
        nodes.sort_by_key(|free| std::cmp::Reverse(free.len()));
        // CPUs of which the kernel tells no node come last.
        let mut chosen: Vec<u32> = nodes.into_iter().flatten().collect();
        let known: BTreeSet<u32> = chosen.iter().copied().collect();
        chosen.extend(self.cpus.difference(&known));
        chosen.truncate(cores);
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(nodes: &[&[u32]]) -> Allocator {
        let nodes: Vec<Vec<u32>> = nodes.iter().map(|node| node.to_vec()).collect();
        let resources = ResourceUnits::parse(&["gpu=a+b+c".to_owned()]).unwrap();
        Allocator::new(Divided {
            cpus: nodes.concat(),
            nodes,
            cores_per_process: 1,
            memory_bytes: Some(100),
            resources,
        })
    }

    fn cores(allocator: &mut Allocator, n: u32) -> Vec<u32> {
        let demand = allocator.demand(&SlotRequest::from(Some(n)));
        assert!(allocator.covers(&demand));
        allocator.take(&demand).cpus
    }

    #[test]
    fn cpus_come_from_one_node_where_they_fit() {
        let mut four = allocator(&[&[0, 2, 4, 6], &[1, 3, 5, 7]]);
        assert_eq!(cores(&mut four, 1), [0]);
        assert_eq!(cores(&mut four, 1), [2], "of the same node, so that the other has room for four");
        assert_eq!(cores(&mut four, 3), [1, 3, 5]);
        assert_eq!(cores(&mut four, 2), [4, 6]);
        let mut spread = allocator(&[&[0, 1], &[2, 3, 4]]);
        assert_eq!(cores(&mut spread, 4), [0, 2, 3, 4], "as few nodes as may be, the roomier one whole");
    }

    #[test]
    fn units_are_particular_ones() {
        let mut all = allocator(&[&[0, 1, 2, 3]]);
        let request = |n: &str| SlotRequest { resources: Amounts::parse(n).unwrap(), ..SlotRequest::default() };
        let gpu = ResourceName::parse("gpu").unwrap();
        let two = all.demand(&request("gpu=2"));
        let first = all.take(&two);
        assert_eq!(all.names(&first)[&gpu], ["a", "b"]);
        assert!(!all.covers(&two));
        let one = all.demand(&request("gpu"));
        let second = all.take(&one);
        assert_eq!(all.names(&second)[&gpu], ["c"]);
        all.give_back(&first);
        let third = all.take(&one);
        assert_eq!(all.names(&third)[&gpu], ["a"]);
    }

    #[test]
    fn no_demand_exceeds_what_there_is() {
        let all = allocator(&[&[0, 1]]);
        let resources = Amounts::parse("gpu=9,unknown=1").unwrap();
        let demand = all.demand(&SlotRequest { cores: Some(9), memory_bytes: 1000, resources });
        assert!(all.covers(&demand));
        assert_eq!((demand.cores, demand.memory_bytes, demand.resources.to_string().as_str()), (2, 100, "gpu=3"));
    }
}
