//! The URL of a Couchbase bucket, taken apart and checked.

use percent_encoding::percent_decode_str;

use crate::domain::Secret;
use crate::domain::secret::has_bare_percent;

/// What `store.url` may be, as errors tell people.
pub(super) const ALLOWED: &str = "embedded, or couchbase:// or couchbases:// with user:password@host/bucket";

/// A bucket, its servers, and the credentials for it.
#[derive(Debug, Clone)]
pub struct CouchbaseUrl {
    /// Whether the connection is encrypted, as with `couchbases://`.
    pub tls: bool,
    /// One or more servers, with or without port, separated by commas.
    pub hosts: String,
    /// The user name for the bucket.
    pub username: String,
    /// The password of that user.
    pub password: Secret,
    /// The name of the bucket.
    pub bucket: String,
}

impl CouchbaseUrl {
    /// Reads `couchbase://user:password@host[:port][,host]/bucket`. Special characters are written as `%XX`.
    ///
    /// # Errors
    /// What is allowed. It never repeats the URL, which holds the password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if has_bare_percent(text) {
            return Err(format!("{ALLOWED}; a % in user or password is written %25, as it begins a %XX"));
        }
        Self::read(text).ok_or_else(|| ALLOWED.to_owned())
    }

    fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "couchbase" => false,
            "couchbases" => true,
            _ => return None,
        };
        // Splits at the last '@', so that a password with an '@' in it is not taken for a host.
        let (credentials, place) = rest.rsplit_once('@')?;
        let (username, password) = credentials.split_once(':')?;
        let (hosts, bucket) = place.split_once('/')?;
        let decoded = |part: &str| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned());
        let url = Self {
            tls,
            hosts: hosts.to_owned(),
            username: decoded(username)?,
            password: Secret::new(decoded(password)?),
            bucket: decoded(bucket)?,
        };
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || "_-.%".contains(c);
        let is_host = |c: char| !c.is_whitespace() && !"/?#@".contains(c);
        let ok = !url.username.is_empty()
            && !url.bucket.is_empty()
            && url.bucket.len() <= 100
            && url.bucket.chars().all(is_bucket)
            && url.hosts.split(',').all(|host| !host.is_empty() && host.chars().all(is_host));
        ok.then_some(url)
    }

    /// The servers as a connection string: without user, password and bucket.
    pub fn connection(&self) -> String {
        format!("couchbase{}://{}", if self.tls { "s" } else { "" }, self.hosts)
    }
}

/// Builds the URL from the variables of the original program. `host` may be a host or a connection string.
pub(super) fn of_variables(host: &str, username: &str, password: &str, bucket: &str) -> String {
    let (scheme, hosts) = host.split_once("://").unwrap_or(("couchbase", host));
    let hosts = hosts.trim_end_matches('/');
    format!("{scheme}://{}:{}@{hosts}/{}", encoded(username), encoded(password), bucket)
}

/// Encodes a text for a URL.
pub(super) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let url = CouchbaseUrl::parse("couchbases://jo%40x:p%2Fw@a.example:11207,b.example/jobs").unwrap();
        assert_eq!((url.tls, url.hosts.as_str(), url.bucket.as_str()), (true, "a.example:11207,b.example", "jobs"));
        assert_eq!((url.username.as_str(), url.password.reveal()), ("jo@x", "p/w"));
        assert_eq!(url.connection(), "couchbases://a.example:11207,b.example");
    }

    #[test]
    fn what_misses_a_part_is_refused_without_saying_the_password() {
        for text in [
            "couchbase://host/bucket",
            "couchbase://user@host/bucket",
            "couchbase://user:secret@host",
            "couchbase://user:secret@host/",
            "couchbase://user:secret@/bucket",
            "couchbase://user:secret@host/two/parts",
            "couchbase://:secret@host/bucket",
            "http://user:secret@host/bucket",
            "host",
        ] {
            let error = CouchbaseUrl::parse(text).unwrap_err();
            assert!(error.contains("couchbases://") && !error.contains("secret@"), "{text}: {error}");
        }
    }

    /// Without the check the server would see another password, and would refuse it as wrong.
    #[test]
    fn a_password_that_was_not_encoded_is_refused_with_the_reason() {
        for password in ["p%w", "%", "a%2", "%zz"] {
            let error = CouchbaseUrl::parse(&format!("couchbase://user:{password}@host/bucket")).unwrap_err();
            assert!(error.contains("%25") && !error.contains(&format!(":{password}@")), "{error}");
        }
        let url = CouchbaseUrl::parse("couchbase://user:a\"b\\c d+e&f#g?h/i:j@k%25@host/bucket").unwrap();
        assert_eq!(url.password.reveal(), "a\"b\\c d+e&f#g?h/i:j@k%");
    }

    #[test]
    fn the_originals_variables_make_a_url() {
        for (host, connection) in [
            ("db.example", "couchbase://db.example"),
            ("couchbases://cb.example", "couchbases://cb.example"),
            ("couchbase://10.0.0.1:11210/", "couchbase://10.0.0.1:11210"),
        ] {
            let url = CouchbaseUrl::parse(&of_variables(host, "Admin", "p@ss:w/rd%", "jobs")).unwrap();
            assert_eq!(url.connection(), connection);
            assert_eq!((url.username.as_str(), url.password.reveal()), ("Admin", "p@ss:w/rd%"));
        }
    }
}
