//! What a client's errors mean to people, and whether another try is worth it.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::types::config::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::RedisErrorKind;

/// Beginnings and parts of a server's answers, what they mean, and the fix.
const KNOWN: &[(&str, RedisErrorKind, &str)] = &[
    ("WRONGPASS", RedisErrorKind::Refused, "check the user and the password in its URL"),
    ("NOAUTH", RedisErrorKind::Refused, "it wants a password: redis://:PASSWORD@host"),
    ("Client sent AUTH, but no password is set", RedisErrorKind::Refused, "take the password out of its URL"),
    ("without any password configured", RedisErrorKind::Refused, "take the password out of its URL"),
    ("NOPERM", RedisErrorKind::Refused, "give this user the commands and keys that jobber needs"),
    ("DB index is out of range", RedisErrorKind::Refused, "choose a database number that the server has"),
    ("cluster support disabled", RedisErrorKind::Refused, "it is no cluster: write redis:// in its URL"),
    ("InvalidContentType", RedisErrorKind::Refused, "it does not speak TLS: write redis:// (without an s) in its URL"),
    ("certificate", RedisErrorKind::Refused, "name a file with the authority that signed its certificate"),
    ("OOM command not allowed", RedisErrorKind::Full, "raise its maxmemory"),
    ("MISCONF", RedisErrorKind::Full, "it can't write to its disk; make room there"),
    ("READONLY", RedisErrorKind::Unavailable, "it is a replica"),
];

fn known(error: &Error) -> Option<&'static (&'static str, RedisErrorKind, &'static str)> {
    KNOWN.iter().find(|(part, ..)| error.details().contains(part))
}

pub(super) fn kind(error: &Error) -> RedisErrorKind {
    if let Some((_, kind, _)) = known(error) {
        return *kind;
    }
    match error.kind() {
        ErrorKind::Auth | ErrorKind::Config | ErrorKind::Url => RedisErrorKind::Refused,
        _ => RedisErrorKind::Unavailable,
    }
}

pub(super) fn hint(error: &Error) -> String {
    known(error).map(|(.., fix)| format!("; {fix}")).unwrap_or_default()
}

/// The error's text. A server that does not know a command repeats its arguments, which may be a password.
pub(super) fn details(error: &Error) -> &str {
    let text = error.details();
    text.split_once("with args beginning with").map_or(text, |(before, _)| before.trim_end_matches([' ', ',']))
}

/// True when one of the servers takes a TLS greeting for one. A server that expects TLS closes a plain connection
/// without a word, as one does that is just going down.
pub(super) async fn wants_tls(servers: &[Server]) -> bool {
    for server in servers {
        let asked = tokio::time::timeout(Duration::from_millis(500), answers_tls(&server.host, server.port));
        if asked.await.ok().flatten() == Some(true) {
            return true;
        }
    }
    false
}

async fn answers_tls(host: &str, port: u16) -> Option<bool> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = host.to_owned().try_into().ok()?;
    let mut greeting = Cursor::new(Vec::new());
    rustls::ClientConnection::new(Arc::new(config), name).ok()?.write_tls(&mut greeting).ok()?;
    let mut stream = TcpStream::connect((host, port)).await.ok()?;
    stream.write_all(greeting.get_ref()).await.ok()?;
    // A record of TLS begins with its type: 21 is an alert, 22 a handshake.
    Some(matches!(stream.read_u8().await.ok()?, 21 | 22))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_the_server_repeats_is_cut_off() {
        let said = "ERR unknown command 'AUTH', with args beginning with: 'hunter2' ";
        let error = Error::new(ErrorKind::Unknown, said);
        assert_eq!(details(&error), "ERR unknown command 'AUTH'");
    }

    #[test]
    fn only_what_a_person_must_change_is_refused() {
        let kind = |kind, text: &'static str| super::kind(&Error::new(kind, text));
        assert_eq!(kind(ErrorKind::IO, "Connection refused"), RedisErrorKind::Unavailable);
        assert_eq!(kind(ErrorKind::Timeout, "Request timed out."), RedisErrorKind::Unavailable);
        assert_eq!(kind(ErrorKind::Unknown, "LOADING the dataset"), RedisErrorKind::Unavailable);
        assert_eq!(kind(ErrorKind::Unknown, "ERR DB index is out of range"), RedisErrorKind::Refused);
        assert_eq!(kind(ErrorKind::Auth, "whatever"), RedisErrorKind::Refused);
        assert_eq!(kind(ErrorKind::Unknown, "OOM command not allowed when"), RedisErrorKind::Full);
    }
}
