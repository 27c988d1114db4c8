//! What is wrong is refused clearly, and nothing runs.

use serde_json::json;

use crate::harness::Jobber;

#[tokio::test]
async fn names_that_are_no_job_are_refused_and_nothing_runs() {
    let j = Jobber::dev().start().await;
    j.job("plain", "#!/bin/sh\n");
    let jobs = j.place().jobs_dir();
    std::fs::create_dir(jobs.join("folder")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", jobs.join("link")).unwrap();
    std::fs::write(jobs.join("text"), "not a program").unwrap();
    for name in ["../../bin/sh", ".", "..", "/bin/sh", "", "folder", "link", "text", "absent", "plain\0", "pl ain"] {
        let (status, answer) = j.post("/api/v1/jobs", json!({"name": name})).await;
        assert_eq!(status, 422, "{name:?}: {answer}");
        assert_eq!(answer["errors"][0]["pointer"], "/name", "{name:?}: {answer}");
        let (status, answer) = j.post("/jobs", json!({"jobName": name, "arguments": ["x"]})).await;
        assert_eq!(status, 400, "{name:?}: {answer}");
        assert!(answer["message"].is_string() && answer["error"].is_string(), "{answer}");
    }
    assert_eq!(j.get("/api/v1/jobs").await.1["items"], json!([]));
    assert_eq!(j.submit(json!({"name": "plain"})).await.len(), 36);
}

#[tokio::test]
async fn bodies_that_are_no_job_are_refused_with_their_place() {
    let j = Jobber::dev().start().await;
    j.job("plain", "#!/bin/sh\n");
    let json_type = "application/json";
    for (body, status, code) in [
        (r#"{"name":"plain""#, 400, "invalid_json"),
        ("{\"name\":\"pl\u{0}ain\"}", 400, "invalid_json"),
        (r#"["plain"]"#, 422, "invalid_body"),
        (r#"{"name":"plain","bogus":1}"#, 422, "invalid_body"),
        (r#"{"name":"plain","arguments":"a"}"#, 422, "invalid_body"),
        (r#"{"name":"plain","attempts":-1}"#, 422, "invalid_body"),
        (r#"{"name":"plain","timeout_ms":1e300}"#, 422, "invalid_body"),
        (r#"{"name":"plain","priority":4294967295}"#, 422, "invalid_job"),
        (r#"{"name":"plain","arguments":["a\u0000b"]}"#, 422, "invalid_job"),
    ] {
        let (got, answer) = j.post_raw("/api/v1/jobs", json_type, body).await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{body}: {answer}");
        assert!(!answer["detail"].as_str().unwrap().is_empty() && answer["request_id"].is_string(), "{answer}");
    }
    assert_eq!(j.post_raw("/api/v1/jobs", json_type, vec![b' '; 10 << 20]).await.0, 413);
    assert_eq!(j.post_raw("/jobs", json_type, vec![b' '; 10 << 20]).await.0, 413);
    assert_eq!(j.post_raw("/api/v1/jobs", "text/plain", r#"{"name":"plain"}"#).await.0, 415);
    assert_eq!(j.delete("/api/v1/jobs").await.1["code"], "method_not_allowed");
    assert_eq!(j.get("/api/v2").await.1["code"], "not_found");
    assert_eq!(j.get("/api/v1/queue").await.1["waiting"], 0);
}

#[tokio::test]
async fn a_token_is_wanted_where_one_is_set() {
    let j = Jobber::dev().env("JOBBER_TOKEN", "a-token-of-some-length").start().await;
    assert_eq!(j.get("/api/v1/queue").await.0, 401);
    assert_eq!(j.get("/healthz").await.0, 200);
    let with = |token: &'static str| j.http().get(j.url("/api/v1/queue")).bearer_auth(token).send();
    assert_eq!(with("a-token-of-some-lengtH").await.unwrap().status(), 401);
    assert_eq!(with("a-token-of-some-length").await.unwrap().status(), 200);
}
