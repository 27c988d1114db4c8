use super::*;

/// The digest of what is in a file, as an attempt tells it.
fn digest(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest: [u8; 32] = Sha256::digest(content).into();
    crate::domain::BuildDigest::of_contents(&digest).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_tells_the_build_that_it_ran_though_the_file_is_replaced_meanwhile() {
    let fixture = Fixture::new();
    let heard = nothing();
    let first = "#!/bin/sh\necho ready\nsleep 1\n";
    fixture.executable("job", first.as_bytes());
    let running = fixture.run_with(order("job"), StopHandle::new().unwrap().1, heard.clone());
    let replace = async {
        heard.wait_for("ready").await;
        fixture.executable("new", b"#!/bin/sh\nexit 0\n");
        fs_err::rename(fixture.path("jobs/new"), fixture.path("jobs/job")).unwrap();
    };
    let (report, ()) = tokio::join!(running, replace);
    let build = report.build.expect("a script has a build");
    assert_eq!((build.digest.to_string(), build.bytes), (digest(first.as_bytes()), first.len() as u64));
    assert!(build.modified_at <= report.started_at);
    let next = fixture.run(order("job")).await.build.unwrap();
    assert_eq!(next.digest.to_string(), digest(b"#!/bin/sh\nexit 0\n"));
    assert_eq!(fixture.runner.build_now(&JobName::parse("job").unwrap()), Some(next.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_known_by_the_build_id_of_its_linker_or_by_all_of_it() {
    let fixture = Fixture::new();
    let program = fs_err::read("/bin/true").unwrap();
    fixture.executable("job", &program);
    let first = fixture.run(order("job")).await.build.unwrap();
    assert_eq!(first.bytes, program.len() as u64);
    let again = fixture.run(order("job")).await.build.unwrap();
    assert_eq!(first, again);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_a_process_has_no_build() {
    let fixture = Fixture::new();
    assert_eq!(fixture.run(order("none")).await.build, None);
}
