//! What a long history costs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jobber::domain::{Clock, Fingerprint, JobId, JobName, Timestamp};
use jobber::failures::Embedder;
use jobber::failures::embed::StaticModel;
use jobber::sqlite::{Durability, Sqlite};
use jobber::stats::{Counts, ErrorSet, ErrorSetCounts, FailureCounts, ShardKey, StatShard};
use jobber::store::embedded::EmbeddedStore;
use jobber::store::{Commit, Projection, Sighting, Versioned};

use crate::harness::{Jobber, Place};

/// The names of a history, and its days.
const NAMES: u8 = 4;
const DAYS: u64 = 80;

/// Writes a history in which the jobs of each name and day have met as many errors as an aggregate takes, others on
/// each day, and answers how many errors there are. Every one of them is known to the classifier already.
async fn with_many_errors(place: &Place) -> usize {
    std::fs::create_dir_all(place.data_dir()).unwrap();
    let db = Sqlite::open(&place.data_dir().join("jobber.db"), Durability::Process).unwrap();
    let store = EmbeddedStore::open(db.clone()).await.unwrap();
    let clock = Clock::system();
    let term = store.lead("filler", Duration::from_secs(600), &clock).await.unwrap().unwrap();
    let embedder = StaticModel::built_in();
    let text = "cannot open the file of this night's transfer: no such file or directory";
    let vector = embedder.embed(&[text.to_owned()]).await.unwrap().remove(0);
    let mut written: usize = 0;
    for day in 1..=DAYS {
        let at = clock.now() - Duration::from_secs(day * 86_400);
        let mut commit = Commit::default();
        for n in 0..NAMES {
            let name: JobName = format!("name-{n}").parse().unwrap();
            let mut counts = Counts { completed_by_attempts: [(1, 10_000)].into(), ..Counts::default() };
            counts.failed_by_attempts = [(1, StatShard::MOST_SETS as i64)].into();
            let mut shard = StatShard::new(ShardKey { day: at.day(), name: name.clone() });
            for _ in 0..StatShard::MOST_SETS {
                written += 1;
                let error = fingerprint(written);
                commit.sightings.push(seen(error, text, at, &name));
                counts.failures.insert(error, FailureCounts { attempts: 1, cpu_us: 5, wall_us: 9 });
                let set = ErrorSet::new([error]);
                shard.admit(&set);
                counts.jobs_by_errors.insert(set, ErrorSetCounts { jobs: 1, completed: 0, failed: 1 });
            }
            // The records of its jobs have expired: there are none to recount it from.
            let whole_until = Some(at);
            commit.shards.push(Versioned { document: StatShard { counts, whole_until, ..shard }, version: None });
        }
        store.commit(&term, commit).await.unwrap();
    }
    store.resign(&term).await.unwrap();
    let model = embedder.model().to_owned();
    let vector: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let learn = "UPDATE history_errors SET revision = '0-0', similarity = 0.0, model = ?1, vector = ?2";
    db.write(move |c| c.execute(learn, (&model, &vector))).await.unwrap();
    written
}

fn fingerprint(n: usize) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Fingerprint::from_bytes(bytes)
}

fn seen(error: Fingerprint, text: &str, at: Timestamp, name: &JobName) -> Sighting {
    Sighting::new(error, text, at, name, &JobId::parse("job").unwrap())
}

/// The most memory that a server has ever had, in MiB.
fn most_memory(j: &Jobber) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", j.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// At once, the aggregates of this history and what is known of its errors would take some 110 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_take_no_more_memory_for_a_long_history() {
    let place: Arc<Place> = Place::new();
    let errors = with_many_errors(&place).await;
    let j = Jobber::serve().at(&place).env("JOBBER_RETENTION", "forever").start().await;
    // The categories of the team are there, and the classifier has gone over all errors.
    let (_, failures) = j.get("/api/v1/failures?limit=1").await;
    assert_eq!(failures["total"], errors, "{failures}");
    let mut grown = BTreeMap::new();
    for path in ["/stats", "/api/v1/stats/attempts", "/api/v1/stats/cost", "/api/v1/stats/categories?trend=90"] {
        let before = most_memory(&j);
        let (status, answer) = j.get(path).await;
        assert!(status < 300, "{path}: {answer}");
        grown.insert(path, most_memory(&j) - before);
    }
    let most = most_memory(&j);
    assert!(grown.values().all(|grown| *grown < 50), "MiB more for each: {grown:?}, {most} MiB at most");
    assert!(most < 220, "{most} MiB at most");
    let (_, stats) = j.get("/stats").await;
    let first = &stats["jobStats"]["perAttemptsStats"][0];
    let jobs = DAYS * u64::from(NAMES) * (10_000 + StatShard::MOST_SETS as u64);
    assert_eq!(first["totalJobsUpTo"], jobs, "{stats}");
    let categories = stats["jobStats"]["errorCategorySuccessRate"].as_array().unwrap();
    let of_all = categories.iter().flat_map(|line| line.as_object().unwrap().values());
    let met: u64 = of_all.map(|line| line["totalErrorCategoryJobs"].as_u64().unwrap()).sum();
    assert_eq!(met, errors as u64, "{stats}");
}
