//! Which part of a worker a queue gets.

use std::fmt;

use super::QueueName;

/// In which order a worker serves its queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueOrder {
    /// By weight: of five free slots, a queue of weight 4 gets four and one of weight 1 gets one, while both have work.
    #[default]
    Weighted,
    /// The first that has work before all others.
    Strict,
}

/// A queue that a worker serves, and how much of the worker it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueShare {
    /// The queue.
    pub queue: QueueName,
    /// How many slots it gets for one of a queue of weight 1, at least 1.
    pub weight: u32,
    /// How many of its jobs the worker holds at most.
    pub most: Option<usize>,
}

impl QueueShare {
    /// The greatest weight.
    const HEAVIEST: u32 = 1000;

    /// Reads `encode`, `encode=4` (its weight), `encode:2` (two at once at most) or both, `encode=4:2`.
    ///
    /// # Errors
    /// What is allowed, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = || {
            let weight = Self::HEAVIEST;
            format!("NAME, NAME=WEIGHT (1 to {weight}), NAME:MOST or NAME=WEIGHT:MOST, such as encode=4:2")
        };
        let (text, most) = match text.split_once(':') {
            Some((text, most)) => (text, Some(most.parse().ok().filter(|n| *n > 0).ok_or_else(allowed)?)),
            None => (text, None),
        };
        let (name, weight) = match text.rsplit_once('=') {
            Some((name, weight)) => {
                let weight = weight.parse().ok().filter(|n| (1..=Self::HEAVIEST).contains(n));
                (name, weight.ok_or_else(allowed)?)
            }
            None => (text, 1),
        };
        let queue = QueueName::parse(name).map_err(|_| allowed())?;
        Ok(Self { queue, weight, most })
    }

    /// A queue that gets its share like any other.
    pub fn of(queue: QueueName) -> Self {
        Self { queue, weight: 1, most: None }
    }
}

impl fmt::Display for QueueShare {
    /// As [`QueueShare::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, weight, most } = self;
        write!(f, "{queue}={weight}")?;
        most.map_or(Ok(()), |most| write!(f, ":{most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_people_write_them() {
        let read = |text| QueueShare::parse(text).map(|s| (s.queue.to_string(), s.weight, s.most));
        assert_eq!(read("encode"), Ok(("encode".into(), 1, None)));
        assert_eq!(read("encode=4"), Ok(("encode".into(), 4, None)));
        assert_eq!(read("encode:2"), Ok(("encode".into(), 1, Some(2))));
        assert_eq!(read("a=b=4:2"), Ok(("a=b".into(), 4, Some(2))));
        for text in ["a=b=4:2", "encode=1"] {
            assert_eq!(QueueShare::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "=4", "a=", "a=0", "a=1001", "a:0", "a:x", "a:1:2", "a=-1", "a\n"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
