//! A bucket that loses data under a server: emptied, rolled back by a failover, in whole or in part. What the log still
//! holds is folded again, counted once, and the loss is said.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{Clock, Entry, Event};
use jobber::events::embedded::EmbeddedLog;
use jobber::events::{Cursor, EventSink, EventSource};
use jobber::projector::{ProjectorOutputs, ProjectorSettings, compare, new_error_feed, new_missing_bodies, run};
use jobber::sqlite::{Durability, Sqlite};
use jobber::store::couchbase::CouchbaseStore;
use jobber::store::{History, Projection};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Events, TTL};
use crate::harness::couchbase::Bucket;
use crate::harness::couchbase_double::CouchbaseDouble;
use crate::harness::couchbase_double::documents::Bucket as Documents;
use crate::harness::{Jobber, eventually};

/// A projector on a log of its own.
struct Projecting {
    store: Arc<CouchbaseStore>,
    log: Arc<EmbeddedLog>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Projecting {
    async fn start(bucket: &Bucket) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Sqlite::open(&dir.path().join("t.db"), Durability::Process).unwrap();
        let log = EmbeddedLog::open(db, dir.path(), 1_000_000).await.unwrap();
        let store = bucket.open().await;
        store.prepared().await;
        let mut settings = ProjectorSettings::new("one");
        settings.batch = 40;
        let stop = CancellationToken::new();
        let (source, projection, ends): (Arc<dyn EventSource>, Arc<dyn Projection>, _) =
            (log.clone(), store.clone(), stop.clone());
        let running = tokio::spawn(async move {
            let (progress, _) = watch::channel(Cursor::START);
            let (error_feed, _feed) = new_error_feed();
            let outputs =
                ProjectorOutputs { progress, error_feed, missing_bodies: new_missing_bodies().0, announcer: None };
            run(source, projection, settings, Clock::system(), ends, outputs).await.unwrap();
        });
        Self { store, log, stop, running, _dir: dir }
    }

    async fn tell(&self, events: &[(Cursor, Entry)]) {
        for part in events.chunks(50) {
            let events: Vec<Event> = part.iter().map(|(_, entry)| entry.job().unwrap().clone()).collect();
            self.log.append(&events).await.unwrap();
        }
    }

    async fn caught_up(&self) {
        eventually("history to catch up", async || {
            let last = self.log.span().await.unwrap().last;
            (self.store.position().await.unwrap_or_default() >= last).then_some(())
        })
        .await;
    }

    /// History comes to equal a recount, and what it should be: the jobs of the log, each with its end. A write by which a
    /// loss is noticed may be the last of the log's: then history is folded again after it has caught up.
    async fn is_right(&self, events: &[(Cursor, Entry)]) {
        self.caught_up().await;
        let ids: BTreeSet<_> = events.iter().map(|(_, entry)| entry.job().unwrap().job.id.clone()).collect();
        eventually("history to equal a recount", async || {
            let found = compare(&*self.store, Clock::system().now()).await.ok()?;
            ((found.jobs, found.differing.len()) == (ids.len() as u64, 0)).then_some(())
        })
        .await;
        let counted: u64 = self.store.job_names().await.unwrap().iter().map(|name| name.completed + name.failed).sum();
        assert_eq!(counted, ids.len() as u64);
        for id in ids {
            let job = self.store.job(&id).await.unwrap().unwrap();
            assert!(job.state.is_final() && !job.attempts.is_empty(), "{job:?}");
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// Loses data half-way, and looks at what becomes of history.
async fn after(lose: impl FnOnce(&mut Documents, &crate::harness::couchbase_double::documents::Saved)) {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let mut stream = Events::new();
    let projecting = Projecting::start(&bucket).await;
    let (early, middle, late) = (stream.next(60), stream.next(60), stream.next(60));
    projecting.tell(&early).await;
    projecting.caught_up().await;
    let saved = bucket.double().bucket(|documents| documents.save());
    projecting.tell(&middle).await;
    projecting.caught_up().await;
    bucket.double().bucket(|documents| lose(documents, &saved));
    projecting.tell(&late).await;
    let all = [early, middle, late].concat();
    // Not before the projector has met the loss: until then it is where it was.
    eventually("the loss to be noticed", async || {
        (projecting.store.job_names().await.is_ok_and(|names| !names.is_empty())).then_some(())
    })
    .await;
    projecting.is_right(&all).await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_folded_again_after_the_bucket_was_emptied() {
    after(|documents, _| documents.empty()).await;
    after(|documents, _| documents.empty_unnoticed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_folded_again_after_a_failover_to_an_older_state() {
    after(|documents, saved| documents.roll_back(saved, |_| true)).await;
}

/// Each vbucket has a replica of its own: some have lost nothing, the one with the lease among them or not.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_folded_again_after_a_part_of_it_went_back() {
    for rest in 0..2 {
        after(|documents, saved| documents.roll_back(saved, |vbucket| vbucket % 2 == rest)).await;
    }
}

/// The write by which a loss is noticed may be of a job that was read after it. Of each part of a job's events, each
/// shorter part is what is left, and the rest comes then.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_next_event_comes_before_its_loss_is_noticed_has_all_its_events() {
    let job = Events::new().next(1);
    let id = job[0].1.job().unwrap().job.id.clone();
    assert_eq!(job.len(), 6, "submitted, two attempts of two, finished");
    let cases = [(0, 1), (0, 3), (0, 5), (1, 2), (1, 5), (2, 4), (3, 5)];
    // The job alone goes back, or all but its aggregate and the lease: then nothing lists the aggregate any more.
    for (kept, told, is_alone) in cases.into_iter().flat_map(|(kept, told)| [(kept, told, true), (kept, told, false)]) {
        let bucket = Bucket::of(CouchbaseDouble::start());
        let projecting = Projecting::start(&bucket).await;
        projecting.tell(&job[..kept]).await;
        projecting.caught_up().await;
        let saved = bucket.double().bucket(|documents| documents.save());
        projecting.tell(&job[kept..told]).await;
        projecting.caught_up().await;
        bucket.double().bucket(|documents| {
            let lost = documents.vbuckets_of(id.as_str());
            assert!(!lost.is_empty());
            let shard = documents.vbuckets_of("shard:2001-09-09:resize");
            assert!(!shard.is_empty());
            let kept = [shard, documents.vbuckets_of("projector")].concat();
            documents.roll_back(&saved, |vbucket| match is_alone {
                true => lost.contains(&vbucket),
                false => !kept.contains(&vbucket) || lost.contains(&vbucket),
            });
        });
        projecting.tell(&job[told..]).await;
        projecting.is_right(&job).await;
        let record = projecting.store.job(&id).await.unwrap().unwrap();
        let told_of: Vec<_> =
            record.attempts.iter().map(|attempt| attempt.report.as_ref().unwrap().error.clone()).collect();
        assert_eq!(told_of, [Some("no such file 0".to_owned()), Some("no such file 0".to_owned())], "{kept} of {told}");
        projecting.stop().await;
    }
}

/// A loss is noticed at the next write to a vbucket that went back: some always do.
const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whichever vbuckets go back, at whatever moment of the projector's work: history equals a recount in the end.
    #[test]
    fn whatever_goes_back_history_equals_a_recount(lost in any::<u64>(), wait in 0u64..120, empties in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let bucket = Bucket::of(CouchbaseDouble::start());
            let mut stream = Events::new();
            let projecting = Projecting::start(&bucket).await;
            let early = stream.next(40);
            projecting.tell(&early).await;
            projecting.caught_up().await;
            let saved = bucket.double().bucket(|documents| documents.save());
            let late = stream.next(60);
            projecting.tell(&late).await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            bucket.double().bucket(|documents| match empties {
                true => documents.empty(),
                false => documents.roll_back(&saved, |vbucket| (lost | EVERY_FOURTH) >> (vbucket % 64) & 1 == 1),
            });
            let last = stream.next(20);
            projecting.tell(&last).await;
            projecting.is_right(&[early, late, last].concat()).await;
            projecting.stop().await;
        });
    }
}

/// Terms begin anew in an empty bucket; the number of an old one never comes again.
#[tokio::test(flavor = "multi_thread")]
async fn the_term_in_which_data_was_lost_is_over() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let store = bucket.open().await;
    let clock = Clock::system();
    let term = store.lead("one", TTL, &clock).await.unwrap().unwrap();
    assert_eq!(store.lead("one", TTL, &clock).await.unwrap().unwrap(), term);
    bucket.double().bucket(|documents| documents.empty());
    let next = store.lead("one", TTL, &clock).await.unwrap().unwrap();
    assert!(next.number > term.number, "{next:?}");
    assert!(store.commit(&term, Default::default()).await.is_err());
    store.commit(&next, Default::default()).await.unwrap();
}

/// A whole server: it says what happened, and its history is what it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_bucket_was_emptied_says_so_and_has_its_history_again() {
    let bucket = Bucket::of(CouchbaseDouble::start());
    let jobber = Jobber::dev().env("JOBBER_STORE_URL", &bucket.double().url()).start().await;
    jobber.job("good", "#!/bin/sh\necho yes\n");
    let mut ids: Vec<String> = Vec::new();
    for n in 0..20 {
        if n == 10 {
            for id in &ids {
                jobber.wait_final(id).await;
            }
            bucket.double().bucket(|documents| documents.empty());
        }
        ids.push(jobber.submit(json!({"name": "good"})).await);
    }
    eventually("all jobs to be in history again", async || {
        let (_, names) = jobber.get("/jobs").await;
        (names["jobs"][0]["completedCount"] == 20).then_some(())
    })
    .await;
    for id in &ids {
        assert_eq!(jobber.wait_final(id).await["attempts"].as_array().unwrap().len(), 1);
    }
    assert_eq!(jobber.log().matches("lost history that had been written").count(), 1, "said once");
    let (_, categories) = jobber.get("/api/v1/categories").await;
    assert!(!categories["items"].as_array().unwrap().is_empty(), "{categories}");
}
