//! When a claim expires: on the boot clock of the machine, which all its processes read alike and no correction of the
//! time of day moves. A reboot ends every claim: its row names another boot.
//!
//! Rows of an older Jobber, and of one that can't tell which boot this is, name none and go by the time of day.

use super::Inner;
use crate::domain::validity::boot_ms;

/// `expires_at` of a claim that goes by the boot clock: an older Jobber on the same file lets it be.
const NEVER: i64 = i64::MAX;

/// Holds for a claim that has expired, by the parameters that [`Now::parameters`] gives.
pub(super) const EXPIRED: &str = "(expires_at < ?1 OR (boot IS NOT NULL AND (boot <> ?2 OR until_ms < ?3)))";

/// This moment, as claims count the time.
#[derive(Debug, Clone)]
pub(super) struct Now {
    wall_ms: i64,
    boot: Option<String>,
    boot_ms: i64,
}

/// What a claim's row says of its end.
pub(super) struct Expiry {
    pub(super) expires_at: i64,
    pub(super) boot: Option<String>,
    pub(super) until_ms: i64,
}

impl Now {
    /// To be called where nobody else can change the claims any more: inside a write.
    pub(super) fn of(inner: &Inner) -> Self {
        let boot_ms = i64::try_from(boot_ms()).unwrap_or(i64::MAX);
        Self { wall_ms: inner.clock.now().as_millis(), boot: inner.boot.clone(), boot_ms }
    }

    /// For [`EXPIRED`].
    pub(super) fn parameters(&self) -> (i64, Option<&str>, i64) {
        (self.wall_ms, self.boot.as_deref(), self.boot_ms)
    }

    /// A lease from now.
    pub(super) fn expiry(&self, inner: &Inner) -> Expiry {
        let lease = i64::try_from(inner.settings.lease.as_millis()).unwrap_or(i64::MAX);
        let expires_at = if self.boot.is_some() { NEVER } else { self.wall_ms.saturating_add(lease) };
        Expiry { expires_at, boot: self.boot.clone(), until_ms: self.boot_ms.saturating_add(lease) }
    }
}
