//! The threads that spawn and supervise, one for each running attempt.
//!
//! A thread is used again and again, because it is prepared for spawning once. Threads end with the pool.

use std::cell::RefCell;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::spawn::SpawnThread;

/// What a thread has at hand for its attempts.
pub(super) struct SpawnThreadState {
    /// Which of the pool's threads this is, from 0.
    pub(super) number: usize,
    pub(super) spawner: SpawnThread,
    pub(super) buffer: Vec<u8>,
}

/// Work with the channel on which its answer goes.
pub(super) type Work = Box<dyn Prepared>;
/// Sends the answer of work that is done.
pub(super) type Reply = Box<dyn FnOnce() + Send>;
/// The answer of work, or an error when the system had no thread for it.
pub(super) type Outcome<T> = std::io::Result<T>;

/// Work that [`prepare`] has made, whatever the type of its answer.
pub(super) trait Prepared: Send {
    /// Does the work and returns the function that sends its answer.
    fn run(self: Box<Self>, thread: &mut SpawnThreadState) -> Reply;

    /// Answers that the system has no thread for the work.
    fn refuse(self: Box<Self>, why: std::io::Error);
}

/// Work for a thread, with the sender of that thread's channel. Only the holder of the sender can
/// give the thread more work, so a thread ends when no sender is left.
struct Message {
    work: Work,
    way: mpsc::Sender<Message>,
}

/// Threads that wait for work.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// The thread that was busy last comes first: its caches are warm.
    threads: Vec<mpsc::Sender<Message>>,
    started: usize,
    /// Numbers of threads that could not be started.
    spare: Vec<usize>,
}

/// How many bytes are read from a pipe at once: all that it holds by default.
const BUFFER: usize = 64 * 1024;

impl Pool {
    /// Runs `work` on a thread; the answer comes when it is done, or the channel closes if it panics.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SpawnThreadState) -> T + Send + 'static,
    ) -> oneshot::Receiver<Outcome<T>> {
        let (answer, receiver) = oneshot::channel();
        self.start(prepare(work, answer));
        receiver
    }

    /// Runs prepared work on a thread. If one of the pool's threads calls this during its own work,
    /// the same thread does it next: it needs no waking, and stays on its CPU.
    pub(super) fn start(&self, mut work: Work) {
        let here = NEXT.with_borrow_mut(|next| match next {
            Some(slot @ None) => {
                *slot = Some(work);
                None
            }
            _ => Some(work),
        });
        match here {
            Some(back) => work = back,
            None => return,
        }
        let number = {
            let mut idle = lock(&self.0);
            while let Some(way) = idle.threads.pop() {
                match way.clone().send(Message { work, way }) {
                    Ok(()) => return,
                    // Its thread has panicked.
                    Err(mpsc::SendError(message)) => work = message.work,
                }
            }
            idle.number()
        };
        let (way, inbox) = mpsc::channel();
        // Kept here too, so that the work can be refused if no thread takes it.
        let first = Arc::new(Mutex::new(Some(Message { work, way })));
        // A weak hold on the pool, so that it, and with it this thread, can end.
        let (pool, taken) = (Arc::downgrade(&self.0), first.clone());
        let started = std::thread::Builder::new().name(format!("attempt-{number}")).spawn(move || {
            let mut thread = SpawnThreadState { number, spawner: SpawnThread::prepare(), buffer: vec![0; BUFFER] };
            let mut next = lock(&taken).take();
            drop(taken);
            while let Some(Message { mut work, way }) = next {
                loop {
                    NEXT.set(Some(None));
                    let answer = work.run(&mut thread);
                    let Some(Some(following)) = NEXT.take() else {
                        // The thread is free before it sends the answer: the caller that hears it
                        // may have more work at once.
                        if let Some(pool) = pool.upgrade() {
                            lock(&pool).threads.push(way);
                        }
                        answer();
                        break;
                    };
                    answer();
                    work = following;
                }
                next = inbox.recv().ok();
            }
        });
        if let Err(error) = started {
            lock(&self.0).spare.push(number);
            let message = lock(&first).take();
            if let Some(message) = message {
                message.work.refuse(error);
            }
        }
    }
}

impl Idle {
    /// The number of the next thread.
    fn number(&mut self) -> usize {
        self.spare.pop().unwrap_or_else(|| {
            self.started += 1;
            self.started - 1
        })
    }
}

thread_local! {
    /// Set on a thread of a pool while it works: the work that it does next, if that is known.
    static NEXT: RefCell<Option<Option<Work>>> = const { RefCell::new(None) };
}

/// Makes work of a function and the channel on which its answer goes.
pub(super) fn prepare<T: Send + 'static>(
    work: impl FnOnce(&mut SpawnThreadState) -> T + Send + 'static,
    answer: oneshot::Sender<Outcome<T>>,
) -> Work {
    Box::new(Ready { work, answer })
}

struct Ready<F, T> {
    work: F,
    answer: oneshot::Sender<Outcome<T>>,
}

impl<T: Send + 'static, F: FnOnce(&mut SpawnThreadState) -> T + Send + 'static> Prepared for Ready<F, T> {
    fn run(self: Box<Self>, thread: &mut SpawnThreadState) -> Reply {
        let Ready { work, answer } = *self;
        let done = work(thread);
        // The receiver is gone when the caller has gone.
        Box::new(move || drop(answer.send(Ok(done))))
    }

    fn refuse(self: Box<Self>, why: std::io::Error) {
        let Ready { work, answer } = *self;
        // The work goes first with all that it holds, such as a slot, so that the caller finds that free.
        drop(work);
        drop(answer.send(Err(why)));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn threads_are_used_again() {
        let pool = Pool::default();
        let id = |pool: &Pool| pool.run(|thread| (thread.number, std::thread::current().id()));
        let first = id(&pool).await.unwrap().unwrap();
        assert_eq!(id(&pool).await.unwrap().unwrap(), first);
    }

    #[tokio::test]
    async fn a_thread_goes_on_with_the_work_that_it_started_itself() {
        let pool = Pool::default();
        let (answer, following) = oneshot::channel();
        let inner = pool.clone();
        let first = pool.run(move |_| {
            inner.start(prepare(|_| std::thread::current().id(), answer));
            std::thread::current().id()
        });
        let first = first.await.unwrap().unwrap();
        assert_eq!(following.await.unwrap().unwrap(), first);
    }

    #[tokio::test]
    async fn a_panic_closes_the_answer_and_costs_only_its_thread() {
        let pool = Pool::default();
        assert!(pool.run(|_| assert!(std::env::args().len() == 0, "on purpose")).await.is_err());
        assert_eq!(pool.run(|_| 7).await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn refused_work_lets_go_of_what_it_holds_and_says_why() {
        let (answer, refused) = oneshot::channel();
        let held = Arc::new(());
        let holds = held.clone();
        let work = prepare(move |_| drop(holds), answer);
        work.refuse(std::io::Error::from_raw_os_error(libc::EAGAIN));
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(refused.await.unwrap().unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }
}
