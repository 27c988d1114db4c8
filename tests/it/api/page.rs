//! The page's files, as a browser asks for them.

use reqwest::header::HeaderMap;

use crate::harness::Jobber;

async fn get(j: &Jobber, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = headers.iter().fold(http.get(j.url(path)), |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, String::from_utf8_lossy(&response.bytes().await.unwrap()).into_owned())
}

#[tokio::test]
async fn the_page_needs_no_token_and_allows_a_browser_only_itself() {
    let j = Jobber::serve().env("JOBBER_TOKEN", "a-token-of-some-length").start().await;
    let (status, headers, index) = get(&j, "/ui/", &[]).await;
    assert_eq!(status, 200);
    assert!(index.contains("<title>Jobber"), "{index}");
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        ),
    ] {
        assert_eq!(headers[name], value);
    }
    for path in ["/ui/jobs/01a2", "/ui/absent.js", "/ui/..%2f..%2fetc/passwd", "/ui/jobs/a%20b?state=failed"] {
        let (status, headers, text) = get(&j, path, &[]).await;
        assert_eq!(
            (status, &headers["content-type"], text == index),
            (200, &"text/html; charset=utf-8".parse().unwrap(), true),
            "{path}"
        );
    }
    assert_eq!(get(&j, "/ui/app.js", &[]).await.1["content-type"], "text/javascript; charset=utf-8");
    for path in ["/ui", "/"] {
        let (status, headers, _) = get(&j, path, &[("accept", "text/html,*/*;q=0.8")]).await;
        assert!(status == 307 || status == 308, "{path}: {status}");
        assert_eq!(headers["location"], "/ui/");
    }
    let (status, headers, _) = get(&j, "/", &[]).await;
    assert_eq!((status, &headers["content-type"]), (404, &"application/problem+json".parse().unwrap()));
    let foreign = [("host", "evil.example")];
    assert_eq!(get(&j, "/ui/", &foreign).await.0, 421, "a name that was made to point here");
}

#[tokio::test]
async fn a_file_is_sent_once_and_packed_where_that_is_understood() {
    let j = Jobber::serve().start().await;
    let (_, plain, text) = get(&j, "/ui/", &[]).await;
    let (_, packed, bytes) = get(&j, "/ui/", &[("accept-encoding", "gzip, br")]).await;
    assert!(!plain.contains_key("content-encoding") && packed["content-encoding"] == "gzip");
    assert!(bytes.len() < text.len() * 2 && bytes != text);
    assert_ne!(plain["etag"], packed["etag"], "a strong validator names the bytes that are sent");
    for (headers, coding) in [(&plain, "identity"), (&packed, "gzip")] {
        let tag = headers["etag"].to_str().unwrap();
        let (status, again, body) = get(&j, "/ui/", &[("if-none-match", tag), ("accept-encoding", coding)]).await;
        assert_eq!((status, body.as_str(), &again["etag"]), (304, "", &headers["etag"]));
        assert!(again.contains_key("content-security-policy"));
    }
    assert_eq!(get(&j, "/ui/", &[("if-none-match", "\"other\"")]).await.0, 200);
}

#[tokio::test]
async fn in_development_the_files_come_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let ui = dir.path().join("ui");
    std::fs::create_dir_all(ui.join("lib")).unwrap();
    std::fs::write(dir.path().join("secret.js"), "hidden").unwrap();
    std::fs::write(ui.join("index.html"), "first").unwrap();
    std::fs::write(ui.join("lib/new.css"), "b {}").unwrap();
    let j = Jobber::serve().env("JOBBER_UI_DIR", ui.to_str().unwrap()).start().await;
    assert_eq!(get(&j, "/ui/", &[]).await.2, "first");
    std::fs::write(ui.join("index.html"), "second").unwrap();
    let (_, headers, text) = get(&j, "/ui/jobs", &[]).await;
    assert_eq!((text.as_str(), &headers["content-type"]), ("second", &"text/html; charset=utf-8".parse().unwrap()));
    let (_, headers, text) = get(&j, "/ui/lib/new.css", &[]).await;
    assert_eq!((text.as_str(), &headers["content-type"]), ("b {}", &"text/css; charset=utf-8".parse().unwrap()));
    for path in ["/ui/..%2fsecret.js", "/ui/lib/..%2f..%2fsecret.js", "/ui//etc/passwd"] {
        assert_eq!(get(&j, path, &[]).await.2, "second", "{path}");
    }
}
