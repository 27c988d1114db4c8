//! Watches whether the server's own parts are well, and announces when one turns.
//!
//! A part that is not well at [`BAD_LOOKS`] looks in a row has turned; it is well again at the first look that finds
//! it so. What was announced is marked in the outbox, so that a server that is started again knows what its receivers
//! believe. Of several servers the one that leads tells, and each of them while the store is away, because none leads then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::announce::Announcer;
use super::notice::HealthTurn;
use crate::background::{BackgroundLoop, NextRun, Period, RunError};
use crate::domain::{Clock, Timestamp, WorkerId};
use crate::events::{Cursor, EventSource};
use crate::metrics::METRICS;
use crate::queue::{Queue, WorkerInfo};
use crate::sqlite::SqliteError;
use crate::store::History;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often in a row a part must be found ill.
const BAD_LOOKS: u32 = 4;
/// A worker that was last heard of before so long when it vanished was lost. One that ends in good order says so, and
/// vanishes at once; others are listed for three seconds after their last heartbeat.
const SILENT: Duration = Duration::from_secs(2);
/// For how long history may stand still while the log has more.
const STANDSTILL: Duration = Duration::from_secs(30);
/// What the marks of parts begin with.
const MARKS: &str = "health/";

/// What is watched.
pub struct HealthWatchPorts {
    /// The queue, with its workers.
    pub queue: Arc<dyn Queue>,
    /// History.
    pub history: Arc<dyn History>,
    /// The event log.
    pub source: Arc<dyn EventSource>,
}

/// Watches the parts of this server.
pub struct HealthWatch {
    ports: HealthWatchPorts,
    announcer: Announcer,
    clock: Clock,
    server: String,
    seen: Seen,
}

/// What a mark says of a part that is not well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mark {
    since: Timestamp,
    problem: String,
    /// The worker that was lost, where the part is the workers of a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lost: Option<WorkerId>,
}

/// What earlier looks have found.
#[derive(Debug, Default)]
struct Seen {
    /// Of each part how often it was found ill in a row.
    bad: BTreeMap<String, u32>,
    /// The workers at the last look that was answered.
    workers: BTreeMap<WorkerId, WorkerInfo>,
    /// Workers that were lost and are not announced yet, by host.
    lost: BTreeMap<String, Mark>,
    /// How far history was, and since when.
    history: Option<(Cursor, Timestamp)>,
}

impl HealthWatch {
    /// A watch that announces by `announcer`. `server` is the host of this one.
    pub fn new(ports: HealthWatchPorts, announcer: Announcer, clock: Clock, server: String) -> Self {
        Self { ports, announcer, clock, server, seen: Seen::default() }
    }

    /// Looks every half second until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        const LOOK: BackgroundLoop = BackgroundLoop::new("health watch", Period::Every(Duration::from_millis(500)))
            .warn(
                "turns of the server's health can't be announced",
                "turns of the server's health can be announced again",
            )
            .drop_run();
        let mut turns = LOOK.start(&stop);
        while turns.run(self.look()).await {}
    }

    async fn look(&mut self) -> Result<NextRun, RunError> {
        let now = self.clock.now();
        let (queue, store, span, folded, workers) = tokio::join!(
            ask(self.ports.queue.ping()),
            ask(self.ports.history.ping()),
            ask(self.ports.source.span()),
            ask(self.ports.history.cursor()),
            ask(self.ports.queue.workers()),
        );
        let mut ill: BTreeMap<String, String> = BTreeMap::new();
        let mut note = |part: &str, problem: Option<String>| {
            ill.extend(problem.map(|problem| (part.to_owned(), problem)));
        };
        note("queue", queue.err());
        let is_store_away = store.is_err();
        note("store", store.err().or_else(|| self.ports.history.lacks()));
        match &span {
            Ok(span) if span.length >= span.cap => {
                note("events", Some(format!("the event log is full: it holds {} events", span.length)));
            }
            Ok(_) => {}
            Err(problem) => note("events", Some(problem.clone())),
        }
        if let (Ok(span), Ok(folded)) = (&span, &folded) {
            note("history", self.seen.standstill(*folded, span.last, now));
        }
        let workers = workers.ok();
        for worker in workers.iter().flatten() {
            note(&format!("worker {}", worker.id), worker.unhealthy.clone());
        }
        self.seen.find_lost(workers.as_deref(), now);
        if METRICS.server.leads() || is_store_away {
            self.announce(&ill, workers.as_deref(), now).await?;
        }
        Ok(NextRun::InTurn)
    }

    /// Announces what has turned since the last look.
    async fn announce(
        &mut self,
        ill: &BTreeMap<String, String>,
        workers: Option<&[WorkerInfo]>,
        now: Timestamp,
    ) -> Result<(), SqliteError> {
        let told = self.announcer.outbox().marks(MARKS).await?;
        let told: BTreeMap<String, Mark> =
            told.into_iter().filter_map(|(part, mark)| Some((part, serde_json::from_str(&mark).ok()?))).collect();
        for part in self.seen.turned_ill(ill, &told) {
            let mark = Mark { since: now, problem: ill[&part].clone(), lost: None };
            self.turn(&part, &mark, false, now).await?;
        }
        for (host, mark) in self.seen.lost.clone() {
            let part = format!("workers of {host}");
            if !told.contains_key(&part) {
                self.turn(&part, &mark, false, now).await?;
            }
            self.seen.lost.remove(&host);
        }
        for (part, mark) in &told {
            let is_well = match (&mark.lost, workers) {
                (Some(lost), Some(workers)) => is_replaced(part, lost, mark.since, workers),
                (Some(_), None) => false,
                // Nothing is known of workers while the queue does not answer.
                (None, None) if part.starts_with("worker ") => false,
                (None, _) => !ill.contains_key(part),
            };
            if is_well {
                self.turn(part, mark, true, now).await?;
            }
        }
        Ok(())
    }

    /// Announces a turn, and then marks it. After a kill between the two it is announced once more, under the same id if
    /// it is the end of an illness.
    async fn turn(&self, part: &str, mark: &Mark, healthy: bool, now: Timestamp) -> Result<(), SqliteError> {
        let Mark { since, problem, .. } = mark.clone();
        let turn = HealthTurn { part: part.to_owned(), healthy, problem, since, server: self.server.clone() };
        self.announcer.put(self.announcer.of_turn(&turn, now)).await?;
        let key = format!("{MARKS}{part}");
        if healthy {
            return self.announcer.outbox().unmark(&key).await;
        }
        let mark = serde_json::to_string(mark).expect("a mark has only strings for keys");
        self.announcer.outbox().mark(&key, &mark).await.map(drop)
    }
}

/// Whether a worker is there again on the host of the one that was lost, or that one itself.
fn is_replaced(part: &str, lost: &WorkerId, since: Timestamp, workers: &[WorkerInfo]) -> bool {
    let host = part.trim_start_matches("workers of ");
    workers.iter().any(|worker| worker.id == *lost || worker.host == host && worker.started_at >= since - SILENT * 2)
}

impl Seen {
    /// The parts that have been ill for long enough now and are not told of.
    fn turned_ill(&mut self, ill: &BTreeMap<String, String>, told: &BTreeMap<String, Mark>) -> Vec<String> {
        self.bad.retain(|part, _| ill.contains_key(part));
        let mut turned = Vec::new();
        for part in ill.keys() {
            let looks = self.bad.entry(part.clone()).or_default();
            *looks = looks.saturating_add(1);
            if *looks >= BAD_LOOKS && !told.contains_key(part) {
                turned.push(part.clone());
            }
        }
        turned
    }

    /// Finds the workers that have vanished without a farewell since the last look.
    fn find_lost(&mut self, workers: Option<&[WorkerInfo]>, now: Timestamp) {
        let Some(workers) = workers else {
            // After an outage the last heartbeat of every worker is old.
            self.workers.clear();
            return;
        };
        let listed: BTreeMap<_, _> = workers.iter().map(|worker| (worker.id.clone(), worker.clone())).collect();
        for (id, worker) in std::mem::take(&mut self.workers) {
            if !listed.contains_key(&id) && now.since(worker.last_seen) >= SILENT && !worker.draining {
                let problem = format!("worker {id} was lost: it has sent no heartbeat since {}", worker.last_seen);
                let mark = Mark { since: worker.last_seen, problem, lost: Some(id) };
                self.lost.insert(worker.host, mark);
            }
        }
        self.workers = listed;
    }

    /// What is wrong with history if it stands still although the log has more.
    fn standstill(&mut self, folded: Cursor, last: Cursor, now: Timestamp) -> Option<String> {
        let since = match self.history {
            Some((at, since)) if at == folded && folded < last => since,
            _ => now,
        };
        self.history = Some((folded, since));
        let stands = now.since(since);
        (stands >= STANDSTILL)
            .then(|| "history has stood still for half a minute although the event log has more".to_owned())
    }
}

async fn ask<T, E: std::error::Error>(call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn worker(id: &str, started: i64, seen: i64) -> WorkerInfo {
        serde_json::from_value(serde_json::json!({
            "id": id, "host": "h", "pid": 1, "version": "0", "started_at": at(started), "last_seen": at(seen),
            "slots": 1, "cores": 1, "running": 0, "draining": false,
        }))
        .unwrap()
    }

    #[test]
    fn a_part_turns_after_some_looks_and_is_told_of_once() {
        let (mut seen, mut told) = (Seen::default(), BTreeMap::new());
        let ill: BTreeMap<_, _> = [("queue".to_owned(), "away".to_owned())].into();
        for _ in 1..BAD_LOOKS {
            assert!(seen.turned_ill(&ill, &told).is_empty());
        }
        assert_eq!(seen.turned_ill(&ill, &told), ["queue"]);
        told.insert("queue".to_owned(), Mark { since: at(1), problem: "away".to_owned(), lost: None });
        assert!(seen.turned_ill(&ill, &told).is_empty());
        assert!(seen.turned_ill(&BTreeMap::new(), &told).is_empty());
        assert!(seen.turned_ill(&ill, &BTreeMap::new()).is_empty(), "counts anew");
    }

    #[test]
    fn a_worker_that_vanishes_after_a_silence_was_lost_and_one_that_was_just_heard_of_has_ended() {
        let mut seen = Seen::default();
        seen.find_lost(Some(&[worker("a", 0, 10_000), worker("b", 0, 12_500)]), at(12_600));
        seen.find_lost(Some(&[]), at(13_100));
        assert_eq!(seen.lost.len(), 1);
        let mark = &seen.lost["h"];
        assert_eq!((mark.since, mark.lost.as_ref().unwrap().as_str()), (at(10_000), "a"));
    }

    #[test]
    fn nobody_is_lost_in_an_outage_of_the_queue() {
        let mut seen = Seen::default();
        seen.find_lost(Some(&[worker("a", 0, 10_000)]), at(10_100));
        seen.find_lost(None, at(15_000));
        seen.find_lost(Some(&[]), at(20_000));
        assert!(seen.lost.is_empty());
    }

    #[test]
    fn a_lost_worker_is_made_up_for_by_one_that_started_later_or_by_itself() {
        let lost = WorkerId::parse("a").unwrap();
        let replaced = |workers: &[WorkerInfo]| is_replaced("workers of h", &lost, at(10_000), workers);
        assert!(!replaced(&[]));
        assert!(!replaced(&[worker("b", 1_000, 11_000)]), "it was there before");
        assert!(replaced(&[worker("b", 12_000, 13_000)]));
        assert!(replaced(&[worker("a", 1_000, 13_000)]));
    }

    #[test]
    fn history_that_stands_still_is_ill_and_history_that_is_behind_is_not() {
        let place = |minor| Cursor { major: 0, minor };
        let mut seen = Seen::default();
        assert_eq!(seen.standstill(place(1), place(9), at(0)), None);
        assert_eq!(seen.standstill(place(2), place(99), at(29_000)), None);
        assert_eq!(seen.standstill(place(2), place(99), at(58_999)), None);
        assert!(seen.standstill(place(2), place(99), at(59_000)).is_some());
        assert_eq!(seen.standstill(place(99), place(99), at(60_000)), None);
        assert_eq!(seen.standstill(place(99), place(99), at(600_000)), None, "there is nothing to do");
    }
}
