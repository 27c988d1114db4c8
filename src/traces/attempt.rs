//! The span of an attempt.

use std::time::Duration;

use opentelemetry::trace::SpanKind;
use sha2::{Digest, Sha256};

use super::Traces;
use super::span::{Origin, Span};
use crate::domain::{AttemptNumber, AttemptReport, Fingerprint, Job, Outcome, Timestamp, TraceContext, first_line};

/// Attempts of a job that was submitted earlier than this link to its submission: a trace that goes on for hours can't be
/// read, and may be stored by then.
const LONGEST: Duration = Duration::from_secs(3600);

/// An attempt that is about to be made, and its place in a trace.
pub struct AttemptTrace {
    span: Option<Span>,
    context: Option<TraceContext>,
    waits_from: Option<Timestamp>,
    exporting: Traces,
}

impl AttemptTrace {
    /// The context for the job's own spans: of the attempt's span, or, with the export off, the one that came with the
    /// job.
    pub fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    /// Whether the attempt will be exported.
    pub fn is_recorded(&self) -> bool {
        self.span.as_ref().is_some_and(Span::is_recorded)
    }

    /// Exports the span of the attempt, which has ended with this report. `fingerprint` is that of its error.
    pub fn end(self, report: &AttemptReport, fingerprint: Option<Fingerprint>) {
        let Some(mut span) = self.span.filter(Span::is_recorded) else { return };
        if let (Some(from), Some(exporting)) = (self.waits_from, &self.exporting.0) {
            let origin = Origin::Parent(span.context().clone());
            if let Some(wait) = Span::begin(exporting, "wait".to_owned(), SpanKind::Internal, origin) {
                wait.end(from, report.started_at.since(from));
            }
        }
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if let Some(pid) = report.pid {
            span.set("process.pid", i64::from(pid));
            span.happened("spawn", report.started_at);
        }
        for sent in &report.signals {
            span.happened(if sent.signal == SIGKILL { "SIGKILL" } else { "SIGTERM" }, sent.at);
        }
        match report.outcome {
            Outcome::Exit { code } => span.set("process.exit.code", i64::from(code)),
            Outcome::Signal { signal } => span.set("jobber.signal", i64::from(signal)),
            Outcome::Timeout | Outcome::Cancelled | Outcome::Oom | Outcome::SpawnError { .. } | Outcome::Lost => {}
        }
        if let Some(usage) = &report.usage {
            span.set("jobber.cpu.user_us", number(usage.user_us));
            span.set("jobber.cpu.system_us", number(usage.system_us));
            span.set("jobber.memory.peak_rss_bytes", number(usage.peak_rss_bytes));
        }
        if !report.outcome.is_success() {
            span.set("error.type", report.outcome.kind().as_str());
            span.failed(report.error.as_deref().map_or("", first_line));
        }
        if let Some(fingerprint) = fingerprint {
            span.set("jobber.fingerprint", fingerprint.to_string());
        }
        span.end(report.started_at, report.ended_at.since(report.started_at));
    }
}

const SIGKILL: i32 = 9;

impl Traces {
    /// Begins the span of an attempt. `spent` says how many attempts before it have finished, or were lost with their
    /// workers, since the job was submitted or retried by hand.
    pub fn attempt(&self, job: &Job, attempt: AttemptNumber, spent: u32, now: Timestamp) -> AttemptTrace {
        let off =
            || AttemptTrace { span: None, context: job.trace.clone(), waits_from: None, exporting: Traces::default() };
        let Some(exporting) = &self.0 else { return off() };
        // Of a later attempt, and of a job that waited for others, the worker does not know when it was due.
        let is_first = attempt.0 == 1 && job.options.after.is_empty();
        let due = job.submitted_at + job.options.delay;
        let name = format!("process {}", exporting.queue.name);
        let Some(mut span) = Span::begin(exporting, name, SpanKind::Consumer, origin(job, attempt, spent, now)) else {
            return off();
        };
        span.about_queue(&exporting.queue, "process");
        span.set("messaging.message.id", job.id.to_string());
        span.set("jobber.job.name", job.name.to_string());
        span.set("jobber.attempt", i64::from(attempt.0));
        let context = Some(span.context().clone());
        AttemptTrace {
            span: Some(span),
            context,
            waits_from: (is_first && due <= now).then_some(due),
            exporting: self.clone(),
        }
    }
}

/// The place of an attempt: below the span that submitted its job, or in the job's own trace, with a link to that span.
fn origin(job: &Job, attempt: AttemptNumber, spent: u32, now: Timestamp) -> Origin {
    // More attempts than were spent: the job was retried by hand, or given back by a worker that ended.
    let is_again = attempt.0 > spent.saturating_add(1);
    let is_old = now.since(job.submitted_at) > LONGEST;
    match &job.trace {
        Some(context) if !(context.is_link() || is_again || is_old || job.id.is_scheduled()) => {
            Origin::Parent(context.clone())
        }
        context => Origin::Root { trace_id: own_trace_id(job), links: context.iter().cloned().collect() },
    }
}

/// The trace of a job that has one to itself: the same for each of its attempts, in whatever worker.
fn own_trace_id(job: &Job) -> u128 {
    let digest =
        Sha256::new().chain_update(job.id.as_str()).chain_update(job.submitted_at.as_millis().to_be_bytes()).finalize();
    let (id, _) = digest.split_first_chunk::<16>().expect("a SHA-256 has 32 bytes");
    u128::from_be_bytes(*id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobId, JobName, JobOptions};

    const SUBMITTED: Timestamp = Timestamp::EPOCH;

    fn job(id: &str, trace: Option<TraceContext>) -> Job {
        Job {
            id: JobId::parse(id).unwrap(),
            name: JobName::parse("resize").unwrap(),
            options: JobOptions::default(),
            submitted_at: SUBMITTED,
            trace,
        }
    }

    /// The trace of the attempt, and the trace that it links to, if it does.
    fn place(job: &Job, attempt: u32, spent: u32, after: Duration) -> (u128, Option<u128>) {
        match origin(job, AttemptNumber(attempt), spent, SUBMITTED + after) {
            Origin::Parent(parent) => (parent.trace_id(), None),
            Origin::Root { trace_id, links } => (trace_id, links.first().map(TraceContext::trace_id)),
        }
    }

    #[test]
    fn attempts_continue_the_trace_of_a_submission_unless_it_would_not_end() {
        let soon = Duration::from_secs(60);
        let context = TraceContext::new(7, 9, true, "").unwrap();
        let single = job("a", Some(context.clone()));
        assert_eq!(place(&single, 1, 0, soon), (7, None));
        assert_eq!(place(&single, 3, 2, soon), (7, None));
        let own = own_trace_id(&single);
        for linked in [
            place(&single, 1, 0, Duration::from_secs(3601)),
            place(&single, 4, 0, soon),
            place(&job("a", Some(context.as_link())), 1, 0, soon),
            place(&job("a", Some(context.as_link())), 2, 1, soon),
        ] {
            assert_eq!(linked, (own, Some(7)));
        }
        let scheduled = job("repeat:tick:1700000000000", Some(context));
        assert!(scheduled.id.is_scheduled());
        assert_eq!(place(&scheduled, 1, 0, soon), (own_trace_id(&scheduled), Some(7)));
    }

    #[test]
    fn attempts_of_a_job_without_a_context_share_a_trace() {
        let (one, other) = (job("a", None), job("b", None));
        assert_eq!(place(&one, 1, 0, Duration::ZERO), place(&one, 2, 1, Duration::from_secs(9000)));
        assert_ne!(own_trace_id(&one), own_trace_id(&other));
        let later = Job { submitted_at: SUBMITTED + Duration::from_millis(1), ..one.clone() };
        assert_ne!(own_trace_id(&one), own_trace_id(&later), "an id that comes again is another job");
    }
}
