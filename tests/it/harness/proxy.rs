//! A network between a process and a server that can be cut: nothing is forwarded any more, nobody is told; or that takes
//! its time.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards connections to a port of this machine while it is not cut.
pub struct Proxy {
    port: u16,
    open: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn before(server: u16) -> Self {
        Self::slow(server, Duration::ZERO).await
    }

    /// Takes so long each way, whatever is sent.
    pub async fn slow(server: u16, each_way: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, is_open.clone(), each_way));
            }
        });
        Self { port, open, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops forwarding. Connections stay, as over a wire that was pulled out.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Goes on where it had stopped.
    pub fn restore(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(client: TcpStream, server: u16, mut open: watch::Receiver<bool>, each_way: Duration) {
    if open.wait_for(|open| *open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = copy(from_client, to_server, open.clone(), each_way) => {}
        () = copy(from_server, to_client, open, each_way) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>, each_way: Duration) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep(each_way).await;
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
