//! Reads from a request's `Host` header and its target which server the client means.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::{StatusCode, Version, header};

use super::problem::ApiError;

/// A host as a client names it, with the port if it gave one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The host as the client gave it.
    pub(super) text: String,
    /// The host without brackets and port.
    name: String,
}

impl Host {
    /// Reads `name`, `name:port`, `[address]` or `[address]:port`. Any other text is no host.
    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = match text.strip_prefix('[') {
            Some(literal) => {
                let (address, rest) = literal.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                (address, rest)
            }
            None => {
                let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
                if name.is_empty() || !is_plain {
                    return None;
                }
                (name, rest)
            }
        };
        let has_port = match rest.strip_prefix(':') {
            Some(port) => port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok(),
            None => rest.is_empty(),
        };
        has_port.then(|| Self { text: text.to_owned(), name: name.to_owned() })
    }

    /// The host that a request names, if the listener answers to it. One that only this machine can reach (`loopback`)
    /// answers to the names of the loopback and to `allowed`: so no page can reach it under a name of its own.
    ///
    /// # Errors
    /// 400 as for [`Host::of`], 421 when the listener does not answer to that host.
    pub(super) fn admit(request: &Request, loopback: bool, allowed: &[String]) -> Result<Option<Self>, ApiError> {
        let host = Self::of(request)?;
        if !loopback || host.as_ref().is_some_and(|host| host.is_local(allowed)) {
            return Ok(host);
        }
        let named = host.map_or("nothing".to_owned(), |host| format!("{:?}", host.text));
        let detail = format!(
            "this server is addressed as localhost, not as {named}; add the name to serve.allowed_hosts if it is yours"
        );
        Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", detail))
    }

    /// Finds the host that a request names.
    ///
    /// # Errors
    /// 400 when the request names none, more than one, or a text that is no host. A request of
    /// HTTP/1.0 need not name one.
    fn of(request: &Request) -> Result<Option<Self>, ApiError> {
        let invalid = |detail: String| ApiError::bad_request("invalid_host", detail);
        let mut named = request.headers().get_all(header::HOST).iter();
        let header = match (named.next(), named.next()) {
            (Some(value), None) => {
                let host = value.to_str().ok().and_then(Self::parse);
                Some(host.ok_or_else(|| {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    invalid(format!("the Host header {value:?} is no host name or address with at most one port"))
                })?)
            }
            (Some(_), Some(_)) => return Err(invalid("there is more than one Host header".to_owned())),
            (None, _) if request.version() <= Version::HTTP_10 => None,
            (None, _) => return Err(invalid("the Host header is missing".to_owned())),
        };
        let Some(authority) = request.uri().authority() else { return Ok(header) };
        if request.uri().scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
            return Err(invalid("the target is of another scheme than http".to_owned()));
        }
        let target = Self::parse(authority.as_str())
            .ok_or_else(|| invalid("the target names no host that could be meant".to_owned()))?;
        match header {
            // By the protocol the target counts. But a proxy between the client and this server may
            // have looked at the header.
            Some(header) if !header.text.eq_ignore_ascii_case(&target.text) => {
                Err(invalid("the target and the Host header name different hosts".to_owned()))
            }
            _ => Ok(Some(target)),
        }
    }

    /// Whether the host is a name of this machine's loopback, or one of `allowed`. A foreign web
    /// page whose name was made to point here (DNS rebinding) still sends its own name.
    fn is_local(&self, allowed: &[String]) -> bool {
        let is = |other: &str| self.name.eq_ignore_ascii_case(other);
        is("localhost")
            || self.name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
            || allowed.iter().any(|a| is(a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_local(host: &str) -> Option<bool> {
        Host::parse(host).map(|host| host.is_local(&["box".to_owned()]))
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "localhost:3000",
            "LOCALHOST:1",
            "127.0.0.1:3000",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
            "box:3000",
            "Box",
        ] {
            assert_eq!(is_local(host), Some(true), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:3000",
            "10.0.0.1",
            "127.0.0.1.evil.example",
            "127.0.0.1.evil",
            "localhost.",
            "127.1",
            "2130706433",
            "0.0.0.0",
            "[::]",
            "[2001:db8::1]:80",
        ] {
            assert_eq!(is_local(host), Some(false), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_none() {
        for host in [
            "",
            ":80",
            "[::1].evil.example",
            "[::1]evil",
            "localhost:evil.example",
            "localhost:80:80",
            "localhost:",
            "localhost:+80",
            "localhost:65536",
            "user@localhost",
            "user:80@localhost",
            "[::1",
            "::1",
            "[::1%lo]",
            "[localhost]",
            "local host",
            "localhost/",
            "localhost,evil.example",
            "localhost\u{fffd}",
            "[]",
            "localhost#",
            "[::1]:",
            "[v1.x]",
            "%6cocalhost",
        ] {
            assert_eq!(is_local(host), None, "{host}");
        }
    }
}
