//! The certificate of the server: readable, with its key, and in time.

use super::Finding;
use crate::config::Config;
use crate::domain::Clock;
use crate::tls::{Certificate, Validity};

/// Judges the certificate. `None` without one.
pub(super) fn check(config: &Config, clock: &Clock) -> Option<Finding> {
    const CHECK: &str = "certificate";
    let files = config.serve.tls.as_ref()?;
    let shown = files.certificate.display();
    let renew = "renew it; a running server reads it by itself";
    Some(match Certificate::read(files.clone()).map(|certificate| certificate.validity(clock.now())) {
        Err(error) => Finding::failed(CHECK, error.to_string(), "correct serve.tls_cert and serve.tls_key"),
        Ok(Validity::Expired) => Finding::failed(CHECK, format!("{shown} has expired"), renew),
        Ok(Validity::NotYet) => {
            Finding::failed(CHECK, format!("{shown} is not valid yet"), "check the clock, or make it anew")
        }
        Ok(Validity::EndsSoon) => Finding::warning(CHECK, format!("{shown} ends within two weeks"), renew),
        Ok(Validity::Valid) => Finding::ok(CHECK, format!("{shown} is valid")),
    })
}
