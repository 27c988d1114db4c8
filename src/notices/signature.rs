//! The signature by which a receiver knows that a notice is from Jobber, and how old it is.

use aws_lc_rs::hmac;

/// The value of `Jobber-Signature` for a body that is sent at `seconds` since 1970: `t=SECONDS,v1=HEX`, where the second is
/// HMAC-SHA256 of `SECONDS.BODY` under the secret.
pub fn sign(secret: &str, seconds: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    let digits: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `hmac` and `openssl dgst -sha256 -hmac` say of the same text.
    #[test]
    fn a_signature_is_that_of_other_programs() {
        let signed = sign("s3cret", 1_700_000_000, br#"{"event":"failed"}"#);
        assert_eq!(signed, "t=1700000000,v1=dc16f864a1ed730fdc85552ba2deb93ed4eb00c605b74907d4bc0c9a756c0748");
        assert_ne!(signed, sign("s3cret", 1_700_000_001, br#"{"event":"failed"}"#));
        assert_ne!(signed, sign("other", 1_700_000_000, br#"{"event":"failed"}"#));
    }
}
