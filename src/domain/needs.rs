//! What a job needs of the worker that runs it: labels that the worker has, and resources that the job holds meanwhile.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{InvalidName, JobName, JobOptions};

/// The most labels or resources that one job can ask for, and one worker have.
const MOST: usize = 64;

/// The variables of a job's environment that Jobber sets, without `JOBBER_`: no resource can have one of these names.
pub const TAKEN_VARIABLES: [&str; 18] = [
    "ARRAY_INDEX",
    "ATTEMPT",
    "CORES",
    "CPUS",
    "CONFIG",
    "DATA",
    "ERROR_FILE",
    "GROUP",
    "INPUT_DIR",
    "JOB_ID",
    "JOB_NAME",
    "MAX_ATTEMPTS",
    "MEMORY",
    "OUTPUT_DIR",
    "RESULTS_FILE",
    "SERVER",
    "TOKEN",
    "WORKER",
];

/// Names a resource of a worker, such as `gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 64, pattern = "^[A-Za-z][A-Za-z0-9._-]*$", example = "gpu")]
pub struct ResourceName(String);

impl ResourceName {
    /// What is allowed, for people.
    const RULE: &'static str = "a letter, then letters, digits, '.', '_' and '-', at most 64, and no word that Jobber uses \
                                itself, such as cores or memory";

    /// A name that can be part of a variable's.
    ///
    /// # Errors
    /// [`InvalidName`] otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let name = Self(text.to_owned());
        let is_taken = TAKEN_VARIABLES.contains(&name.variable_part().as_str());
        let ok = is_word(text) && text.as_bytes()[0].is_ascii_alphabetic() && !is_taken;
        if ok { Ok(name) } else { Err(InvalidName::new("resource", text, Self::RULE)) }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The variable that tells a job which units it holds: `JOBBER_GPU`.
    pub fn variable(&self) -> String {
        format!("JOBBER_{}", self.variable_part())
    }

    fn variable_part(&self) -> String {
        self.0.to_ascii_uppercase().replace(['.', '-'], "_")
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ResourceName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> String {
        name.0
    }
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

fn is_printable(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b',')
}

/// Labels with their values: those that a worker has, or that a job asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = BTreeMap<String, String>, example = json!({"zone": "eu"}))]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// What is allowed, for people.
    pub const RULE: &'static str = "at most 64 pairs NAME=VALUE: a name of letters, digits, '.', '_' and '-', a value of printable \
                                    ASCII without commas";

    /// Reads `zone=eu,disk=ssd`.
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut labels = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(Self::RULE)?;
            if labels.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
                return Err(format!("labels of different names: {name} is there twice"));
            }
        }
        Self(labels).checked().ok_or_else(|| Self::RULE.to_owned())
    }

    /// Takes these pairs, if they are allowed.
    pub fn of(pairs: BTreeMap<String, String>) -> Option<Self> {
        Self(pairs).checked()
    }

    /// Whether they are what [`Labels::RULE`] says. What comes from JSON is still to be checked.
    pub fn is_valid(&self) -> bool {
        self.0.len() <= MOST && self.0.iter().all(|(name, value)| is_word(name) && is_printable(value))
    }

    fn checked(self) -> Option<Self> {
        self.is_valid().then_some(self)
    }

    /// The pairs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first of the labels that `wanted` asks for and these lack.
    pub fn lack<'w>(&self, wanted: &'w Labels) -> Option<(&'w str, &'w str)> {
        wanted.iter().find(|(name, value)| self.0.get(*name).is_none_or(|has| has != value))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self.iter())
    }
}

/// How many units of which resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = BTreeMap<String, u32>, example = json!({"gpu": 1}))]
pub struct Amounts(BTreeMap<ResourceName, u32>);

impl Amounts {
    /// What is allowed, for people.
    pub const RULE: &'static str = "at most 64 pairs NAME=N such as gpu=1: a name of a letter, then letters, digits, '.', '_' and '-', \
                                    but none that Jobber uses itself (cores, memory, ...), and a number from 1 to 65536";

    /// Reads `gpu=1,licence=2`; a name alone means one.
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut amounts = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, amount) = part.split_once('=').unwrap_or((part, "1"));
            let name = ResourceName::parse(name.trim()).map_err(|_| Self::RULE)?;
            let amount = amount.trim().parse().map_err(|_| Self::RULE)?;
            if amounts.insert(name, amount).is_some() {
                return Err(format!("resources of different names: {part} names one again"));
            }
        }
        let amounts = Self(amounts);
        if amounts.is_valid() { Ok(amounts) } else { Err(Self::RULE.to_owned()) }
    }

    /// Whether they are what [`Amounts::RULE`] says. What comes from JSON is still to be checked.
    pub fn is_valid(&self) -> bool {
        self.0.len() <= MOST && self.0.values().all(|n| (1..=65_536).contains(n))
    }

    /// The pairs, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceName, u32)> {
        self.0.iter().map(|(name, amount)| (name, *amount))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are of one.
    pub fn of(&self, name: &ResourceName) -> u32 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Whether there are as many of each as `wanted`.
    pub fn cover(&self, wanted: &Amounts) -> bool {
        wanted.iter().all(|(name, amount)| self.of(name) >= amount)
    }

    /// Takes `wanted` away, as far as it is there.
    pub fn take(&mut self, wanted: &Amounts) {
        for (name, amount) in wanted.iter() {
            if let Some(left) = self.0.get_mut(name) {
                *left = left.saturating_sub(amount);
            }
        }
    }
}

impl FromIterator<(ResourceName, u32)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (ResourceName, u32)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self.iter())
    }
}

/// The units of each resource that a worker has, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = BTreeMap<String, Vec<String>>, example = json!({"gpu": ["0", "1"]}))]
pub struct ResourceUnits(BTreeMap<ResourceName, Vec<String>>);

impl ResourceUnits {
    /// What is allowed, for people.
    pub const RULE: &'static str = "NAME=N for so many units, or NAME=UNIT+UNIT for named ones, such as gpu=0+1: at most 65536 units \
                                    of printable ASCII without ',' and '+'";

    /// Reads one item for each resource: `licence=3` for a number of units, `gpu=a+b` for named ones (`gpu=a+` for a
    /// single one).
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(items: &[String]) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for item in items {
            let (name, text) = item.split_once('=').ok_or(Self::RULE)?;
            let name = ResourceName::parse(name.trim()).map_err(|e| e.to_string())?;
            let units: Vec<String> = match text.contains('+') {
                true => text.split('+').map(str::trim).filter(|unit| !unit.is_empty()).map(str::to_owned).collect(),
                false => {
                    let count: u32 = text.trim().parse().ok().filter(|n| *n <= 65_536).ok_or(Self::RULE)?;
                    (0..count).map(|unit| unit.to_string()).collect()
                }
            };
            let mut distinct = units.clone();
            distinct.sort_unstable();
            distinct.dedup();
            if distinct.len() != units.len() || units.len() > 65_536 || !units.iter().all(|unit| is_printable(unit)) {
                return Err(Self::RULE.to_owned());
            }
            if all.insert(name.clone(), units).is_some() {
                return Err(format!("resources of different names: {name} is there twice"));
            }
        }
        if all.len() > MOST { Err(format!("at most {MOST} resources")) } else { Ok(Self(all)) }
    }

    /// The units, by resource.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceName, &[String])> {
        self.0.iter().map(|(name, units)| (name, units.as_slice()))
    }

    /// The units of one.
    pub fn units(&self, name: &ResourceName) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// How many units there are of one.
    pub fn amount(&self, name: &ResourceName) -> u32 {
        u32::try_from(self.units(name).len()).unwrap_or(u32::MAX)
    }

    /// How many units there are of each.
    pub fn amounts(&self) -> Amounts {
        self.0.keys().map(|name| (name.clone(), self.amount(name))).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    pairs: impl Iterator<Item = (impl fmt::Display, impl fmt::Display)>,
) -> fmt::Result {
    for (i, (name, value)) in pairs.enumerate() {
        write!(f, "{}{name}={value}", if i == 0 { "" } else { "," })?;
    }
    Ok(())
}

/// What a job needs to be run at all. Jobs with the same needs can be run by the same workers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Needs {
    /// Its binary.
    pub name: JobName,
    /// Its cores; `None` for as many as the worker gives by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Its memory limit, in bytes. It counts only on workers that divide their memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The labels that its worker must have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub require: Labels,
    /// The resources that it holds while it runs.
    #[serde(default, skip_serializing_if = "Amounts::is_empty")]
    pub resources: Amounts,
}

impl Needs {
    /// The needs of a job of this name under these rules.
    pub fn of(name: &JobName, options: &JobOptions) -> Self {
        Self {
            name: name.clone(),
            cores: options.cores,
            memory_bytes: options.memory_bytes,
            require: options.require.clone().unwrap_or_default(),
            resources: options.resources.clone().unwrap_or_default(),
        }
    }
}

/// Why a worker can't run a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It lacks the binary.
    #[error("lacks the binary {0}")]
    Binary(JobName),
    /// It lacks a label, or has another value for it.
    #[error("is not labelled {0}={1}")]
    Label(String, String),
    /// It has fewer cores.
    #[error("has {has} of {wanted} cores")]
    Cores {
        /// How many the job asks for.
        wanted: u32,
        /// How many there are.
        has: u32,
    },
    /// It has less memory for jobs.
    #[error("has {has} of {wanted} bytes of memory for jobs")]
    Memory {
        /// What the job asks for.
        wanted: u64,
        /// What there is.
        has: u64,
    },
    /// It has fewer units of a resource.
    #[error("has {has} of {wanted} {name}")]
    Resource {
        /// Which.
        name: ResourceName,
        /// How many the job asks for.
        wanted: u32,
        /// How many there are.
        has: u32,
    },
}

/// What a worker has, whether it is free or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Cores that it divides among jobs.
    pub cores: u32,
    /// Memory that it divides among jobs, in bytes; `None` when it does not divide it.
    pub memory_bytes: Option<u64>,
    /// Its labels.
    pub labels: Labels,
    /// Its resources.
    pub resources: Amounts,
}

impl Capacity {
    /// The first reason, if any, for which jobs with these needs can't be run; whether the binary is there is not asked.
    pub fn misfit(&self, needs: &Needs) -> Option<Misfit> {
        if let Some((name, value)) = self.labels.lack(&needs.require) {
            return Some(Misfit::Label(name.to_owned(), value.to_owned()));
        }
        if let Some(wanted) = needs.cores.filter(|wanted| *wanted > self.cores) {
            return Some(Misfit::Cores { wanted, has: self.cores });
        }
        if let (Some(wanted), Some(has)) = (needs.memory_bytes, self.memory_bytes)
            && wanted > has
        {
            return Some(Misfit::Memory { wanted, has });
        }
        let short = needs.resources.iter().find(|(name, wanted)| self.resources.of(name) < *wanted);
        short.map(|(name, wanted)| Misfit::Resource { name: name.clone(), wanted, has: self.resources.of(name) })
    }
}

/// What a worker has left to give, of what it divides beside cores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Free {
    /// Memory in bytes; `None` when it is not divided.
    pub memory_bytes: Option<u64>,
    /// Units of its resources.
    pub resources: Amounts,
}

impl Free {
    /// Whether jobs with these needs hold any of it.
    pub fn is_wanted_by(&self, needs: &Needs) -> bool {
        !needs.resources.is_empty() || (self.memory_bytes.is_some() && needs.memory_bytes.is_some())
    }

    /// Whether there is enough.
    pub fn covers(&self, needs: &Needs) -> bool {
        let memory = self.memory_bytes.is_none_or(|left| left >= needs.memory_bytes.unwrap_or(0));
        memory && self.resources.cover(&needs.resources)
    }

    /// Takes what jobs with these needs hold, as far as it is there.
    pub fn take(&mut self, needs: &Needs) {
        if let Some(left) = &mut self.memory_bytes {
            *left = left.saturating_sub(needs.memory_bytes.unwrap_or(0));
        }
        self.resources.take(&needs.resources);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(options: JobOptions) -> Needs {
        Needs::of(&JobName::parse("sim").unwrap(), &options)
    }

    #[test]
    fn labels_and_amounts_are_read_as_people_write_them() {
        let labels = Labels::parse("zone=eu, disk=fast ssd").unwrap();
        assert_eq!(labels.to_string(), "disk=fast ssd,zone=eu");
        assert_eq!(Labels::parse(&labels.to_string()), Ok(labels));
        let amounts = Amounts::parse("gpu,licence.solver=3").unwrap();
        assert_eq!(amounts.to_string(), "gpu=1,licence.solver=3");
        for bad in ["zone", "=eu", "zone=", "a b=c", "zone=eu,zone=us", "zone=é"] {
            assert!(Labels::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["gpu=0", "gpu=-1", "gpu=x", "gpu=65537", "gpu=1,gpu=2", "0gpu=1", "cores=2", "job-id=1", "g u=1"] {
            assert!(Amounts::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ResourceName::parse("licence.solver-x").unwrap().variable(), "JOBBER_LICENCE_SOLVER_X");
    }

    #[test]
    fn units_are_counted_or_named() {
        let units = |items: &[&str]| ResourceUnits::parse(&items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>());
        let both = units(&["gpu=GPU-1a + GPU-2b", "licence=3", "fpga=x+"]).unwrap();
        assert_eq!(both.units(&ResourceName::parse("gpu").unwrap()), ["GPU-1a", "GPU-2b"]);
        assert_eq!(both.amounts().to_string(), "fpga=1,gpu=2,licence=3");
        for bad in [&["gpu"][..], &["gpu=x"], &["gpu=a+a"], &["gpu=1", "gpu=2"], &["gpu=99999999"], &["memory=1"]] {
            assert!(units(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_worker_lacks_is_named() {
        let labels = Labels::parse("zone=eu").unwrap();
        let resources = Amounts::parse("gpu=2").unwrap();
        let capacity = Capacity { cores: 4, memory_bytes: Some(100), labels, resources };
        let misfit = |options: JobOptions| capacity.misfit(&needs(options)).map(|m| m.to_string());
        assert_eq!(misfit(JobOptions::default()), None);
        let asks = |label: &str| JobOptions { require: Some(Labels::parse(label).unwrap()), ..JobOptions::default() };
        assert_eq!(misfit(asks("zone=eu")), None);
        assert_eq!(misfit(asks("zone=us")), Some("is not labelled zone=us".to_owned()));
        assert_eq!(misfit(asks("disk=ssd")), Some("is not labelled disk=ssd".to_owned()));
        assert_eq!(misfit(JobOptions { cores: Some(5), ..JobOptions::default() }), Some("has 4 of 5 cores".to_owned()));
        let memory = JobOptions { memory_bytes: Some(101), ..JobOptions::default() };
        assert_eq!(misfit(memory), Some("has 100 of 101 bytes of memory for jobs".to_owned()));
        let gpus = JobOptions { resources: Some(Amounts::parse("gpu=3").unwrap()), ..JobOptions::default() };
        assert_eq!(misfit(gpus), Some("has 2 of 3 gpu".to_owned()));
    }

    #[test]
    fn what_is_taken_is_gone() {
        let mut free = Free { memory_bytes: Some(10), resources: Amounts::parse("gpu=2").unwrap() };
        let one = needs(JobOptions {
            memory_bytes: Some(4),
            resources: Some(Amounts::parse("gpu=1").unwrap()),
            ..JobOptions::default()
        });
        assert!(free.is_wanted_by(&one) && free.covers(&one));
        free.take(&one);
        free.take(&one);
        assert_eq!(free.memory_bytes, Some(2));
        assert!(!free.covers(&one) && free.covers(&needs(JobOptions::default())));
    }
}
