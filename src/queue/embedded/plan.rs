//! Chooses the jobs that a claim takes of one queue: in their order, of those that its worker can run, as far as memory
//! and resources go and groups allow.
//!
//! A job whose memory or resources are not free is passed by. What the first such job lacks is kept for it, so that no
//! smaller ones that came later hold it up for ever (in batch systems this is called backfilling with one reservation).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use super::super::Placing;
use super::kinds::{self, Kind};
use super::ledger::Claim;
use crate::domain::{Free, GroupName, QueueName};

/// How many jobs of a kind are read at once, at most.
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
    /// The numbers of the jobs.
    pub(super) jobs: Vec<i64>,
    /// Whether a job was passed by for what other jobs of this worker hold.
    pub(super) lacks_resources: bool,
    /// Whether a job was passed by for its group's limit.
    pub(super) is_limited: bool,
}

/// Priority and number of a job: its place in the order of its queue.
type Place = (i64, i64);

/// The ready jobs of one kind, in their order.
struct Stream {
    number: i64,
    kind: Arc<Kind>,
    is_refused: bool,
    /// Those that were read and are not planned.
    read: VecDeque<Place>,
    /// The last that was read.
    last: Place,
    /// How many are read next.
    more: usize,
}

impl<'c> Planning<'c> {
    pub(super) fn new(c: &'c Connection, claim: &'c Claim) -> Self {
        Self { c, claim, free: claim.placement.free(), taken: None }
    }

    /// The jobs that the worker can take of the queue, at most `room`. They hold what they need from now on.
    pub(super) fn plan(&mut self, queue: PlannedQueue<'_>, room: usize) -> rusqlite::Result<Plan> {
        let mut plan = Plan::default();
        if room == 0 {
            return Ok(plan);
        }
        let mut streams = self.streams(queue, room)?;
        let needs_groups = |stream: &Stream| stream.kind.group_limit.is_some() || queue.is_fair;
        if streams.iter().any(needs_groups) && self.taken.is_none() {
            self.taken = Some(kinds::taken_by_group(self.c, &mut self.claim.kinds())?);
        }
        let mut is_kept = false;
        // The streams by what comes next: that of the group with the fewest jobs where groups take turns, and then the
        // one that was there first.
        let mut order: BinaryHeap<_> = (0..streams.len())
            .filter_map(|at| self.rank(&streams[at], queue.is_fair).map(|rank| Reverse((rank, at))))
            .collect();
        while plan.jobs.len() < room {
            let Some(Reverse((rank, at))) = order.pop() else { break };
            let stream = &mut streams[at];
            // Another stream of its group may have been given a slot since.
            let now = self.rank(stream, queue.is_fair);
            if now != Some(rank) {
                order.extend(now.map(|rank| Reverse((rank, at))));
                continue;
            }
            let group = stream.kind.group.as_ref();
            let running = group.and_then(|group| self.taken.as_ref()?.get(group)).copied().unwrap_or(0);
            if stream.kind.group_limit.is_some_and(|most| running >= most as usize) {
                plan.is_limited = true;
                continue;
            }
            if !stream.is_refused && !self.free.covers(&stream.kind.needs) {
                if !is_kept {
                    self.free.take(&stream.kind.needs);
                    is_kept = true;
                }
                plan.lacks_resources = true;
                continue;
            }
            if !stream.is_refused {
                self.free.take(&stream.kind.needs);
            }
            if let (Some(taken), Some(group)) = (&mut self.taken, group) {
                *taken.entry(group.clone()).or_default() += 1;
            }
            plan.jobs.extend(stream.read.pop_front().map(|(_, seq)| seq));
            if plan.jobs.len() < room {
                self.read_on(queue, stream)?;
            }
            order.extend(self.rank(stream, queue.is_fair).map(|rank| Reverse((rank, at))));
        }
        Ok(plan)
    }

    /// The kinds that have ready jobs and that the worker takes, with the first of their jobs.
    fn streams(&self, queue: PlannedQueue<'_>, room: usize) -> rusqlite::Result<Vec<Stream>> {
        let mut known = self.claim.kinds();
        let mut streams = Vec::new();
        let mut passed_by = Vec::new();
        let candidates = known.candidates(self.c, queue.number)?;
        let more = (room / candidates.len().max(1)).clamp(1, READ);
        for number in candidates {
            let read = self.read(queue, number, (i64::MIN, i64::MIN), more)?;
            // Only what is there is judged: a worker waits for others that could run it, from now on.
            let Some(last) = read.back().copied() else { continue };
            let kind = known.get(self.c, number)?;
            let is_refused = match self.claim.placement.judge(queue.name, &kind.needs) {
                Placing::Here => false,
                Placing::Refused => true,
                Placing::Elsewhere | Placing::Nowhere => {
                    passed_by.push(number);
                    continue;
                }
            };
            streams.push(Stream { number, kind, is_refused, read, last, more });
        }
        known.pass_by(queue.number, &passed_by);
        Ok(streams)
    }

    /// Reads more jobs of a stream that has none at hand.
    fn read_on(&self, queue: PlannedQueue<'_>, stream: &mut Stream) -> rusqlite::Result<()> {
        if !stream.read.is_empty() {
            return Ok(());
        }
        stream.more = (2 * stream.more).min(READ);
        stream.read = self.read(queue, stream.number, stream.last, stream.more)?;
        stream.last = stream.read.back().copied().unwrap_or(stream.last);
        Ok(())
    }

    /// The next jobs of a kind behind this place.
    fn read(
        &self,
        queue: PlannedQueue<'_>,
        kind: i64,
        (priority, seq): Place,
        most: usize,
    ) -> rusqlite::Result<VecDeque<Place>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.c
            .prepare_cached(
                "SELECT priority, seq FROM queue_jobs
                 WHERE state <= 1 AND queue = ?1 AND kind = ?2 AND (priority, seq) > (?3, ?4)
                 ORDER BY priority, seq LIMIT ?5",
            )?
            .query_map((queue.number, kind, priority, seq, most), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    /// How soon the first job of a stream comes; `None` when it has no more.
    fn rank(&self, stream: &Stream, is_fair: bool) -> Option<(usize, Place)> {
        let running = match (&stream.kind.group, &self.taken) {
            (Some(group), Some(taken)) if is_fair => taken.get(group).copied().unwrap_or(0),
            _ => 0,
        };
        Some((running, *stream.read.front()?))
    }
}
