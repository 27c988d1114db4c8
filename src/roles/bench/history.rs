//! From the event log to history: how many events a second the projector folds, and how far it is behind when little comes.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use super::allocations;
use super::figures::quantile;
use super::pipeline::Pipeline;
use crate::domain::{
    AttemptNumber, AttemptReport, Event, EventKind, FinalState, JobName, Outcome, Timestamp, Usage, WorkerId,
};
use crate::events::Cursor;

/// How often the lag is measured in a round.
const SAMPLES: usize = 50;

/// What one round measured.
pub(super) struct Folded {
    /// Events a second, of jobs with four events each.
    pub(super) events_per_second: f64,
    /// From an event's append until history has it, in milliseconds: the median.
    pub(super) lag_ms: f64,
    /// How often memory is asked for, for each event: from its append until history has it.
    pub(super) requests: f64,
}

pub(super) async fn fold(pipeline: &Pipeline, name: &JobName, jobs: usize) -> anyhow::Result<Folded> {
    let all: Vec<Event> = (0..jobs).flat_map(|_| life_of(pipeline, name)).collect();
    let (began, allocations) = (Instant::now(), allocations::now());
    for part in all.chunks(1000) {
        pipeline.ports.sink.append(part).await?;
    }
    caught_up(pipeline).await?;
    let events_per_second = all.len() as f64 / began.elapsed().as_secs_f64();
    let requests = allocations::now().since(&allocations).total().count as f64 / all.len() as f64;
    let mut lags = Vec::with_capacity(SAMPLES);
    for event in (0..SAMPLES).flat_map(|_| life_of(pipeline, name).into_iter().take(1)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let began = Instant::now();
        let at = pipeline.ports.sink.append(&[event]).await?;
        has(pipeline, at).await?;
        lags.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    lags.sort_by(f64::total_cmp);
    Ok(Folded { events_per_second, lag_ms: quantile(&lags, 0.5), requests })
}

/// All events of a job that completed at its first attempt.
fn life_of(pipeline: &Pipeline, name: &JobName) -> Vec<Event> {
    let accepted = pipeline.job(name);
    let (job, now) = (accepted.job.clone(), pipeline.clock.now());
    let worker = WorkerId::generate("bench");
    let attempt = AttemptNumber(1);
    let outcome = Outcome::Exit { code: 0 };
    let mut report = AttemptReport::bare(outcome, now, now, String::new());
    report.error = None;
    report.usage = Some(Usage { wall_us: 1000, user_us: 500, system_us: 500, peak_rss_bytes: 1 << 20 });
    let event = |at: Timestamp, kind| Event::new(at, job.clone(), kind);
    let started = EventKind::AttemptStarted { attempt, worker: worker.clone(), host: "bench".to_owned(), build: None };
    let ended = EventKind::AttemptFinished { attempt, worker, report: Box::new(report), next_at: None };
    let finished = EventKind::Finished {
        attempt: Some(attempt),
        state: FinalState::Completed,
        outcome,
        result: None,
        error: None,
    };
    vec![Event::submitted(accepted), event(now, started), event(now, ended), event(now, finished)]
}

/// Waits until history has all that the log has.
pub(super) async fn caught_up(pipeline: &Pipeline) -> anyhow::Result<()> {
    let last = pipeline.ports.source.span().await?.last;
    has(pipeline, last).await
}

async fn has(pipeline: &Pipeline, at: Cursor) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while pipeline.ports.history.cursor().await? < at {
        ensure!(Instant::now() < deadline, "history did not catch up within five minutes");
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(())
}
