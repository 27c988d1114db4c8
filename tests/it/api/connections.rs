//! Connections that do nothing, bodies that never end, and hosts that nobody is.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Jobber, PATIENCE};

async fn connect(j: &Jobber) -> TcpStream {
    TcpStream::connect(j.base().trim_start_matches("http://")).await.unwrap()
}

/// The status of the answer to these bytes, and all of it.
async fn answer(j: &Jobber, request: &str) -> (u16, String) {
    let mut connection = connect(j).await;
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.windows(4).any(|w| w == b"\r\n\r\n") {
        if tokio::time::timeout(PATIENCE, connection.read_buf(&mut text)).await.unwrap().unwrap() == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), text)
}

#[tokio::test]
async fn hosts_that_nobody_is_are_refused() {
    let j = Jobber::serve().start().await;
    for (host, status) in [
        ("Host: localhost\r\n", 200),
        ("Host: [::1]:3000\r\n", 200),
        ("Host: 127.0.0.1:9\r\n", 200),
        ("", 400),
        ("Host:\r\n", 400),
        ("Host: localhost\r\nHost: localhost\r\n", 400),
        ("Host: localhost\r\nHost: evil.example\r\n", 400),
        ("Host: [::1].evil.example\r\n", 400),
        ("Host: localhost:evil.example\r\n", 400),
        ("Host: localhost:80:80\r\n", 400),
        ("Host: user@localhost\r\n", 400),
        ("Host: [::1%lo]\r\n", 400),
        ("Host: localhost.\r\n", 421),
        ("Host: 127.0.0.1.evil\r\n", 421),
        ("Host: evil.example\r\n", 421),
    ] {
        for path in ["/healthz", "/api/v1/queue"] {
            let (got, text) = answer(&j, &format!("GET {path} HTTP/1.1\r\n{host}\r\n")).await;
            assert_eq!(got, status, "{host:?}: {text}");
        }
    }
    for (target, host, status) in [
        ("http://localhost/healthz", "localhost", 200),
        ("http://evil.example/healthz", "localhost", 400),
        ("http://localhost/healthz", "evil.example", 400),
        ("http://evil.example/healthz", "evil.example", 421),
        ("http://user@localhost/healthz", "localhost", 400),
    ] {
        let (got, text) = answer(&j, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(got, status, "{target}, {host}: {text}");
    }
}

#[tokio::test]
async fn idle_connections_make_room_and_probes_always_have_some() {
    let j = Jobber::serve().env("JOBBER_MAX_CONNECTIONS", "8").env("JOBBER_IDLE_TIMEOUT", "1h").start().await;
    let probe = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut idle = Vec::new();
    for n in 0..20 {
        let mut connection = connect(&j).await;
        // Half of a head holds no place either.
        connection.write_all(if n % 2 == 0 { b"" } else { b"GET /heal" }).await.unwrap();
        idle.push(connection);
    }
    assert_eq!(answer(&j, probe).await.0, 200);
    let mut gone = Vec::new();
    assert_eq!(tokio::time::timeout(PATIENCE, idle[0].read_to_end(&mut gone)).await.unwrap().unwrap_or(0), 0);
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut connection = connect(&j).await;
        connection.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        tokio::time::timeout(PATIENCE, connection.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        streams.push(connection);
    }
    assert_eq!(answer(&j, probe).await.0, 200);
    let (status, text) = answer(&j, "GET /api/v1/queue HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(status, 503, "{text}");
    assert!(
        text.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n") && text.contains("too_many_connections"),
        "{text}"
    );
    drop(streams.pop());
    crate::harness::eventually("a place that was freed", async || {
        let (status, _) = answer(&j, "GET /api/v1/queue HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let j = Jobber::serve().env("JOBBER_IDLE_TIMEOUT", "1s").start().await;
    let mut connection = connect(&j).await;
    let head = "POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let trickle = async {
        loop {
            tokio::select! {
                read = connection.read_buf(&mut text) => {
                    read.unwrap();
                    return;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => connection.write_all(b" ").await.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), trickle).await.expect("a byte now and then keeps a body open");
    assert!(text.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&text));
}
