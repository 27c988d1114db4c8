//! `jobber bench`: measures the whole pipeline beside raw process spawning, and its parts: the API, dispatch, history, memory.
//!
//! Ways that are compared take turns within one run, round by round, with the same binary: what a machine can do differs
//! from hour to hour, and often from minute to minute.

mod allocations;
mod cpu;
mod dispatch;
mod figures;
mod history;
mod http;
mod pipeline;
mod raw;
mod resident;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use futures_util::future::LocalBoxFuture;

use self::allocations::Allocations;
use self::cpu::CpuTimes;
use self::figures::{BenchReport, Better, Figure, Workload};
use self::pipeline::Pipeline;
use crate::config::Config;
use crate::domain::{JobId, JobName, QueueName};
use crate::wiring;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The whole pipeline beside raw process spawning.
    Pipeline,
    /// Submissions to the API.
    Http,
    /// From submission to a job's first instruction.
    Dispatch,
    /// From the event log to history.
    History,
    /// The memory of idle processes.
    Resident,
}

/// The options of `jobber bench`.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// How many jobs each round runs.
    pub jobs: usize,
    /// How many jobs run at the same time: each of these in turn.
    pub concurrency: Vec<u32>,
    /// The binary that each job runs. It should end at once.
    pub binary: PathBuf,
    /// How many rounds to measure.
    pub rounds: usize,
    /// What is measured; all when empty.
    pub parts: Vec<Part>,
    /// A result to compare with.
    pub against: Option<PathBuf>,
    /// Whether the result is printed as JSON.
    pub is_json: bool,
}

/// Measures, and prints the figures.
///
/// # Errors
/// When the binary does not run, a job does not complete, or `against` is no result.
pub fn bench(
    mut config: Config,
    environment: Vec<(String, String)>,
    options: BenchOptions,
) -> LocalBoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let kept = options.against.as_ref().map(|file| {
            let text = fs_err::read_to_string(file)?;
            BenchReport::parse(&text).with_context(|| file.display().to_string())
        });
        let kept = kept.transpose()?;
        let binary = fs_err::canonicalize(&options.binary).context("--binary: build it with `make -C cpp-jobs`")?;
        crate::allocations::start_counting();
        let dir = std::env::temp_dir().join(format!("jobber-bench-{}", JobId::generate()));
        let jobs_dir = dir.join("jobs");
        fs_err::create_dir_all(&jobs_dir)?;
        fs_err::copy(&binary, jobs_dir.join("hello"))?;
        let clock = binary.with_file_name("clock");
        let has_clock = clock.exists();
        if has_clock {
            fs_err::copy(&clock, jobs_dir.join("clock"))?;
        }
        config.worker.jobs_dir = jobs_dir;
        config.worker.cores_per_process = 1;
        let mut bench =
            Bench { config, environment, options, binary, dir: dir.clone(), has_clock, figures: Vec::new() };
        let measured = bench.measure().await;
        fs_err::remove_dir_all(&dir)?;
        measured?;
        let report = BenchReport::new(bench.workload(), bench.figures);
        let mut out = std::io::stdout();
        if bench.options.is_json {
            writeln!(out, "{}", report.to_json())?;
        } else {
            write!(out, "\n{}", report.table())?;
        }
        if let Some(kept) = kept {
            let text = report.against(&kept);
            if bench.options.is_json { write!(std::io::stderr(), "{text}")? } else { write!(out, "\n{text}")? }
        }
        Ok(())
    })
}

/// One run of the benchmark.
struct Bench {
    config: Config,
    environment: Vec<(String, String)>,
    options: BenchOptions,
    binary: PathBuf,
    dir: PathBuf,
    has_clock: bool,
    figures: Vec<Figure>,
}

impl Bench {
    async fn measure(&mut self) -> anyhow::Result<()> {
        for concurrency in self.options.concurrency.clone() {
            if self.does(Part::Pipeline) {
                self.alone(concurrency, async |bench, pipeline| bench.pipeline(pipeline, concurrency).await).await?;
            }
        }
        let concurrency = self.options.concurrency[0];
        if self.does(Part::Dispatch) {
            if self.has_clock {
                self.alone(concurrency, async |bench, pipeline| bench.dispatch(pipeline).await).await?;
            } else if self.options.parts.is_empty() {
                self.say("dispatch is left out: there is no `clock` beside the binary")?;
            } else {
                bail!("dispatch is measured with `clock` beside the binary: build it with `make -C cpp-jobs`");
            }
        }
        if self.does(Part::History) {
            self.alone(concurrency, async |bench, pipeline| bench.history(pipeline).await).await?;
        }
        if self.does(Part::Http) {
            self.alone(concurrency, async |bench, pipeline| bench.http(pipeline).await).await?;
        }
        if self.does(Part::Resident) {
            self.resident().await?;
        }
        Ok(())
    }

    fn does(&self, part: Part) -> bool {
        self.options.parts.is_empty() || self.options.parts.contains(&part)
    }

    /// Runs `measure` on a pipeline with data, and a queue, of its own.
    async fn alone(
        &mut self,
        concurrency: u32,
        measure: impl AsyncFnOnce(&mut Self, &Arc<Pipeline>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let name = JobId::generate();
        self.config.data_dir = self.dir.join(format!("data-{name}"));
        self.config.worker.cores = Some(concurrency);
        // It stands beside the configured one; on a cluster, the braces keep it on one node.
        self.config.queue.name = QueueName::parse(&format!("{{bench-{name}}}"))?;
        let pipeline = Arc::new(Pipeline::start(&self.config, self.environment.clone()).await?);
        let measured = measure(self, &pipeline).await;
        let pipeline = Arc::into_inner(pipeline).context("a part of the benchmark goes on")?;
        let ended = pipeline.end().await;
        wiring::forget_queue(&self.config).await?;
        measured?;
        ended
    }

    async fn pipeline(&mut self, pipeline: &Pipeline, concurrency: u32) -> anyhow::Result<()> {
        let (name, jobs) = (JobName::parse("hello")?, self.options.jobs);
        let (mut raw, mut whole, mut ratios, mut submitting) = (vec![], vec![], vec![], vec![]);
        let (mut raw_us, mut whole_us, mut own_us, mut requests) = (vec![], vec![], vec![], vec![]);
        let (mut raw_cpu, mut whole_cpu, mut allocations) =
            (CpuTimes::default(), CpuTimes::default(), Allocations::default());
        // The first round only warms up the caches and the worker's pace.
        for round in 0..=self.options.rounds {
            let (before, binary) = (CpuTimes::now(), self.binary.clone());
            let spawning = tokio::task::spawn_blocking(move || raw::spawn_all(&binary, jobs, concurrency)).await??;
            let spawning_cpu = CpuTimes::now().since(&before);
            let carried = pipeline.carry(&name, jobs).await?;
            if round == 0 {
                continue;
            }
            let ratio = carried.per_second / spawning;
            self.say(&format!(
                "{concurrency} at once, round {round}: raw {spawning:.0}/s, pipeline {:.0}/s, ratio {ratio:.2}",
                carried.per_second
            ))?;
            raw.push(spawning);
            whole.push(carried.per_second);
            ratios.push(ratio);
            submitting.push(carried.submitted_per_second);
            raw_us.push(spawning_cpu.all_us(jobs));
            whole_us.push(carried.cpu.all_us(jobs));
            own_us.push(carried.cpu.all_us(jobs) - spawning_cpu.all_us(jobs));
            requests.push(carried.allocations.total().count as f64 / jobs as f64);
            raw_cpu.add(&spawning_cpu);
            whole_cpu.add(&carried.cpu);
            allocations.add(&carried.allocations);
        }
        let all = jobs * self.options.rounds;
        self.say(&format!("CPU time of a job, raw: {}", raw_cpu.per_job(all)))?;
        self.say(&format!("CPU time of a job, pipeline: {}", whole_cpu.per_job(all)))?;
        self.say(&format!("Requests for memory of a job: {}", allocations.per_job(all)))?;
        let at = |what: &str| format!("{what}, {concurrency} at once");
        self.figures.extend([
            Figure::new(at("raw spawning"), "jobs/s", Better::Higher, raw),
            Figure::new(at("pipeline"), "jobs/s", Better::Higher, whole),
            Figure::new(at("pipeline over raw"), "ratio", Better::Higher, ratios),
            Figure::new(at("submission to the queue"), "jobs/s", Better::Higher, submitting),
            Figure::new(at("CPU of a job, raw"), "us", Better::Lower, raw_us),
            Figure::new(at("CPU of a job, pipeline"), "us", Better::Lower, whole_us),
            Figure::new(at("CPU of a job above raw"), "us", Better::Lower, own_us),
            Figure::new(at("allocations of a job"), "requests", Better::Lower, requests),
        ]);
        Ok(())
    }

    async fn dispatch(&mut self, pipeline: &Arc<Pipeline>) -> anyhow::Result<()> {
        let (clock, hello) = (JobName::parse("clock")?, JobName::parse("hello")?);
        pipeline.set_paused(false).await?;
        // Half of what the pipeline carries: so the queue is busy, and never long.
        let per_second = pipeline.carry(&hello, self.options.jobs.min(2000)).await?.per_second / 2.0;
        let (mut idle, mut loaded) = (Vec::new(), Vec::new());
        for round in 0..=self.options.rounds {
            let alone = dispatch::delays(pipeline, &clock).await?;
            let beside = dispatch::delays_beside(pipeline, &clock, &hello, per_second).await?;
            history::caught_up(pipeline).await?;
            if round > 0 {
                idle.push(alone);
                loaded.push(beside);
            }
        }
        for (what, delays) in [("idle", &idle), ("loaded", &loaded)] {
            let of = |part: fn(&dispatch::Delays) -> f64| delays.iter().map(part).collect();
            self.figures.extend([
                Figure::new(format!("dispatch, {what}, p50"), "ms", Better::Lower, of(|delays| delays.p50)),
                Figure::new(format!("dispatch, {what}, p99"), "ms", Better::Lower, of(|delays| delays.p99)),
            ]);
        }
        Ok(())
    }

    async fn history(&mut self, pipeline: &Pipeline) -> anyhow::Result<()> {
        let (name, mut rates, mut lags, mut requests) = (JobName::parse("hello")?, vec![], vec![], vec![]);
        for round in 0..=self.options.rounds {
            let folded = history::fold(pipeline, &name, self.options.jobs).await?;
            if round > 0 {
                rates.push(folded.events_per_second);
                lags.push(folded.lag_ms);
                requests.push(folded.requests);
            }
        }
        self.figures.extend([
            Figure::new("projection", "events/s", Better::Higher, rates),
            Figure::new("projection, lag", "ms", Better::Lower, lags),
            Figure::new("allocations of an event", "requests", Better::Lower, requests),
        ]);
        Ok(())
    }

    async fn http(&mut self, pipeline: &Pipeline) -> anyhow::Result<()> {
        pipeline.set_paused(true).await?;
        let server = http::Server::start(&self.config, pipeline).await?;
        let (mut health, mut single, mut ratios, mut bulk) = (vec![], vec![], vec![], vec![]);
        for round in 0..=self.options.rounds {
            let answered = server.ask(self.options.jobs).await?;
            let goal = http::Server::jobs(self.options.jobs) * (round + 1);
            pipeline.until(|counts| counts.waiting == goal as i64).await?;
            if round > 0 {
                ratios.push(answered.single / answered.health);
                health.push(answered.health);
                single.push(answered.single);
                bulk.push(answered.bulk);
            }
        }
        let at = |what: &str| format!("{what}, {} connections", http::CONNECTIONS);
        self.figures.extend([
            Figure::new(at("GET /healthz"), "requests/s", Better::Higher, health),
            Figure::new(at("POST /jobs"), "requests/s", Better::Higher, single),
            Figure::new(at("POST /jobs over GET /healthz"), "ratio", Better::Higher, ratios),
            Figure::new("POST /api/v1/jobs:bulk", "jobs/s", Better::Higher, bulk),
        ]);
        Ok(())
    }

    async fn resident(&mut self) -> anyhow::Result<()> {
        let (mut serve, mut work, mut guard) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            self.config.queue.name = QueueName::parse(&format!("{{bench-{}}}", JobId::generate()))?;
            let (dir, queue) = (self.dir.clone(), self.config.queue.name.clone());
            let looked = tokio::task::spawn_blocking(move || resident::look(&dir, &queue)).await?;
            wiring::forget_queue(&self.config).await?;
            let resident = looked?;
            serve.push(resident.serve);
            work.push(resident.work);
            guard.push(resident.guard);
        }
        self.figures.extend([
            Figure::new("resident, idle: serve", "MiB", Better::Lower, serve),
            Figure::new("resident, idle: work", "MiB", Better::Lower, work),
            Figure::new("resident, idle: guard", "MiB", Better::Lower, guard),
        ]);
        Ok(())
    }

    fn workload(&self) -> Workload {
        let BenchOptions { jobs, rounds, concurrency, .. } = self.options.clone();
        Workload {
            queue: self.config.queue.url.backend().to_owned(),
            store: self.config.store.url.backend().to_owned(),
            binary: name_of(&self.binary),
            jobs,
            rounds,
            concurrency,
        }
    }

    /// Tells how it goes: where the result is JSON, beside it.
    fn say(&self, line: &str) -> std::io::Result<()> {
        if self.options.is_json { writeln!(std::io::stderr(), "{line}") } else { writeln!(std::io::stdout(), "{line}") }
    }
}

fn name_of(binary: &Path) -> String {
    binary.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
