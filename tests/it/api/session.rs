//! Who may do what: two tokens, and a browser that has signed in with one of them.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Jobber, Start};

const OPERATOR: &str = "operators-token";
const VIEWER: &str = "viewers-token";
const SESSION: &str = "/api/v1/session";
const SAME_ORIGIN: (&str, &str) = ("sec-fetch-site", "same-origin");

fn guarded(start: Start) -> Start {
    start.env("JOBBER_TOKEN", OPERATOR).env("JOBBER_VIEW_TOKEN", VIEWER)
}

/// Sends a request with these headers; gives status, body, and the cookie that the answer sets.
async fn send(
    j: &Jobber,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> (u16, Value, Option<String>) {
    let request = j.http().request(method, j.url(path));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = body.iter().fold(request, |request, body| request.json(body));
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let cookie = response.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
    (status, response.json().await.unwrap_or_default(), cookie)
}

/// Signs in as the page does; gives the `Cookie` header of its next requests.
async fn sign_in(j: &Jobber, token: &str) -> String {
    let (status, session, cookie) = send(j, Method::POST, SESSION, &[SAME_ORIGIN], Some(json!({"token": token}))).await;
    assert_eq!((status, &session["signed_in_by"]), (200, &json!("cookie")), "{session}");
    let cookie = cookie.expect("a cookie is set");
    for rule in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(rule), "{cookie}");
    }
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_browser_signs_in_acts_and_signs_out() {
    let j = guarded(Jobber::dev()).start().await;
    j.job("plain", "#!/bin/sh\n");
    let (status, session, _) = send(&j, Method::GET, SESSION, &[], None).await;
    let nobody = json!({"role": "none", "signed_in_by": null, "version": env!("CARGO_PKG_VERSION"), "expires_at": null, "hides_data": false});
    assert_eq!((status, session), (200, nobody.clone()));
    let cookie = sign_in(&j, OPERATOR).await;
    let with_cookie = ("cookie", cookie.as_str());
    let (_, session, _) = send(&j, Method::GET, SESSION, &[with_cookie], None).await;
    assert_eq!((&session["role"], &session["signed_in_by"]), (&json!("operator"), &json!("cookie")));
    assert!(session["expires_at"].is_string());
    let submit = async |headers: &[(&str, &str)]| {
        send(&j, Method::POST, "/api/v1/jobs", headers, Some(json!({"name": "plain"}))).await.0
    };
    assert_eq!(submit(&[with_cookie, SAME_ORIGIN]).await, 202);
    assert_eq!(submit(&[with_cookie, ("origin", j.base())]).await, 202, "a browser without Sec-Fetch-Site");
    for foreign in [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "none"), ("origin", "http://evil.example")] {
        assert_eq!(submit(&[with_cookie, foreign]).await, 403, "{foreign:?}");
    }
    assert_eq!(submit(&[with_cookie]).await, 403, "a browser says where a request comes from");
    assert_eq!(submit(&[with_cookie, SAME_ORIGIN, ("authorization", "Bearer wrong-token")]).await, 401);
    assert_eq!(submit(&[("authorization", "Bearer operators-token")]).await, 202, "other programs need no cookie");
    let (status, session, cleared) = send(&j, Method::DELETE, SESSION, &[with_cookie, SAME_ORIGIN], None).await;
    assert_eq!((status, session), (200, nobody));
    assert!(cleared.unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn a_wrong_token_gets_no_cookie_and_keeps_no_one_out() {
    let j = guarded(Jobber::serve()).start().await;
    let wrong = || send(&j, Method::POST, SESSION, &[SAME_ORIGIN], Some(json!({"token": "a-guess-of-mine"})));
    let began = std::time::Instant::now();
    let guesses = futures_util::future::join_all((0..12).map(|_| wrong()));
    let right = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sign_in(&j, OPERATOR).await;
        began.elapsed()
    };
    let (guesses, right_after) = tokio::join!(guesses, right);
    for (status, answer, cookie) in guesses {
        assert_eq!((status, answer["code"].as_str(), cookie), (401, Some("unauthorized"), None));
    }
    let guesses_after = began.elapsed();
    assert!(guesses_after >= Duration::from_millis(1400), "{guesses_after:?}");
    assert!(right_after < guesses_after, "{right_after:?}");
    let foreign = [("origin", "http://evil.example")];
    let (status, ..) = send(&j, Method::POST, SESSION, &foreign, Some(json!({"token": OPERATOR}))).await;
    assert_eq!(status, 403, "another site does not sign people in");
    let large = json!({"token": "x".repeat(10_000)});
    assert_eq!(send(&j, Method::POST, SESSION, &[SAME_ORIGIN], Some(large)).await.0, 413);
}

#[tokio::test]
async fn a_session_outlives_a_restart_but_not_its_time_nor_its_token() {
    let mut j = guarded(Jobber::serve()).start().await;
    let place = j.place().clone();
    let (operator, viewer) = (sign_in(&j, OPERATOR).await, sign_in(&j, VIEWER).await);
    j.stop().await;
    let changed = Jobber::serve().env("JOBBER_VIEW_TOKEN", VIEWER).env("JOBBER_SESSION_TTL", "1s").at(&place);
    let mut j = changed.env("JOBBER_TOKEN", "another-token").start().await;
    let jobs = async |j: &Jobber, cookie: &str| {
        let (status, answer, _) = send(j, Method::GET, "/api/v1/jobs", &[("cookie", cookie)], None).await;
        (status, answer["code"].as_str().map(str::to_owned))
    };
    assert_eq!(jobs(&j, &viewer).await.0, 200, "at another server with the same token");
    assert_eq!(jobs(&j, &operator).await, (401, Some("unauthorized".to_owned())), "its token was changed");
    let brief = sign_in(&j, "another-token").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(jobs(&j, &brief).await, (401, Some("unauthorized".to_owned())), "its time is over");
    j.stop().await;
}

#[tokio::test]
async fn a_viewer_looks_and_changes_nothing() {
    let j = guarded(Jobber::dev()).start().await;
    j.job("plain", "#!/bin/sh\necho said\n");
    let operator = [("authorization", "Bearer operators-token")];
    let body = Some(json!({"name": "plain", "arguments": ["seen"], "data": {"seen": true}}));
    let (_, submitted, _) = send(&j, Method::POST, "/api/v1/jobs?wait=5", &operator, body.clone()).await;
    let path = format!("/api/v1/jobs/{}", submitted["id"].as_str().unwrap());
    let cookie = sign_in(&j, VIEWER).await;
    for viewer in [&[("authorization", "Bearer viewers-token")][..], &[("cookie", cookie.as_str()), SAME_ORIGIN]] {
        let (_, session, _) = send(&j, Method::GET, SESSION, viewer, None).await;
        assert_eq!((&session["role"], &session["hides_data"]), (&json!("viewer"), &json!(false)));
        let (status, job, _) = send(&j, Method::GET, &format!("{path}?wait=20"), viewer, None).await;
        assert_eq!((status, &job["arguments"], &job["data"]), (200, &json!(["seen"]), &json!({"seen": true})), "{job}");
        for path in ["/api/v1/jobs", "/api/v1/queue", "/api/v1/schedules", "/jobs", "/stats"] {
            assert!(send(&j, Method::GET, path, viewer, None).await.0 < 300, "{path}");
        }
        for (method, path) in [
            (Method::POST, "/api/v1/jobs"),
            (Method::POST, "/jobs"),
            (Method::POST, "/api/v1/queue:pause"),
            (Method::POST, "/api/v1/jobs:retry"),
            (Method::DELETE, path.as_str()),
        ] {
            let (status, answer, _) = send(&j, method, path, viewer, body.clone()).await;
            assert_eq!(status, 403, "{path}: {answer}");
            assert!(path == "/jobs" || answer["code"] == "read_only", "{path}: {answer}");
        }
        let text = Some(json!({"text": "No space left on device"}));
        assert_eq!(send(&j, Method::POST, "/api/v1/categories:test", viewer, text).await.0, 200, "a mere trial");
    }
    let (_, queue, _) = send(&j, Method::GET, "/api/v1/queue", &operator, None).await;
    assert_eq!((&queue["paused"], &queue["completed"]), (&json!(false), &json!(1)), "{queue}");
}

#[tokio::test]
async fn viewers_need_not_be_shown_what_jobs_are_given_and_write() {
    let j = guarded(Jobber::dev()).env("JOBBER_VIEW_HIDES_DATA", "true").start().await;
    j.job("plain", "#!/bin/sh\necho hidden-output\necho hidden-output >&2\n");
    let operator = [("authorization", "Bearer operators-token")];
    let job = json!({"name": "plain", "arguments": ["hidden-argument"], "data": "hidden-data"});
    let (_, submitted, _) = send(&j, Method::POST, "/api/v1/jobs", &operator, Some(job.clone())).await;
    let path = format!("/api/v1/jobs/{}", submitted["id"].as_str().unwrap());
    let schedule = json!({"id": "s", "cron": "0 3 * * *", "job": job});
    assert_eq!(send(&j, Method::POST, "/api/v1/schedules", &operator, Some(schedule)).await.0, 201);
    let waiting = format!("{path}?wait=20");
    let (_, whole, _) = send(&j, Method::GET, &waiting, &operator, None).await;
    assert_eq!(whole["data"], "hidden-data");
    assert!(whole.to_string().contains("hidden-output"), "{whole}");
    let viewer = [("authorization", "Bearer viewers-token")];
    let (_, session, _) = send(&j, Method::GET, SESSION, &viewer, None).await;
    assert_eq!(session["hides_data"], true);
    let (status, shown, _) = send(&j, Method::GET, &waiting, &viewer, None).await;
    assert_eq!(
        (status, &shown["state"], &shown["attempts"][0]["report"]["outcome"]),
        (200, &whole["state"], &whole["attempts"][0]["report"]["outcome"])
    );
    for field in ["arguments", "data", "result"] {
        assert!(shown.get(field).is_none(), "{field}: {shown}");
    }
    for path in [waiting.as_str(), "/api/v1/jobs", "/api/v1/schedules", "/api/v1/schedules/s", "/jobs", "/stats"] {
        let (status, answer, _) = send(&j, Method::GET, path, &viewer, None).await;
        assert!(status < 300 && !answer.to_string().contains("hidden-"), "{path}: {answer}");
    }
    let (status, answer, _) = send(&j, Method::GET, &format!("{path}/logs"), &viewer, None).await;
    assert_eq!((status, &answer["code"]), (403, &json!("hidden")));
    let token = ["--token", VIEWER];
    let id = submitted["id"].as_str().unwrap();
    let seen = j.cli(&[&token[..], &["show", id]].concat()).await;
    assert!(seen.code == 0 && !seen.stdout.contains("hidden-"), "{seen:?}");
    assert_eq!(j.cli(&[&token[..], &["cancel", id]].concat()).await.code, 4, "not allowed");
}

#[tokio::test]
async fn without_a_token_every_caller_is_an_operator() {
    let j = Jobber::serve().start().await;
    let (_, session, _) = send(&j, Method::GET, SESSION, &[], None).await;
    assert_eq!((&session["role"], &session["signed_in_by"]), (&json!("operator"), &json!("open")));
    let body = Some(json!({"token": "what-ever-it-is"}));
    let (status, session, cookie) = send(&j, Method::POST, SESSION, &[SAME_ORIGIN], body).await;
    assert_eq!((status, &session["role"], cookie), (200, &json!("operator"), None));
}
