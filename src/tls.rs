//! The certificate by which the server shows that it is the right one: read from two files, and anew when they change.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore, ServerConfig};

use crate::domain::Timestamp;

/// Where a certificate and its key are, each in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's certificate, then those of the authorities between it and a well-known one.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// Why a certificate can't be used. The message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertificateUnusable(String);

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Now, and for two weeks at least.
    Valid,
    /// Now, but it ends within two weeks.
    EndsSoon,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYet,
}

/// A certificate with its key, as they are in their files.
pub struct Certificate {
    files: CertificateFiles,
    used: RwLock<Used>,
}

/// What was read last and can be used.
struct Used {
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// When a file can't be read or holds no such thing, and when the key is of another certificate.
    pub fn read(files: CertificateFiles) -> Result<Self, CertificateUnusable> {
        let (certificate_pem, key_pem) = contents(&files)?;
        let used = RwLock::new(use_pem(&files, certificate_pem, key_pem)?);
        Ok(Self { files, used })
    }

    /// Reads the files again if they have changed, and says whether they had.
    ///
    /// # Errors
    /// When what they hold now can't be used. Then what was read before stays in use.
    pub fn read_again(&self) -> Result<bool, CertificateUnusable> {
        let (certificate_pem, key_pem) = contents(&self.files)?;
        let is_same = |used: &Used| used.certificate_pem == certificate_pem && used.key_pem == key_pem;
        if is_same(&self.used.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(false);
        }
        let new = use_pem(&self.files, certificate_pem, key_pem)?;
        *self.used.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// What a handshake needs.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.used.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// When the certificate holds, seen from `now`.
    pub fn validity(&self, now: Timestamp) -> Validity {
        const SOON: Duration = Duration::from_secs(14 * 86_400);
        let used = self.used.read().unwrap_or_else(PoisonError::into_inner);
        match (fault_of_time(&used.chain[0], now), fault_of_time(&used.chain[0], now + SOON)) {
            (Some(fault), _) => fault,
            (None, Some(Validity::Expired)) => Validity::EndsSoon,
            (None, _) => Validity::Valid,
        }
    }
}

fn contents(files: &CertificateFiles) -> Result<(Vec<u8>, Vec<u8>), CertificateUnusable> {
    let read =
        |setting: &str, path: &PathBuf| fs_err::read(path).map_err(|e| CertificateUnusable(format!("{setting}: {e}")));
    Ok((read("serve.tls_cert", &files.certificate)?, read("serve.tls_key", &files.key)?))
}

fn use_pem(files: &CertificateFiles, certificate_pem: Vec<u8>, key_pem: Vec<u8>) -> Result<Used, CertificateUnusable> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let wrong_certificate =
        |why: &str| CertificateUnusable(format!("serve.tls_cert: {certificate} holds no certificate in PEM{why}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate_pem).collect();
    let chain = chain.map_err(|e| wrong_certificate(&format!(": {e}")))?;
    if chain.is_empty() {
        return Err(wrong_certificate(""));
    }
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| {
        CertificateUnusable(format!("serve.tls_key: {key} holds no private key in PEM without a password: {e}"))
    })?;
    let unusable = |error: rustls::Error| {
        CertificateUnusable(match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "serve.tls_key: the key in {key} is not that of the first certificate in {certificate}; give the two \
                 that were made together"
            ),
            error => format!("serve.tls_cert: {certificate} and {key} can't be used: {error}"),
        })
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Used { certificate_pem, key_pem, chain, config: Arc::new(config) })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::aws_lc_rs::default_provider())
}

/// What is wrong with the time of a certificate at `now`. The check of a whole chain looks at that first, so no
/// authority is needed here.
fn fault_of_time(certificate: &CertificateDer<'_>, now: Timestamp) -> Option<Validity> {
    let now = UnixTime::since_unix_epoch(now.since(Timestamp::EPOCH));
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let algorithms = provider().signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], now, algorithms) {
        Err(rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            Some(Validity::Expired)
        }
        Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => Some(Validity::NotYet),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertificateFiles { certificate: dir.path().join("a.crt"), key: dir.path().join("a.key") };
        let error = || Certificate::read(files.clone()).err().unwrap().to_string();
        assert!(error().starts_with("serve.tls_cert: ") && error().contains("a.crt"), "{}", error());
        fs_err::write(&files.certificate, "no certificate").unwrap();
        assert!(error().starts_with("serve.tls_key: ") && error().contains("a.key"), "{}", error());
        fs_err::write(&files.key, "no key").unwrap();
        assert!(error().contains("a.crt holds no certificate in PEM"), "{}", error());
    }
}
