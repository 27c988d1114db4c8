//! Ports and connections: bound for the life of the double, listened on while it is reachable.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cluster::Ports;
use super::connection;
use super::faults::Service;
use super::http;
use super::{Options, Shared};
use crate::harness::certificates::make_certificates;

/// Where a connection leads.
#[derive(Debug, Clone, Copy)]
struct Door {
    node: usize,
    service: Service,
    tls: bool,
    port: u16,
}

/// The ports of a double. Each is held by a socket that is bound but never listens: so nobody else gets it while the
/// double is away, and who connects then is refused.
pub struct Bound {
    doors: Vec<Door>,
    _held: Vec<OwnedFd>,
    nodes: usize,
}

impl Bound {
    /// The ports by node, as the cluster tells of them.
    pub fn ports(&self) -> Vec<Ports> {
        let mut nodes = vec![Ports::default(); self.nodes];
        for door in &self.doors {
            let ports = &mut nodes[door.node];
            let port = match (door.service, door.tls) {
                (Service::KeyValue, false) => &mut ports.kv,
                (Service::KeyValue, true) => &mut ports.kv_tls,
                (Service::Management, false) => &mut ports.management,
                (Service::Management, true) => &mut ports.management_tls,
                (Service::Query, false) => &mut ports.query,
                (Service::Query, true) => &mut ports.query_tls,
                (Service::Search, false) => &mut ports.search,
                (Service::Search, true) => &mut ports.search_tls,
            };
            *port = door.port;
        }
        nodes
    }
}

/// Takes the ports.
pub fn bind(options: &Options) -> Bound {
    let mut doors = Vec::new();
    let mut held = Vec::new();
    for node in 0..options.nodes {
        let mut services = vec![Service::KeyValue, Service::Management];
        services.extend((node == 0 && options.query).then_some(Service::Query));
        services.extend((node == 0 && options.search).then_some(Service::Search));
        for service in services {
            for tls in if options.tls { &[false, true][..] } else { &[false] } {
                let (socket, port) = hold();
                doors.push(Door { node, service, tls: *tls, port });
                held.push(socket);
            }
        }
    }
    Bound { doors, _held: held, nodes: options.nodes }
}

/// A socket on a free port, which it keeps without listening.
fn hold() -> (OwnedFd, u16) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    (socket, address.port())
}

/// A directory with the authority's and the double's certificates.
pub fn certificates() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("jobber-couchbase-").tempdir().unwrap();
    make_certificates(dir.path(), "couchbase");
    dir
}

/// What the TLS listeners show.
pub fn tls(dir: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(dir.join("couchbase.crt")).unwrap().collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_file(dir.join("couchbase.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.unwrap(), key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Listens whenever it is wanted, until it is stopped.
pub async fn run(
    shared: Arc<Shared>,
    bound: Bound,
    tls: Option<TlsAcceptor>,
    mut wanted: watch::Receiver<bool>,
    now: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let until = async |wanted: &mut watch::Receiver<bool>, value| {
        tokio::select! {
            () = stop.cancelled() => false,
            turned = wanted.wait_for(|now| *now == value) => turned.is_ok(),
        }
    };
    while until(&mut wanted, true).await {
        let cut = stop.child_token();
        let tasks = TaskTracker::new();
        for door in &bound.doors {
            let listener = listen(door.port);
            let accept = accept(Arc::clone(&shared), *door, listener, tls.clone(), cut.clone(), tasks.clone());
            tasks.spawn(accept);
        }
        now.send_replace(true);
        until(&mut wanted, false).await;
        cut.cancel();
        tasks.close();
        tasks.wait().await;
        now.send_replace(false);
    }
}

fn listen(port: u16) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, port).into()).unwrap();
    socket.listen(1024).unwrap()
}

async fn accept(
    shared: Arc<Shared>,
    door: Door,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    cut: CancellationToken,
    tasks: TaskTracker,
) {
    let tls = tls.filter(|_| door.tls);
    while let Some(accepted) = cut.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        let (shared, tls, cut) = (Arc::clone(&shared), tls.clone(), cut.clone());
        tasks.spawn(async move {
            // How a connection ends is the client's affair; the double goes on.
            cut.run_until_cancelled(serve(shared, door, stream, tls)).await;
        });
    }
}

async fn serve(shared: Arc<Shared>, door: Door, stream: TcpStream, tls: Option<TlsAcceptor>) {
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else { return open(shared, door, stream).await };
    if let Ok(stream) = tls.accept(stream).await {
        open(shared, door, stream).await;
    }
}

async fn open<S>(shared: Arc<Shared>, door: Door, stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    match door.service {
        Service::KeyValue => drop(connection::serve(shared, door.node, door.tls, stream).await),
        service => http::serve(shared, service, door.node, stream).await,
    }
}
