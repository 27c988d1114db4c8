//! Which projector may write: one at a time, by a term that the store grants for a while.
//!
//! ```text
//!   following ──lead(): granted──> leading ──renewed in time──> leading
//!       ^                             │
//!       └──── fenced, refused, not renewed before `until - margin`, resigned
//! ```
//! The store is what counts: it refuses every write under another term than the last. The trust window only keeps a
//! leader that could not renew from trying: it counts from before the request on its own monotonic clock, so it always
//! ends before the store's.

use tokio::time::Instant;

use super::ProjectorSettings;
use crate::domain::Clock;
use crate::store::{Projection, StoreError, Term};

/// A term in hand.
pub(super) struct Leadership<'a> {
    projection: &'a dyn Projection,
    settings: &'a ProjectorSettings,
    clock: &'a Clock,
    term: Term,
    /// Just before the term was last asked for.
    asked: Instant,
}

impl<'a> Leadership<'a> {
    /// Asks for the term; `None` while another holds it.
    pub(super) async fn win(
        projection: &'a dyn Projection,
        settings: &'a ProjectorSettings,
        clock: &'a Clock,
    ) -> Result<Option<Self>, StoreError> {
        let asked = Instant::now();
        let term = projection.lead(&settings.holder, settings.ttl, clock).await?;
        Ok(term.map(|term| Self { projection, settings, clock, term, asked }))
    }

    /// The term under which to write.
    pub(super) fn term(&self) -> &Term {
        &self.term
    }

    /// When to ask again: half-way to the end of trust, so that one failure leaves time for another try.
    pub(super) fn renewal_due(&self) -> Instant {
        self.asked + (self.settings.ttl - self.settings.margin) / 2
    }

    /// Whether the term may still be written under, renewed first when that is due.
    pub(super) async fn keep(&mut self) -> Result<bool, StoreError> {
        if Instant::now() < self.renewal_due() {
            return Ok(true);
        }
        let asked = Instant::now();
        match self.projection.lead(&self.settings.holder, self.settings.ttl, self.clock).await {
            Ok(Some(term)) if term.number == self.term.number => {
                self.asked = asked;
                Ok(true)
            }
            // Another number means that the old term had lapsed: somebody may have written since.
            Ok(_) => Ok(false),
            Err(_) if self.is_trusted() => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn is_trusted(&self) -> bool {
        Instant::now() < self.asked + (self.settings.ttl - self.settings.margin)
    }

    /// Gives the term back, so that another need not wait for its end. Best effort: without an answer it lapses.
    pub(super) async fn resign(self) {
        let given_back = tokio::time::timeout(self.settings.ttl, self.projection.resign(&self.term)).await;
        if !matches!(given_back, Ok(Ok(()))) {
            tracing::debug!(term = self.term.number, "the projector's term was not given back; it lapses");
        }
    }
}
