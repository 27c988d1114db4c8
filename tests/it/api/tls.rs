//! The server with a certificate of its own: HTTPS for browsers and for `jobber`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::certificates::{make_certificates, make_certificates_for_days};
use crate::harness::{Jobber, Place, Start, eventually, run};

/// The paths of a new authority, certificate and key.
fn certificates(place: &Place, folder: &str) -> [PathBuf; 3] {
    let dir = place.path().join(folder);
    std::fs::create_dir(&dir).unwrap();
    make_certificates(&dir, "server");
    ["ca.crt", "server.crt", "server.key"].map(|name| dir.join(name))
}

fn with_tls(start: Start, certificate: &Path, key: &Path) -> Start {
    start.env("JOBBER_TLS_CERT", certificate.to_str().unwrap()).env("JOBBER_TLS_KEY", key.to_str().unwrap())
}

/// A browser that trusts this authority and no other.
fn browser(authority: &Path) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority).unwrap()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap()
}

#[tokio::test]
async fn the_page_and_the_commands_speak_https() {
    let place = Place::new();
    let [authority, certificate, key] = certificates(&place, "first");
    let start = with_tls(Jobber::dev().at(&place), &certificate, &key).env("JOBBER_TOKEN", "operators-token");
    let j = start.start().await;
    j.job("plain", "#!/bin/sh\necho said\n");
    assert!(j.base().starts_with("https://127.0.0.1:"), "{}", j.base());
    let http = browser(&authority);
    let page = http.get(j.url("/ui/")).send().await.unwrap();
    assert!(page.status() == 200 && page.text().await.unwrap().contains("<title>Jobber"));
    let sign_in = http.post(j.url("/api/v1/session")).header("sec-fetch-site", "same-origin");
    let answer = sign_in.json(&json!({"token": "operators-token"})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    let address = j.base().to_owned();
    let ca = authority.to_str().unwrap();
    let vars = [("JOBBER_SERVER", address.as_str()), ("JOBBER_TOKEN", "operators-token"), ("JOBBER_CA", ca)];
    let ran = run(&["run", "plain"], &vars, place.path(), "").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "said\n"), "{}", ran.stderr);
    let refused = run(&["queue", "status"], &vars[..2], place.path(), "").await;
    assert!(refused.code != 0, "an authority that no one named is not trusted");
    assert!(refused.stderr.contains("--ca"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_client_without_tls_is_told_so_and_a_silent_one_loses_its_place() {
    let place = Place::new();
    let [authority, certificate, key] = certificates(&place, "first");
    let start = with_tls(Jobber::serve().at(&place), &certificate, &key).env("JOBBER_HEADER_TIMEOUT", "3s");
    let j = start.start().await;
    let address = j.base().trim_start_matches("https://").to_owned();
    let mut silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    let plain = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("http://{address}/")).send();
    let plain = plain.await.unwrap();
    assert_eq!(plain.status(), 400);
    assert!(plain.text().await.unwrap().contains("https://"));
    let ends = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut [0])).await;
    assert_eq!(ends.expect("the handshake has its time").unwrap_or(0), 0);
    let mut garbled = tokio::net::TcpStream::connect(&address).await.unwrap();
    garbled.write_all(&[0x16, 3, 1, 0, 2, 9, 9]).await.unwrap();
    assert_eq!(browser(&authority).get(j.url("/healthz")).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_renewed_certificate_is_read_and_a_broken_one_is_not() {
    let place = Place::new();
    let [old_authority, certificate, key] = certificates(&place, "first");
    let [new_authority, new_certificate, new_key] = certificates(&place, "second");
    let j = with_tls(Jobber::serve().at(&place), &certificate, &key).start().await;
    let answers = async |authority: &Path| browser(authority).get(j.url("/healthz")).send().await.is_ok();
    assert!(answers(&old_authority).await && !answers(&new_authority).await);
    std::fs::write(&key, "broken").unwrap();
    eventually("the warning", async || j.log().contains("serve.tls_key").then_some(())).await;
    assert!(answers(&old_authority).await, "what was read before stays in use");
    std::fs::copy(&new_certificate, &certificate).unwrap();
    std::fs::copy(&new_key, &key).unwrap();
    eventually("the new certificate", async || answers(&new_authority).await.then_some(())).await;
    assert!(!answers(&old_authority).await);
}

#[tokio::test]
async fn what_can_not_be_used_is_said_before_the_start_and_by_the_doctor() {
    let place = Place::new();
    let [_, certificate, _] = certificates(&place, "first");
    let [_, _, other_key] = certificates(&place, "second");
    let (certificate, other_key) = (certificate.to_str().unwrap(), other_key.to_str().unwrap());
    for (vars, says) in [
        (vec![("JOBBER_TLS_CERT", certificate)], "serve.tls_key"),
        (vec![("JOBBER_TLS_CERT", "absent.crt"), ("JOBBER_TLS_KEY", other_key)], "absent.crt"),
        (vec![("JOBBER_TLS_CERT", certificate), ("JOBBER_TLS_KEY", other_key)], "made together"),
    ] {
        let started = run(&["serve", "--listen", "127.0.0.1:0"], &vars, place.path(), "").await;
        assert!(started.code == 1 && started.stderr.contains(says), "{says}: {}", started.stderr);
        let examined = run(&["doctor", "-o", "json"], &vars, place.path(), "").await;
        let report: Value = serde_json::from_str(&examined.stdout).unwrap();
        assert!(examined.code == 1 && report.to_string().contains(says), "{says}: {report}");
    }
}

#[tokio::test]
async fn the_doctor_tells_when_a_certificate_ends() {
    let place = Place::new();
    for (days, status, says) in [(-1, "failed", "has expired"), (2, "warning", "two weeks"), (90, "ok", "is valid")] {
        let name = format!("server{days}");
        make_certificates_for_days(place.path(), &name, days);
        let [certificate, key] = ["crt", "key"].map(|kind| place.path().join(format!("{name}.{kind}")));
        let vars = [
            ("JOBBER_TLS_CERT", certificate.to_str().unwrap()),
            ("JOBBER_TLS_KEY", key.to_str().unwrap()),
            ("JOBBER_JOBS_DIR", "jobs"),
        ];
        let examined = run(&["doctor", "-o", "json"], &vars, place.path(), "").await;
        let report: Value = serde_json::from_str(&examined.stdout).unwrap();
        let finding = report["findings"].as_array().unwrap().iter().find(|f| f["check"] == "certificate").unwrap();
        assert_eq!(finding["status"], status, "{finding}");
        assert!(finding["found"].as_str().unwrap().contains(says), "{finding}");
    }
}
