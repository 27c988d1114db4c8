//! The cookie of a browser that has signed in. It is signed with the token for which it stands, so the server keeps
//! nothing: the cookie holds after a restart and at every server with this token, and a changed token ends it.
//!
//! ```text
//!   jobber_session=operator.1764374400.<HMAC-SHA256 of what comes before, in base64url>
//! ```

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::state::Token;
use crate::domain::Timestamp;

const NAME: &str = "jobber_session";
/// What browsers must keep to: no script reads the cookie, and no page of another site causes it to be sent.
const RULES: &str = "HttpOnly; SameSite=Strict; Path=/";

/// The value of `Set-Cookie` for a browser that has shown `token`, whose holders are called `role`, until `expires_at`.
/// With `secure` the browser sends it over TLS only.
pub(super) fn issue(role: &str, token: &Token, now: Timestamp, expires_at: Timestamp, secure: bool) -> String {
    let claim = format!("{role}.{}", expires_at.as_millis() / 1000);
    let signature = BASE64.encode(hmac::sign(&key(token), signed(&claim).as_bytes()));
    let secure = if secure { "; Secure" } else { "" };
    let lasts = expires_at.since(now).as_secs();
    format!("{NAME}={claim}.{signature}; {RULES}; Max-Age={lasts}{secure}")
}

/// The value of `Set-Cookie` that takes the cookie away.
pub(super) fn clear() -> String {
    format!("{NAME}=; {RULES}; Max-Age=0")
}

/// Finds a cookie that stands for `token`, and says when it ends. `None` when there is none, its time is over, or it was
/// signed with another token.
pub(super) fn find(headers: &HeaderMap, role: &str, token: &Token, now: Timestamp) -> Option<Timestamp> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| pair.trim().split_once('='));
    values.find_map(|(name, value)| if name == NAME { check(value, role, token, now) } else { None })
}

fn check(value: &str, role: &str, token: &Token, now: Timestamp) -> Option<Timestamp> {
    let (claim, signature) = value.rsplit_once('.')?;
    let signature = BASE64.decode(signature).ok()?;
    // Compares in constant time.
    hmac::verify(&key(token), signed(claim).as_bytes(), &signature).ok()?;
    let (of, expires) = claim.split_once('.')?;
    let expires_at = Timestamp::from_millis(expires.parse::<i64>().ok()?.checked_mul(1000)?);
    (of == role && now < expires_at).then_some(expires_at)
}

/// What is signed: the claim, told from all else that may ever be signed with a token.
fn signed(claim: &str) -> String {
    format!("jobber session 1: {claim}")
}

fn key(token: &Token) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, token.key())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn found(cookie: &str, token: &str, role: &str, after: Duration) -> Option<Timestamp> {
        let headers = HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
        find(&headers, role, &Token::from(token.to_owned()), Timestamp::EPOCH + after)
    }

    #[test]
    fn a_cookie_holds_for_its_time_its_token_and_its_role() {
        let hour = Duration::from_secs(3600);
        let token = Token::from("first-token".to_owned());
        let set = issue("viewer", &token, Timestamp::EPOCH, Timestamp::EPOCH + hour, true);
        assert!(set.ends_with("; HttpOnly; SameSite=Strict; Path=/; Max-Age=3600; Secure"), "{set}");
        let pair = set.split(';').next().unwrap();
        let at_once = |cookie: &str, token, role| found(cookie, token, role, Duration::ZERO);
        assert_eq!(at_once(pair, "first-token", "viewer"), Some(Timestamp::EPOCH + hour));
        let among = format!("other=1; jobber_session=old; {pair}; jobber_session2=x");
        assert_eq!(at_once(&among, "first-token", "viewer"), Some(Timestamp::EPOCH + hour));
        assert_eq!(found(pair, "first-token", "viewer", hour), None, "its time is over");
        assert_eq!(at_once(pair, "second-token", "viewer"), None, "the token was changed");
        assert_eq!(at_once(pair, "first-token", "operator"), None);
        for forged in
            [pair.replace("viewer", "operator"), pair.replace(".3600.", ".9999."), pair[..pair.len() - 2].into()]
        {
            for role in ["operator", "viewer"] {
                assert_eq!(at_once(&forged, "first-token", role), None, "{forged}");
            }
        }
    }
}
