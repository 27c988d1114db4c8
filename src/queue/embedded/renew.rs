//! What goes on beside a claim until its last lease is settled: renewals, requests to stop, output. One task each, so that
//! none waits for another, and none for a job.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::lease::reliable;
use super::claim::{Claim, ClaimSession, PAUSE, Start};
use super::doubt;
use super::expiry::{GONE, Now};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::validity::boot_ms;

/// Output and progress are written at most this often, unless there is much of it.
const PUBLISH: Duration = Duration::from_millis(100);
/// Requests to stop are looked for after this long, should a wake-up get lost.
const FALLBACK: Duration = Duration::from_secs(5);

const CANCELLATIONS: BackgroundLoop = BackgroundLoop::new("cancellations", Period::Pause(FALLBACK))
    .warn("requests to stop jobs can't be read; trying again", "requests to stop jobs can be read again")
    .back_off(PAUSE, PAUSE);

/// Renews all leases of a claim in one update, every third of a lease, and sooner the less time is left to try
/// again. Ends when the claim is done. Finishes a renewal in hand.
pub(super) async fn renew(claim: Arc<Claim>) {
    let lease = claim.inner.settings.lease;
    let mut pause = lease / 3;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = claim.done.cancelled() => return,
        }
        pause = lease / 3;
        let Some(session) = claim.current() else { continue };
        let (asked_at, renewed) = (boot_ms(), ClaimSession { deadline: Instant::now() + lease, ..session.clone() });
        tokio::select! {
            found = write_renewal(&claim, session.id) => match found {
                Ok(true) => {
                    session.validity.extend(asked_at, reliable(lease));
                    claim.renewed(renewed);
                }
                Ok(false) => claim.lose(session.id),
                Err(e) => {
                    tracing::warn!(error = %e, "leases can't be renewed; trying again");
                    let left = claim.deadline(session.id).map(|at| at.saturating_duration_since(Instant::now()));
                    pause = PAUSE.min(lease / 10).min(left.unwrap_or_default());
                }
            },
            () = over(&claim, session.id) => claim.lose(session.id),
        }
    }
}

/// Returns when nothing says any more that the session holds: others may count its leases as expired from now on.
async fn over(claim: &Claim, session: i64) {
    while let Some(deadline) = claim.deadline(session).filter(|deadline| *deadline > Instant::now()) {
        sleep_until(deadline).await;
    }
}

/// While renewals do not get through, looks whether anybody doubts the claim: if nobody does, it holds for a grace more
/// (see [`doubt`]). Ends when the claim is done. Finishes a look in hand.
pub(super) async fn watch_doubts(claim: Arc<Claim>) {
    let lease = claim.inner.settings.lease;
    let grace = doubt::grace(lease);
    let look = async || {
        let Some(session) = claim.current() else { return Ok(NextRun::InTurn) };
        let (asked_at, deadline) = (boot_ms(), Instant::now() + grace);
        // Renewed in time.
        if session.deadline > deadline {
            return Ok(NextRun::InTurn);
        }
        let id = session.id;
        if let Ok(true) = claim.inner.db.read(move |c| doubt::is_free(c, id)).await {
            session.validity.extend(asked_at, reliable(grace));
            claim.renewed(ClaimSession { deadline, ..session });
        }
        Ok(NextRun::InTurn)
    };
    let mut turns = BackgroundLoop::new("doubts", Period::Pause(grace / 4)).start(&claim.done);
    turns.wait(std::future::pending::<()>()).await;
    while turns.run(look()).await {}
}

/// Whether the claim was still there to be renewed. One that was given up is not revived.
async fn write_renewal(claim: &Claim, id: i64) -> Result<bool, crate::sqlite::SqliteError> {
    let inner = claim.inner.clone();
    let renewed = claim.inner.db.write(move |c| {
        let now = Now::of(&inner);
        let ((wall, boot), next) = (now.gone(), now.expiry(&inner));
        c.prepare_cached(&format!(
            "UPDATE queue_claims SET expires_at = ?3, boot = ?4, until_ms = ?5, doubt = NULL WHERE id = ?6 AND NOT {GONE}"
        ))?
        .execute((wall, boot, next.expires_at, next.boot, next.until_ms, id))
    });
    Ok(renewed.await? > 0)
}

/// Tells holders when somebody wants their jobs stopped. Ends when the claim is done. Finishes a look in hand.
pub(super) async fn watch_cancellations(claim: Arc<Claim>) {
    let look = async || {
        if let Some(session) = claim.current() {
            let found = claim.inner.db.read(move |c| {
                c.prepare_cached(
                    "SELECT seq, attempts_started, cancel_reason FROM queue_jobs
                     WHERE state = 3 AND claim = ?1 AND cancel_reason IS NOT NULL",
                )?
                .query_map([session.id], |row| {
                    Ok((Start { seq: row.get(0)?, number: row.get(1)?, claim: session.id }, row.get(2)?))
                })?
                .collect()
            });
            claim.cancel(found.await?);
        }
        Ok(NextRun::InTurn)
    };
    let mut turns = CANCELLATIONS.start(&claim.done);
    while turns.run_woken(claim.inner.wakes.control.listen().wait(FALLBACK), look()).await {}
}

/// Writes what leases say, all of them in one write, at most every [`PUBLISH`]. Ends when the claim is done: the last
/// words of a lease are written with its verdict.
pub(super) async fn publish(claim: Arc<Claim>) {
    loop {
        tokio::select! {
            () = claim.published.notified() => {}
            () = claim.done.cancelled() => return,
        }
        claim.flush().await;
        tokio::select! {
            () = sleep(PUBLISH) => {}
            () = claim.full.notified() => {}
            () = claim.done.cancelled() => return,
        }
    }
}
