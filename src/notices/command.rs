//! Gives a notice to a program on its standard input, under the supervision that jobs have.

use std::sync::Arc;
use std::time::Duration;

use super::Sent;
use super::notice::Notice;
use super::target::CommandTarget;
use crate::domain::{
    AcceptedJob, AttemptNumber, Clock, JobName, JobOptions, NewJob, Outcome, Progress, RawJson, Stream, first_line,
};
use crate::runner::{Guard, OutputSink, RunOrder, Runner, SlotRequest, Slots, StopHandle};

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A target that is a program.
pub struct CommandRunner {
    runner: Runner,
    /// Ends what runs if this process is killed.
    _guard: Guard,
    slots: Slots,
    target: CommandTarget,
    name: JobName,
    timeout: Duration,
    clock: Clock,
}

/// What the program writes is not followed: its end is in the report.
struct Unread;

impl OutputSink for Unread {
    fn output(&self, _: Stream, _: &[u8]) {}

    fn progress(&self, _: Progress) {}
}

impl CommandRunner {
    /// Runs the target with this runner, whose jobs directory is the program's folder, on these slots. `name` is the
    /// program's there.
    pub fn new(
        (runner, guard): (Runner, Guard),
        slots: Slots,
        target: CommandTarget,
        name: JobName,
        timeout: Duration,
        clock: Clock,
    ) -> Self {
        Self { runner, _guard: guard, slots, target, name, timeout, clock }
    }

    /// Tries once to deliver the notice. The program has it when it exits with 0.
    pub(super) async fn send(&self, notice: &Notice) -> Sent {
        let later = |problem: String| Sent::Later { problem, after: None };
        let job = NewJob {
            id: Some(notice.id.clone()),
            name: self.name.to_string(),
            arguments: self.target.arguments.clone(),
            data: RawJson::of(notice).ok(),
            options: JobOptions { attempts: 1, ..JobOptions::default() },
        };
        let AcceptedJob { job, body } = match job.accept(self.clock.now()) {
            Ok(accepted) => accepted,
            Err(error) => return Sent::Refused { problem: error.to_string() },
        };
        // The handle is kept: to drop it would not stop the program.
        let (_stop, signal) = match StopHandle::new() {
            Ok(pair) => pair,
            Err(error) => return later(format!("no event descriptor can be made: {error}")),
        };
        let order = RunOrder {
            job,
            attempt: AttemptNumber(1),
            timeout: Some(self.timeout),
            grace: GRACE,
            memory_bytes: Some(self.target.memory_bytes),
            no_retry_exit_codes: Vec::new(),
            validity: None,
            results_before: serde_json::Map::new(),
            start_log: None,
            body,
            inputs: None,
            trace: None,
        };
        let slot = self.slots.acquire(SlotRequest { cores: Some(1), ..SlotRequest::default() }).await;
        match self.runner.run(slot, order, signal, Arc::new(Unread)).await {
            Ok(report) if report.outcome.is_success() => {
                Sent::Delivered { answer: first_line(report.stdout.text.trim()).chars().take(200).collect() }
            }
            Ok(report) => {
                let why = report.error.as_deref().map(first_line).unwrap_or_default();
                let outcome = match report.outcome {
                    Outcome::Timeout => format!("it did not end within {:?}", self.timeout),
                    other => other.to_string(),
                };
                later(if why.is_empty() { outcome } else { format!("{outcome}: {why}") })
            }
            Err(error) => later(error.to_string()),
        }
    }
}
