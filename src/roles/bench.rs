//! `jobber bench`: compares the whole pipeline with raw process spawning, with the same binary and
//! concurrency and in the same run.

mod cpu;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cpu::CpuTimes;
use super::parts;
use crate::config::Config;
use crate::domain::{AcceptedJob, Clock, Event, Job, JobBody, JobId, JobName, JobOptions, QueueName};
use crate::lifecycle::Lifecycle;
use crate::stats::Counts;
use crate::store::DayRange;
use crate::traces::Traces;
use crate::wiring::{self, ServerPorts};
use crate::worker::Lifetime;

/// The options of `jobber bench`.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// How many jobs each round runs.
    pub jobs: usize,
    /// How many jobs run at the same time.
    pub concurrency: u32,
    /// The binary that each job runs. It should end at once.
    pub binary: PathBuf,
    /// How many rounds to measure, each of both ways in turn. The result compares the medians.
    pub rounds: usize,
}

/// Measures, and prints one line for each round and the ratio of the medians.
///
/// # Errors
/// When the binary does not run, or a job of the pipeline does not complete.
pub fn bench(
    mut config: Config,
    environment: Vec<(String, String)>,
    options: BenchOptions,
) -> LocalBoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let binary = fs_err::canonicalize(&options.binary).context("--binary: build it with `make -C cpp-jobs`")?;
        let dir = std::env::temp_dir().join(format!("jobber-bench-{}", JobId::generate()));
        let jobs_dir = dir.join("jobs");
        fs_err::create_dir_all(&jobs_dir)?;
        fs_err::copy(&binary, jobs_dir.join("hello"))?;
        config.data_dir = dir.join("data");
        config.worker.jobs_dir = jobs_dir;
        config.worker.cores_per_process = 1;
        config.worker.cores = Some(options.concurrency);
        // The benchmark uses a queue of its own beside the configured one; on a cluster, the braces keep it on one node.
        config.queue.name = QueueName::parse(&format!("{{bench-{}}}", JobId::generate()))?;
        let measured = measure(&config, environment, &options, &binary).await;
        fs_err::remove_dir_all(&dir)?;
        wiring::forget_queue(&config).await?;
        let Measured { mut raw, mut whole, raw_cpu, whole_cpu } = measured?;
        let (raw, whole) = (median(&mut raw), median(&mut whole));
        let jobs = options.jobs * options.rounds;
        writeln!(std::io::stdout(), "CPU time of a job, raw: {}", raw_cpu.per_job(jobs))?;
        writeln!(std::io::stdout(), "CPU time of a job, pipeline: {}", whole_cpu.per_job(jobs))?;
        writeln!(
            std::io::stdout(),
            "raw spawning {raw:.0} jobs/s, whole pipeline {whole:.0} jobs/s: ratio {:.2} (medians of {} rounds, {} jobs each, {} at once)",
            whole / raw,
            options.rounds,
            options.jobs,
            options.concurrency,
        )?;
        Ok(())
    })
}

/// The speed of each round, in jobs per second, and the CPU time of all rounds.
#[derive(Default)]
struct Measured {
    raw: Vec<f64>,
    whole: Vec<f64>,
    raw_cpu: CpuTimes,
    whole_cpu: CpuTimes,
}

async fn measure(
    config: &Config,
    environment: Vec<(String, String)>,
    options: &BenchOptions,
    binary: &Path,
) -> anyhow::Result<Measured> {
    let (life, clock) = (Lifecycle::default(), Clock::system());
    let (ports, worker_ports) = wiring::open_both(config, &clock, &life.tasks).await?;
    let (worker, _guard) =
        parts::build_worker(config, environment, &worker_ports, &clock, Lifetime::default(), &Traces::default())?;
    let worker_ended = CancellationToken::new();
    parts::start_projector(config, &ports, &clock, &life, worker_ended.clone());
    let part = life.run("worker", worker.run(life.stop.clone(), life.kill.clone()));
    let mut measured = Measured::default();
    for round in 0..=options.rounds {
        let (jobs, concurrency, binary) = (options.jobs, options.concurrency, binary.to_owned());
        let before = CpuTimes::now();
        let spawning = tokio::task::spawn_blocking(move || spawn_all(&binary, jobs, concurrency)).await??;
        let raw_cpu = CpuTimes::now().since(&before);
        let (submitting, pipeline, whole_cpu) = through_pipeline(&ports, jobs, round).await?;
        // The first round only warms up the caches and the worker's pace.
        if round > 0 {
            writeln!(
                std::io::stdout(),
                "round {round}: raw {spawning:.0}/s, pipeline {pipeline:.0}/s, ratio {:.2}; submitted at {submitting:.0}/s",
                pipeline / spawning
            )?;
            measured.raw.push(spawning);
            measured.whole.push(pipeline);
            measured.raw_cpu.add(&raw_cpu);
            measured.whole_cpu.add(&whole_cpu);
        }
    }
    drop((ports, worker_ports));
    life.stop.cancel();
    part.await?;
    worker_ended.cancel();
    ensure!(life.finish(Duration::from_secs(10)).await, "the pipeline did not end in good order");
    Ok(measured)
}

/// Jobs per second when nothing happens but `posix_spawn`, reading the output, and waiting.
fn spawn_all(binary: &Path, jobs: usize, concurrency: u32) -> anyhow::Result<f64> {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let threads: Vec<_> = (0..concurrency)
        .map(|_| {
            let (next, binary) = (next.clone(), binary.to_owned());
            std::thread::spawn(move || -> anyhow::Result<()> {
                while next.fetch_add(1, Ordering::Relaxed) < jobs {
                    #[expect(clippy::disallowed_methods, reason = "the limit that Jobber is held against")]
                    let output = Command::new(&binary).stdin(Stdio::null()).output()?;
                    ensure!(output.status.success() && !output.stdout.is_empty(), "{} failed", binary.display());
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => bail!("a spawning thread panicked"),
        }
    }
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

/// Two speeds in jobs per second: at which the queue accepted jobs, and at which jobs went from the queue into
/// history, with every event and every byte that a real job leaves. Also returns the CPU time of the latter.
async fn through_pipeline(ports: &ServerPorts, jobs: usize, round: usize) -> anyhow::Result<(f64, f64, CpuTimes)> {
    ports.operator.set_paused(None, true).await?;
    let name = JobName::parse("hello")?;
    let clock = Clock::system();
    let batch: Vec<_> = (0..jobs)
        .map(|_| {
            let job = Job {
                id: JobId::generate(),
                name: name.clone(),
                options: JobOptions::default(),
                submitted_at: clock.now(),
                trace: None,
            };
            AcceptedJob { job: Arc::new(job), body: JobBody::new(Vec::new(), None) }
        })
        .collect();
    let began = Instant::now();
    for chunk in batch.chunks(1000) {
        ports.queue.submit(chunk.to_vec(), None).await?;
        let events: Vec<_> = chunk.iter().cloned().map(Event::submitted).collect();
        ports.sink.append(&events).await?;
    }
    let submitting = jobs as f64 / began.elapsed().as_secs_f64();
    let goal = (jobs * (round + 1)) as i64;
    // Waits until history has every submission, so that the round measures only the way from the queue to history.
    until(ports, |n| n.waiting == jobs as i64).await?;
    let (began, before) = (Instant::now(), CpuTimes::now());
    ports.operator.set_paused(None, false).await?;
    until(ports, |n| n.completed() == goal).await?;
    let speed = jobs as f64 / began.elapsed().as_secs_f64();
    Ok((submitting, speed, CpuTimes::now().since(&before)))
}

async fn until(ports: &ServerPorts, reached: impl Fn(&Counts) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let shards = ports.history.shards(DayRange::default(), None).await?;
        let counts = crate::stats::total(shards.iter().map(|shard| &shard.counts));
        ensure!(counts.failed() == 0, "jobs failed; try the binary by hand");
        if reached(&counts) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the pipeline did not end within five minutes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
