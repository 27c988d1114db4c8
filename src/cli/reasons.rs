//! Tells the user who waits for a job why it does not start: the reasons of `jobber explain`, whenever they change.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Console;
use crate::client::{Client, ClientErrorKind};
use crate::domain::{JobId, JobState};

/// How long the command says nothing, at first and after a change.
const QUIET: Duration = Duration::from_secs(2);
/// The longest time between two looks while nothing changes.
const SELDOM: Duration = Duration::from_secs(10);

/// Looks for the reasons why one job has not started.
pub(super) struct Reasons<'a> {
    id: &'a JobId,
    client: &'a Client,
    next_look: Instant,
    pause: Duration,
    /// The last reason, without its numbers: fewer jobs ahead of it, or another time, make no new reason.
    last: Option<String>,
    /// Whether an attempt runs, so that there is nothing to explain.
    runs: bool,
}

impl<'a> Reasons<'a> {
    pub(super) fn of(id: &'a JobId, client: &'a Client) -> Self {
        Self { id, client, next_look: Instant::now() + QUIET, pause: QUIET, last: None, runs: false }
    }

    /// Notes that an attempt has started, or has ended.
    pub(super) fn runs(&mut self, runs: bool) {
        self.runs = runs;
        self.ask_soon();
    }

    /// Returns the value of `work`. Says meanwhile why the job has not started.
    pub(super) async fn shown_during<T>(&mut self, work: impl Future<Output = T>, console: &mut Console) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                value = &mut work => return value,
                reason = self.next() => console.note(&reason),
            }
        }
    }

    /// Waits for the next new reason. A caller may drop the future at any point.
    async fn next(&mut self) -> String {
        loop {
            if self.runs {
                return std::future::pending().await;
            }
            sleep_until(self.next_look).await;
            self.pause = (self.pause * 3 / 2).min(SELDOM);
            self.next_look = Instant::now() + self.pause;
            let Some(reason) = self.ask().await else {
                self.last = None;
                continue;
            };
            let essence: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
            if self.last.as_ref() != Some(&essence) {
                self.last = Some(essence);
                self.ask_soon();
                return reason;
            }
        }
    }

    fn ask_soon(&mut self) {
        self.pause = QUIET;
        self.next_look = Instant::now() + QUIET;
    }

    /// The reason why the job has not started. `None` when it has, or when the server can't explain it.
    async fn ask(&self) -> Option<String> {
        let explained = match self.client.explain(self.id).await {
            Ok(explained) => explained,
            Err(error) if error.kind == ClientErrorKind::Unreachable => {
                return Some(format!("job {}: the server can't be reached; trying on", self.id));
            }
            Err(_) => return None,
        };
        // A job that a worker has claimed may still wait there for a slot.
        if explained.state.is_final() || explained.state == JobState::Active && self.has_started().await {
            return None;
        }
        Some(format!("job {} is {}: {}", self.id, explained.state, explained.reasons.join("; ")))
    }

    async fn has_started(&self) -> bool {
        let job = self.client.job(self.id, None).await;
        job.is_ok_and(|job| job.attempts.iter().any(|attempt| attempt.report.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{captured, text};
    use super::*;
    use crate::cli::Globals;
    use crate::client::fake::{self, FakeServer};

    #[tokio::test]
    async fn a_reason_is_said_again_only_when_it_changes() {
        let explained = |reasons: &[&str]| fake::json(200, &json!({"id": "a", "state": "waiting", "reasons": reasons}));
        let server = FakeServer::start(vec![
            explained(&["all 2 slots are taken", "13 jobs are ahead of it"]),
            explained(&["all 2 slots are taken", "12 jobs are ahead of it"]),
            explained(&["the queue is paused", "12 jobs are ahead of it"]),
        ])
        .await;
        let (mut console, _, err) = captured(&Globals::default());
        let (id, client) = ("a".parse().unwrap(), server.client());
        let mut reasons = Reasons { next_look: Instant::now(), ..Reasons::of(&id, &client) };
        for lines in [1, 1, 2] {
            let asked = server.requests().len();
            // Makes the next look due at once.
            reasons.next_look = Instant::now();
            let work = async {
                while server.requests().len() == asked || text(&err).lines().count() < lines {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            reasons.shown_during(work, &mut console).await;
        }
        assert_eq!(
            text(&err),
            "job a is waiting: all 2 slots are taken; 13 jobs are ahead of it\n\
             job a is waiting: the queue is paused; 12 jobs are ahead of it\n"
        );
    }
}
