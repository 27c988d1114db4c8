//! Keeps the files that an attempt has left, after its process has ended and its slot is free.
//!
//! The job's lease goes on meanwhile, and its end is written down afterwards, so that whoever sees the end can ask for the
//! files. A store that is away is waited for, for a bounded time, and costs the job nothing but these files.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use super::WorkerContext;
use crate::artifacts::{ArtifactError, ArtifactErrorKind, ArtifactStore, HEAD, Pieces, content_type, file_key};
use crate::domain::{AttemptReport, KeptFile, Outcome};
use crate::queue::{Lease, LeaseLoss};
use crate::reconnect::ReconnectBackoff;
use crate::runner::{FoundFiles, OutputDirectory};

/// How many files are sent at the same time: each takes some memory.
const AT_ONCE: usize = 4;
/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;
/// How long files are sent on when the worker has to end.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// How much is kept, and how long it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// The most files of one attempt.
    pub files: usize,
    /// The most bytes of one attempt.
    pub bytes: u64,
    /// How long a store that is away is waited for.
    pub patience: Duration,
}

/// Sends files to the store.
pub struct FileKeeper {
    store: Arc<dyn ArtifactStore>,
    limits: FileLimits,
    sending: Semaphore,
    /// Since when the store has been away: attempts that end while it is do not wait for it one after the other.
    away_since: Mutex<Option<Instant>>,
}

impl FileKeeper {
    /// A keeper of files in this store.
    pub fn new(store: Arc<dyn ArtifactStore>, limits: FileLimits) -> Self {
        Self { store, limits, sending: Semaphore::new(AT_ONCE), away_since: Mutex::default() }
    }

    /// Keeps all files of the directory that can be kept, and says which can't.
    async fn keep(&self, lease: &Lease, directory: &Arc<OutputDirectory>) -> (Vec<KeptFile>, Option<String>) {
        let (limits, looked) = (self.limits, directory.clone());
        let look = move || looked.look(limits.files, limits.bytes);
        let mut found = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        let mut kept = Vec::new();
        let mut away = None;
        for file in std::mem::take(&mut found.files) {
            if let Some(why) = &away {
                found.leave_out(&file.name, String::clone(why));
                continue;
            }
            match self.keep_one(lease, directory, &file.name).await {
                Ok(file) => kept.push(file),
                Err(error) if error.kind == ArtifactErrorKind::Source => {
                    found.leave_out(&file.name, format!("can't be read: {error}"));
                }
                Err(error) => {
                    let why = format!("the store of files does not take it: {error}");
                    tracing::warn!(job = %lease.job().id, file = file.name, %error, "the files of an attempt are not kept");
                    found.leave_out(&file.name, why.as_str());
                    away = Some(why);
                }
            }
        }
        (kept, FoundFiles::note(&found))
    }

    /// Keeps one file. Tries again while the store is away, until patience is over.
    async fn keep_one(
        &self,
        lease: &Lease,
        directory: &Arc<OutputDirectory>,
        name: &str,
    ) -> Result<KeptFile, ArtifactError> {
        let mut waits = ReconnectBackoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let sent = {
                let _turn = self.sending.acquire().await;
                self.send(lease, directory, name).await
            };
            let error = match sent {
                Ok(file) => {
                    *self.away_since() = None;
                    return Ok(file);
                }
                Err(error) => error,
            };
            if error.kind != ArtifactErrorKind::Unavailable {
                return Err(error);
            }
            let since = *self.away_since().get_or_insert_with(Instant::now);
            if since.elapsed() >= self.limits.patience {
                return Err(error);
            }
            tracing::debug!(job = %lease.job().id, file = name, %error, "the store of files is away; trying again");
            tokio::time::sleep(waits.next_wait()).await;
        }
    }

    async fn send(
        &self,
        lease: &Lease,
        directory: &Arc<OutputDirectory>,
        name: &str,
    ) -> Result<KeptFile, ArtifactError> {
        let (directory, wanted) = (directory.clone(), name.to_owned());
        let open = move || {
            let file = directory.open(&wanted)?;
            let mut head = vec![0; HEAD];
            let read = file.read_at(&mut head, 0)?;
            head.truncate(read);
            Ok::<_, io::Error>((file, head))
        };
        let unread = |error: io::Error| ArtifactError::of_source(&error);
        let opened = tokio::task::spawn_blocking(open).await.map_err(|error| unread(io::Error::other(error)))?;
        let (file, head) = opened.map_err(unread)?;
        let job = lease.job();
        let key = file_key(&job.id, job.submitted_at, lease.attempt(), name);
        let stored = self.store.put(&key, pieces(file), None).await?;
        let content_type = content_type(name, &head).to_owned();
        Ok(KeptFile { name: name.to_owned(), size: stored.size, sha256: stored.sha256, content_type })
    }

    fn away_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pieces(file: std::fs::File) -> Pieces<'static> {
    let read = async |mut file: tokio::fs::File| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, io::Error>((read > 0).then_some((piece, file)))
    };
    stream::try_unfold(tokio::fs::File::from_std(file), read).boxed()
}

/// Keeps the files that an attempt has left, and notes them in its report. Nothing is kept of an attempt that is lost.
pub(super) async fn keep(
    context: &WorkerContext,
    lease: &Lease,
    directory: Option<OutputDirectory>,
    report: &mut AttemptReport,
) {
    let Some(directory) = directory.map(Arc::new) else { return };
    if report.outcome != Outcome::Lost
        && let Some(keeper) = &context.worker.files
    {
        // Once another worker may have the job, this attempt is lost. A job that is cancelled now has ended already.
        let lapsed = async {
            match lease.lost().await {
                LeaseLoss::Expired => {}
                LeaseLoss::Cancelled(_) => std::future::pending().await,
            }
        };
        let must_end = async {
            context.give_back.cancelled().await;
            tokio::time::sleep(LAST_MOMENT).await;
        };
        let (files, note) = tokio::select! {
            kept = keeper.keep(lease, &directory) => kept,
            () = lapsed => (Vec::new(), Some("not kept: its worker lost the lease".to_owned())),
            () = must_end => (Vec::new(), Some("not kept: its worker had to end".to_owned())),
        };
        (report.files, report.files_note) = (files, note);
    }
    // Removing a tree may take long. A file that is still being read keeps the directory until then.
    tokio::task::spawn_blocking(move || drop(directory));
}
