use serde_json::{Value, json};

use super::fake::{self, FakeServer, events, problem};
use super::*;
use crate::domain::{JobState, Timestamp};

fn id(text: &str) -> JobId {
    text.parse().unwrap()
}

fn output(text: &str) -> Value {
    json!({"type": "output", "attempt": 1, "stream": "stdout", "text": text})
}

async fn read_to_end(mut log: LogStream) -> Result<String, ClientError> {
    let mut text = String::new();
    while let Some(event) = log.next().await? {
        if let crate::wire::LogEvent::Output { text: piece, .. } = event {
            text.push_str(&piece);
        }
    }
    Ok(text)
}

#[test]
fn an_address_must_be_one() {
    for bad in ["", "localhost:3000", "127.0.0.1:3000", "ftp://x", "http://", "http://x/?a=b", "unix:/run/x"] {
        let error = Client::new(bad, None).unwrap_err();
        assert_eq!(error.kind, ClientErrorKind::Rejected, "{bad}");
        assert!(error.hint.unwrap().contains("http://127.0.0.1:3000"));
    }
    assert_eq!(Client::new("http://[::1]:80/jobber/", None).unwrap().server(), "http://[::1]/jobber");
    assert!(Client::new(DEFAULT_SERVER, Some(Secret::new("a\nb"))).is_err());
}

#[test]
fn a_secret_is_not_printed() {
    let client = Client::new(DEFAULT_SERVER, Some(Secret::new("hunter2"))).unwrap();
    assert!(!format!("{client:?}").contains("hunter2"));
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address_and_what_to_do() {
    // A port that was free a moment ago: nothing listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::new(&format!("http://{address}"), None).unwrap();
    let error = client.counts().await.unwrap_err();
    assert_eq!(error.kind, ClientErrorKind::Unreachable);
    assert_eq!(error.to_string(), format!("couldn't reach a jobber server at http://{address}"));
    assert!(error.hint.unwrap().contains("jobber dev"));
}

#[tokio::test]
async fn a_refusal_keeps_its_kind_and_its_words() {
    for (status, code, kind) in [
        (400, "invalid_job", ClientErrorKind::Rejected),
        (422, "unknown_binary", ClientErrorKind::Rejected),
        (401, "unauthorized", ClientErrorKind::Auth),
        (403, "forbidden", ClientErrorKind::Auth),
        (404, "unknown_job", ClientErrorKind::NotFound),
        (409, "wrong_state", ClientErrorKind::Conflict),
        (503, "queue_unavailable", ClientErrorKind::Server),
    ] {
        let server = FakeServer::start(vec![problem(status, code, "what went wrong")]).await;
        let error = server.client().job(&id("a"), None).await.unwrap_err();
        assert_eq!((error.kind, error.code()), (kind, Some(code)));
        assert_eq!(error.to_string(), "what went wrong");
    }
}

#[tokio::test]
async fn what_is_no_jobber_is_told_apart() {
    for answer in [
        fake::answer(404, "text/html", "<h1>Not Found</h1>"),
        fake::answer(200, "text/html", "<h1>It works!</h1>"),
        fake::answer(302, "text/plain", ""),
        fake::answer(500, "application/json", "{}"),
    ] {
        let server = FakeServer::start(vec![answer]).await;
        let error = server.client().job(&id("a"), None).await.unwrap_err();
        assert_eq!(error.kind, ClientErrorKind::Server, "{error}");
        assert!(error.to_string().contains("does not answer as a jobber server"));
    }
}

#[tokio::test]
async fn fields_that_are_wrong_are_named() {
    let body = json!({
        "type": "/problems/invalid_job", "title": "Invalid job", "status": 400, "detail": "the job is not valid",
        "code": "invalid_job", "errors": [{"pointer": "/attempts", "detail": "must be 1 to 1000"}],
    });
    let server =
        FakeServer::start(vec![fake::answer(400, "application/problem+json; charset=utf-8", &body.to_string())]).await;
    let error = server.client().submit(&SubmitJob::default(), None).await.unwrap_err();
    assert_eq!(error.to_string(), "the job is not valid\n  /attempts: must be 1 to 1000");
}

#[tokio::test]
async fn a_submission_carries_the_job_the_key_and_the_token() {
    let server =
        FakeServer::start(vec![fake::json(202, &json!({"id": "a", "status": "queued", "duplicate": false}))]).await;
    let job = SubmitJob { name: "resize".into(), timeout: Some(Duration::from_secs(90)), ..SubmitJob::default() };
    let submitted = server.client_with("hunter2").submit(&job, Some("key 1")).await.unwrap();
    assert_eq!(submitted.id, id("a"));
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /api/v1/jobs HTTP/1.1\r\n"));
    assert!(request.contains("\r\nauthorization: Bearer hunter2\r\n"));
    assert!(request.contains("\r\nidempotency-key: key 1\r\n"));
    assert!(request.ends_with(r#"{"name":"resize","timeout_ms":90000}"#));
}

#[tokio::test]
async fn ids_are_one_segment_of_the_path() {
    let acted = json!({"id": "a", "status": "cancelling"});
    let server = FakeServer::start(vec![fake::json(200, &acted)]).await;
    server.client().cancel(&id("repeat:a&b"), Some("too old")).await.unwrap();
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /api/v1/jobs/repeat%3Aa%26b:cancel HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with(r#"{"reason":"too old"}"#));
}

#[tokio::test]
async fn a_list_asks_for_what_was_meant() {
    let server = FakeServer::start(vec![fake::json(200, &json!({"items": [], "next_cursor": "c&d"}))]).await;
    let query = JobQuery {
        selection: JobSelection {
            state: vec![JobState::Failed, JobState::Active],
            since: Some(Timestamp::from_millis(0)),
            ..JobSelection::default()
        },
        cursor: Some("a=b".into()),
        ..JobQuery::default()
    };
    let list = server.client().jobs(&query).await.unwrap();
    assert_eq!(list.next_cursor.as_deref(), Some("c&d"));
    let expected =
        "GET /api/v1/jobs?state=failed&state=active&since=1970-01-01T00%3A00%3A00.000Z&cursor=a%3Db HTTP/1.1";
    assert!(server.requests()[0].starts_with(expected), "{}", server.requests()[0]);
}

#[tokio::test]
async fn following_sees_a_dropped_connection_through_without_repeating() {
    let server = FakeServer::start(vec![
        events(&[json!({"type": "state", "state": "active"}), output("one\n"), output("tw")]),
        problem(503, "queue_unavailable", "starting"),
        events(&[json!({"type": "state", "state": "active"}), output("one\ntwo\n"), output("three\n")]),
        events(&[output("one\n"), output("two\nthree\n"), json!({"type": "state", "state": "completed"})]),
    ])
    .await;
    let log = server.client().logs(&id("a"), LogRequest { follow: true, ..LogRequest::default() }).await.unwrap();
    assert_eq!(read_to_end(log).await.unwrap(), "one\ntwo\nthree\n");
    assert_eq!(server.requests().len(), 4);
    assert!(server.requests()[3].starts_with("GET /api/v1/jobs/a/logs?follow=true HTTP/1.1\r\n"));
}

#[tokio::test]
async fn without_following_the_end_of_the_stream_is_the_end() {
    let server = FakeServer::start(vec![events(&[output("so far")])]).await;
    let request = LogRequest { follow: false, stream: Some(crate::domain::Stream::Stdout), attempt: Some(2) };
    let log = server.client().logs(&id("a"), request).await.unwrap();
    assert_eq!(read_to_end(log).await.unwrap(), "so far");
    assert!(server.requests()[0].starts_with("GET /api/v1/jobs/a/logs?follow=false&stream=stdout&attempt=2 "));
}

#[tokio::test]
async fn a_job_that_is_gone_ends_the_following() {
    let server = FakeServer::start(vec![events(&[output("x")]), problem(404, "unknown_job", "no such job")]).await;
    let log = server.client().logs(&id("a"), LogRequest { follow: true, ..LogRequest::default() }).await.unwrap();
    assert_eq!(read_to_end(log).await.unwrap_err().kind, ClientErrorKind::NotFound);
}
