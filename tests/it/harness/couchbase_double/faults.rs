//! Faults on demand: what is to go wrong, with which requests, and how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::wire::opcode;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the answer is this status (of the protocol, or of HTTP). A not-my-vbucket comes with the
    /// configuration, an unknown collection with the manifest's uid, as the protocol has it.
    Refuse(u16),
    /// As `Refuse` over HTTP, with a body.
    RefuseWith(u16, String),
    /// It is done, but the answer is this status.
    DoAndRefuse(u16),
    /// Nothing is done, nor answered.
    Ignore,
    /// It is done, but never answered.
    DoAndIgnore,
    /// The connection is dropped before anything is done.
    Disconnect,
    /// It is done, and then the connection is dropped.
    DoAndDisconnect,
    /// It takes this long, and so does all that the connection was asked after it.
    Delay(Duration),
}

/// The services of a node that faults and counts can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    KeyValue,
    Management,
    Query,
    Search,
}

/// A fault and where it strikes. Without further words: at every data request, from now on, until it is healed.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    service: Service,
    opcodes: Vec<u8>,
    containing: Option<String>,
    spared: u64,
    times: Option<u64>,
    every: u64,
    met: u64,
    hits: Arc<AtomicU64>,
}

/// How often a fault struck.
#[derive(Debug, Clone)]
pub struct Hits(Arc<AtomicU64>);

#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<Rule>,
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            service: Service::KeyValue,
            opcodes: Vec::new(),
            containing: None,
            spared: 0,
            times: None,
            every: 1,
            met: 0,
            hits: Arc::default(),
        }
    }
}

#[allow(dead_code, reason = "the words that a test has at hand; no single test needs all")]
impl Fault {
    /// At these commands only, bootstrap included.
    pub fn on(self, opcodes: &[u8]) -> Rule {
        Rule { opcodes: opcodes.to_vec(), ..self.into() }
    }

    /// At requests to a service over HTTP.
    pub fn at(self, service: Service) -> Rule {
        Rule { service, ..self.into() }
    }

    /// See [`Rule::times`].
    pub fn times(self, times: u64) -> Rule {
        Rule::from(self).times(times)
    }

    /// See [`Rule::containing`].
    pub fn containing(self, text: &str) -> Rule {
        Rule::from(self).containing(text)
    }
}

#[allow(dead_code, reason = "the words that a test has at hand; no single test needs all")]
impl Rule {
    /// As often as this, and then no more.
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// After so many requests have gone well.
    pub fn after(self, spared: u64) -> Self {
        Self { spared, ..self }
    }

    /// At one request of so many.
    pub fn every(self, every: u64) -> Self {
        assert!(every > 0, "every nth");
        Self { every, ..self }
    }

    /// At documents whose key contains this; over HTTP, at requests whose path or body does.
    pub fn containing(self, text: &str) -> Self {
        Self { containing: Some(text.to_owned()), ..self }
    }

    pub(super) fn hits(&self) -> Hits {
        Hits(Arc::clone(&self.hits))
    }

    fn strikes(&mut self) -> bool {
        self.met += 1;
        let turn = self.met > self.spared && (self.met - self.spared - 1).is_multiple_of(self.every);
        let strikes = turn && self.times != Some(0);
        if strikes {
            self.times = self.times.map(|times| times - 1);
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
        strikes
    }
}

impl Hits {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Faults {
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault that a key-value request meets.
    pub fn of_key_value(&mut self, code: u8, key: &[u8]) -> Option<Fault> {
        let concerned = |rule: &Rule| {
            rule.service == Service::KeyValue
                && if rule.opcodes.is_empty() { is_data(code) } else { rule.opcodes.contains(&code) }
                && rule.containing.as_ref().is_none_or(|text| String::from_utf8_lossy(key).contains(text))
        };
        self.first(concerned)
    }

    /// The fault that a request over HTTP meets; `text` is its path and body.
    pub fn of_http(&mut self, service: Service, text: &str) -> Option<Fault> {
        self.first(|rule| rule.service == service && rule.containing.as_ref().is_none_or(|part| text.contains(part)))
    }

    fn first(&mut self, concerned: impl Fn(&Rule) -> bool) -> Option<Fault> {
        self.rules.iter_mut().find_map(|rule| (concerned(rule) && rule.strikes()).then(|| rule.fault.clone()))
    }
}

/// Whether a command is about a document.
pub fn is_data(code: u8) -> bool {
    use opcode::*;
    matches!(
        code,
        GET..=DECREMENT
            | APPEND
            | PREPEND
            | TOUCH
            | GET_AND_TOUCH
            | GET_LOCKED
            | UNLOCK
            | GET_META
            | SUBDOC_GET..=SUBDOC_GET_COUNT
    )
}
