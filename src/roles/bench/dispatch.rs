//! From the submission of a job to its first instruction: with nothing else to do, and beside other jobs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::figures::quantile;
use super::pipeline::Pipeline;
use crate::domain::{JobId, JobName};

/// How many jobs are timed in a round.
const SAMPLES: usize = 100;

/// Two quantiles of one round, in milliseconds.
pub(super) struct Delays {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// The delays of jobs of `clock`, a program that prints the time in microseconds since 1970 first of all, one job after the
/// other.
pub(super) async fn delays(pipeline: &Pipeline, clock: &JobName) -> anyhow::Result<Delays> {
    let mut all = Vec::with_capacity(SAMPLES);
    for n in 0..SAMPLES {
        // So that no submission meets the worker's looks in step.
        tokio::time::sleep(Duration::from_millis(3 + n as u64 % 7)).await;
        let job = pipeline.job(clock);
        let id = job.job.id.clone();
        let submitted = micros_since_1970();
        pipeline.submit(&[job]).await?;
        all.push((first_instruction(pipeline, &id).await? - submitted) as f64 / 1000.0);
    }
    all.sort_by(f64::total_cmp);
    Ok(Delays { p50: quantile(&all, 0.5), p99: quantile(&all, 0.99) })
}

/// The same while `other` jobs come at so many a second, in small bursts.
pub(super) async fn delays_beside(
    pipeline: &Arc<Pipeline>,
    clock: &JobName,
    other: &JobName,
    per_second: f64,
) -> anyhow::Result<Delays> {
    const BURST: Duration = Duration::from_millis(10);
    let stop = CancellationToken::new();
    let (feeding, ends, name) = (pipeline.clone(), stop.clone(), other.clone());
    let feeder = pipeline.life.tasks.spawn(async move {
        let (began, mut fed) = (Instant::now(), 0_usize);
        while ends.run_until_cancelled(tokio::time::sleep(BURST)).await.is_some() {
            let due = (began.elapsed().as_secs_f64() * per_second) as usize;
            let jobs: Vec<_> = (fed..due).map(|_| feeding.job(&name)).collect();
            feeding.submit(&jobs).await?;
            fed = due;
        }
        anyhow::Ok(())
    });
    let delays = delays(pipeline, clock).await;
    stop.cancel();
    feeder.await??;
    delays
}

/// When the job printed the time, once history has it.
async fn first_instruction(pipeline: &Pipeline, id: &JobId) -> anyhow::Result<i64> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(record) = pipeline.ports.history.job(id).await?.filter(|record| record.state.is_final()) {
            let report = record.attempts.last().and_then(|attempt| attempt.report.as_ref());
            let told = report.and_then(|report| report.stdout.text.trim().parse().ok());
            return told.context("the program does not tell the time: `clock` beside --binary should");
        }
        ensure!(Instant::now() < deadline, "a job did not end within a minute");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "it is compared with what another program reads of the same clock")]
fn micros_since_1970() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
