//! Sends a notice to an HTTP server.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};

use super::Sent;
use super::notice::Notice;
use super::signature::sign;
use super::target::{Method, WebhookTarget};
use crate::domain::{Clock, retry_after};
use crate::logging::chain;

/// How long a connection may take, at most.
const CONNECT: Duration = Duration::from_secs(5);
/// How much of an answer is passed on, in bytes.
const LONGEST_ANSWER: usize = 300;

/// A target that is an HTTP server.
pub struct Webhook {
    http: reqwest::Client,
    url: Url,
    target: WebhookTarget,
    clock: Clock,
}

impl Webhook {
    /// A client for this target. Nothing is sent here. A try takes at most `timeout`.
    ///
    /// # Errors
    /// When the address can't be used, or the system's certificates can't be read.
    pub fn new(target: WebhookTarget, timeout: Duration, clock: Clock) -> Result<Self, String> {
        let url = Url::parse(&target.url).map_err(|e| format!("its address can't be read: {e}"))?;
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("jobber/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(timeout))
            .timeout(timeout)
            // A redirect would carry the token, and what the notice says, elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        if url.scheme() == "http" {
            // Without this the system's certificates are loaded all the same, and their absence is an error.
            let none = rustls::RootCertStore::empty();
            http = http.tls_backend_preconfigured(
                rustls::ClientConfig::builder().with_root_certificates(none).with_no_client_auth(),
            );
        }
        let http = http.build().map_err(|e| format!("no HTTP client can be made: {}", chain(&e)))?;
        Ok(Self { http, url, target, clock })
    }

    /// Tries once to deliver the notice.
    pub(super) async fn send(&self, notice: &Notice) -> Sent {
        let (body, content_type) = match &self.target.template {
            Some(template) => (template.render(notice), template.content_type().to_owned()),
            None => {
                let body = serde_json::to_vec(notice).expect("a notice has only strings for keys");
                (body, "application/json".to_owned())
            }
        };
        let seconds = self.clock.now().as_millis() / 1000;
        let mut request = match self.target.method {
            Method::Post => self.http.post(self.url.clone()),
            Method::PutUnderId => self.http.put(under(&self.url, &notice.id)),
        };
        request = request
            .header(CONTENT_TYPE, content_type)
            .header("Jobber-Event", notice.event.as_str())
            .header("Jobber-Delivery", &notice.id)
            .header("Jobber-Timestamp", seconds);
        if let Some(secret) = &self.target.secret {
            request = request.header("Jobber-Signature", sign(secret.reveal(), seconds, &body));
        }
        if let Some(token) = &self.target.token {
            match HeaderValue::from_str(&format!("Bearer {}", token.reveal())) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    request = request.header(AUTHORIZATION, value);
                }
                Err(_) => return Sent::Refused { problem: "its token has characters that no header has".to_owned() },
            }
        }
        match request.body(body).send().await {
            Ok(response) => self.judge(response).await,
            Err(error) => Sent::Later { problem: chain(&error.without_url()), after: None },
        }
    }

    async fn judge(&self, mut response: reqwest::Response) -> Sent {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|text| retry_after(text, self.clock.now()));
        let mut body = Vec::new();
        // What the answer says is for people. That it could not be read to its end changes nothing.
        while body.len() < LONGEST_ANSWER
            && let Ok(Some(piece)) = response.chunk().await
        {
            body.extend_from_slice(&piece);
        }
        body.truncate(LONGEST_ANSWER);
        let said = String::from_utf8_lossy(&body);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let answer = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
        let passes = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
        if status.is_success() {
            Sent::Delivered { answer }
        } else if passes {
            Sent::Later { problem: answer, after }
        } else if status.is_redirection() {
            Sent::Refused { problem: format!("{answer} (redirects are not followed)") }
        } else {
            Sent::Refused { problem: answer }
        }
    }
}

/// The address with a further segment of its path.
fn under(url: &Url, segment: &str) -> Url {
    let mut url = url.clone();
    url.set_path(&format!("{}/{segment}", url.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_further_segment_of_the_path() {
        let url =
            Url::parse("https://m.example/_matrix/client/v3/rooms/!a:m.example/send/m.room.message/?x=1").unwrap();
        assert_eq!(
            under(&url, "0a1b").as_str(),
            "https://m.example/_matrix/client/v3/rooms/!a:m.example/send/m.room.message/0a1b?x=1"
        );
    }
}
