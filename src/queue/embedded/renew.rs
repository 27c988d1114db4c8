//! Renews a claim, and with it all its leases, until the last of them is settled. One task writes renewals, another
//! looks after the claim while writes do not get through; neither waits for the other, nor for a job.

use std::sync::Arc;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::lease::reliable;
use super::expiry::{GONE, Now, grace, is_unsuspected};
use super::ledger::{Claim, ClaimSession, PAUSE};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::domain::validity::boot_ms;
use crate::metrics::METRICS;

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
        let began = Instant::now();
        let (asked_at, renewed) = (boot_ms(), ClaimSession { deadline: Instant::now() + lease, ..session.clone() });
        tokio::select! {
            found = write_renewal(&claim, session.id) => match found {
                Ok(true) => {
                    METRICS.worker.renewed(began.elapsed());
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

/// While renewals do not get through, looks whether another process suspects the claim: if none does, it holds for a
/// grace more (see [`super::expiry`]). Ends when the claim is done. Finishes a look in hand.
pub(super) async fn watch_suspicion(claim: Arc<Claim>) {
    let lease = claim.inner.settings.lease;
    let grace = grace(lease);
    let look = async || {
        let Some(session) = claim.current() else { return Ok(NextRun::InTurn) };
        let (asked_at, deadline) = (boot_ms(), Instant::now() + grace);
        // Renewed in time.
        if session.deadline > deadline {
            return Ok(NextRun::InTurn);
        }
        let id = session.id;
        if let Ok(true) = claim.inner.db.read(move |c| is_unsuspected(c, id)).await {
            session.validity.extend(asked_at, reliable(grace));
            claim.renewed(ClaimSession { deadline, ..session });
        }
        Ok(NextRun::InTurn)
    };
    let mut turns = BackgroundLoop::new("doubts", Period::Pause(grace / 4)).start(&claim.done);
    turns.wait().await;
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
