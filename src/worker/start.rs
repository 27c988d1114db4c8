//! Records the start of an attempt. The thread that has the slot hands the event to the log,
//! prepares the surroundings of the process meanwhile, and waits for the log before it spawns.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::WorkerContext;
use super::lifetime::Permit;
use super::prefetch::Began;
use crate::domain::{AttemptNumber, Event, EventKind, Job, JobBody};
use crate::queue::{Lease, Publisher};
use crate::runner::StartLog;

/// The job's body, if the worker's first event has to tell history of it.
pub(super) fn body_for_history(lease: &Lease) -> Option<JobBody> {
    (!lease.is_announced()).then(|| lease.body().clone())
}

/// The start of one attempt.
pub(super) struct Start {
    context: Arc<WorkerContext>,
    job: Arc<Job>,
    /// For history, of a job that it may not know yet.
    body: Option<JobBody>,
    attempt: AttemptNumber,
    publisher: Publisher,
    permit: Arc<Permit>,
    runtime: Handle,
    abandoned: CancellationToken,
    state: Mutex<State>,
}

enum State {
    /// The attempt has no slot yet.
    Waiting,
    /// The attempt has a slot, and its start is being written.
    Writing(BoxFuture<'static, bool>, Began),
    /// The start was written (true), or will never be.
    Written(bool, Began),
    /// The thread that has the slot waits for the log.
    Awaited,
}

impl Start {
    /// Of this lease's attempt. To be called within a runtime.
    pub(super) fn new(context: &Arc<WorkerContext>, lease: &Lease, permit: Arc<Permit>) -> Self {
        Self {
            context: context.clone(),
            job: lease.job().clone(),
            body: body_for_history(lease),
            attempt: lease.attempt(),
            publisher: lease.publisher(),
            permit,
            runtime: Handle::current(),
            abandoned: CancellationToken::new(),
            state: Mutex::new(State::Waiting),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up on a start that is not written yet. The attempt will not start.
    pub(super) fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// The event that takes the start back. `None` when no start event was handed to the log.
    pub(super) fn withdrawal(&self) -> Option<Event> {
        if matches!(*self.state(), State::Waiting) {
            return None;
        }
        let worker = self.context.worker.settings.id.clone();
        Some(self.event(EventKind::AttemptWithdrawn { attempt: self.attempt, worker }))
    }

    fn event(&self, kind: EventKind) -> Event {
        Event::new(self.context.worker.clock.now(), self.job.clone(), kind)
    }
}

impl StartLog for Start {
    fn begin(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Waiting) {
            return;
        }
        self.permit.begin();
        let settings = &self.context.worker.settings;
        // Statistics of builds take first attempts only, in the order in which they were started.
        let build = (self.attempt.0 == 1).then(|| self.context.worker.runner.build_now(&self.job.name)).flatten();
        let started = EventKind::AttemptStarted {
            attempt: self.attempt,
            worker: settings.id.clone(),
            host: settings.host.clone(),
            build,
        };
        let event = Event { body: self.body.clone(), ..self.event(started) };
        let (context, abandoned, publisher) = (self.context.clone(), self.abandoned.clone(), self.publisher.clone());
        let mut writing = async move {
            // The queue notes the start too, because a lease that is lost before its start is no
            // crash. The queue's write is queued first. So, on one database, it shares the commit
            // that the log makes at once for the event.
            let write = async {
                let (is_noted, is_recorded) =
                    tokio::join!(publisher.started(), context.recorder.record(std::slice::from_ref(&event)));
                is_recorded && is_noted
            };
            tokio::select! {
                biased;
                written = write => written,
                () = abandoned.cancelled() => false,
            }
        }
        .boxed();
        let began = self.context.prefetch.begin();
        // The first poll hands the event to the log; the answer is waited for later.
        let _runtime = self.runtime.enter();
        *state = match (&mut writing).now_or_never() {
            Some(written) => State::Written(written, began),
            None => State::Writing(writing, began),
        };
    }

    fn is_written(&self) -> bool {
        let state = std::mem::replace(&mut *self.state(), State::Awaited);
        let (written, began) = match state {
            State::Writing(writing, began) => (self.runtime.block_on(writing), began),
            State::Written(written, began) => (written, began),
            // No thread has begun the attempt, or another thread waits for it. Only one thread has the attempt.
            other @ (State::Waiting | State::Awaited) => {
                *self.state() = other;
                return false;
            }
        };
        *self.state() = State::Written(written, began);
        written
    }
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("job", &self.job.id).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}
