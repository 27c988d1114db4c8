//! The only thread that writes to the file: it gathers writes into group commits.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::{BUSY, Presence, SqliteError, explain, is_busy, panicked, removed};
use crate::metrics::Operation;

/// A transaction of a group of writes, from its beginning to its commit.
static COMMIT: Operation = Operation::new("sqlite", "commit");
/// How many writes may wait in the queue. Beyond that, callers wait for room in it.
const QUEUE: usize = 4096;
/// How many writes share one commit at most.
const GROUP: usize = 512;
/// While several writes come at a time, the thread gathers them for the next commit: until as many
/// are there as it wants ([`Gathering::after`]), but no longer than this many times the duration of the
/// last commit. A commit costs about as much as ten small writes, so gathering is worth far more than it
/// delays. A single caller never waits for it, and no caller does while a hurried call is under way.
const GATHER: u32 = 2;
/// The longest time for which the thread gathers writes.
const GATHER_MOST: Duration = Duration::from_millis(2);
/// The fewest writes that the thread wants of so many callers or more.
const GATHER_LEAST: usize = 8;
/// While another process writes, the thread answers the calls whose patience is at an end this often.
const LOOK: Duration = Duration::from_millis(200);
/// Once another process has held the file for longer than [`BUSY`], writes that come wait no longer than this.
const BUSY_LATER: Duration = Duration::from_secs(1);
/// A file that is held for longer than this is worth a line in the log.
const REMARKABLE: Duration = Duration::from_secs(2);

/// The handle by which callers send writes to the writing thread.
pub(super) struct Writer {
    calls: Sender<Call>,
    thread: Thread,
    traffic: Arc<Traffic>,
    room: Arc<Semaphore>,
    died: CancellationToken,
}

/// What the callers and the thread tell each other beside the calls.
#[derive(Default)]
struct Traffic {
    /// How many hurried calls are under way. While there are any, the thread gathers nothing.
    hurried: AtomicUsize,
    /// How many calls were sent that the thread has not received.
    queued: AtomicUsize,
    /// How many queued calls a gathering thread waits for; 0 while it does not gather.
    wanted: AtomicUsize,
}

/// A function that writes, and the caller who waits for it.
pub(super) struct Call {
    work: Box<dyn Work>,
    came: Instant,
    patience: Duration,
    /// The error of its panic, once it has panicked. The thread does not run it again.
    panicked: Option<SqliteError>,
    /// Its place in the bounded queue, if it waited for one.
    _place: Option<OwnedSemaphorePermit>,
    /// Marks the call as hurried for as long as it lives.
    _hurry: Option<Hurry>,
}

/// Counts one hurried call until it is dropped.
struct Hurry(Arc<Traffic>);

impl Hurry {
    fn new(traffic: &Arc<Traffic>) -> Self {
        traffic.hurried.fetch_add(1, Ordering::SeqCst);
        Self(traffic.clone())
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.hurried.fetch_sub(1, Ordering::SeqCst);
    }
}

trait Work: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, result: Result<(), SqliteError>);
}

struct Typed<F, T> {
    run: F,
    output: Option<T>,
    reply: oneshot::Sender<Result<T, SqliteError>>,
}

impl<F, T> Work for Typed<F, T>
where
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.output = Some((self.run)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Typed { output, reply, .. } = *self;
        // A cancelled caller waits no more; its write stands all the same.
        let _ = reply.send(result.map(|()| output.expect("a write that succeeded has run")));
    }
}

impl Call {
    /// Makes a call of `run`, and the receiver of its answer.
    pub(super) fn new<T, F>(run: F, patience: Duration) -> (Self, oneshot::Receiver<Result<T, SqliteError>>)
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(Typed { run, output: None, reply });
        (Self { work, came: Instant::now(), patience, panicked: None, _place: None, _hurry: None }, answer)
    }

    fn answer(self, result: Result<(), SqliteError>) {
        self.work.answer(result);
    }

    /// Whether the call has waited long enough for another process, which has held the file for `held`.
    fn is_over(&self, held: Duration) -> bool {
        let waited = self.came.elapsed();
        waited >= self.patience || (held >= BUSY && waited >= BUSY_LATER)
    }
}

impl Writer {
    /// Starts the thread. It ends when this is dropped and every call is answered.
    pub(super) fn start(connection: Connection, path: &Path) -> std::io::Result<Self> {
        let (calls, received) = channel();
        let died = CancellationToken::new();
        let (path, death) = (path.to_owned(), Death(died.clone()));
        let traffic = Arc::<Traffic>::default();
        let shared = traffic.clone();
        let handle = std::thread::Builder::new().name("sqlite-writer".to_owned()).spawn(move || {
            let death = death;
            // When the file is gone from its path, writes to it are lost with this process, so the
            // thread refuses them.
            let presence = Presence::of(&path);
            let (waiting, held_since) = (VecDeque::new(), None);
            Writing { connection, path, presence, received, traffic: shared, waiting, held_since }.work();
            drop(death);
        })?;
        let room = Arc::new(Semaphore::new(QUEUE));
        Ok(Self { calls, thread: handle.thread().clone(), traffic, room, died })
    }

    /// Cancelled when the thread has panicked.
    pub(super) fn died(&self) -> CancellationToken {
        self.died.clone()
    }

    /// Sends a call as soon as there is room. This is back-pressure that holds up no thread.
    pub(super) async fn send_in_turn(&self, mut call: Call) {
        call._place = self.room.clone().acquire_owned().await.ok();
        self.send(call);
    }

    /// Sends a call now. If the thread is gone, the channel drops the call, and its caller sees that.
    pub(super) fn send(&self, call: Call) {
        let queued = self.traffic.queued.fetch_add(1, Ordering::SeqCst) + 1;
        let _ = self.calls.send(call);
        if queued == self.traffic.wanted.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// Sends a hurried call. The thread writes it at once, together with the calls that came before it.
    pub(super) fn send_hurried(&self, mut call: Call) {
        call._hurry = Some(Hurry::new(&self.traffic));
        self.send(call);
        self.thread.unpark();
    }
}

/// Cancels the token when the thread panics.
struct Death(CancellationToken);

impl Drop for Death {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

struct Writing {
    connection: Connection,
    path: PathBuf,
    presence: Presence,
    received: Receiver<Call>,
    traffic: Arc<Traffic>,
    /// The calls that the thread has received but does not write in the current group.
    waiting: VecDeque<Call>,
    /// Since when another process has held the file, if one does.
    held_since: Option<Instant>,
}

/// What the thread waits for before it begins the next transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gathering {
    /// How many calls it wants.
    calls: usize,
    /// How long it waits for them at most.
    long: Duration,
}

impl Gathering {
    /// After a group of so many writes that took so long, while `left` other calls have come. `None` when nothing is worth
    /// gathering. Of a few callers it wants all, because those who were just answered come again. Of many it wants half,
    /// so that the others prepare their calls while these are written, and neither side stands still. A caller who has come
    /// again already is among both numbers: then it may want more calls than there are callers, and its time ends that.
    fn after(writes: usize, took: Duration, left: usize) -> Option<Self> {
        let callers = writes + left;
        let calls = (callers / 2).max(GATHER_LEAST).min(callers);
        (writes > 1).then(|| Self { calls, long: (took * GATHER).min(GATHER_MOST) })
    }
}

impl Writing {
    fn work(mut self) {
        // SQLite waits for a lock this long at a time; the loop of `begin` goes on for longer.
        if let Err(error) = self.connection.busy_timeout(LOOK) {
            tracing::warn!(%error, "the writing thread can't set how long it waits");
        }
        let mut gathering = None;
        while let Some(first) = self.waiting.pop_front().or_else(|| self.receive()) {
            if let Some(gathering) = gathering {
                self.gather(gathering);
            }
            let mut group = vec![first];
            while group.len() < GROUP
                && let Some(next) = self.waiting.pop_front().or_else(|| self.try_receive())
            {
                group.push(next);
            }
            let (writes, began) = (group.len(), Instant::now());
            if self.presence.is_there() {
                self.write(group);
                COMMIT.took(began.elapsed());
            } else {
                group.into_iter().for_each(|call| call.answer(Err(removed(&self.path))));
            }
            let left = self.waiting.len() + self.traffic.queued.load(Ordering::SeqCst);
            gathering = Gathering::after(writes, began.elapsed(), left);
        }
    }

    /// Waits for the next call. `None` when no caller can send another.
    fn receive(&self) -> Option<Call> {
        self.received.recv().ok().inspect(|_| self.note_received())
    }

    /// The next call, if one has come.
    fn try_receive(&self) -> Option<Call> {
        self.received.try_recv().ok().inspect(|_| self.note_received())
    }

    fn note_received(&self) {
        self.traffic.queued.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sleeps until the calls that it wants are there (the thread has received one of them already), or a hurried one, or
    /// its time is over.
    fn gather(&self, Gathering { calls, long }: Gathering) {
        let wanted = calls.saturating_sub(1 + self.waiting.len());
        let until = Instant::now() + long;
        self.traffic.wanted.store(wanted, Ordering::SeqCst);
        while self.traffic.queued.load(Ordering::SeqCst) < wanted && self.traffic.hurried.load(Ordering::SeqCst) == 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.traffic.wanted.store(0, Ordering::SeqCst);
    }

    /// Writes the group in one transaction. If one call fails, [`Writing::write_apart`] writes the others.
    fn write(&mut self, mut group: Vec<Call>) {
        if !self.begin(&mut group) {
            return;
        }
        let done = group.iter_mut().try_for_each(|call| self.run(call)).and_then(|()| self.commit());
        match done {
            Ok(()) => group.into_iter().for_each(|call| call.answer(Ok(()))),
            Err(error) => {
                self.roll_back();
                match group.len() {
                    1 => group.remove(0).answer(Err(error)),
                    _ => self.write_apart(group),
                }
            }
        }
    }

    /// Writes the group in one transaction with a savepoint for each call, so that SQLite undoes
    /// each failing call alone.
    fn write_apart(&mut self, mut group: Vec<Call>) {
        if !self.begin(&mut group) {
            return;
        }
        let results: Option<Vec<_>> = group.iter_mut().map(|call| self.run_apart(call)).collect();
        if let Some(results) = results
            && self.commit().is_ok()
        {
            group.into_iter().zip(results).for_each(|(call, result)| call.answer(result));
            return;
        }
        // The failure has ended the whole transaction, as a full disk does. Some calls may still succeed alone.
        self.roll_back();
        for call in group {
            let mut alone = vec![call];
            if self.begin(&mut alone) {
                let call = &mut alone[0];
                let done = self.run(call).and_then(|()| self.commit());
                if done.is_err() {
                    self.roll_back();
                }
                alone.remove(0).answer(done);
            }
        }
    }

    /// Begins a transaction for the group. While another process writes, waits for it, and refuses the calls
    /// whose patience is at an end, both in the group and behind it. Returns false when the group is empty.
    fn begin(&mut self, group: &mut Vec<Call>) -> bool {
        loop {
            match self.execute("BEGIN IMMEDIATE") {
                Ok(()) => {
                    if let Some(time) = self.held_since.take().map(|since| since.elapsed())
                        && time > REMARKABLE
                    {
                        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                        tracing::info!(ms, "the database can be written to again");
                    }
                    return true;
                }
                Err(error) if is_busy(&error) => {
                    let held = self.note_held();
                    while let Some(call) = self.try_receive() {
                        self.waiting.push_back(call);
                    }
                    let mut waiting = self.waiting.drain(..).collect();
                    for calls in [&mut *group, &mut waiting] {
                        let (over, left) = std::mem::take(calls).into_iter().partition(|call| call.is_over(held));
                        *calls = left;
                        self.refuse(over, &error);
                    }
                    self.waiting = waiting.into();
                    if group.is_empty() {
                        return false;
                    }
                }
                Err(error) => {
                    self.refuse(std::mem::take(group), &error);
                    return false;
                }
            }
        }
    }

    /// Returns how long another process has held the file, and logs once when that becomes remarkable.
    fn note_held(&mut self) -> Duration {
        let before = self.held_since.map_or(Duration::ZERO, |since| since.elapsed() - LOOK.min(since.elapsed()));
        let held = self.held_since.get_or_insert_with(Instant::now).elapsed();
        if before <= REMARKABLE && held > REMARKABLE {
            tracing::warn!(file = %self.path.display(), "another process holds the database; nothing can be written");
        }
        held
    }

    /// Answers calls with an error without running them.
    fn refuse(&self, calls: Vec<Call>, error: &rusqlite::Error) {
        calls.into_iter().for_each(|call| call.answer(Err(explain(&self.path, again(error)))));
    }

    /// Runs a call. If it panics, only this call fails, and the thread lives on for the others.
    fn run(&self, call: &mut Call) -> Result<(), SqliteError> {
        if let Some(panicked) = call.panicked.take() {
            return Err(panicked);
        }
        // A call that has panicked doesn't run again, so that no caller gets to see what it left half done.
        match catch_unwind(AssertUnwindSafe(|| call.work.run(&self.connection))) {
            Ok(done) => done.map_err(|e| explain(&self.path, e)),
            Err(panic) => {
                call.panicked = Some(panicked(&self.path, &*panic));
                Err(panicked(&self.path, &*panic))
            }
        }
    }

    /// Runs a call between savepoints; `None` when its failure has ended the whole transaction.
    fn run_apart(&self, call: &mut Call) -> Option<Result<(), SqliteError>> {
        self.execute("SAVEPOINT one").ok()?;
        let result = self.run(call);
        if result.is_err() {
            self.execute("ROLLBACK TO one").ok()?;
        }
        self.execute("RELEASE one").ok()?;
        Some(result)
    }

    fn commit(&self) -> Result<(), SqliteError> {
        self.execute("COMMIT").map_err(|e| explain(&self.path, e))
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // The error that led here is the one to report; a failed rollback leaves the next BEGIN to fail.
            let _ = self.execute("ROLLBACK");
        }
    }

    fn execute(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(drop)
    }
}

/// Copies an error for another call of the same group.
fn again(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => rusqlite::Error::SqliteFailure(*code, message.clone()),
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{Durability, Sqlite};

    /// A database, and another process's connection to it.
    async fn shared() -> (tempfile::TempDir, Sqlite, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.db");
        let db = Sqlite::open(&path, Durability::Process).unwrap();
        db.migrate("t", &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT;"]).await.unwrap();
        (dir, db, Connection::open(&path).unwrap())
    }

    fn insert(n: i64) -> impl FnMut(&Connection) -> rusqlite::Result<usize> {
        move |c| c.execute("INSERT INTO t VALUES (?1)", [n])
    }

    /// How long a thread gathers that wants so many calls, `long` at most, and is sent calls meanwhile, hurried or not.
    fn gathers(wanted: usize, long: Duration, calls: &[bool]) -> Duration {
        let traffic = Arc::<Traffic>::default();
        let (sender, received) = channel();
        let writing = Writing {
            connection: Connection::open_in_memory().unwrap(),
            path: PathBuf::new(),
            presence: Presence::of(Path::new("")),
            received,
            traffic: traffic.clone(),
            waiting: VecDeque::new(),
            held_since: None,
        };
        let gathering = std::thread::spawn(move || {
            let began = Instant::now();
            writing.gather(Gathering { calls: wanted, long });
            (began.elapsed(), writing)
        });
        let room = Arc::new(Semaphore::new(QUEUE));
        let thread = gathering.thread().clone();
        let writer = Writer { calls: sender, thread, traffic: traffic.clone(), room, died: CancellationToken::new() };
        for hurry in calls {
            let (call, _) = Call::new(|_| Ok(()), BUSY);
            if *hurry { writer.send_hurried(call) } else { writer.send(call) }
        }
        let (took, writing) = gathering.join().unwrap();
        let came = std::iter::from_fn(|| writing.try_receive()).count();
        assert_eq!(came, calls.len());
        let left = [&traffic.hurried, &traffic.queued, &traffic.wanted].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(left, [0, 0, 0], "all are received and answered");
        took
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_hurried_call_ends_gathering() {
        assert!(gathers(100, MINUTE, &[false, true]) < MINUTE / 2);
    }

    #[test]
    fn gathering_ends_when_all_that_is_wanted_is_there() {
        // The first was received before.
        assert!(gathers(4, MINUTE, &[false; 3]) < MINUTE / 2);
        assert!(gathers(1, MINUTE, &[]) < MINUTE / 2);
        let long = Duration::from_millis(50);
        assert!(gathers(4, long, &[false; 2]) >= long, "one is missing");
    }

    #[test]
    fn of_few_callers_all_are_wanted_and_of_many_half() {
        let took = Duration::from_micros(100);
        let wanted = |writes, left| Gathering::after(writes, took, left).map(|gathering| gathering.calls);
        assert_eq!((wanted(1, 0), wanted(1, 60)), (None, None), "the group was a single write");
        assert_eq!((wanted(2, 0), wanted(3, 4), wanted(5, 9)), (Some(2), Some(7), Some(8)));
        assert_eq!((wanted(64, 0), wanted(32, 32), wanted(2, 62)), (Some(32), Some(32), Some(32)));
        let long = |took| Gathering::after(2, took, 0).map(|gathering| gathering.long);
        assert_eq!((long(took), long(Duration::from_secs(1))), (Some(2 * took), Some(GATHER_MOST)));
    }

    #[tokio::test]
    async fn writes_wait_for_another_process_side_by_side_and_each_no_longer_than_its_patience() {
        let (_dir, db, other) = shared().await;
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (began, patience) = (Instant::now(), Duration::from_millis(600));
        let writes = (0..20).map(|n| db.write_within(patience, insert(n)));
        let refused = futures_util::future::join_all(writes).await;
        assert!(refused.iter().all(|r| matches!(r, Err(SqliteError::Unavailable { .. }))), "{refused:?}");
        assert!(began.elapsed() < patience * 5, "{:?}", began.elapsed());
        let patient = db.write_later(insert(100));
        other.execute_batch("COMMIT").unwrap();
        patient.await.unwrap().unwrap();
        let found: Vec<i64> =
            db.read(|c| c.prepare("SELECT n FROM t")?.query_map([], |row| row.get(0))?.collect()).await.unwrap();
        assert_eq!(found, [100], "what was refused is not written later");
    }

    #[tokio::test]
    async fn a_write_that_panics_fails_alone_and_once() {
        let (_dir, db, other) = shared().await;
        // They are gathered in one group while the file is held.
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let runs = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = runs.clone();
        let before = db.write_later(insert(1));
        let bad = db.write_later(move |c| -> rusqlite::Result<()> {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            c.execute("INSERT INTO t VALUES (2)", [])?;
            panic!("no such case")
        });
        let after = db.write_later(insert(3));
        other.execute_batch("COMMIT").unwrap();
        before.await.unwrap().unwrap();
        after.await.unwrap().unwrap();
        let error = bad.await.unwrap().unwrap_err();
        assert!(matches!(&error, SqliteError::Panicked { message, .. } if message == "no such case"), "{error}");
        assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 1);
        let sum: i64 = db.read(|c| c.query_row("SELECT sum(n) FROM t", [], |row| row.get(0))).await.unwrap();
        assert_eq!(sum, 4);
        assert!(!db.writer_died().is_cancelled());
    }

    #[tokio::test]
    async fn the_death_of_the_thread_is_told() {
        struct Deadly;
        impl Work for Deadly {
            fn run(&mut self, _: &Connection) -> rusqlite::Result<()> {
                Ok(())
            }
            fn answer(self: Box<Self>, _: Result<(), SqliteError>) {
                panic!("this ends the thread")
            }
        }
        let (_dir, db, _) = shared().await;
        let died = db.writer_died();
        let call = Call { work: Box::new(Deadly), ..Call::new(|_| Ok(()), BUSY).0 };
        db.shared.writer.send(call);
        tokio::time::timeout(Duration::from_secs(10), died.cancelled()).await.unwrap();
        assert!(matches!(db.write(insert(1)).await, Err(SqliteError::Unavailable { .. })));
    }
}
