//! What errors of both clients mean to people, and whether another try is worth it.

use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{RedisErrorKind, RedisHost};

/// Beginnings and parts of a server's answers, what they mean, and the fix.
const KNOWN: &[(&str, RedisErrorKind, &str)] = &[
    ("WRONGPASS", RedisErrorKind::Refused, "check the user and the password in its URL"),
    ("NOAUTH", RedisErrorKind::Refused, "it wants a password: redis://:PASSWORD@host"),
    ("NOPERM", RedisErrorKind::Refused, "give this user the commands and keys that jobber needs"),
    ("DB index is out of range", RedisErrorKind::Refused, "choose a database number that the server has"),
    ("cluster support disabled", RedisErrorKind::Refused, "it is no cluster: write redis:// in its URL"),
    ("InvalidContentType", RedisErrorKind::Refused, "it does not speak TLS: write redis:// (without an s) in its URL"),
    ("UnknownIssuer", RedisErrorKind::Refused, "name a file with the authority that signed its certificate"),
    ("InvalidCertificate", RedisErrorKind::Refused, "its certificate must be valid now, and for the host in its URL"),
    ("OOM command not allowed", RedisErrorKind::Full, "raise its maxmemory"),
    ("MISCONF", RedisErrorKind::Full, "it can't write to its disk; make room there"),
    ("READONLY", RedisErrorKind::Unavailable, "it is a replica"),
];

/// The kind of an error with this text, or `otherwise` if the text is not known, and the text for people.
pub(crate) fn meaning(text: &str, otherwise: RedisErrorKind) -> (RedisErrorKind, String) {
    match KNOWN.iter().find(|(part, ..)| text.contains(part)) {
        Some((_, kind, fix)) => (*kind, format!("{}; {fix}", without_arguments(text))),
        None => (otherwise, without_arguments(text).to_owned()),
    }
}

/// The kind of an error of `fred` whose text is not known.
pub(super) fn kind(error: &Error) -> RedisErrorKind {
    match error.kind() {
        ErrorKind::Auth | ErrorKind::Config | ErrorKind::Url => RedisErrorKind::Refused,
        _ => RedisErrorKind::Unavailable,
    }
}

/// A server that does not know a command repeats its arguments, which may be a password.
fn without_arguments(text: &str) -> &str {
    text.split_once("with args beginning with").map_or(text, |(before, _)| before.trim_end_matches([' ', ',']))
}

/// What is wrong with the URL's scheme, if a server answers only with TLS where the URL says plain,
/// or the other way round. The client can't tell: such a server closes the connection or waits on,
/// as one does that is just going down.
pub(super) async fn wrong_scheme(servers: &[RedisHost], uses_tls: bool) -> Option<&'static str> {
    let (greeting, answers, what): (_, &[u8], _) = if uses_tls {
        (b"PING\r\n".to_vec(), b"+-", "does not speak TLS; write redis:// (without an s) in its URL")
    } else {
        // A record of TLS begins with its type: 21 is an alert, 22 a handshake.
        (tls_greeting()?, &[21, 22], "speaks TLS only; write rediss:// (with an s) in its URL")
    };
    for server in servers {
        let asked = tokio::time::timeout(Duration::from_millis(500), first_byte(server, &greeting));
        if let Ok(Ok(byte)) = asked.await
            && answers.contains(&byte)
        {
            return Some(what);
        }
    }
    None
}

fn tls_greeting() -> Option<Vec<u8>> {
    let config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = "localhost".try_into().ok()?;
    let mut greeting = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).ok()?.write_tls(&mut greeting).ok()?;
    Some(greeting)
}

async fn first_byte(server: &RedisHost, greeting: &[u8]) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect((server.name.as_str(), server.port)).await?;
    stream.write_all(greeting).await?;
    stream.read_u8().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_the_server_repeats_is_cut_off() {
        let said = "ERR unknown command 'AUTH', with args beginning with: 'hunter2' ";
        let (kind, text) = meaning(said, RedisErrorKind::Unavailable);
        assert_eq!((kind, text.as_str()), (RedisErrorKind::Unavailable, "ERR unknown command 'AUTH'"));
    }

    #[test]
    fn only_what_a_person_must_change_is_refused() {
        let kind = |kind, text: &'static str| meaning(text, super::kind(&Error::new(kind, text))).0;
        assert_eq!(kind(ErrorKind::IO, "Connection refused"), RedisErrorKind::Unavailable);
        assert_eq!(kind(ErrorKind::Timeout, "Request timed out."), RedisErrorKind::Unavailable);
        assert_eq!(kind(ErrorKind::Unknown, "LOADING the dataset"), RedisErrorKind::Unavailable);
        assert_eq!(kind(ErrorKind::Unknown, "ERR DB index is out of range"), RedisErrorKind::Refused);
        assert_eq!(kind(ErrorKind::Auth, "whatever"), RedisErrorKind::Refused);
        assert_eq!(kind(ErrorKind::Unknown, "OOM command not allowed when"), RedisErrorKind::Full);
    }
}
