//! The messages that processes send each other at once, over one channel of Redis, and what this
//! process must know of its own leases to act on them. Everything in a message is durable elsewhere
//! too, and processes look at that again at times, so a lost message only costs time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::super::LeaseLoss;
use super::connect::{BullClient, BullError};
use super::limiter::ClaimLimiter;
use super::{Inner, Loss, keys};

/// How long the look whether a message was lost may take; then the connection is given up.
const LONGEST_CHECK: Duration = Duration::from_secs(2);
/// The wait between two tries to listen.
const PAUSE: Duration = Duration::from_millis(500);
/// How many messages a watcher of output may fall behind; one that falls further behind looks for itself.
const BACKLOG: usize = 1024;

/// A message to every process of the queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// This job is to be stopped, if it runs. The reason is for workers of older versions: this
    /// version reads it from the record.
    Cancel { id: String, reason: String },
    /// This job has said something.
    Output { id: String },
    /// This worker is to take nothing new.
    Drain { worker: String },
}

/// What this process holds, and what it has heard from others.
pub(super) struct Signals {
    local: Mutex<LocalLeases>,
    output: broadcast::Sender<String>,
    /// Whether this process listens to the channel, and so Redis was there a moment ago.
    listening: AtomicBool,
}

#[derive(Default)]
struct LocalLeases {
    /// The jobs that are to be stopped, as far as this process has heard, wherever they run.
    /// Hearsay: a message may be late, and the job may have been put back since. The record counts.
    cancels: HashSet<String>,
    /// Leases of this process: job id and token.
    leases: HashMap<(String, String), Loss>,
    claims: Vec<Weak<ClaimLimiter>>,
}

impl Signals {
    pub(super) fn new() -> Self {
        Self { local: Mutex::default(), output: broadcast::channel(BACKLOG).0, listening: AtomicBool::new(false) }
    }

    fn local(&self) -> MutexGuard<'_, LocalLeases> {
        self.local.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells the lease from now on when its job is to be stopped. Answers whether this process has
    /// heard before that it is, and so must [look](check_cancel_record).
    pub(super) fn add_lease(&self, id: &str, token: &str, loss: Loss) -> bool {
        let mut local = self.local();
        local.leases.insert((id.to_owned(), token.to_owned()), loss);
        local.cancels.contains(id)
    }

    pub(super) fn remove_lease(&self, id: &str, token: &str) {
        self.local().leases.remove(&(id.to_owned(), token.to_owned()));
    }

    /// Whether a caller asked for this job to be stopped. Forgets the request.
    pub(super) fn take_cancel(&self, id: &str) -> bool {
        self.local().cancels.remove(id)
    }

    /// Has the claim told of requests to drain its worker.
    pub(super) fn add_claim(&self, limiter: &Arc<ClaimLimiter>) {
        let mut local = self.local();
        local.claims.retain(|claim| claim.strong_count() > 0);
        local.claims.push(Arc::downgrade(limiter));
    }

    /// Ids of jobs that have said something, from now on.
    pub(super) fn output(&self) -> broadcast::Receiver<String> {
        self.output.subscribe()
    }

    pub(super) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Makes the claims of this worker take nothing more.
    pub(super) fn drain(&self, worker: &str) {
        let limiters: Vec<_> = self.local().claims.iter().filter_map(Weak::upgrade).collect();
        for limiter in limiters {
            limiter.drain(worker);
        }
    }

    /// The leases of a job that this process holds.
    fn leases_of(&self, id: &str) -> Vec<Loss> {
        self.local().leases.iter().filter(|((held, _), _)| held == id).map(|(_, loss)| loss.clone()).collect()
    }
}

async fn handle(inner: &Inner, redis: &BullClient, message: Message) -> Result<(), BullError> {
    match message {
        Message::Cancel { id, .. } => {
            inner.signals.local().cancels.insert(id.clone());
            check_cancel_record(inner, redis, &id).await?;
        }
        Message::Output { id } => {
            // Sending fails when there is no watcher, which does no harm.
            let _ = inner.signals.output.send(id);
        }
        Message::Drain { worker } => inner.signals.drain(&worker),
    }
    Ok(())
}

/// Tells this process's leases of a job that it is to be stopped, if that is on record.
pub(super) async fn check_cancel_record(inner: &Inner, redis: &BullClient, id: &str) -> Result<(), BullError> {
    // The leases from before the look: the request that it finds may have been settled when a
    // later lease is taken.
    let leases = inner.signals.leases_of(id);
    if leases.is_empty() {
        return Ok(());
    }
    // In both places: the record of all requests is cleared when the job has ended, the job's own
    // when the job is put back or removed.
    let mut get = redis::pipe();
    get.cmd("HEXISTS").arg(inner.keys.cancels()).arg(id);
    get.cmd("HGET").arg(inner.keys.job(id)).arg(keys::CANCEL);
    let (is_asked, reason): (bool, Option<String>) = redis.queue.connection().pipe(&get).await?;
    match reason.filter(|_| is_asked) {
        Some(reason) => leases.iter().for_each(|loss| cancel(loss, &reason)),
        None => drop(inner.signals.take_cancel(id)),
    }
    Ok(())
}

/// Hears of all requests on record, since their messages may have been lost.
async fn check_all_cancel_records(inner: &Inner, redis: &BullClient) -> Result<(), BullError> {
    let mut all = redis::cmd("HKEYS");
    let cancels: HashSet<String> = redis.queue.connection().cmd(all.arg(inner.keys.cancels())).await?;
    let held = {
        let mut local = inner.signals.local();
        local.cancels = cancels;
        let held = local.leases.keys().filter(|(id, _)| local.cancels.contains(id));
        held.map(|(id, _)| id.clone()).collect::<HashSet<_>>()
    };
    for id in held {
        check_cancel_record(inner, redis, &id).await?;
    }
    Ok(())
}

fn cancel(loss: &Loss, reason: &str) {
    loss.send_if_modified(|loss| {
        let first = loss.is_none();
        if first {
            *loss = Some(LeaseLoss::Cancelled(reason.to_owned()));
        }
        first
    });
}

/// Publishes a message to every process that listens.
pub(super) async fn publish(inner: &Inner, redis: &BullClient, message: &Message) -> Result<(), BullError> {
    let text = serde_json::to_string(message).map_err(bullmq::Error::from)?;
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(inner.keys.channel()).arg(text);
    Ok(redis.queue.connection().cmd::<()>(&mut publish).await?)
}

/// Listens until `stop`, again and again. Serves one connection after another, and drops it at the stop: each
/// message is on record elsewhere.
pub(super) async fn listen(inner: Arc<Inner>, stop: CancellationToken) {
    let listening = async {
        let Some(redis) = inner.link.wait().await else { return };
        for turn in 0.. {
            if let Err(error) = listen_once(&inner, &redis, turn).await {
                tracing::debug!(%error, "the queue's channel can't be read; trying again");
            }
            inner.signals.listening.store(false, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = listening => {}
        () = stop.cancelled() => {}
    }
}

async fn listen_once(inner: &Inner, redis: &BullClient, turn: usize) -> Result<(), BullError> {
    let mut subscription = inner.link.target().listener(redis, turn).await?.get_async_pubsub().await?;
    subscription.subscribe(inner.keys.channel()).await?;
    let mut messages = subscription.into_on_message();
    let mut look = tokio::time::interval(inner.settings.look_again);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                match serde_json::from_slice(message.get_payload_bytes()) {
                    Ok(message) => {
                        let Ok(handled) = tokio::time::timeout(LONGEST_CHECK, handle(inner, redis, message)).await else {
                            return Ok(());
                        };
                        handled?;
                    }
                    Err(error) => tracing::debug!(%error, "a message on the queue's channel can't be read"),
                }
            }
            _ = look.tick() => {
                let Ok(looked) = tokio::time::timeout(LONGEST_CHECK, check_all_cancel_records(inner, redis)).await else {
                    return Ok(());
                };
                looked?;
                inner.signals.listening.store(true, Ordering::Relaxed);
            }
        }
    }
}
