//! Tells the service manager that this process is ready, lives and stops, in datagrams (systemd's
//! `sd_notify` protocol). Without a manager that asked for them, nothing here has any effect.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// How long a message may wait for a manager that is too busy to read.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells the service manager how this process is. Clones share the socket. The default has no
/// manager and sends nothing.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    manager: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    address: SocketAddr,
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads what the environment asks for: `NOTIFY_SOCKET` (a path, or `@name` for an abstract
    /// socket), `WATCHDOG_USEC` and `WATCHDOG_PID`. `pid` is that of this process. A socket that
    /// can't be used causes only a warning: the process can do its work without it.
    pub fn from_environment(environment: &BTreeMap<String, String>, pid: u32) -> Self {
        let Some(name) = environment.get("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match open(name) {
            Ok((address, socket)) => {
                let watchdog = watchdog(environment, pid);
                Self { manager: Some(Arc::new(Manager { address, socket, watchdog })) }
            }
            Err(error) => {
                tracing::warn!(socket = name, %error, "NOTIFY_SOCKET can't be used; the service manager is told nothing");
                Self::default()
            }
        }
    }

    /// Whether there is a manager to tell.
    pub fn is_heard(&self) -> bool {
        self.manager.is_some()
    }

    /// How long the manager waits for a sign of life before it kills this process; `None` when it does not watch.
    pub fn watchdog(&self) -> Option<Duration> {
        self.manager.as_ref()?.watchdog
    }

    /// Says that the process does its work from now on. `status` is a short text for people.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// Sends a short text for people.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", line(status)));
    }

    /// Sends a sign of life, which the manager's watchdog waits for.
    pub fn beat(&self) {
        self.send("WATCHDOG=1");
    }

    /// Says that the process has begun to stop. `status` is a short text for people.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", line(status)));
    }

    fn send(&self, message: &str) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.socket.send_to_addr(message.as_bytes(), &manager.address) {
            tracing::warn!(message, %error, "the service manager could not be told");
        }
    }
}

/// Makes one line of a text, because a newline separates the fields of a message.
fn line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn open(name: &str) -> io::Result<(SocketAddr, UnixDatagram)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::Error::other("it must be an absolute path, or a name that begins with @")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((address, socket))
}

/// The time between signs of life that the manager asks this process for.
fn watchdog(environment: &BTreeMap<String, String>, pid: u32) -> Option<Duration> {
    let number = |name: &str| environment.get(name)?.trim().parse::<u64>().ok();
    let for_another = environment.contains_key("WATCHDOG_PID") && number("WATCHDOG_PID") != Some(u64::from(pid));
    let micros = number("WATCHDOG_USEC").filter(|n| *n > 0 && !for_another)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_arrive_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("jobber-notify-{}", uuid::Uuid::new_v4());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}"), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ];
        for (address, socket) in sockets {
            let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", &address)]), 1);
            assert!(notifier.is_heard() && notifier.watchdog().is_none());
            notifier.ready("serving\non port 1");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving on port 1");
            notifier.beat();
            assert_eq!(heard(&socket), "WATCHDOG=1");
            notifier.stopping("draining");
            assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=draining");
        }
    }

    #[test]
    fn a_watchdog_for_another_process_is_not_ours() {
        let asked = |pairs: &[(&str, &str)]| watchdog(&environment(pairs), 7);
        assert_eq!(asked(&[("WATCHDOG_USEC", "3000000")]), Some(Duration::from_secs(3)));
        assert_eq!(asked(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(3)));
        assert_eq!(asked(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "8")]), None);
        assert_eq!(asked(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(asked(&[("WATCHDOG_PID", "7")]), None);
    }

    #[test]
    fn a_socket_that_is_none_silences_and_harms_nobody() {
        for name in ["", "relative", "vsock:2:1", "/no/such/socket"] {
            let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", name)]), 1);
            notifier.ready("x");
            notifier.beat();
        }
        assert!(!Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", "relative")]), 1).is_heard());
    }
}
