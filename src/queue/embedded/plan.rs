//! Chooses the jobs that a claim takes of one queue: in their order, of those that its worker can run, as far as memory
//! and resources go and groups allow.
//!
//! A job whose memory or resources are not free is passed by. What the first such job lacks is kept for it, so that no
//! smaller ones that came later hold it up for ever (in batch systems this is called backfilling with one reservation).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use super::super::Placing;
use super::kinds::{self, Kind};
use super::ledger::Claim;
use crate::domain::{Free, GroupName, QueueName};

/// How many jobs of a kind are read at once.
const READ: usize = 32;

/// What one look of a claim has at hand while it plans.
pub(super) struct Planning<'c> {
    c: &'c Connection,
    claim: &'c Claim,
    /// What of the worker's memory and resources the plans so far leave free.
    free: Free,
    /// How many jobs of each group are taken, those that are planned included; counted once something asks.
    taken: Option<HashMap<GroupName, usize>>,
}

/// A queue, as far as planning goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannedQueue<'q> {
    pub(super) number: i64,
    pub(super) name: &'q QueueName,
    /// Whether slots go to its groups in turn.
    pub(super) is_fair: bool,
}

/// What is taken of one queue.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) jobs: Chosen,
    /// Whether a job was passed by for what other jobs of this worker hold.
    pub(super) lacks_resources: bool,
    /// Whether a job was passed by for its group's limit.
    pub(super) is_limited: bool,
}

/// Which jobs are taken.
#[derive(Debug)]
pub(super) enum Chosen {
    /// The first ready ones of this kind, at most so many.
    FirstOf(i64, usize),
    /// These, by their numbers.
    Each(Vec<i64>),
}

impl Plan {
    /// How many jobs it takes.
    pub(super) fn ready(&self, c: &Connection, queue: i64) -> rusqlite::Result<usize> {
        match &self.jobs {
            Chosen::Each(seqs) => Ok(seqs.len()),
            Chosen::FirstOf(kind, most) => {
                let most = i64::try_from(*most).unwrap_or(i64::MAX);
                let ready: i64 = c
                    .prepare_cached(
                        "SELECT count(*) FROM (SELECT 1 FROM queue_jobs
                         WHERE state <= 1 AND queue = ?1 AND kind = ?2 LIMIT ?3)",
                    )?
                    .query_row((queue, kind, most), |row| row.get(0))?;
                Ok(usize::try_from(ready).unwrap_or(0))
            }
        }
    }
}

impl Default for Chosen {
    fn default() -> Self {
        Chosen::Each(Vec::new())
    }
}

/// The ready jobs of one kind, in their order.
struct Stream {
    number: i64,
    kind: Arc<Kind>,
    is_refused: bool,
    /// Priority and number of those that were read and are not planned.
    read: VecDeque<(i64, i64)>,
    /// Those of the last that was read.
    last: (i64, i64),
}

impl<'c> Planning<'c> {
    pub(super) fn new(c: &'c Connection, claim: &'c Claim) -> Self {
        Self { c, claim, free: claim.placement.free(), taken: None }
    }

    /// The jobs that the worker can take of the queue, at most `room`. They hold what they need from now on.
    pub(super) fn plan(&mut self, queue: PlannedQueue<'_>, room: usize) -> rusqlite::Result<Plan> {
        if room == 0 {
            return Ok(Plan::default());
        }
        let mut streams = self.streams(queue)?;
        if let [only] = &streams[..]
            && only.kind.group.is_none()
            && (only.is_refused || !self.free.is_wanted_by(&only.kind.needs))
        {
            return Ok(Plan { jobs: Chosen::FirstOf(only.number, room), ..Plan::default() });
        }
        let needs_groups = |stream: &Stream| stream.kind.group_limit.is_some() || queue.is_fair;
        if streams.iter().any(needs_groups) && self.taken.is_none() {
            self.taken = Some(kinds::taken_by_group(self.c, &mut self.claim.kinds())?);
        }
        let mut plan = Plan::default();
        let mut chosen = Vec::new();
        let mut is_kept = false;
        while chosen.len() < room {
            self.drop_empty(queue, &mut streams)?;
            let Some(at) = self.next(&streams, queue.is_fair) else { break };
            let stream = &streams[at];
            let group = stream.kind.group.as_ref();
            let running = group.and_then(|group| self.taken.as_ref()?.get(group)).copied().unwrap_or(0);
            if stream.kind.group_limit.is_some_and(|most| running >= most as usize) {
                plan.is_limited = true;
                streams.swap_remove(at);
                continue;
            }
            if !stream.is_refused && !self.free.covers(&stream.kind.needs) {
                if !is_kept {
                    self.free.take(&stream.kind.needs);
                    is_kept = true;
                }
                plan.lacks_resources = true;
                streams.swap_remove(at);
                continue;
            }
            if !stream.is_refused {
                self.free.take(&stream.kind.needs);
            }
            if let (Some(taken), Some(group)) = (&mut self.taken, group) {
                *taken.entry(group.clone()).or_default() += 1;
            }
            chosen.extend(streams[at].read.pop_front().map(|(_, seq)| seq));
        }
        plan.jobs = Chosen::Each(chosen);
        Ok(plan)
    }

    /// The kinds that have ready jobs and that the worker takes.
    fn streams(&self, queue: PlannedQueue<'_>) -> rusqlite::Result<Vec<Stream>> {
        let mut known = self.claim.kinds();
        let mut streams = Vec::new();
        for number in kinds::ready(self.c, queue.number)? {
            let kind = known.get(self.c, number)?;
            let is_refused = match self.claim.placement.judge(queue.name, &kind.needs) {
                Placing::Here => false,
                Placing::Refused => true,
                Placing::Elsewhere | Placing::Nowhere => continue,
            };
            streams.push(Stream { number, kind, is_refused, read: VecDeque::new(), last: (i64::MIN, i64::MIN) });
        }
        Ok(streams)
    }

    /// Reads on where a stream has nothing at hand, and drops those that have no more.
    fn drop_empty(&self, queue: PlannedQueue<'_>, streams: &mut Vec<Stream>) -> rusqlite::Result<()> {
        let mut ended = HashSet::new();
        for stream in streams.iter_mut().filter(|stream| stream.read.is_empty()) {
            let (priority, seq) = stream.last;
            stream.read = self
                .c
                .prepare_cached(
                    "SELECT priority, seq FROM queue_jobs
                     WHERE state <= 1 AND queue = ?1 AND kind = ?2 AND (priority, seq) > (?3, ?4)
                     ORDER BY priority, seq LIMIT ?5",
                )?
                .query_map((queue.number, stream.number, priority, seq, READ as i64), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            match stream.read.back() {
                Some(last) => stream.last = *last,
                None => {
                    ended.insert(stream.number);
                }
            }
        }
        streams.retain(|stream| !ended.contains(&stream.number));
        Ok(())
    }

    /// The stream whose first job comes next: that of the group with the fewest jobs where groups take turns, and then
    /// the one that was there first.
    fn next(&self, streams: &[Stream], is_fair: bool) -> Option<usize> {
        let running = |stream: &Stream| match (&stream.kind.group, &self.taken) {
            (Some(group), Some(taken)) if is_fair => taken.get(group).copied().unwrap_or(0),
            _ => 0,
        };
        let first = |stream: &Stream| (running(stream), stream.read.front().copied());
        (0..streams.len()).min_by_key(|at| first(&streams[*at]))
    }
}
