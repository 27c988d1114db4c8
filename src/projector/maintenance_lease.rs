//! Holds the projector's term while an operator's command works on history, so that no projector folds meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use super::leadership::Leadership;
use super::{Interrupted, ProjectorSettings, fold_batch};
use crate::domain::Clock;
use crate::events::EventSource;
use crate::store::{Projection, StoreError, Term};

/// The reason for which the term could not be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another process kept the term for longer than the caller was willing to wait.
    #[error("another process folds history: stop `jobber serve` and `jobber dev` first; workers may go on")]
    Held,
    /// The term passed to another process before the work was done.
    #[error("the right to write history was lost before the work was done; run it again")]
    Lost,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does `work` under the term, and gives the term back. While another process holds it, calls `waiting`
/// once and waits for at most `patience`. When the term is lost, drops the work where it stands.
///
/// # Errors
/// When the term can't be had, or not kept until the work is done.
pub async fn with_maintenance_lease<T>(
    projection: &dyn Projection,
    settings: &ProjectorSettings,
    clock: &Clock,
    patience: Duration,
    waiting: impl FnOnce(),
    work: impl AsyncFnOnce(&Term) -> T,
) -> Result<T, HoldError> {
    let began = Instant::now();
    let mut waiting = Some(waiting);
    let mut leadership = loop {
        if let Some(won) = Leadership::win(projection, settings, clock).await? {
            break won;
        }
        if let Some(tell) = waiting.take() {
            tell();
        }
        if began.elapsed() >= patience {
            return Err(HoldError::Held);
        }
        tokio::time::sleep(settings.retry).await;
    };
    let term = leadership.term().clone();
    let done = tokio::select! {
        done = work(&term) => Ok(done),
        lost = keep_term(&mut leadership) => Err(lost),
    };
    leadership.resign().await;
    done
}

/// Renews the term for as long as that works, and returns why it stopped.
async fn keep_term(leadership: &mut Leadership<'_>) -> HoldError {
    loop {
        tokio::time::sleep_until(leadership.renewal_due()).await;
        match leadership.renew_term().await {
            Ok(true) => {}
            Ok(false) => return HoldError::Lost,
            Err(error) => return error.into(),
        }
    }
}

/// Folds the events in the log that history lacks, and returns how many they were.
///
/// # Errors
/// When the log can't be read, or history can't be written. An event that can't be read is an
/// error, too; a running projector would park it.
pub async fn catch_up(
    source: &dyn EventSource,
    projection: &dyn Projection,
    term: &Term,
    settings: &ProjectorSettings,
) -> Result<u64, Interrupted> {
    let mut position = projection.position().await?;
    let mut folded = 0;
    loop {
        let events = source.read(position, settings.batch, Duration::ZERO).await?;
        match fold_batch(projection, term, &events, settings.retention).await?.through {
            Some(at) => position = at,
            None => return Ok(folded),
        }
        folded += events.len() as u64;
    }
}
