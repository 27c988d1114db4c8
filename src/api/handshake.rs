//! Opens a connection: with a certificate by the handshake of TLS, without one as it is.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::tls::Certificate;

/// A connection on which HTTP is spoken, encrypted or not.
pub(super) trait HttpStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> HttpStream for S {}

/// What a client hears that speaks HTTP without TLS.
const NO_TLS: &str = "this address speaks HTTPS: write https:// in front of it\n";

/// Opens a connection within `limit`.
///
/// # Errors
/// When the client breaks off, does not begin in time, or does not speak TLS though it should.
pub(super) async fn open(
    stream: TcpStream,
    certificate: Option<&Certificate>,
    limit: Duration,
) -> io::Result<Box<dyn HttpStream>> {
    let Some(certificate) = certificate else { return Ok(Box::new(stream)) };
    let shaking_hands = async {
        let mut first = [0];
        stream.peek(&mut first).await?;
        // The first byte of a handshake is no letter, and that of a method is one.
        if first[0].is_ascii_alphabetic() {
            return Err(refuse(stream).await);
        }
        let encrypted = TlsAcceptor::from(certificate.config()).accept(stream).await?;
        Ok(Box::new(encrypted) as Box<dyn HttpStream>)
    };
    tokio::time::timeout(limit, shaking_hands).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Tells a client that speaks HTTP without TLS what to do.
async fn refuse(mut stream: TcpStream) -> io::Error {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{NO_TLS}",
        NO_TLS.len()
    );
    // The kernel resets a connection that is closed on unread data, and the answer would be lost.
    let mut head = [0; 4096];
    let _ = stream.try_read(&mut head);
    match stream.write_all(answer.as_bytes()).await {
        Ok(()) => {
            let _ = stream.shutdown().await;
            io::Error::other("the client does not speak TLS")
        }
        Err(error) => error,
    }
}
