//! What attempts of each job name have taken lately, read once for all requests of some seconds: that reads every
//! aggregate of a week.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::domain::{Clock, JobName};
use crate::stats::NameSums;
use crate::stats::backlog::{AttemptMean, attempt_means};
use crate::stats::trend::last_days;
use crate::store::{DayRange, History, ShardReader, StoreError};

/// The days whose attempts count.
const DAYS: u16 = 7;
/// How long the means are used before they are counted anew.
const STEP: Duration = Duration::from_secs(5);
/// How long history may take to tell them.
const PATIENCE: Duration = Duration::from_millis(800);

/// The means by job name.
type Means = Arc<BTreeMap<JobName, AttemptMean>>;

/// What attempts have taken on average, as it was last known.
#[derive(Default)]
pub(super) struct AttemptMeans {
    /// When they were asked for, and the answer: `None` when history had none.
    last: Mutex<Option<(Instant, Option<Means>)>>,
}

impl AttemptMeans {
    /// By job name; `None` while history can't be read.
    pub(super) async fn read(&self, history: &dyn History, clock: &Clock) -> Option<Means> {
        // One request asks, and the others wait for its answer.
        let mut last = self.last.lock().await;
        if let Some((at, means)) = &*last
            && at.elapsed() < STEP
        {
            return means.clone();
        }
        let today = clock.now().day();
        let days = DayRange { from: last_days(today, DAYS).first().copied(), to: Some(today) };
        let means = match timeout(PATIENCE, sums(history, days)).await {
            Ok(Ok(names)) => Some(Arc::new(attempt_means(names))),
            Ok(Err(error)) => {
                tracing::debug!(%error, "history does not tell how long attempts take");
                None
            }
            Err(_) => None,
        };
        last.insert((Instant::now(), means)).1.clone()
    }
}

/// The counts of these days by job name.
async fn sums(history: &dyn History, days: DayRange) -> Result<NameSums, StoreError> {
    let mut names = NameSums::default();
    ShardReader::open(history, days, None).await?.without_parts().each(|shard| names.add(shard)).await?;
    Ok(names)
}
