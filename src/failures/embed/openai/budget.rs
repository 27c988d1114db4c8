//! How many texts may be sent on a day: counted where all processes find it, so that neither a restart nor another
//! process has a budget of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::{Day, Timestamp};
use crate::failures::{EmbedError, ErrorCache};

const DAY: Duration = Duration::from_secs(86_400);

/// The budget of a day (UTC), which all processes share.
pub struct Budget {
    cache: Arc<dyn ErrorCache>,
    texts: u64,
    /// How many texts this process has sent on a day, which counts while the cache is away.
    own: Mutex<Option<(Day, u64)>>,
}

impl Budget {
    /// Makes a budget of `texts` texts a day.
    pub fn new(cache: Arc<dyn ErrorCache>, texts: u64) -> Self {
        Self { cache, texts, own: Mutex::default() }
    }

    /// Takes so many texts out of the budget of the day of `now`.
    pub(super) async fn spend(&self, texts: usize, now: Timestamp) -> Result<(), EmbedError> {
        let (today, texts) = (now.day(), texts as u64);
        let shared = self.cache.spend(today, texts, self.texts).await;
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = own.filter(|(day, _)| *day == today).map_or(0, |(_, spent)| spent).saturating_add(texts);
        if !shared.unwrap_or(spent <= self.texts) {
            let after = DAY.saturating_sub(now.since(today.start()));
            return Err(EmbedError::Budget { budget: self.texts, after });
        }
        *own = Some((today, spent));
        Ok(())
    }
}
