//! The projector: folds the event log, in order, into job records and aggregates.
//!
//! ```text
//! lead ──> position ──> read ──> load ──> fold ──> commit ──> trim
//!   ^                     ^                                     │
//!   └── on any error      └─────────────────────────────────────┘
//! ```
//! One projector is at work at a time ([`leadership`]); the others wait for their turn. The folds ([`records`],
//! [`shards`], [`builds`]) are pure and know no store.

mod batch;
mod builds;
mod error_feed;
mod facts;
mod leadership;
mod maintenance_lease;
mod missing_bodies;
mod rebuild;
mod records;
mod recount_builds;
mod shards;
mod sweep;
mod trim;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::{Category, Clock};
use crate::events::{Cursor, EventError, EventErrorKind, EventSource};
use crate::logging::chain;
use crate::metrics::METRICS;
use crate::notices::Announcer;
use crate::outage::{Outage, OutageWords};
use crate::reconnect::ReconnectBackoff;
use crate::sqlite::SqliteError;
use crate::stats::ShardKey;
use crate::store::{Categories, Commit, Projection, Retention, StoreError, StoreErrorKind, Versioned};
use batch::{FoldError, fold_and_note};
pub use batch::{Folded, fold_batch};
pub use builds::first_attempt;
pub use error_feed::{ErrorFeedReceiver, ErrorFeedSender, Lead, new_error_feed};
use facts::Facts;
use leadership::Leadership;
pub use maintenance_lease::{HoldError, catch_up, with_maintenance_lease};
pub use missing_bodies::{MissingBodies, new_missing_bodies};
pub use rebuild::{Compared, Rebuilt, compare, compare_telling, rebuild, rebuild_telling, recount};
use rebuild::{is_counted_by_older, rebuild_beyond};
pub use records::fold_job;
use shards::shard_key_of;
pub use shards::{contribution, shard_key};
use sweep::Sweep;
use trim::{Trimmer, trim_leftovers};

/// What the log says of failures, which stop all of history.
const WORDS: OutageWords =
    OutageWords::error("history stands still; trying again until it moves", "history moves again");
/// The waits after failures: the first, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The settings of a projector.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectorSettings {
    /// The name of this projector, unique among all: one per process.
    pub holder: String,
    /// The name of the history that it writes: the same in all processes that share a store.
    pub history: String,
    /// How long a term lasts unless it is renewed. When a projector dies, history stands still for this long.
    pub ttl: Duration,
    /// How long before the end of its term a projector stops writing: more than clocks drift apart within a term.
    pub margin: Duration,
    /// How often a projector without a term asks for one.
    pub retry: Duration,
    /// How many events one commit has at most.
    pub batch: usize,
    /// The time from one commit to the next look at the log, up to five times of it where many events come. They gather
    /// meanwhile and share a transaction. An event that comes alone is folded at once.
    pub linger: Duration,
    /// How many events stay in the log before the committed cursor, for clients that watch.
    pub keep: usize,
    /// The categories of errors with which a new store starts.
    pub categories: Vec<Category>,
    /// How long the records of ended jobs are kept.
    pub retention: Retention,
}

impl ProjectorSettings {
    /// The usual settings: a dead projector is replaced within three seconds.
    pub fn new(holder: impl Into<String>) -> Self {
        Self {
            holder: holder.into(),
            history: "history".to_owned(),
            ttl: Duration::from_millis(2500),
            margin: Duration::from_millis(500),
            retry: Duration::from_millis(400),
            batch: 500,
            linger: Duration::from_millis(5),
            keep: 10_000,
            categories: Vec::new(),
            retention: Retention::FOREVER,
        }
    }

    fn check(&self) -> Result<(), InvalidSettings> {
        if self.holder.is_empty() {
            Err(InvalidSettings("holder must name the process"))
        } else if self.margin >= self.ttl {
            Err(InvalidSettings("margin must be shorter than ttl"))
        } else if self.batch == 0 {
            Err(InvalidSettings("batch must be at least 1"))
        } else {
            Ok(())
        }
    }
}

/// Settings with which no projector can work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the projector's settings can't be used: {0}")]
pub struct InvalidSettings(&'static str);

/// The reason for which a projector can't go on, however long it waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalConfig {
    /// No projector could work with these settings.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Another history follows the log. Each of the two would lose what the other trims.
    #[error(
        "the event log is folded into another history ({owner}) and can't be folded into this one ({history}) as well: let \
         all servers of the queue share one store (store.url = \"couchbase://...\", or one data directory); if that history \
         is gone for good, delete the key that ends in :events:history in Redis"
    )]
    ForeignLog {
        /// The history that follows the log.
        owner: String,
        /// The history that this projector writes.
        history: String,
    },
    /// The history follows another log.
    #[error("{0}")]
    ForeignHistory(String),
}

/// What a projector tells others.
pub struct ProjectorOutputs {
    /// Up to where the log has been folded.
    pub progress: watch::Sender<Cursor>,
    /// Which errors were seen.
    pub error_feed: ErrorFeedSender,
    /// Which jobs' bodies are lacking.
    pub missing_bodies: MissingBodies,
    /// Announces ends of jobs and builds that do worse. `None` where nobody wants to be told.
    pub announcer: Option<Announcer>,
}

/// Folds events into history until `stop`; then finishes the batch in hand and gives its term back. `progress` follows
/// the committed cursor, whichever process commits (of another process it hears every [`ProjectorSettings::retry`]);
/// `error_feed` tells of errors that were seen while this one leads, `missing_bodies` of jobs whose bodies history lacks.
///
/// No failure of log or store ends it. It logs the first of a row, waits longer from try to try, and
/// starts over from the committed cursor, for whose term all processes compete again. It parks an event
/// that can't be read ([`EventSource::park`]) and logs an error, so that one broken event does not stand
/// in the way of all later history. An event of a newer Jobber stays in the log for a newer projector.
///
/// # Errors
/// Only when no projector could work with these settings, or log and history belong to others.
pub async fn run(
    source: Arc<dyn EventSource>,
    projection: Arc<dyn Projection>,
    settings: ProjectorSettings,
    clock: Clock,
    stop: CancellationToken,
    ProjectorOutputs { progress, error_feed, missing_bodies, announcer }: ProjectorOutputs,
) -> Result<(), FatalConfig> {
    settings.check()?;
    let projector = Projector {
        source: &*source,
        projection: &*projection,
        settings,
        clock,
        stop: stop.clone(),
        progress,
        error_feed,
        missing_bodies,
        announcer,
    };
    let mut facts = Facts::default();
    let mut outage = Outage::new("projector", WORDS, ReconnectBackoff::new(WAITS.0, WAITS.1));
    while !stop.is_cancelled() {
        let pause = match projector.follow_or_lead(&mut outage, &mut facts).await {
            Ok(()) => projector.settings.retry,
            Err(Interrupted::FatalConfig(e)) => return Err(e),
            Err(e) => outage.failed(&e),
        };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}

/// The failures that interrupt a projector.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The event log could not be read, trimmed or asked.
    #[error("events can't be read")]
    Log(#[from] EventError),
    /// The store could not be read or written.
    #[error("history can't be written")]
    Store(#[from] StoreError),
    /// What is to be announced could not be written down.
    #[error("notices can't be written")]
    Notices(#[from] SqliteError),
    /// A failure that no wait can cure.
    #[error(transparent)]
    FatalConfig(#[from] FatalConfig),
}

struct Projector<'a> {
    source: &'a dyn EventSource,
    projection: &'a dyn Projection,
    settings: ProjectorSettings,
    clock: Clock,
    stop: CancellationToken,
    progress: watch::Sender<Cursor>,
    error_feed: ErrorFeedSender,
    missing_bodies: MissingBodies,
    announcer: Option<Announcer>,
}

/// How much longer to wait for more events after a commit of so many: a commit writes each aggregate that has changed,
/// whatever the number of its changes. After few events it waits no longer, because a client may wait for that job.
fn linger_factor(events: usize) -> u32 {
    const FEW: u32 = 8;
    (u32::try_from(events).unwrap_or(u32::MAX) / FEW).clamp(1, 5)
}

impl Projector<'_> {
    /// Tries once to lead. When the store grants that, leads until the end of the term.
    async fn follow_or_lead(&self, outage: &mut Outage, facts: &mut Facts) -> Result<(), Interrupted> {
        let won = match Leadership::win(self.projection, &self.settings, &self.clock).await {
            Err(e) if e.kind == StoreErrorKind::Rejected => {
                return Err(FatalConfig::ForeignHistory(e.to_string()).into());
            }
            won => won?,
        };
        self.report(self.projection.position().await?);
        let Some(mut leadership) = won else {
            outage.passed();
            return Ok(());
        };
        tracing::info!(holder = self.settings.holder, term = leadership.term().number, "projector leads");
        METRICS.server.set_leads(true);
        let led = self.lead(&mut leadership, outage, facts).await;
        METRICS.server.set_leads(false);
        self.error_feed.leads(None);
        leadership.resign().await;
        led
    }

    async fn lead(
        &self,
        leadership: &mut Leadership<'_>,
        outage: &mut Outage,
        facts: &mut Facts,
    ) -> Result<(), Interrupted> {
        if !self.prepare(leadership).await? {
            return Ok(());
        }
        let (owner, history) = (self.source.owner(&self.settings.history).await?, &self.settings.history);
        if owner != *history {
            return Err(FatalConfig::ForeignLog { owner, history: history.clone() }.into());
        }
        self.error_feed.leads(Some(leadership.term().clone()));
        // Read under the term, because the former holder can't commit any more.
        let mut position = self.projection.position().await?;
        self.report(position);
        facts.begin(leadership.term().number, position);
        let mut trimmer = Trimmer::new(self.settings.keep, position);
        let leftovers = trim_leftovers(self.source, self.settings.keep, position, self.settings.batch).await;
        self.or_parked(leftovers).await?;
        let mut sweep = Sweep::new(self.projection, self.settings.retention);
        while !self.stop.is_cancelled() && leadership.renew_term().await? {
            let due = leadership.renewal_due().min(sweep.due());
            let due = self.missing_bodies.due().map_or(due, |missing| due.min(missing));
            let wait = due.saturating_duration_since(Instant::now());
            let events = tokio::select! {
                read = self.source.read(position, self.settings.batch, wait) => self.or_parked(read).await?,
                () = self.stop.cancelled() => break,
            };
            // The read may have taken longer than the term.
            if !leadership.renew_term().await? {
                break;
            }
            let Some(events) = events else { continue };
            if events.is_empty() {
                outage.passed();
                self.missing_bodies.note(&Folded::default());
                let now = self.clock.now();
                sweep.step(leadership.term(), now, now).await;
                continue;
            }
            let began = Instant::now();
            let (retention, announcer) = (self.settings.retention, self.announcer.as_ref());
            match fold_and_note(self.projection, leadership.term(), &events, retention, facts, announcer).await {
                Ok(folded) => {
                    METRICS.server.committed(began.elapsed());
                    position = folded.through.unwrap_or(position);
                    facts.committed(position);
                    self.missing_bodies.note(&folded);
                    self.error_feed.seen(folded.errors);
                    if folded.categories {
                        self.error_feed.look_again();
                    }
                }
                Err(FoldError::Store(e)) if e.kind == StoreErrorKind::Fenced => break,
                Err(FoldError::Store(e)) => return Err(e.into()),
                Err(FoldError::Notices(e)) => return Err(e.into()),
            }
            outage.passed();
            self.report(position);
            if let Some((_, last)) = events.last() {
                // While history is behind the log, the log's time counts: events still to come may
                // be about jobs that ended long ago.
                sweep.step(leadership.term(), last.at(), self.clock.now()).await;
            }
            trimmer.note(position, events.len());
            if let Some(through) = trimmer.due() {
                self.source.trim(through).await?;
            }
            if events.len() < self.settings.batch {
                let linger = self.settings.linger * linger_factor(events.len());
                self.stop.run_until_cancelled(tokio::time::sleep(linger)).await;
            }
        }
        Ok(())
    }

    /// Recounts what an older Jobber has counted, since this one counts more, and gives a new store
    /// its categories. Returns false when the term has passed meanwhile.
    async fn prepare(&self, leadership: &mut Leadership<'_>) -> Result<bool, Interrupted> {
        if let Some(loss) = self.projection.loss() {
            if !self.recount_what_is_left(leadership).await? {
                return Ok(false);
            }
            self.projection.recounted(loss);
        }
        let has_categories = self.projection.load_categories().await?.is_some();
        // A new store has nothing to count. It may not even be able to list documents, like
        // Couchbase without a query service.
        let is_new = self.projection.position().await? == Cursor::START;
        if !has_categories && !is_new && !self.recount(leadership, &BTreeSet::new()).await? {
            return Ok(false);
        }
        if has_categories {
            return if is_new { Ok(true) } else { Ok(self.recount_older(leadership).await?) };
        }
        let categories = Categories::seeded(self.settings.categories.clone());
        let first = Versioned { document: categories, version: None };
        self.projection.commit(leadership.term(), Commit { categories: Some(first), ..Commit::default() }).await?;
        Ok(true)
    }

    /// Recounts what is left in a store that lost a part. Aggregates and jobs may have lost different events,
    /// and only what the jobs lack is folded again. Returns false when the term has passed meanwhile.
    async fn recount_what_is_left(&self, leadership: &mut Leadership<'_>) -> Result<bool, Interrupted> {
        // What is folded again must find aggregates that were recounted, even those that the store does not list any more.
        let Some(folded_again) = while_leading(leadership, self.shards_of_the_log()).await? else { return Ok(false) };
        match self.recount(leadership, &folded_again?).await {
            Err(e) if e.kind == StoreErrorKind::Unavailable => {
                let reason = chain(&e);
                tracing::warn!(
                    reason,
                    "what the store has kept can't be counted anew now; when it can, `jobber rebuild` does it"
                );
                Ok(true)
            }
            done => Ok(done?),
        }
    }

    /// The aggregates of all jobs of which the log tells.
    async fn shards_of_the_log(&self) -> Result<BTreeSet<ShardKey>, EventError> {
        let (mut keys, mut at) = (BTreeSet::new(), Cursor::START);
        loop {
            let read = self.source.read_without_bodies(at, self.settings.batch, Duration::ZERO).await;
            let Some(events) = self.or_parked(read).await? else { continue };
            let Some((last, _)) = events.last() else { return Ok(keys) };
            at = *last;
            keys.extend(events.iter().filter_map(|(_, entry)| Some(shard_key_of(&entry.job()?.job))));
        }
    }

    /// Recounts the aggregates that an older Jobber has counted, since this one counts more. If the
    /// store can't list its documents now, folding goes on all the same, and the next process that
    /// leads tries again. Returns false when the term has passed meanwhile.
    async fn recount_older(&self, leadership: &mut Leadership<'_>) -> Result<bool, StoreError> {
        let recounted = match is_counted_by_older(self.projection, self.clock.now()).await {
            Ok(false) => return Ok(true),
            Ok(true) => {
                tracing::info!("counting the statistics anew, as an older version has counted less");
                self.recount(leadership, &BTreeSet::new()).await
            }
            Err(e) => Err(e),
        };
        match recounted {
            Err(e) if e.kind == StoreErrorKind::Unavailable => {
                tracing::warn!(error = %e, "statistics that an older version has counted could not be counted anew; run jobber rebuild");
                Ok(true)
            }
            result => result,
        }
    }

    /// Recounts the aggregates, and these, which the store may hold without listing them. Returns false when the term has
    /// passed meanwhile.
    async fn recount(
        &self,
        leadership: &mut Leadership<'_>,
        unlisted: &BTreeSet<ShardKey>,
    ) -> Result<bool, StoreError> {
        let term = leadership.term().clone();
        let recounted = rebuild_beyond(self.projection, &term, self.clock.now(), unlisted, |_| {});
        while_leading(leadership, recounted).await?.transpose().map(|done| done.is_some())
    }

    /// Passes on the result of a read. If a single event can't be read, parks it and returns
    /// `None`, so that the caller reads again.
    async fn or_parked<T>(&self, read: Result<T, EventError>) -> Result<Option<T>, EventError> {
        match read {
            Ok(events) => Ok(Some(events)),
            Err(e) => match e.at.filter(|_| e.kind == EventErrorKind::Corrupt) {
                Some(at) => {
                    let reason = chain(&e);
                    tracing::error!(cursor = %at, reason, "an event can't be read: set aside, history goes on without it");
                    self.source.park(at, &reason).await?;
                    Ok(None)
                }
                None => Err(e),
            },
        }
    }

    fn report(&self, position: Cursor) {
        self.progress.send_if_modified(|seen| position > std::mem::replace(seen, position.max(*seen)));
    }
}

/// Does something that takes longer than a term, and renews it meanwhile. `None` when the term has passed.
async fn while_leading<T>(
    leadership: &mut Leadership<'_>,
    work: impl Future<Output = T>,
) -> Result<Option<T>, StoreError> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(Some(done)),
            () = tokio::time::sleep_until(leadership.renewal_due()) => if !leadership.renew_term().await? {
                return Ok(None);
            },
        }
    }
}
