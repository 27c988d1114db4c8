//! Finds out with one plain connection, made by hand, why the bucket can't be used.
//!
//! The SDK tries for ever, whatever the reason: a server that is not there, a wrong password and a bucket that does not
//! exist all look like slowness. So a session begins with a connection that says hello, authenticates, selects the
//! bucket and asks for the collections, with the parts of `couchbase-core` that speak the protocol; each refusal is an
//! answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use couchbase_core::address::Address;
use couchbase_core::memdx::auth_mechanism::AuthMechanism;
use couchbase_core::memdx::client::Client;
use couchbase_core::memdx::connection::{ConnectOptions, ConnectionType, TcpConnection, TlsConnection};
use couchbase_core::memdx::dispatcher::{Dispatcher, DispatcherOptions};
use couchbase_core::memdx::error::{Error, ErrorKind, ServerErrorKind};
use couchbase_core::memdx::hello_feature::HelloFeature;
use couchbase_core::memdx::op_auth_saslauto::{Credentials, SASLAuthAutoOptions};
use couchbase_core::memdx::op_bootstrap::{BootstrapOptions, OpBootstrap, OpBootstrapEncoder};
use couchbase_core::memdx::ops_core::OpsCore;
use couchbase_core::memdx::ops_util::OpsUtil;
use couchbase_core::memdx::request::{GetCollectionIdRequest, HelloRequest, SelectBucketRequest};
use couchbase_core::memdx::status::Status;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use super::CouchbaseSettings;
use super::documents::Room;
use crate::store::{StoreError, StoreErrorKind};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the probe has found out about the bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Whether the server knows collections at all.
    pub(super) knows_collections: bool,
    /// The collections that exist.
    pub(super) present: Vec<Room>,
}

/// Asks the first server that answers.
///
/// # Errors
/// `Rejected` when another try would change nothing: the user, the password, the bucket, or the
/// certificates are wrong. `Unavailable` otherwise.
pub(super) async fn probe(settings: &CouchbaseSettings) -> Result<Facts, StoreError> {
    let unreadable = |e: couchbase_connstr::error::Error| {
        let message = format!("{} is no address of Couchbase: {e}", settings.connection);
        StoreError::new(StoreErrorKind::Rejected, message)
    };
    let address = couchbase_connstr::parse(&settings.connection).map_err(unreadable)?;
    let resolving = tokio::time::timeout(PATIENCE, couchbase_connstr::resolve(address, None));
    let servers = match resolving.await {
        Ok(resolved) => resolved.map_err(unreadable)?.memd_hosts,
        Err(e) => return Err(unavailable(format!("the name in {} can't be resolved", settings.connection), e)),
    };
    let mut last = StoreError::new(StoreErrorKind::Rejected, format!("{} names no server", settings.connection));
    for server in servers {
        let place = format!("{}:{}", server.host, server.port);
        let asked = ask(settings, Address { host: server.host, port: server.port }, &place);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(facts)) => return Ok(facts),
            Ok(Err(e)) if e.kind == StoreErrorKind::Rejected => return Err(e),
            Ok(Err(e)) => last = e,
            Err(e) => last = unavailable(format!("Couchbase at {place} does not answer"), e),
        }
    }
    Err(last)
}

async fn ask(settings: &CouchbaseSettings, address: Address, place: &str) -> Result<Facts, StoreError> {
    let deadline = Instant::now() + PATIENCE;
    let options = ConnectOptions { deadline, tcp_keep_alive_time: Duration::from_secs(60) };
    let unreachable = |e: Error| match untrusted(&e) {
        Some(why) => rejected(format!("the certificate of Couchbase at {place} is not trusted; set store.tls_ca"), why),
        None => unavailable(format!("Couchbase can't be reached at {place}"), e),
    };
    let connection = match &settings.ca_file {
        None => ConnectionType::Tcp(TcpConnection::connect(address, options).await.map_err(unreachable)?),
        Some(file) => {
            let trust = trusting(file)?;
            ConnectionType::Tls(TlsConnection::connect(address, trust, options).await.map_err(unreachable)?)
        }
    };
    let (closed, _) = tokio::sync::oneshot::channel();
    let client = Client::new(
        connection,
        DispatcherOptions {
            unsolicited_packet_handler: Arc::new(|_| Box::pin(async {})),
            orphan_handler: None,
            on_read_close_tx: closed,
            disable_decompression: false,
            id: "probe".to_owned(),
        },
    );
    let facts = interview(settings, &client, deadline, place).await;
    let _ = client.close().await;
    facts
}

async fn interview(
    settings: &CouchbaseSettings,
    client: &Client,
    deadline: Instant,
    place: &str,
) -> Result<Facts, StoreError> {
    let features = vec![HelloFeature::Xerror, HelloFeature::SelectBucket, HelloFeature::Collections];
    // As the SDK does: without TLS the client proves the password and never sends it.
    let mechanisms = if settings.is_tls() {
        vec![AuthMechanism::Plain]
    } else {
        vec![AuthMechanism::ScramSha512, AuthMechanism::ScramSha256, AuthMechanism::ScramSha1]
    };
    let greeting = BootstrapOptions {
        hello: Some(HelloRequest::new(b"jobber".to_vec(), features)),
        get_error_map: None,
        auth: Some(SASLAuthAutoOptions {
            credentials: Credentials::UserPass {
                username: settings.username.clone(),
                password: settings.password.reveal().to_owned(),
            },
            enabled_mechs: mechanisms,
        }),
        select_bucket: None,
        deadline,
        get_cluster_config: None,
    };
    let greeted = OpBootstrap::bootstrap(OpsCore {}, client, greeting).await.map_err(|e| {
        let user = &settings.username;
        if is_refusal(&e) {
            rejected(format!("Couchbase at {place} refuses user {user:?} with this password; set store.url"), e)
        } else {
            unavailable(format!("Couchbase at {place} can't be asked"), e)
        }
    })?;
    let bucket = &settings.bucket;
    let selected =
        async { OpsCore {}.select_bucket(client, SelectBucketRequest::new(bucket.clone())).await?.recv().await };
    selected.await.map_err(|e| {
        if e.is_server_error_kind(ServerErrorKind::UnknownBucketName) || is_refusal(&e) {
            let user = &settings.username;
            let hint = "make it, or give the user a role on it, or set store.url";
            rejected(format!("Couchbase has no bucket {bucket:?}, or user {user:?} may not use it; {hint}"), e)
        } else {
            unavailable(format!("bucket {bucket:?} can't be used yet"), e)
        }
    })?;
    let features = greeted.hello.map(|hello| hello.enabled_features).unwrap_or_default();
    let mut facts = Facts { knows_collections: features.contains(&HelloFeature::Collections), present: Vec::new() };
    if facts.knows_collections {
        for room in Room::ALL {
            let wanted = GetCollectionIdRequest::new(&settings.scope, room.name());
            let found = async { OpsUtil {}.get_collection_id(client, wanted).await?.recv().await };
            if found.await.is_ok() {
                facts.present.push(room);
            }
        }
    }
    Ok(facts)
}

/// Whether the server has understood the request and refused it.
fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Server(e) => matches!(e.status(), Status::AuthError | Status::AccessError | Status::KeyNotFound),
        // The server could not prove that it knows the password, or offers no way to prove it.
        ErrorKind::Protocol { .. } | ErrorKind::Message(_) => true,
        _ => false,
    }
}

/// The reason why TLS did not trust the server, if that is what went wrong.
fn untrusted(error: &Error) -> Option<rustls::Error> {
    let io = std::error::Error::source(error)?.downcast_ref::<std::io::Error>()?;
    let why = io.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(why, rustls::Error::InvalidCertificate(_)).then(|| why.clone())
}

fn trusting(file: &Path) -> Result<Arc<rustls::ClientConfig>, StoreError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| rejected(format!("{} holds no certificate", file.display()), e))?;
    }
    Ok(Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// The certificates in a PEM file.
pub(super) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let what = || format!("store.tls_ca: {} can't be used", file.display());
    let pem = fs_err::read(file).map_err(|e| rejected(what(), e))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|e| rejected(what(), e))?;
    if found.is_empty() {
        return Err(StoreError::new(StoreErrorKind::Rejected, format!("{}: it holds no PEM certificate", what())));
    }
    Ok(found)
}

fn rejected(message: String, cause: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::new(StoreErrorKind::Rejected, message).caused_by(cause)
}

fn unavailable(message: String, cause: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, message).caused_by(cause)
}
