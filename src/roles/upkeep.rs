//! `jobber rebuild`, `export` and `import`: work on the store itself, under the projector's term.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadBuf};
use tokio_util::task::TaskTracker;

use super::runner;
use crate::archive::{self, Importer};
use crate::cli::upkeep::{Moved, Recounted, Word};
use crate::config::{Config, StoreUrl};
use crate::domain::{Clock, WorkerId};
use crate::events::Cursor;
use crate::projector::{self, ProjectorSettings};
use crate::stats::ShardKey;
use crate::store::Retention;
use crate::wiring::{self, UpkeepPorts};

/// Reports progress to the person who waits.
type Note<'a> = &'a mut dyn FnMut(Word<'_>);

/// Compares the aggregates with the sums over the jobs, and corrects them unless `check`.
///
/// # Errors
/// When there is no store, or another process folds history for longer than `patience`.
pub fn rebuild<'a>(
    config: &'a Config,
    check: bool,
    patience: Duration,
    note: Note<'a>,
) -> LocalBoxFuture<'a, anyhow::Result<Recounted>> {
    Box::pin(async move {
        let upkeep = open(config, false, true).await?;
        let (clock, projection) = (Clock::system(), &*upkeep.projection);
        under_term(config, &upkeep, patience, note, async |term, note| {
            let all = all_jobs(&upkeep).await;
            let progress = |jobs: u64| note(Word::jobs(jobs, all, "added up"));
            let done = if check {
                let found = projector::compare_telling(projection, clock.now(), progress).await?;
                let days = found.differing.iter().map(|ShardKey { day, name }| format!("{name} on {day}"));
                let builds = found.builds.iter().map(|(name, build)| format!("{name}, build {build}"));
                let names: Vec<_> = days.chain(builds).collect();
                let differing = names.len() as u64;
                Recounted { jobs: found.jobs, differing, names, replaced: false, expired: found.expired }
            } else {
                let done = projector::rebuild_telling(projection, term, clock.now(), progress).await?;
                let names = Vec::new();
                Recounted {
                    jobs: done.jobs,
                    differing: done.shards + done.builds,
                    names,
                    replaced: true,
                    expired: done.expired,
                }
            };
            Ok(done)
        })
        .await
    })
}

/// Writes all of history to `file`, or to stdout. Folds the events in the log first, unless the
/// caller wants to skip that.
///
/// # Errors
/// When there is no store or no room, or another process folds history for longer than `patience`.
pub fn export<'a>(
    config: &'a Config,
    file: Option<&'a Path>,
    skip_log: bool,
    patience: Duration,
    note: Note<'a>,
) -> LocalBoxFuture<'a, anyhow::Result<Moved>> {
    Box::pin(async move {
        let upkeep = open(config, !skip_log, true).await?;
        under_term(config, &upkeep, patience, note, async |term, note| {
            if let Some(source) = &upkeep.source {
                projector::catch_up(&**source, &*upkeep.projection, term, &settings(config)).await.context(
                    "the event log can't be folded to its end; start a server once, or leave it out with --skip-log",
                )?;
            }
            let all = all_jobs(&upkeep).await;
            let progress = |jobs: u64| note(Word::jobs(jobs, all, "written"));
            let written = match file {
                None => write(&upkeep, &mut BufWriter::new(stdout()?), progress).await?,
                Some(file) => {
                    // The file has another name until it is whole, so that no one takes a part of it for all.
                    let part = file.with_added_extension("part");
                    let created = tokio::fs::File::create(&part).await;
                    let mut out =
                        BufWriter::new(created.with_context(|| format!("couldn't write {}", part.display()))?);
                    let written = write(&upkeep, &mut out, progress).await.inspect_err(|_| {
                        // The partial file is of no use. That it can't be removed changes nothing.
                        let _ = fs_err::remove_file(&part);
                    })?;
                    out.get_ref().sync_all().await.with_context(|| format!("couldn't write {}", part.display()))?;
                    fs_err::rename(&part, file)?;
                    written
                }
            };
            let cursor = upkeep.projection.position().await?.to_string();
            Ok(Moved { jobs: written.jobs, errors: written.errors, aggregates: written.shards, new: None, cursor })
        })
        .await
    })
}

/// Reads a history from `file`, or from stdin, into the store.
///
/// # Errors
/// When the lines are broken, the store has a history of its own, the log can't go on from the
/// imported history, or another process folds history for longer than `patience`.
pub fn import<'a>(
    config: &'a Config,
    file: Option<&'a Path>,
    skip_log: bool,
    patience: Duration,
    note: Note<'a>,
) -> LocalBoxFuture<'a, anyhow::Result<Moved>> {
    Box::pin(async move {
        let (lines, reading) = input(file).await?;
        let importer = Importer::open(lines).await?;
        let cursor = importer.header().cursor;
        wiring::check_cursor(config, cursor)?;
        let upkeep = open(config, !skip_log, false).await?;
        if let Some(source) = &upkeep.source {
            let last = source.span().await?.last;
            ensure!(
                last == Cursor::START || last >= cursor,
                "the event log that goes with this store has events of its own, up to {last}; they would be taken for folded, \
             as this history was folded up to {cursor}: import with a fresh log (another --data-dir or queue.name)"
            );
        }
        under_term(config, &upkeep, patience, note, async |term, note| {
        let retention = Retention::new(config.retention);
        let progress = |jobs: u64| note(Word::Progress { jobs, part: reading.part(), what: "read" });
        let done = importer.run(&*upkeep.projection, term, retention, progress).await?;
        let found = projector::compare(&*upkeep.projection, Clock::system().now()).await?;
        if !found.differing.is_empty() {
            note(Word::Note(&format!(
                "{} aggregates are not what the jobs add up to, as in the store that was exported; see jobber rebuild",
                found.differing.len()
            )));
        }
        let new = Some(done.new_jobs + done.new_shards);
        Ok(Moved { jobs: done.jobs, errors: done.errors, aggregates: done.shards, new, cursor: cursor.to_string() })
    })
    .await
    })
}

async fn open(config: &Config, with_log: bool, must_exist: bool) -> anyhow::Result<UpkeepPorts> {
    let is_embedded = matches!(config.store.url, StoreUrl::Embedded);
    if must_exist && is_embedded && !wiring::database_file(config).exists() {
        bail!("there is no history in {}; name the data directory with --data-dir", config.data_dir.display());
    }
    wiring::open_for_upkeep(config, with_log, &TaskTracker::new()).await
}

/// Settings with a term that is long enough for a slow disk, and lapses soon enough when this process is killed.
fn settings(config: &Config) -> ProjectorSettings {
    ProjectorSettings {
        ttl: Duration::from_secs(10),
        margin: Duration::from_secs(1),
        retention: Retention::new(config.retention),
        ..ProjectorSettings::new(WorkerId::generate(&runner::host_name()).as_str())
    }
}

async fn under_term<T>(
    config: &Config,
    upkeep: &UpkeepPorts,
    patience: Duration,
    note: Note<'_>,
    work: impl AsyncFnOnce(&crate::store::Term, Note<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let note = std::cell::RefCell::new(note);
    let waiting = || {
        let seconds = patience.as_secs();
        (note.borrow_mut())(Word::Note(&format!(
            "another process folds history; waiting for up to {seconds} s until it has stopped"
        )));
    };
    let settings = settings(config);
    projector::with_maintenance_lease(
        &*upkeep.projection,
        &settings,
        &Clock::system(),
        patience,
        waiting,
        async |term| work(term, &mut |word: Word<'_>| (note.borrow_mut())(word)).await,
    )
    .await?
}

/// About how many jobs history has; `None` if it does not tell. It is only told to the person who waits.
async fn all_jobs(upkeep: &UpkeepPorts) -> Option<u64> {
    let names = upkeep.history.job_names().await.ok()?;
    Some(names.iter().map(|name| name.waiting + name.active + name.completed + name.failed).sum())
}

async fn write(
    upkeep: &UpkeepPorts,
    out: &mut (dyn AsyncWrite + Send + Unpin),
    progress: impl FnMut(u64),
) -> anyhow::Result<archive::Exported> {
    let written = archive::export(&*upkeep.history, &*upkeep.projection, out, Clock::system().now(), progress).await?;
    out.flush().await.context("couldn't write the lines")?;
    Ok(written)
}

/// How much of a file has been read.
#[derive(Clone)]
struct Reading {
    read: Arc<AtomicU64>,
    /// How long the file is; `None` of what is no file.
    all: Option<u64>,
}

impl Reading {
    /// The part that has been read, from 0 to 1.
    fn part(&self) -> Option<f64> {
        let all = self.all.filter(|all| *all > 0)?;
        Some(self.read.load(Ordering::Relaxed) as f64 / all as f64)
    }
}

/// A file that counts what is read of it.
struct Counted {
    file: tokio::fs::File,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let done = Pin::new(&mut self.file).poll_read(cx, into);
        self.read.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        done
    }
}

async fn input(file: Option<&Path>) -> anyhow::Result<(Box<dyn AsyncBufRead + Unpin + Send>, Reading)> {
    let file = match file.filter(|file| *file != Path::new("-")) {
        Some(file) => tokio::fs::File::open(file).await.with_context(|| format!("couldn't read {}", file.display()))?,
        None => tokio::fs::File::from_std(owned(std::io::stdin())?),
    };
    let all = file.metadata().await.ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
    let reading = Reading { read: Arc::default(), all };
    let counted = Counted { file, read: reading.read.clone() };
    Ok((Box::new(BufReader::with_capacity(1 << 20, counted)), reading))
}

fn stdout() -> std::io::Result<tokio::fs::File> {
    owned(std::io::stdout()).map(tokio::fs::File::from_std)
}

/// A standard stream as a file, so that waiting for it does not block a thread of the runtime.
fn owned(stream: impl std::os::fd::AsFd) -> std::io::Result<std::fs::File> {
    stream.as_fd().try_clone_to_owned().map(std::fs::File::from)
}
