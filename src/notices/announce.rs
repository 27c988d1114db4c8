//! Makes the notices of what happened, and puts them into the outbox.

use std::sync::Arc;

use super::notice::{HealthTurn, Notice, NoticeEvent, NoticeJob, NoticeRegression};
use super::outbox::{NewNotice, Outbox};
use super::target::NoticeTarget;
use crate::domain::{Clock, JobName, JobState, QueueName, Timestamp};
use crate::events::Cursor;
use crate::sqlite::SqliteError;
use crate::stats::builds::BuildEntry;
use crate::store::JobRecord;

/// Makes notices for those targets that want them.
#[derive(Clone)]
pub struct Announcer {
    targets: Arc<[NoticeTarget]>,
    outbox: Outbox,
    default_queue: QueueName,
    clock: Clock,
}

impl Announcer {
    /// Announces to these targets by way of this outbox. `default_queue` is that of jobs that name none.
    pub fn new(targets: Arc<[NoticeTarget]>, outbox: Outbox, default_queue: QueueName, clock: Clock) -> Self {
        Self { targets, outbox, default_queue, clock }
    }

    /// Whether any target is told of this.
    pub fn wants(&self, event: NoticeEvent) -> bool {
        self.targets.iter().any(|target| target.on.contains(&event))
    }

    /// The notices of a job that the event at this place has ended.
    pub fn of_ended_job(&self, at: Cursor, record: &JobRecord) -> Vec<NewNotice> {
        let events: &[NoticeEvent] = match record.state {
            JobState::Completed => &[NoticeEvent::Completed],
            _ => &[NoticeEvent::Failed, NoticeEvent::Category],
        };
        if !events.iter().any(|event| self.wants(*event)) {
            return Vec::new();
        }
        let job = NoticeJob::of(record, &self.default_queue);
        let what = [record.id.as_str(), &record.submitted_at.to_string(), &at.to_string()];
        let wanted = |target: &NoticeTarget, event| target.filter.takes_job(event, &job);
        let make = |notice: Notice| Notice { job: Some(job.clone()), ..notice };
        self.make(events, &what, job.finished_at, wanted, make)
    }

    /// The notices of a build that does worse than those before it, as the event at this time has shown for the first time.
    pub fn of_worse_build(&self, name: &JobName, build: &BuildEntry, at: Timestamp) -> Vec<NewNotice> {
        let regression = NoticeRegression {
            name: name.clone(),
            build: build.digest.clone(),
            first_seen: build.first_seen,
            found: build.alarms.clone(),
        };
        let what = [name.as_str(), &build.digest.to_string(), &build.first_seen.to_string()];
        let wanted = |target: &NoticeTarget, _| target.filter.takes_name(regression.name.as_str());
        let make = |notice: Notice| Notice { regression: Some(regression.clone()), ..notice };
        self.make(&[NoticeEvent::Regression], &what, at, wanted, make)
    }

    /// The notices of a part of the server that has turned at `at`.
    pub fn of_turn(&self, turn: &HealthTurn, at: Timestamp) -> Vec<NewNotice> {
        let what = [turn.part.as_str(), &turn.since.to_string(), if turn.healthy { "well" } else { "not well" }];
        let make = |notice: Notice| Notice { health: Some(turn.clone()), ..notice };
        self.make(&[NoticeEvent::Unhealthy], &what, at, |_, _| true, make)
    }

    fn make(
        &self,
        events: &[NoticeEvent],
        what: &[&str],
        at: Timestamp,
        wanted: impl Fn(&NoticeTarget, NoticeEvent) -> bool,
        make: impl Fn(Notice) -> Notice,
    ) -> Vec<NewNotice> {
        let mut made = Vec::new();
        for target in self.targets.iter() {
            for event in target.on.iter().copied().filter(|event| events.contains(event) && wanted(target, *event)) {
                let mut notice = make(Notice {
                    event,
                    id: Notice::id_of(&target.name, event, what),
                    target: target.name.clone(),
                    at,
                    text: String::new(),
                    job: None,
                    regression: None,
                    health: None,
                    test: false,
                });
                notice.write_text();
                made.push(NewNotice { notice, queue_limit: target.queue_limit, dead_limit: target.dead_limit });
            }
        }
        made
    }

    /// Puts notices into the outbox, durably; those that are there stay as they are.
    ///
    /// # Errors
    /// When the database can't be written.
    pub async fn put(&self, notices: Vec<NewNotice>) -> Result<(), SqliteError> {
        if notices.is_empty() {
            return Ok(());
        }
        self.outbox.put(notices, self.clock.now()).await
    }

    /// The outbox.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}
