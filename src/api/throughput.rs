//! Counts the events of the log by minute and by second, as they come.
//!
//! One reader follows the log once a client has asked, and until none has asked for a day: on Redis to follow the log
//! means to fetch all of it, with what jobs are given. The reader begins with what the log still keeps, so that it knows
//! the time before. Counts are in rings of a fixed size, so memory is bounded.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::repeats::Repeats;
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::{Clock, Entry, Event, EventKind, FinalState, Outcome, Timestamp};
use crate::events::{Cursor, EventError, EventErrorKind, EventSource};
use crate::interest::Interest;
use crate::wire::{EventCounts, Rates, ThroughputItem, ThroughputReport};

/// A read has no effect, and may wait for events that do not come: it is dropped at the stop. Other readers of the log
/// warn of its outages.
const LOG_COUNTER: BackgroundLoop = BackgroundLoop::new("throughput", Period::WakeUp)
    .debug("the event log can't be read for its counts", "the event log can be counted again")
    .back_off(Duration::from_millis(250), Duration::from_secs(5))
    .drop_run();

const SECOND_MS: i64 = 1000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// The most minutes of one report.
pub(super) const MOST_MINUTES: u64 = 1440;
/// The seconds of [`Rates`].
const WINDOW_S: i64 = 60;

/// How long the reader goes on after the last question.
const WANTED_FOR: Duration = Duration::from_secs(24 * 3600);

/// What the log has told so far.
pub(super) struct Throughput {
    tally: Mutex<Tally>,
    questions: Interest,
    /// Whether the reader has come to the end of the log and can read on.
    is_live: watch::Sender<bool>,
}

struct Tally {
    minutes: Ring,
    seconds: Ring,
    /// The time since which all events were counted; `None` before the reader has found its beginning.
    whole_since: Option<Timestamp>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            // The running step and one more, so that a step is not lost while it is read.
            minutes: Ring::new(MINUTE_MS, DAY_MS / MINUTE_MS + 2),
            seconds: Ring::new(SECOND_MS, WINDOW_S + 2),
            whole_since: None,
        }
    }
}

impl Default for Throughput {
    fn default() -> Self {
        Self { tally: Mutex::default(), questions: Interest::default(), is_live: watch::Sender::new(false) }
    }
}

/// Where the reader is.
struct Reader {
    at: Cursor,
    /// The end of the log when the reader began.
    seeded_at: Cursor,
    repeats: Repeats,
}

impl Throughput {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Every change is whole, even if a thread panicked afterwards.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a client asks, and waits a moment for a reader that has only just begun.
    pub(super) async fn ask(&self) {
        const PATIENCE: Duration = Duration::from_millis(700);
        self.questions.note();
        self.questions.wake();
        let mut is_live = self.is_live.subscribe();
        let _ = timeout(PATIENCE, is_live.wait_for(|live| *live)).await;
    }

    /// Reads the log while clients want its counts, until `stop`.
    pub(super) async fn follow_log(&self, source: &dyn EventSource, clock: &Clock, stop: &CancellationToken) {
        let mut reader = None;
        let mut step = async || {
            if !self.questions.is_within(WANTED_FOR) {
                // The next reader begins anew, because the log may have been trimmed meanwhile.
                reader = None;
                *self.lock() = Tally::default();
                self.is_live.send_replace(false);
                return Ok(NextRun::Idle);
            }
            let read = self.read_on(source, clock, &mut reader).await;
            if read.is_err() {
                self.is_live.send_replace(false);
            }
            read?;
            Ok(NextRun::AtOnce)
        };
        let mut turns = LOG_COUNTER.start(stop);
        while turns.run_woken(self.questions.woken(), step()).await {}
    }

    async fn read_on(
        &self,
        source: &dyn EventSource,
        clock: &Clock,
        reader: &mut Option<Reader>,
    ) -> Result<(), EventError> {
        const AT_ONCE: usize = 512;
        const WAIT: Duration = Duration::from_secs(10);
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(begin(source, clock.now()).await?),
        };
        {
            let is_live = reader.at >= reader.seeded_at;
            if is_live {
                self.lock().whole_since.get_or_insert(clock.now());
            }
            self.is_live.send_if_modified(|before| std::mem::replace(before, is_live) != is_live);
        }
        let entries = match source.read_without_bodies(reader.at, AT_ONCE, WAIT).await {
            Err(EventError { kind: EventErrorKind::Corrupt, at: Some(unreadable), .. }) => {
                reader.at = unreadable;
                return Ok(());
            }
            entries => entries?,
        };
        let now = clock.now();
        let mut tally = self.lock();
        for (cursor, entry) in entries {
            reader.at = cursor;
            if let Entry::Job(event) = entry {
                tally.whole_since.get_or_insert(event.at);
                if reader.repeats.is_new(&event) {
                    tally.count(&event, now);
                }
            }
        }
        Ok(())
    }

    /// What happened in the last minute; `None` while the log can't be read to its end.
    pub(super) fn rates(&self, now: Timestamp) -> Option<Rates> {
        let tally = self.lock();
        let last = now.as_millis().div_euclid(SECOND_MS);
        let counts = (last - WINDOW_S + 1..=last).filter_map(|second| tally.seconds.get(second)).fold(
            EventCounts::default(),
            |sum, counts| EventCounts {
                submitted: sum.submitted + counts.submitted,
                started: sum.started + counts.started,
                completed: sum.completed + counts.completed,
                failed: sum.failed + counts.failed,
                attempts_failed: sum.attempts_failed + counts.attempts_failed,
            },
        );
        self.is_live.borrow().then_some(Rates { window_s: WINDOW_S.unsigned_abs(), counts })
    }

    /// The last minutes, at most [`MOST_MINUTES`].
    pub(super) fn report(&self, minutes: u64, now: Timestamp) -> ThroughputReport {
        let tally = self.lock();
        let last = now.as_millis().div_euclid(MINUTE_MS);
        let minutes = i64::try_from(minutes.min(MOST_MINUTES)).unwrap_or(0);
        let items = (last - minutes + 1..=last).map(|minute| ThroughputItem {
            at: Timestamp::from_millis(minute * MINUTE_MS),
            counts: tally.minutes.get(minute).unwrap_or_default(),
        });
        let oldest = Timestamp::from_millis((last + 1) * MINUTE_MS - DAY_MS);
        ThroughputReport {
            step_ms: MINUTE_MS.unsigned_abs(),
            whole_since: tally.whole_since.unwrap_or(now).max(oldest),
            items: items.collect(),
        }
    }
}

/// Begins where the log does, or a day ago if its cursors tell the time, as those of a Redis stream do.
async fn begin(source: &dyn EventSource, now: Timestamp) -> Result<Reader, EventError> {
    let end = source.span().await?.last;
    let day_ago = u64::try_from(now.as_millis() - DAY_MS).unwrap_or(0);
    let at = if end.major > 0 { Cursor { major: day_ago, minor: 0 }.min(end) } else { Cursor::START };
    Ok(Reader { at, seeded_at: end, repeats: Repeats::default() })
}

impl Tally {
    fn count(&mut self, event: &Event, now: Timestamp) {
        // The clock of another host may be ahead.
        let at = event.at.min(now);
        for ring in [&mut self.minutes, &mut self.seconds] {
            let Some(counts) = ring.at(at) else { continue };
            match &event.kind {
                EventKind::Submitted => counts.submitted += 1,
                EventKind::AttemptStarted { .. } => counts.started += 1,
                EventKind::AttemptWithdrawn { .. } => counts.started = counts.started.saturating_sub(1),
                EventKind::AttemptFinished { report, .. } => {
                    let has_failed =
                        !report.outcome.is_success() && !matches!(report.outcome, Outcome::Lost | Outcome::Cancelled);
                    counts.attempts_failed += u64::from(has_failed);
                }
                EventKind::Finished { state: FinalState::Completed, .. } => counts.completed += 1,
                EventKind::Finished { state: FinalState::Failed, .. } => counts.failed += 1,
                EventKind::Cancelled { .. } | EventKind::Retried { .. } | EventKind::Removed => {}
            }
        }
    }
}

/// The counts of the last steps of time. A new step takes the place of the oldest.
struct Ring {
    step_ms: i64,
    /// The number of each step, counted from 1970, with its counts.
    slots: Vec<(i64, EventCounts)>,
}

impl Ring {
    fn new(step_ms: i64, length: i64) -> Self {
        Self { step_ms, slots: vec![(i64::MIN, EventCounts::default()); usize::try_from(length).unwrap_or(1)] }
    }

    fn place(&self, step: i64) -> usize {
        let length = i64::try_from(self.slots.len()).unwrap_or(i64::MAX);
        usize::try_from(step.rem_euclid(length)).unwrap_or(0)
    }

    /// The counts of the step of this time; `None` when a later step has taken its place.
    fn at(&mut self, time: Timestamp) -> Option<&mut EventCounts> {
        let step = time.as_millis().div_euclid(self.step_ms);
        let place = self.place(step);
        let slot = &mut self.slots[place];
        if slot.0 < step {
            *slot = (step, EventCounts::default());
        }
        (slot.0 == step).then_some(&mut slot.1)
    }

    fn get(&self, step: i64) -> Option<EventCounts> {
        let (found, counts) = self.slots[self.place(step)];
        (found == step).then_some(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::job;
    use crate::domain::{AttemptNumber, AttemptReport, WorkerId};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn submitted(ms: i64) -> Event {
        Event::new(at(ms), job("j"), EventKind::Submitted)
    }

    fn attempt_ended(ms: i64, outcome: Outcome) -> Event {
        let kind = EventKind::AttemptFinished {
            attempt: AttemptNumber(1),
            worker: WorkerId::parse("w").unwrap(),
            report: Box::new(AttemptReport::bare(outcome, at(0), at(ms), "")),
            next_at: None,
        };
        Event::new(at(ms), job("j"), kind)
    }

    /// Counts these events at a time.
    fn told(events: &[Event], now: i64) -> Throughput {
        let throughput = Throughput::default();
        throughput.is_live.send_replace(true);
        events.iter().for_each(|event| throughput.lock().count(event, at(now)));
        throughput
    }

    #[test]
    fn events_count_in_the_minute_in_which_they_happened() {
        let base = 100 * DAY_MS;
        let events = [
            submitted(base),
            submitted(base + MINUTE_MS - 1),
            submitted(base + MINUTE_MS),
            // From a clock that is ahead.
            submitted(base + 9 * MINUTE_MS),
            attempt_ended(base, Outcome::Exit { code: 0 }),
            attempt_ended(base, Outcome::Lost),
            attempt_ended(base, Outcome::Timeout),
        ];
        let report = told(&events, base + 2 * MINUTE_MS).report(4, at(base + 2 * MINUTE_MS));
        let submitted: Vec<_> = report.items.iter().map(|item| item.counts.submitted).collect();
        assert_eq!(submitted, [0, 2, 1, 1]);
        assert_eq!(report.items[1].counts.attempts_failed, 1);
        assert_eq!(report.items[3].at, at(base + 2 * MINUTE_MS));
    }

    #[test]
    fn what_is_older_than_a_day_makes_way_and_does_not_come_back() {
        let base = 100 * DAY_MS;
        let events = [submitted(base), submitted(base + 3 * DAY_MS), submitted(base)];
        let report = told(&events, base + 3 * DAY_MS).report(MOST_MINUTES, at(base + 3 * DAY_MS));
        assert_eq!(report.items.len(), 1440);
        assert_eq!(report.items.iter().map(|item| item.counts.submitted).sum::<u64>(), 1);
        assert!(report.whole_since > at(base + 2 * DAY_MS));
    }

    #[test]
    fn the_rates_are_those_of_the_last_sixty_seconds() {
        let base = 100 * DAY_MS;
        let events = [0, 1, 59, 60].map(|second| submitted(base + second * SECOND_MS));
        let throughput = told(&events, base + 60 * SECOND_MS);
        assert_eq!(throughput.rates(at(base + 60 * SECOND_MS)).unwrap().counts.submitted, 3);
        assert_eq!(throughput.rates(at(base + 200 * SECOND_MS)).unwrap().counts.submitted, 0);
    }
}
