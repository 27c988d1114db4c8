//! Tells events that are in the log twice from those that are new.

use std::collections::{HashSet, VecDeque};

use crate::domain::{Event, EventKey, EventKind, JobId, Timestamp};

/// Recognises an event that is in the log twice. A writer repeats an append when it did not get the answer.
#[derive(Default)]
pub(super) struct Repeats {
    recent: VecDeque<(Timestamp, EventKey)>,
    known: HashSet<(Timestamp, EventKey)>,
}

impl Repeats {
    /// How many events back a repeat is recognised. A repeated append follows within moments.
    const KEPT: usize = 4096;

    /// Whether the event differs from those before it.
    pub(super) fn is_new(&mut self, event: &Event) -> bool {
        // A job may be cancelled, put back or removed more than once, and each time is news.
        if !matches!(
            event.kind,
            EventKind::Submitted
                | EventKind::AttemptStarted { .. }
                | EventKind::AttemptFinished { .. }
                | EventKind::Finished { .. }
        ) {
            // After a job was put back, or a start withdrawn, events that look the same are new ones.
            if let EventKind::Retried { .. } | EventKind::AttemptWithdrawn { .. } = event.kind {
                self.forget(&event.job.id);
            }
            return true;
        }
        // The job's id may come again for another job.
        let key = (event.job.submitted_at, event.key());
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.recent.push_back(key);
        if self.recent.len() > Self::KEPT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    fn forget(&mut self, job: &JobId) {
        self.recent.retain(|(_, key)| key.job != *job);
        self.known.retain(|(_, key)| key.job != *job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::job;
    use crate::domain::{AttemptNumber, FinalState, Outcome};

    #[test]
    fn an_end_that_was_written_several_times_is_told_once() {
        let finished = |attempt| {
            let kind = EventKind::Finished {
                attempt: Some(AttemptNumber(attempt)),
                state: FinalState::Failed,
                outcome: Outcome::Timeout,
                result: None,
                error: None,
            };
            Event::new(Timestamp::from_millis(1), job("j"), kind)
        };
        let retried = Event { kind: EventKind::Retried { attempts: 1 }, ..finished(1) };
        let mut repeats = Repeats::default();
        let told = [finished(1), finished(1), finished(1), retried.clone(), retried, finished(2), finished(2)]
            .map(|event| repeats.is_new(&event));
        assert_eq!(told, [true, false, false, true, true, true, false]);
    }
}
