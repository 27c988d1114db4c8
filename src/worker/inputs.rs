//! Fetches the inputs of a job into a directory of its attempt, before the attempt takes a slot.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::WorkerContext;
use crate::artifacts::{ArtifactError, ArtifactErrorKind, ArtifactStore, input_key, use_input};
use crate::domain::{Clock, ContentDigest, InputFile};
use crate::queue::Lease;
use crate::runner::InputDirectory;

/// How long a job is left alone whose inputs can't be had now.
pub(super) const PAUSE: Duration = Duration::from_secs(5);
/// How many jobs' inputs are fetched at the same time.
static FETCHING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(4));

/// What became of the inputs of a job.
pub(super) enum Fetched {
    /// They are there; `None` when the job has none.
    Ready(Option<Arc<InputDirectory>>),
    /// They can't be had now: the store is away, or this worker has no room. The job is not to blame.
    NotNow(String),
    /// They are gone for good.
    Gone(String),
    /// The lease was lost, or the worker must end.
    Interrupted,
}

enum Trouble {
    NotNow(String),
    Gone(String),
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::NotNow(format!("couldn't write the inputs of a job: {error}"))
    }
}

/// Fetches all inputs of the lease's job.
pub(super) async fn fetch(context: &WorkerContext, lease: &Lease) -> Fetched {
    let inputs = &lease.job().options.inputs;
    if inputs.is_empty() {
        return Fetched::Ready(None);
    }
    let Some(store) = context.worker.artifacts.clone() else {
        return Fetched::Gone("this worker has no store of files, where the inputs of jobs are".to_owned());
    };
    let fetched = async {
        let _turn = FETCHING.acquire().await;
        all(&*store, context, inputs).await
    };
    tokio::select! {
        fetched = fetched => match fetched {
            Ok(directory) => Fetched::Ready(Some(Arc::new(directory))),
            Err(Trouble::NotNow(why)) => Fetched::NotNow(why),
            Err(Trouble::Gone(why)) => Fetched::Gone(why),
        },
        _ = lease.lost() => Fetched::Interrupted,
        () = context.give_back.cancelled() => Fetched::Interrupted,
    }
}

async fn all(
    store: &dyn ArtifactStore,
    context: &WorkerContext,
    inputs: &[InputFile],
) -> Result<InputDirectory, Trouble> {
    let runner = context.worker.runner.clone();
    let made = tokio::task::spawn_blocking(move || runner.make_input_directory()).await;
    let directory = made.map_err(std::io::Error::other)??;
    for input in inputs {
        one(store, &context.worker.clock, input, directory.path()).await?;
    }
    directory.finish()?;
    Ok(directory)
}

async fn one(store: &dyn ArtifactStore, clock: &Clock, input: &InputFile, directory: &Path) -> Result<(), Trouble> {
    let InputFile { name, sha256, .. } = input;
    let away = |error: ArtifactError| match error.kind {
        ArtifactErrorKind::Missing => {
            Trouble::Gone(format!("the input {name:?} (SHA-256 {sha256}) is not in the store any more"))
        }
        _ => Trouble::NotNow(format!("the store of files, where the input {name:?} is, can't be reached: {error}")),
    };
    use_input(store, sha256, clock.now()).await.map_err(away)?;
    let mut content = store.get(&input_key(sha256), None).await.map_err(away)?;
    let path = directory.join(name);
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let mut file = fs_err::File::create_new(&path)?;
    let mut digest = Sha256::new();
    let broken = |error: std::io::Error| Trouble::NotNow(format!("the input {name:?} broke off: {error}"));
    while let Some(piece) = content.pieces.try_next().await.map_err(broken)? {
        digest.update(&piece);
        file.write_all(&piece)?;
    }
    if ContentDigest::of(&digest.finalize().into()) == *sha256 {
        return Ok(());
    }
    Err(Trouble::Gone(format!("the store holds another content than that of the input {name:?} (SHA-256 {sha256})")))
}
