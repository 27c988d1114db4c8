//! What a submission and a claim cost does not depend on what else is in the queue. Counted by SQLite's own work, which
//! no load of the machine changes.

use std::time::Instant;

use super::super::kinds::{self, Kind};
use super::super::schema::{NEXT_SEQ, to_json};
use super::*;
use crate::domain::{Amounts, Labels};
use crate::sqlite::work::Work;

/// What one job costs: its submission, and its claim with its settling. Medians, since the queue's own tasks work too.
struct Costs {
    submission: Work,
    claim: Work,
    /// Of the claim and the settling, in microseconds: for people.
    micros: u128,
}

async fn costs(bench: &Bench, jobs: usize) -> Costs {
    let mut submissions = Vec::new();
    for _ in 0..jobs {
        let before = bench.work.total();
        bench.submit(bench.job(|_| {})).await;
        submissions.push(bench.work.total() - before);
    }
    let mut claims = bench.claim("w", 1).await;
    let (mut taken, mut times) = (Vec::new(), Vec::new());
    let mut lease = claims.next().await.unwrap();
    for _ in 1..jobs {
        let (before, began) = (bench.work.total(), Instant::now());
        lease.settle(Verdict::Complete { result: None }).await;
        lease = claims.next().await.unwrap();
        taken.push(bench.work.total() - before);
        times.push(began.elapsed().as_micros());
    }
    lease.settle(Verdict::Complete { result: None }).await;
    claims.close().await;
    while bench.rows("queue_claims").await > 0 {
        tokio::task::yield_now().await;
    }
    submissions.sort_by_key(|work| work.steps);
    taken.sort_by_key(|work| work.steps);
    times.sort_unstable();
    Costs { submission: submissions[jobs / 2], claim: taken[jobs / 2], micros: times[jobs / 2] }
}

/// Puts jobs like this one into the tables, faster than a submission does.
async fn fill(bench: &Bench, like: AcceptedJob, count: usize) {
    let header = to_json(&*like.job).into_bytes();
    let write = bench.queue.inner.db.write(move |c| {
        let kind = kinds::number_or_new(c, &to_json(&Kind::of(&like.job)))?;
        let first: i64 = c.query_row(&format!("SELECT {NEXT_SEQ}"), [], |row| row.get(0))?;
        let numbers = "WITH RECURSIVE n (seq) AS (SELECT ?1 UNION ALL SELECT seq + 1 FROM n WHERE seq < ?2)";
        let last = first + i64::try_from(count).unwrap() - 1;
        c.prepare_cached(&format!(
            "INSERT INTO queue_jobs (seq, id, state, priority, kind) {numbers} SELECT seq, 'j' || seq, 0, 0, ?3 FROM n"
        ))?
        .execute((first, last, kind))?;
        c.prepare_cached(&format!("INSERT INTO queue_payloads {numbers} SELECT seq, ?3, x'5b5d' FROM n"))?
            .execute((first, last, &header))
    });
    write.await.unwrap();
}

/// Jobs that the worker can't run, of so many kinds.
async fn fill_with_others(bench: &Bench, jobs: usize, kinds: usize) {
    for kind in 0..kinds {
        let other = bench.job(|o| match kind % 3 {
            0 => (o.cores, o.memory_bytes) = (Some(100), Some((1 << 30) + kind as u64)),
            1 => o.require = Labels::parse(&format!("zone={kind}")).ok(),
            _ => o.resources = Amounts::parse(&format!("licence-{kind}=1")).ok(),
        });
        fill(bench, other, jobs / kinds).await;
    }
}

/// As much as beside nothing else, but for so many hundredths.
fn assert_same(what: &str, than: &Costs, costs: &Costs, hundredths: u64) {
    for (part, before, now) in [("submission", than.submission, costs.submission), ("claim", than.claim, costs.claim)] {
        assert!(now.steps * 100 <= before.steps * hundredths, "{what}: a {part} was {before:?} and is {now:?}");
        assert!(now.scanned <= before.scanned, "{what}: a {part} was {before:?} and is {now:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_costs_the_same_whatever_waits_behind_it() {
    let bench = Bench::with(QueueSettings::default()).await;
    fill(&bench, bench.job(|_| {}), 100).await;
    let few = costs(&bench, 40).await;
    fill(&bench, bench.job(|_| {}), 20_000).await;
    assert_same("20,000 more wait", &few, &costs(&bench, 40).await, 105);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_costs_the_same_beside_those_that_its_worker_cannot_run() {
    for kinds in [1, 10, 1000] {
        let bench = Bench::with(QueueSettings::default()).await;
        fill(&bench, bench.job(|_| {}), 10).await;
        let alone = costs(&bench, 40).await;
        fill_with_others(&bench, 3000, kinds).await;
        fill(&bench, bench.job(|_| {}), 100).await;
        assert_same(&format!("3,000 others of {kinds} kinds"), &alone, &costs(&bench, 40).await, 130);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_many_kinds_costs_little_more_than_one_of_few() {
    const KINDS: usize = 500;
    let bench = Bench::with(QueueSettings::default()).await;
    for kind in 0..KINDS {
        fill(&bench, bench.job(|o| o.memory_bytes = Some((1 << 30) + kind as u64)), 2).await;
    }
    let costs = costs(&bench, 20).await;
    // One look into the index for each kind, and one for its first job.
    assert!(costs.claim.steps < 40 * KINDS as u64 + 1000, "{:?}", costs.claim);
}

/// Bytes that one job adds to the write-ahead log: submission, claim and settling.
async fn logged(bench: &Bench, jobs: usize) -> u64 {
    let set = bench.queue.inner.db.write(|c| c.pragma_update(None, "wal_autocheckpoint", 0));
    set.await.unwrap();
    let size = || std::fs::metadata(bench.dir.path().join("q.db-wal")).unwrap().len();
    let before = size();
    costs(bench, jobs).await;
    let each = (size() - before) / jobs as u64;
    let set = bench.queue.inner.db.write(|c| c.pragma_update(None, "wal_autocheckpoint", 4000));
    set.await.unwrap();
    each
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn what_a_job_costs() {
    const JOBS: usize = 200;
    let show = |what: &str, than: &Costs, costs: &Costs| {
        let times = |a: u64, b: u64| a as f64 / b as f64;
        eprintln!(
            "{what}: submission {} statements, {} steps ({:.2}), {} us ({:.2}); claim {} statements, {} steps ({:.2}), \
             {} us ({:.2}); as seen by the worker {} us ({:.2})",
            costs.submission.runs,
            costs.submission.steps,
            times(costs.submission.steps, than.submission.steps),
            costs.submission.nanos / 1000,
            times(costs.submission.nanos, than.submission.nanos),
            costs.claim.runs,
            costs.claim.steps,
            times(costs.claim.steps, than.claim.steps),
            costs.claim.nanos / 1000,
            times(costs.claim.nanos, than.claim.nanos),
            costs.micros,
            costs.micros as f64 / than.micros as f64,
        );
    };
    let bench = Bench::with(QueueSettings::default()).await;
    fill(&bench, bench.job(|_| {}), 1000).await;
    let few = costs(&bench, JOBS).await;
    show("1,000 wait", &few, &few);
    eprintln!("a job adds {} bytes to the log", logged(&bench, JOBS).await);
    fill(&bench, bench.job(|_| {}), 999_000).await;
    show("1,000,000 wait", &few, &costs(&bench, JOBS).await);
    eprintln!("{}", bench.work);
    for kinds in [1, 100, 10_000] {
        let bench = Bench::with(QueueSettings::default()).await;
        fill(&bench, bench.job(|_| {}), 500).await;
        let alone = costs(&bench, JOBS).await;
        fill_with_others(&bench, 100_000, kinds).await;
        fill(&bench, bench.job(|_| {}), 1000).await;
        show(&format!("100,000 of {kinds} kinds that the worker can't run"), &alone, &costs(&bench, JOBS).await);
    }
}
