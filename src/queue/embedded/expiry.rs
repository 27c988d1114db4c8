//! When a claim expires: on the boot clock of the machine, which all its processes read alike and no correction of the
//! time of day moves. A reboot ends every claim: its row names another boot.
//!
//! Rows of an older Jobber, and of one that can't tell which boot this is, name none and go by the time of day.

use super::{Inner, doubt};
use crate::domain::validity::boot_ms;

/// `expires_at` of a claim that goes by the boot clock: an older Jobber on the same file lets it be.
const NEVER: i64 = i64::MAX;

/// Holds for a claim that nobody can hold any more, by the parameters `(wall, boot)`: of another boot, of an older Jobber
/// and over, or given up.
pub(super) const GONE: &str = "(expires_at < ?1 OR (boot IS NOT NULL AND boot <> ?2))";
/// Holds for a claim that was not renewed for so long that it is to be doubted, by the parameters `(boot, ms)`.
pub(super) const OVERDUE: &str = "(boot = ?1 AND until_ms < ?2)";

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

    /// For [`GONE`].
    pub(super) fn gone(&self) -> (i64, Option<&str>) {
        (self.wall_ms, self.boot.as_deref())
    }

    /// For [`OVERDUE`].
    pub(super) fn overdue(&self) -> (Option<&str>, i64) {
        (self.boot.as_deref(), self.boot_ms)
    }

    /// A lease from now, of which the last part is for the doubt.
    pub(super) fn expiry(&self, inner: &Inner) -> Expiry {
        let (lease, grace) = (inner.settings.lease, doubt::grace(inner.settings.lease));
        let after = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let expires_at = if self.boot.is_some() { NEVER } else { self.wall_ms.saturating_add(after(lease)) };
        Expiry { expires_at, boot: self.boot.clone(), until_ms: self.boot_ms.saturating_add(after(lease - grace)) }
    }
}
