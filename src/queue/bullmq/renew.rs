//! Renews leases, on a thread, a runtime and a connection of its own, so that no other work of the
//! process can hold it up. It looks at each answer, so that the process knows when a lease is lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::LeaseLoss;
use super::super::lease::reliable;
use super::Loss;
use super::connect::{BullClient, Target};
use crate::domain::Validity;
use crate::domain::validity::boot_ms;
use crate::metrics::METRICS;

enum Command {
    Add { token: String, held: Held },
    Remove { token: String },
}

struct Held {
    id: String,
    /// When the last renewal that succeeded was sent, on the boot clock: time in suspend counts, too.
    confirmed: u64,
    validity: Validity,
    loss: Loss,
    /// Read at the first renewal; it carries the connection that renews.
    job: Option<Arc<bullmq::Job>>,
    asking: bool,
}

enum RenewOutcome {
    /// The lease is held, by a renewal that was asked for at this moment of the boot clock.
    Held(Arc<bullmq::Job>, u64),
    Lost,
    None,
}

/// Renews the leases that it is given every third of their time.
pub(super) struct Renewer {
    target: Target,
    lease: Duration,
    thread: Mutex<Option<mpsc::UnboundedSender<Command>>>,
}

impl Renewer {
    pub(super) fn new(target: Target, lease: Duration) -> Self {
        Self { target, lease, thread: Mutex::default() }
    }

    /// Renews the job's lock, which is `age` old, until it is removed or lost. Sends a loss once.
    /// Answers until when the lock can be relied on.
    pub(super) fn add(&self, id: &str, token: &str, loss: Loss, age: Duration) -> Validity {
        let age = age.min(self.lease);
        let validity = Validity::lasting(reliable(self.lease).saturating_sub(age));
        let confirmed = boot_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let held = Held { id: id.to_owned(), confirmed, validity: validity.clone(), loss, job: None, asking: false };
        self.send(Command::Add { token: token.to_owned(), held });
        validity
    }

    /// Stops to renew the lock of this token.
    pub(super) fn remove(&self, token: &str) {
        self.send(Command::Remove { token: token.to_owned() });
    }

    /// Starts the thread, so that it is connected when the first lease comes.
    pub(super) fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if thread.is_some() {
            return;
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let (target, lease) = (self.target.clone(), self.lease);
        let started = std::thread::Builder::new().name("jobber-leases".to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(renew_leases(target, lease, commands)),
                Err(error) => tracing::error!(%error, "leases can't be renewed"),
            }
        });
        match started {
            Ok(_) => *thread = Some(sender),
            Err(error) => tracing::error!(%error, "the thread that renews leases can't be started"),
        }
    }

    fn send(&self, command: Command) {
        self.start();
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A thread that has ended holds nothing, and then drops the leases' losses, which ends the leases too.
        if let Some(thread) = &*thread {
            let _ = thread.send(command);
        }
    }
}

/// Serves the commands and renews in time, until the queue is closed. It finishes no renewal by then,
/// because no lease is out.
async fn renew_leases(target: Target, lease: Duration, mut commands: mpsc::UnboundedReceiver<Command>) {
    let connecting = target.connect_at_last();
    tokio::pin!(connecting);
    let mut redis: Option<Arc<BullClient>> = None;
    let mut held: HashMap<String, Held> = HashMap::new();
    let mut answers = FuturesUnordered::new();
    let mut tick = tokio::time::interval(lease / 12);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Add { token, held: new }) => {
                    held.insert(token, new);
                }
                Some(Command::Remove { token }) => {
                    held.remove(&token);
                }
                // The queue is closed, and no lease can be out without it.
                None => return,
            },
            connected = &mut connecting, if redis.is_none() => redis = Some(Arc::new(connected)),
            Some((token, answer)) = answers.next() => {
                let duration = lease;
                let Some(lease) = held.get_mut(&token) else { continue };
                lease.asking = false;
                match answer {
                    RenewOutcome::Held(job, since) => {
                        (lease.confirmed, lease.job) = (since, Some(job));
                        lease.validity.extend(since, reliable(duration));
                    }
                    RenewOutcome::Lost => mark_lost(&lease.loss),
                    RenewOutcome::None => {}
                }
            }
            _ = tick.tick() => {
                let now = boot_ms();
                for (token, one) in &mut held {
                    let age = Duration::from_millis(now.saturating_sub(one.confirmed));
                    // This leaves time to stop the process before another worker can be given the job.
                    if age >= lease * 3 / 4 {
                        mark_lost(&one.loss);
                    } else if age >= lease / 3 && !one.asking
                        && let Some(redis) = &redis
                    {
                        one.asking = true;
                        answers.push(renew(redis.clone(), one.id.clone(), token.clone(), one.job.clone(), lease));
                    }
                }
            }
        }
    }
}

async fn renew(
    redis: Arc<BullClient>,
    id: String,
    token: String,
    job: Option<Arc<bullmq::Job>>,
    lease: Duration,
) -> (String, RenewOutcome) {
    let (since, began) = (boot_ms(), Instant::now());
    let ask = async {
        let job = match job {
            Some(job) => job,
            None => match redis.queue.get_job(&id).await {
                Ok(Some(job)) => Arc::new(job),
                Ok(None) => return RenewOutcome::Lost,
                Err(_) => return RenewOutcome::None,
            },
        };
        match job.extend_lock(&token, u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)).await {
            Ok(()) => {
                METRICS.worker.renewed(began.elapsed());
                RenewOutcome::Held(job, since)
            }
            Err(bullmq::Error::JobLocked(_)) => RenewOutcome::Lost,
            Err(error) => {
                tracing::debug!(job = id, %error, "a lease could not be renewed; trying again");
                RenewOutcome::None
            }
        }
    };
    let answer = tokio::time::timeout(lease / 6, ask).await.unwrap_or(RenewOutcome::None);
    (token, answer)
}

fn mark_lost(loss: &Loss) {
    loss.send_if_modified(|loss| {
        let new = *loss != Some(LeaseLoss::Expired);
        *loss = Some(LeaseLoss::Expired);
        new
    });
}
