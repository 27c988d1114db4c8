//! What the service manager hears, over a real socket.

use std::os::linux::net::SocketAddrExt;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::net::UnixDatagram;

use crate::harness::{Jobber, PATIENCE, Place, Start, eventually};

/// The manager's end of a socket, and the name under which it is found.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn by_path(place: &Place) -> Self {
        let path = place.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), name: path.to_str().unwrap().to_owned() }
    }

    fn by_abstract_name(place: &Place) -> Self {
        let name = format!("{}/notify", place.path().display());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket: UnixDatagram::from_std(socket).unwrap(), name: format!("@{name}") }
    }

    /// The start of a process that tells this manager, which wants a sign of life twice a second.
    fn watch(&self, start: Start) -> Start {
        start.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", "500000")
    }

    /// The first message that begins so; those before it are passed over, unless they begin with `never`.
    async fn hears(&self, begin: &str, never: &str) -> String {
        loop {
            let mut buffer = [0; 4096];
            let received = tokio::time::timeout(PATIENCE, self.socket.recv(&mut buffer)).await;
            let length = received.unwrap_or_else(|_| panic!("never heard {begin}")).unwrap();
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message.starts_with(begin) {
                return message;
            }
            assert!(!message.starts_with(never), "heard {message:?} before {begin}");
        }
    }

    /// Ready, alive (twice), stopping, in this order.
    async fn hears_a_life_of(&self, mut process: Jobber, status: &str) {
        let ready = self.hears("READY=1", "STOPPING").await;
        assert!(ready.contains(status), "{ready}");
        self.hears("WATCHDOG=1", "STOPPING").await;
        self.hears("WATCHDOG=1", "STOPPING").await;
        process.signal(Signal::TERM);
        self.hears("STOPPING=1", "READY").await;
        assert_eq!(process.ended().await, 0, "{}", process.log());
    }
}

#[tokio::test]
async fn the_manager_hears_of_ready_alive_and_stopping() {
    let place = Place::new();
    let manager = Manager::by_path(&place);
    let serve = manager.watch(Jobber::serve().at(&place)).start().await;
    manager.hears_a_life_of(serve, "\nSTATUS=serving on http://127.0.0.1:").await;
    let work = manager.watch(Jobber::work().at(&place).arg("--cores").arg("1")).start().await;
    manager.hears_a_life_of(work, "\nSTATUS=0 of 1 slots busy").await;
}

#[tokio::test]
async fn an_abstract_socket_is_as_good() {
    let place = Place::new();
    let manager = Manager::by_abstract_name(&place);
    let dev = manager.watch(Jobber::dev().at(&place).arg("--cores").arg("1")).start().await;
    manager.hears_a_life_of(dev, ", 0 of 1 slots busy").await;
}

#[tokio::test]
async fn a_draining_worker_gives_signs_of_life_to_its_end() {
    let place = Place::new();
    place.job("slow", "#!/bin/sh\ntouch $0.started\nwhile [ ! -e $0.go ]; do sleep 0.05; done\n");
    let manager = Manager::by_path(&place);
    let serve = Jobber::serve().at(&place).start().await;
    let mut work = manager.watch(Jobber::work().at(&place).arg("--cores").arg("1")).start().await;
    let id = serve.submit(json!({"name": "slow"})).await;
    manager.hears("STATUS=1 of 1 slots busy", "STOPPING").await;
    eventually("its process", async || place.jobs_dir().join("slow.started").exists().then_some(())).await;
    work.signal(Signal::TERM);
    let stopping = manager.hears("STOPPING=1", "READY").await;
    assert!(stopping.contains("1 of 1 slots busy"), "{stopping}");
    manager.hears("WATCHDOG=1", "READY").await;
    manager.hears("WATCHDOG=1", "READY").await;
    std::fs::write(place.jobs_dir().join("slow.go"), "").unwrap();
    assert_eq!(work.ended().await, 0, "{}", work.log());
    assert_eq!(serve.wait_final(&id).await["state"], "completed");
}

#[tokio::test]
async fn without_an_answer_of_the_database_there_is_no_sign_of_life() {
    let place = Place::new();
    let manager = Manager::by_path(&place);
    let serve = manager.watch(Jobber::serve().at(&place)).start().await;
    manager.hears("WATCHDOG=1", "STOPPING").await;
    // Another process that does not let go of the database: the writing thread of this one hangs.
    let connection = rusqlite::Connection::open(place.data_dir().join("jobber.db")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    eventually("word of the silence", async || serve.log().contains("gives no answer").then_some(())).await;
    let mut buffer = [0; 512];
    while manager.socket.try_recv(&mut buffer).is_ok() {}
    let silence = tokio::time::timeout(Duration::from_millis(1500), manager.hears("WATCHDOG=1", "STOPPING")).await;
    assert!(silence.is_err(), "a sign of life while nothing can be written");
    connection.execute_batch("ROLLBACK").unwrap();
    manager.hears("WATCHDOG=1", "STOPPING").await;
}

#[tokio::test]
async fn what_the_manager_gave_to_jobber_reaches_no_job() {
    let place = Place::new();
    place.job("show", "#!/bin/sh\nenv\n");
    let manager = Manager::by_path(&place);
    let dev = manager.watch(Jobber::dev().at(&place)).env("JOBBER_PASS_ENVIRONMENT", "*").start().await;
    let id = dev.submit(json!({"name": "show"})).await;
    let view = dev.wait_final(&id).await;
    let environment = view["result"].as_str().unwrap();
    assert!(environment.contains("JOBBER_JOB_ID=") && environment.contains("PATH="), "{environment}");
    assert!(!environment.contains("NOTIFY_SOCKET") && !environment.contains("WATCHDOG"), "{environment}");
}
