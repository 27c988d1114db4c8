//! Stopping a job, wherever it is. A job that does not run ends at once. A request to stop a running job stays in the
//! job's row; the claim that holds the job reads it there and tells the lease.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Cancellation, QueueError};
use super::Inner;
use super::ledger::{Claim, PAUSE};
use super::schema::{LeaseId, Standing, standing};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::outcome::cancelled_because;
use crate::domain::{JobId, JobState};

/// A claim looks for requests to stop after this long, should a wake-up get lost.
const FALLBACK: Duration = Duration::from_secs(5);

pub(super) async fn cancel(inner: &Arc<Inner>, id: JobId, reason: String) -> Result<Cancellation, QueueError> {
    let clock = inner.clock.clone();
    let done = inner.db.write(move |c| {
        let Some(Standing { seq, state, job, .. }) = standing(c, &id)? else { return Ok(Cancellation::NotFound) };
        if state.is_final() {
            return Ok(Cancellation::AlreadyFinal(state));
        }
        if state == JobState::Active {
            // The first reason counts.
            c.prepare_cached(
                "UPDATE queue_jobs SET cancel_reason = coalesce(cancel_reason, ?2) WHERE seq = ?1 AND state = 3",
            )?
            .execute((seq, &reason))?;
            return Ok(Cancellation::Signalled(job));
        }
        let error = cancelled_because(&reason);
        c.prepare_cached(
            "UPDATE queue_jobs SET state = 5, due_at = NULL, finished_at = ?2, cancel_reason = ?3, error = ?4
             WHERE seq = ?1 AND state <= 2",
        )?
        .execute((seq, clock.now().as_millis(), &reason, &error))?;
        Ok(Cancellation::Ended(job))
    });
    let done = done.await?;
    match &done {
        Cancellation::Signalled(_) => inner.wakes.control.signal(),
        Cancellation::Ended(_) => {
            inner.wakes.output.signal();
            // Others may have waited for it.
            inner.wakes.jobs.signal();
        }
        Cancellation::AlreadyFinal(_) | Cancellation::NotFound => {}
    }
    Ok(done)
}

const CANCELLATIONS: BackgroundLoop = BackgroundLoop::new("cancellations", Period::Pause(FALLBACK))
    .warn("requests to stop jobs can't be read; trying again", "requests to stop jobs can be read again")
    .back_off(PAUSE, PAUSE);

/// Tells the holders of a claim's leases when their jobs are to be stopped. Ends when the claim is done. Finishes a look
/// in hand.
pub(super) async fn watch_cancellations(claim: Arc<Claim>) {
    let look = async || {
        let Some(session) = claim.current() else { return Ok(NextRun::Idle) };
        let found = claim.inner.db.read(move |c| {
            c.prepare_cached(
                "SELECT seq, attempts_started, cancel_reason FROM queue_jobs
                 WHERE state = 3 AND claim = ?1 AND cancel_reason IS NOT NULL",
            )?
            .query_map([session.id], |row| {
                Ok((LeaseId { seq: row.get(0)?, number: row.get(1)?, claim: session.id }, row.get(2)?))
            })?
            .collect()
        });
        claim.cancel(found.await?);
        Ok(NextRun::InTurn)
    };
    let mut turns = CANCELLATIONS.start(&claim.done);
    // Registered before the look, so that a request made meanwhile is not missed.
    while turns.run_woken(claim.inner.wakes.control.listen().wait(FALLBACK), look()).await {}
}
