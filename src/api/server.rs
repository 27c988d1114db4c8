//! Serves the connections of a listener, and ends in good order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection_limit::{ConnectionLimit, ConnectionPermit, OnlyProbes};
use super::handshake;
use super::metrics::{self, WorkerMetricsSettings};
use super::overview::make_overviews;
use super::router;
use super::state::Api;
use super::timeouts::{AnswerBody, Watch, Watched};
use crate::background::{BackgroundLoop, NextRun, Period};
use crate::tls::Certificate;

/// Serves the API on a bound listener until `stop`. Then it takes no new connection, ends streams
/// and long polls, lets requests finish for `grace`, and cuts off the rest.
///
/// # Errors
/// When the listener has no address, which means that it does not listen.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken, grace: Duration) -> io::Result<()> {
    let loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let api = Arc::new(api);
    let tails = api.clone();
    api.tasks.spawn(async move { tails.feed.follow_log(&*tails.source, &tails.stopping).await });
    let tails = api.clone();
    api.tasks.spawn(async move { tails.feed.follow_history(&*tails.history, &tails.stopping).await });
    let counts = api.clone();
    api.tasks
        .spawn(async move { counts.throughput.follow_log(&*counts.source, &counts.clock, &counts.stopping).await });
    let looks = api.clone();
    api.tasks.spawn(async move { make_overviews(&looks).await });
    let certificate = api.settings.certificate.clone();
    if let Some(certificate) = certificate.clone() {
        let stopping = api.stopping.clone();
        api.tasks.spawn(async move { renew(&certificate, &stopping).await });
    }
    let tails = api.clone();
    api.tasks.spawn(async move { metrics::keep_snapshot(&tails, &tails.stopping).await });
    let server = Server {
        certificate,
        router: router(api.clone(), loopback),
        idle: api.settings.idle_timeout,
        head: api.settings.header_timeout,
        stop: stop.clone(),
        kill: CancellationToken::new(),
        connections: TaskTracker::new(),
    };
    let _killed_with_us = server.kill.clone().drop_guard();
    server.accept(listener, api.settings.max_connections).await;
    api.stopping.cancel();
    server.connections.close();
    api.tasks.close();
    let finished = async {
        server.connections.wait().await;
        api.tasks.wait().await;
    };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!(connections = server.connections.len(), "requests did not finish in time and are cut off");
        server.kill.cancel();
        server.connections.wait().await;
    }
    Ok(())
}

/// Uses the certificate that is in the files, whenever they have changed, until `stop`.
async fn renew(certificate: &Certificate, stop: &CancellationToken) {
    const LOOK: BackgroundLoop = BackgroundLoop::new("certificate", Period::Pause(Duration::from_secs(2))).warn(
        "the new certificate can't be used; the one read before stays in use",
        "the certificate can be used again",
    );
    let look = async || {
        if certificate.read_again()? {
            tracing::info!("a new certificate is in use");
        }
        Ok(NextRun::InTurn)
    };
    let mut turns = LOOK.start(stop);
    while turns.run(look()).await {}
}

/// Serves the metrics of a worker on a bound listener until `stop`. Scrapes that are under way get a moment to finish.
///
/// # Errors
/// When the listener has no address, which means that it does not listen.
pub async fn serve_worker_metrics(
    listener: TcpListener,
    settings: WorkerMetricsSettings,
    stop: CancellationToken,
) -> io::Result<()> {
    const MOST: usize = 64;
    const IDLE: Duration = Duration::from_secs(60);
    const HEAD: Duration = Duration::from_secs(10);
    const GRACE: Duration = Duration::from_secs(2);
    let loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let server = Server {
        router: metrics::router(settings, loopback),
        idle: IDLE,
        head: HEAD,
        certificate: None,
        stop,
        kill: CancellationToken::new(),
        connections: TaskTracker::new(),
    };
    let _killed_with_us = server.kill.clone().drop_guard();
    server.accept(listener, MOST).await;
    server.connections.close();
    let _ = tokio::time::timeout(GRACE, server.connections.wait()).await;
    Ok(())
}

struct Server {
    certificate: Option<Arc<Certificate>>,
    router: Router,
    idle: Duration,
    head: Duration,
    stop: CancellationToken,
    kill: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    /// Takes connections until `stop`, and closes the listener. Beyond `most` connections, the
    /// longest idle one loses its place.
    async fn accept(&self, listener: TcpListener, most: usize) {
        let limit = ConnectionLimit::new(most);
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let watch = Watch::new(self.idle, self.head);
                    let permit = tokio::select! {
                        () = self.stop.cancelled() => return,
                        permit = limit.acquire(&watch) => permit,
                    };
                    self.connections.spawn(self.connection(stream, watch, permit));
                }
                Err(error) => {
                    // Mostly the process is out of descriptors. A pause gives others time to close some.
                    tracing::warn!(%error, "could not take a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Answers the requests of one connection.
    fn connection(
        &self,
        stream: TcpStream,
        watch: Watch,
        permit: ConnectionPermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (stop, kill) = (self.stop.clone(), self.kill.clone());
        let (certificate, head) = (self.certificate.clone(), self.head);
        let only_probes = permit.only_probes;
        set_options(&stream, self.idle);
        let (router, requests) = (self.router.clone(), watch.clone());
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let busy = requests.request();
            let mut request = request.map(Body::new);
            if only_probes {
                request.extensions_mut().insert(OnlyProbes);
            }
            let answer = router.clone().oneshot(request);
            async move { answer.await.map(|response| response.map(|body| AnswerBody { body, _busy: busy })) }
        });
        async move {
            let opened = tokio::select! {
                opened = handshake::open(stream, certificate.as_deref(), head) => opened,
                () = stop.cancelled() => return,
                () = permit.evicted.cancelled() => return,
                () = kill.cancelled() => return,
            };
            let stream = match opened {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection was not opened");
                    return;
                }
            };
            // The timer of the HTTP library would count the wait between two requests as a slow head.
            let io = TokioIo::new(Watched::new(stream, watch.clone()));
            let connection = http1::Builder::new().header_read_timeout(None).serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            let mut expired = std::pin::pin!(watch.expired());
            let mut stopping = false;
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a connection broke");
                        }
                        return;
                    }
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = expired.as_mut() => return,
                    () = permit.evicted.cancelled() => return,
                    () = kill.cancelled() => return,
                }
            }
        }
    }
}

/// Best effort: without these options the connection works, but answers are late and dead clients stay longer.
fn set_options(stream: &TcpStream, idle: Duration) {
    let _ = stream.set_nodelay(true);
    // A client that reads nothing any more, or has vanished silently, loses its place.
    let unacknowledged = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, unacknowledged);
}
