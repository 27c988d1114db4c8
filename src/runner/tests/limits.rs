//! Memory: limited and measured.

use super::*;

const MIB: u64 = 1024 * 1024;

/// A command that holds at least so many bytes for a while: awk doubles a string, and waits.
fn hold(bytes: u64, seconds: f64) -> String {
    format!("awk 'BEGIN {{ s = \"x\"; while (length(s) < {bytes}) s = s s; system(\"sleep {seconds}\") }}'")
}

#[tokio::test]
async fn a_job_above_its_limit_is_out_of_memory() {
    let fixture = Fixture::new();
    let order = RunOrder { memory_bytes: Some(32 * MIB), ..fixture.script(&hold(60 * MIB, 1000.0)) };
    let report = fixture.run(order).await;
    assert_eq!(report.outcome, Outcome::Oom, "{report:?}");
    assert!(report.error.unwrap().starts_with("ran out of memory (limit 32 MiB)"));
}

#[tokio::test]
async fn processes_of_a_group_count_together() {
    let fixture = Fixture::new();
    let one = hold(32 * MIB, 1000.0);
    // One alone has some 50 MiB at its peak, when it copies.
    let order = RunOrder { memory_bytes: Some(80 * MIB), ..fixture.script(&format!("{one} & {one} & {one} & wait")) };
    assert_eq!(fixture.run(order).await.outcome, Outcome::Oom);
}

#[tokio::test]
async fn an_allocation_beyond_all_bounds_fails_at_once() {
    let fixture = Fixture::new();
    let order = fixture.script("ulimit -d; ulimit -c");
    let report = fixture.run(RunOrder { memory_bytes: Some(64 * MIB), ..order }).await;
    assert!(report.outcome.is_success(), "a limit that is not reached does no harm: {report:?}");
}

#[tokio::test]
async fn words_of_memory_tell_nothing_far_from_the_limit() {
    let fixture = Fixture::new();
    let says = async |end: &str, memory_bytes| {
        let order = fixture.script(&format!("echo 'CUDA out of memory: std::bad_alloc' >&2; {end}"));
        fixture.run(RunOrder { memory_bytes, ..order }).await.outcome
    };
    for limit in [None, Some(1024 * MIB)] {
        assert_eq!(says("exit 65", limit).await, Outcome::Exit { code: 65 });
        assert_eq!(says("kill -ABRT $$", limit).await, Outcome::Signal { signal: 6 });
    }
}

#[tokio::test]
async fn peak_memory_is_that_of_the_job_and_not_of_its_supervisor() {
    // The supervisor's own high-water mark is far above what the job uses.
    let ballast = vec![1u8; 100 * MIB as usize];
    std::hint::black_box(&ballast);
    let fixture = Fixture::new();
    let peak = async |body: &str| fixture.run(fixture.script(body)).await.usage.unwrap().peak_rss_bytes;
    // Too short for a sample, or for one at the right time.
    let short = peak("exit 0").await;
    assert!((100_000..30 * MIB).contains(&short), "{short}");
    // Twice as long as samples are apart.
    let sampled = peak(&format!("exec {}", hold(16 * MIB, 2.0))).await;
    assert!((16 * MIB..80 * MIB).contains(&sampled), "{sampled}");
    // About to die.
    let fill = format!("s = \"x\"; while (length(s) < {}) s = s s", 16 * MIB);
    let crashed = peak(&format!("exec awk 'BEGIN {{ {fill}; system(\"kill -ABRT $PPID\") }}'")).await;
    assert!((16 * MIB..80 * MIB).contains(&crashed), "{crashed}");
}
