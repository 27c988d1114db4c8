//! The targets of notices, as the configuration names them.

use std::path::PathBuf;
use std::time::Duration;

use super::filter::NoticeFilter;
use super::notice::NoticeEvent;
use super::template::Template;
use crate::domain::Secret;

/// Where notices go, which, and how.
#[derive(Debug, Clone)]
pub struct NoticeTarget {
    /// Its name, unique among all.
    pub name: String,
    /// What it is told of.
    pub on: Vec<NoticeEvent>,
    /// Of these, which.
    pub filter: NoticeFilter,
    /// Where they go.
    pub destination: Destination,
    /// How long one try may take.
    pub timeout: Duration,
    /// For how long a notice is tried again before it becomes a dead letter.
    pub give_up_after: Duration,
    /// How many notices wait at most: what comes then becomes a dead letter at once.
    pub queue_limit: u64,
    /// How many dead letters are kept at most, the last ones.
    pub dead_limit: u64,
}

/// Where notices go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// An HTTP server.
    Webhook(WebhookTarget),
    /// A program on this machine, run as jobs are.
    Command(CommandTarget),
}

/// An HTTP server that takes notices.
#[derive(Debug, Clone)]
pub struct WebhookTarget {
    /// Its address.
    pub url: String,
    /// How it is asked.
    pub method: Method,
    /// The secret with which requests are signed.
    pub secret: Option<Secret>,
    /// What stands in `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// What is sent in place of the notice's own JSON.
    pub template: Option<Template>,
}

/// How an HTTP server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// POST to the address.
    Post,
    /// PUT to the address, with the notice's id as a further segment of its path: Matrix takes it for the transaction's
    /// id, and sends no message twice.
    PutUnderId,
}

/// A program that takes notices on its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTarget {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its memory limit in bytes.
    pub memory_bytes: u64,
}

impl Destination {
    /// Where notices go, for people: without what may be secret in an address.
    pub fn shown(&self) -> String {
        match self {
            Destination::Webhook(webhook) => {
                let address = webhook.url.split(['?', '#']).next().unwrap_or_default();
                let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                // Slack and others put a secret into the path.
                let path = if path.is_empty() { "" } else { "/..." };
                format!("{scheme}://{host}{path}")
            }
            Destination::Command(command) => command.program.display().to_string(),
        }
    }
}

/// Checks the address of a webhook.
///
/// # Errors
/// What is allowed, for people.
pub fn check_url(text: &str) -> Result<String, String> {
    let allowed = || "an address that begins with http:// or https:// and names a host".to_owned();
    let url = reqwest::Url::parse(text).map_err(|_| allowed())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(allowed());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address without user and password: put a token into token_file".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_an_address_is_not_shown() {
        let shown = |url: &str| {
            let (method, url) = (Method::Post, url.to_owned());
            Destination::Webhook(WebhookTarget { url, method, secret: None, token: None, template: None }).shown()
        };
        assert_eq!(shown("https://hooks.example/services/T0/B0/secret?x=y"), "https://hooks.example/...");
        assert_eq!(shown("http://127.0.0.1:9000"), "http://127.0.0.1:9000");
        assert_eq!(shown("http://127.0.0.1:9000/?token=a"), "http://127.0.0.1:9000");
    }

    #[test]
    fn an_address_names_a_host_and_no_user() {
        for good in ["http://127.0.0.1:9000/hook", "https://[::1]/", "https://hooks.example/a?b=c"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["", "hooks.example", "ftp://a/", "http://", "http://u:p@a/", "http://u@a/", "http://a:99999/"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
