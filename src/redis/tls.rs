//! The authorities whose certificates a Redis client trusts: those of a file, or this system's.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{RedisError, RedisErrorKind, RedisSettings};

/// The authorities to trust, in the form that each client wants. There is at least one.
#[derive(Debug, Clone)]
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    roots: rustls::RootCertStore,
}

impl Authorities {
    /// Those that the settings name; `None` without TLS.
    ///
    /// # Errors
    /// `Refused`: when a file is named but no TLS, and when there is no certificate to be read.
    pub(crate) fn of(settings: &RedisSettings) -> Result<Option<Self>, RedisError> {
        match (settings.url.uses_tls, &settings.ca_file) {
            (true, Some(file)) => Self::of_file(file).map(Some),
            (true, None) => Self::of_this_system().map(Some),
            (false, Some(_)) => {
                Err(refused("redis has a file of authorities but no TLS; write rediss:// in its URL".to_owned()))
            }
            (false, None) => Ok(None),
        }
    }

    fn of_file(file: &Path) -> Result<Self, RedisError> {
        let unreadable =
            |why: String| refused(format!("the authorities for redis in {} can't be read: {why}", file.display()));
        let pem = fs_err::read(file).map_err(|e| unreadable(e.to_string()))?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates.map_err(|e| unreadable(e.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|e| unreadable(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("there is no certificate in PEM".to_owned()));
        }
        Ok(Self { certificates, roots })
    }

    fn of_this_system() -> Result<Self, RedisError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = rustls::RootCertStore::empty();
        // A system may have a certificate that this library does not understand, besides those that matter.
        let is_understood = |certificate: &CertificateDer<'static>| roots.add(certificate.clone()).is_ok();
        let certificates: Vec<_> = found.certs.into_iter().filter(is_understood).collect();
        if certificates.is_empty() {
            let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
            return Err(refused(format!(
                "this system's certificate authorities can't be read ({why}); install ca-certificates, or name a file \
                 of authorities for redis"
            )));
        }
        Ok(Self { certificates, roots })
    }

    /// For a client that takes a set-up of rustls.
    pub(crate) fn client_config(&self) -> rustls::ClientConfig {
        rustls::ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth()
    }

    /// For a client that takes a text in PEM.
    pub(crate) fn pem(&self) -> Vec<u8> {
        let mut pem = String::new();
        for certificate in &self.certificates {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = BASE64.encode(certificate);
            for line in text.as_bytes().chunks(64) {
                pem.extend(line.iter().map(|byte| char::from(*byte)));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem.into_bytes()
    }
}

fn refused(message: String) -> RedisError {
    RedisError { kind: RedisErrorKind::Refused, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_must_hold_some_and_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        let with = |url: &str| {
            let settings = RedisSettings { url: url.parse().unwrap(), ca_file: Some(file.clone()) };
            Authorities::of(&settings).unwrap_err()
        };
        assert!(with("rediss://h").to_string().contains("ca.crt"));
        fs_err::write(&file, "nothing").unwrap();
        assert!(with("rediss://h").to_string().contains("no certificate"));
        assert!(with("redis://h").to_string().contains("rediss://"));
        let plain = RedisSettings { url: "redis://h".parse().unwrap(), ca_file: None };
        assert!(Authorities::of(&plain).unwrap().is_none());
    }

    #[test]
    fn both_forms_hold_the_same_certificates() {
        let certificates = vec![CertificateDer::from(vec![0; 100]), CertificateDer::from(vec![255; 48])];
        let authorities = Authorities { certificates: certificates.clone(), roots: rustls::RootCertStore::empty() };
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&authorities.pem()).collect();
        assert_eq!(read.unwrap(), certificates);
    }
}
