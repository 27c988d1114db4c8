//! Which projector may write: one at a time, by a term that the store grants for a while.
//!
//! ```text
//!   following ──lead(): granted──> leading ──renewed in time──> leading
//!       ^                             │
//!       └──── fenced, refused, not renewed before `until - margin`, resigned
//! ```
//! The store decides: it refuses every write under another term than the last. The trust window
//! only keeps a leader that could not renew from trying. It counts from before the request, on the
//! leader's own monotonic clock, so it always ends before the store's.

use std::time::Duration;

use tokio::time::Instant;

use super::ProjectorSettings;
use crate::domain::Clock;
use crate::store::{Projection, StoreError, Term};

/// A term that this projector holds.
pub(super) struct Leadership<'a> {
    projection: &'a dyn Projection,
    settings: &'a ProjectorSettings,
    clock: &'a Clock,
    term: Term,
    /// Just before the request by which the term was last granted.
    granted: Instant,
    /// When to ask for a renewal.
    renewal_due: Instant,
}

impl<'a> Leadership<'a> {
    /// Asks for the term. `None` while another projector holds it.
    pub(super) async fn win(
        projection: &'a dyn Projection,
        settings: &'a ProjectorSettings,
        clock: &'a Clock,
    ) -> Result<Option<Self>, StoreError> {
        let granted = Instant::now();
        let term = projection.lead(&settings.holder, settings.ttl, clock).await?;
        let renewal_due = granted + trust(settings) / 2;
        Ok(term.map(|term| Self { projection, settings, clock, term, granted, renewal_due }))
    }

    /// The term under which to write.
    pub(super) fn term(&self) -> &Term {
        &self.term
    }

    /// When the term must be renewed: half-way to the end of trust, so that a failure leaves time for more tries.
    pub(super) fn renewal_due(&self) -> Instant {
        self.renewal_due
    }

    /// Whether this projector may still write under the term. Renews it first when that is due.
    pub(super) async fn renew_term(&mut self) -> Result<bool, StoreError> {
        let asked = Instant::now();
        if asked < self.renewal_due {
            return Ok(true);
        }
        let trust = trust(self.settings);
        match self.projection.lead(&self.settings.holder, self.settings.ttl, self.clock).await {
            Ok(Some(term)) if term.number == self.term.number => {
                self.granted = asked;
                self.renewal_due = asked + trust / 2;
                Ok(true)
            }
            // Another number means that the old term had lapsed, so another projector may have written since.
            Ok(_) => Ok(false),
            Err(_) if Instant::now() < self.granted + trust => {
                self.renewal_due = Instant::now() + trust / 10;
                Ok(true)
            }
            Err(e) => Err(e),
        }
    }

    /// Gives the term back, so that another projector need not wait for its end. Best effort:
    /// without an answer it lapses.
    pub(super) async fn resign(self) {
        let given_back = tokio::time::timeout(self.settings.ttl, self.projection.resign(&self.term)).await;
        if !matches!(given_back, Ok(Ok(()))) {
            tracing::debug!(term = self.term.number, "the projector's term was not given back; it lapses");
        }
    }
}

/// How long the holder may write under a term, from the request by which the store granted it.
fn trust(settings: &ProjectorSettings) -> Duration {
    settings.ttl - settings.margin
}
