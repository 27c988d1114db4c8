//! Wake-ups between processes that share a data directory, so that none of them has to poll.
//!
//! A [`Wake`] is a small file. A process with news writes one byte to it, and the kernel (inotify)
//! tells every process that waits. Within the process a [`tokio::sync::Notify`] does the same
//! without a system call on the waiter's side. A wake-up says only "look again". A caller registers
//! its interest with [`Wake::listen`] before it looks, so that it misses none.
//!
//! Each process that has the file open holds a lock on it which all may share. So a process with news knows whether another
//! process has it open. If none has, it writes nothing: the kernel would wake this process alone, which has woken its own
//! listeners already.
#![expect(unsafe_code, reason = "locks of open files have no safe wrapper")]

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, futures::OwnedNotified};

/// One subject on which processes wake each other.
#[derive(Clone)]
pub struct Wake {
    shared: Arc<Shared>,
}

struct Shared {
    file: std::fs::File,
    local: Arc<Notify>,
    /// Becomes readable when any process, this one included, has written to the file.
    events: pipe::Receiver,
}

/// Wakes every listener when it is dropped. A write that answers with one wakes them after its commit, even if its caller
/// waits no more: then the answer is dropped where it was made.
pub struct SignalOnDrop(Wake);

impl Drop for SignalOnDrop {
    fn drop(&mut self) {
        self.0.signal();
    }
}

/// A registered interest. [`Listener::wait`] turns it into a wake-up.
pub struct Listener {
    shared: Arc<Shared>,
    local: std::pin::Pin<Box<OwnedNotified>>,
}

impl Wake {
    /// Opens or makes `<directory>/<subject>.wake`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the file can't be made or locked, or the host has no inotify watch left (`fs.inotify.max_user_instances`).
    pub fn open(directory: &Path, subject: &str) -> std::io::Result<Self> {
        let path = directory.join(format!("{subject}.wake"));
        let mut options = fs_err::OpenOptions::new();
        let file = options.create(true).read(true).write(true).truncate(false).open(&path)?.into_parts().0;
        let watcher = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watcher, &path, inotify::WatchFlags::MODIFY)?;
        // Tokio has no type for inotify; to it, any descriptor that becomes readable is the end of a pipe.
        let events = pipe::Receiver::from_owned_fd_unchecked(watcher)?;
        // Last, and before the first look: what is written from here on wakes this process, and what was written before, it
        // sees.
        lock(&file, libc::F_OFD_SETLK, libc::F_RDLCK)?;
        Ok(Self { shared: Arc::new(Shared { file, local: Arc::default(), events }) })
    }

    /// Wakes every listener, in this process and in the others. Never blocks.
    pub fn signal(&self) {
        if self.shared.is_shared() {
            // A write of the same byte at the same place: the file never grows. If it fails (disk full at the first byte),
            // listeners fall back on their timeout.
            let _ = rustix::io::pwrite(&self.shared.file, b"!", 0);
            // This process is told, too. It is woken below, and not to look a second time.
            self.shared.discard();
        }
        self.shared.local.notify_waiters();
    }

    /// A signal that is given later.
    pub fn signal_on_drop(&self) -> SignalOnDrop {
        SignalOnDrop(self.clone())
    }

    /// Registers interest: signals from now on are not missed.
    pub fn listen(&self) -> Listener {
        let mut local = Box::pin(self.shared.local.clone().notified_owned());
        local.as_mut().enable();
        Listener { shared: self.shared.clone(), local }
    }
}

impl Listener {
    /// Returns at the first signal since [`Wake::listen`], or after `timeout`. May return early: look again.
    pub async fn wait(self, timeout: Duration) {
        let foreign = async {
            // Without the kernel's help the timeout remains.
            while self.shared.events.readable().await.is_ok() {
                if self.shared.drain() {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = self.local => {}
            () = foreign => {
                // Another listener of this process may wait for the same signal, which has just been read away.
                self.shared.local.notify_waiters();
            }
            () = tokio::time::sleep(timeout) => {}
        }
    }
}

/// Sets a lock on the first byte of an open file, or asks what keeps it from being set. Answers the kind of the lock that is
/// there then.
fn lock(file: &std::fs::File, command: libc::c_int, kind: libc::c_int) -> std::io::Result<libc::c_int> {
    // SAFETY: a flock of zeros is valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_len = 1;
    // SAFETY: the descriptor is open, and the pointer is valid for reads and writes for the duration of the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(lock.l_type.into()) }
}

impl Shared {
    /// Whether anyone else has the file open for signals.
    fn is_shared(&self) -> bool {
        // The kernel tells only of locks of other open files.
        lock(&self.file, libc::F_OFD_GETLK, libc::F_WRLCK).map_or(true, |found| found != libc::F_UNLCK)
    }

    /// Reads the kernel's messages away, those too of which tokio does not know yet.
    fn discard(&self) {
        let mut buffer = [0u8; 4096];
        while rustix::io::read(&self.events, &mut buffer).is_ok_and(|n| n > 0) {}
    }

    /// Reads the kernel's messages, which are all alike, and returns whether there were any.
    fn drain(&self) -> bool {
        let mut buffer = [0u8; 4096];
        let mut found = false;
        while self.events.try_read(&mut buffer).is_ok_and(|n| n > 0) {
            found = true;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_between_look_and_wait_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let here = Wake::open(dir.path(), "t").unwrap();
        let there = Wake::open(dir.path(), "t").unwrap();
        for sender in [&here, &there] {
            let listener = here.listen();
            sender.signal();
            tokio::time::timeout(Duration::from_secs(30), listener.wait(Duration::from_secs(60))).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_signal_wakes_each_listener_once() {
        let dir = tempfile::tempdir().unwrap();
        let here = Wake::open(dir.path(), "t").unwrap();
        let another = || Wake::open(dir.path(), "t").unwrap();
        let mut there = None;
        for is_shared in [false, true, false] {
            there = is_shared.then(another);
            // A process that another test is just making has the file open, too, until it executes its program.
            let known = async {
                while here.shared.is_shared() != is_shared {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), known).await.unwrap();
            for _ in 0..3 {
                let listener = here.listen();
                here.signal();
                listener.wait(Duration::from_secs(60)).await;
                let again = here.listen().wait(Duration::from_secs(60));
                // Long enough for the driver to hear of the file.
                let quiet = tokio::time::timeout(Duration::from_millis(20), again).await;
                assert!(quiet.is_err(), "woken twice, shared: {is_shared}");
            }
        }
        drop(there);
    }

    #[tokio::test]
    async fn every_listener_of_a_process_is_woken_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let here = Wake::open(dir.path(), "t").unwrap();
        let there = Wake::open(dir.path(), "t").unwrap();
        let tasks = tokio_util::task::TaskTracker::new();
        let waits: Vec<_> = (0..3).map(|_| tasks.spawn(here.listen().wait(Duration::from_secs(60)))).collect();
        // A listener that is only spawned waits for nothing yet; signals repeat until all have returned.
        let all = async {
            for wait in waits {
                wait.await.unwrap();
            }
        };
        let signals = async {
            loop {
                there.signal();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = all => {}
            () = signals => {}
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("a listener was not woken"),
        }
    }
}
