//! Work in, done on a thread of its own, its answer out: threads that spawn and supervise, one per running attempt.
//!
//! A thread is used again and again, because it is prepared for spawning once. Threads end with the pool.

use std::cell::RefCell;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::spawn::SpawnThread;

/// What a thread has at hand for its attempts.
pub(super) struct Workbench {
    /// Which of the pool's threads this is, from 0.
    pub(super) number: usize,
    pub(super) spawner: SpawnThread,
    pub(super) buffer: Vec<u8>,
}

/// Does the work and returns what tells its answer.
pub(super) type Work = Box<dyn FnOnce(&mut Workbench) -> Answer + Send>;
pub(super) type Answer = Box<dyn FnOnce() + Send>;

/// Work for a thread, with the way to it: only who has it can send more, so a thread that nobody can reach ends.
struct Message {
    work: Work,
    way: mpsc::Sender<Message>,
}

/// Threads that wait for work.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Idle>>);

#[derive(Default)]
struct Idle {
    /// The one that was busy last comes first: its caches are warm.
    threads: Vec<mpsc::Sender<Message>>,
    started: usize,
}

/// What is read from a pipe at once: all that it holds by default.
const BUFFER: usize = 64 * 1024;

impl Pool {
    /// Runs `work` on a thread; the answer comes when it is done, or the channel closes if it panics.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Workbench) -> T + Send + 'static,
    ) -> std::io::Result<oneshot::Receiver<T>> {
        let (answer, receiver) = oneshot::channel();
        self.start(prepare(work, answer))?;
        Ok(receiver)
    }

    /// Runs prepared work on a thread. Called from one of the pool's threads that is about to be idle, on that thread:
    /// it needs no waking, and stays on its CPU.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(&self, mut work: Work) -> std::io::Result<()> {
        let here = NEXT.with_borrow_mut(|next| match next {
            Some(slot @ None) => {
                *slot = Some(work);
                None
            }
            _ => Some(work),
        });
        match here {
            Some(back) => work = back,
            None => return Ok(()),
        }
        let number = {
            let mut idle = lock(&self.0);
            while let Some(way) = idle.threads.pop() {
                match way.clone().send(Message { work, way }) {
                    Ok(()) => return Ok(()),
                    // Its thread has panicked.
                    Err(mpsc::SendError(message)) => work = message.work,
                }
            }
            idle.started += 1;
            idle.started - 1
        };
        let (way, inbox) = mpsc::channel();
        let first = Message { work, way };
        // A weak hold on the pool, so that it, and with it this thread, can end.
        let pool = Arc::downgrade(&self.0);
        std::thread::Builder::new().name(format!("attempt-{number}")).spawn(move || {
            let mut bench = Workbench { number, spawner: SpawnThread::prepare(), buffer: vec![0; BUFFER] };
            let mut next = Some(first);
            while let Some(Message { mut work, way }) = next {
                loop {
                    NEXT.set(Some(None));
                    let answer = work(&mut bench);
                    let Some(Some(following)) = NEXT.take() else {
                        // Free before the answer is told: whoever hears it may have work at once.
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
        })?;
        Ok(())
    }
}

thread_local! {
    /// On a thread of a pool, while it works: what it does next, if that is known.
    static NEXT: RefCell<Option<Option<Work>>> = const { RefCell::new(None) };
}

/// Makes work of a function and the channel on which its answer goes.
pub(super) fn prepare<T: Send + 'static>(
    work: impl FnOnce(&mut Workbench) -> T + Send + 'static,
    answer: oneshot::Sender<T>,
) -> Work {
    Box::new(move |bench| {
        let done = work(bench);
        // Nobody waits any more when the caller has gone.
        Box::new(move || drop(answer.send(done)))
    })
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn threads_are_used_again() {
        let pool = Pool::default();
        let id = |pool: &Pool| pool.run(|bench| (bench.number, std::thread::current().id())).unwrap();
        let first = id(&pool).await.unwrap();
        assert_eq!(id(&pool).await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_thread_goes_on_with_the_work_that_it_started_itself() {
        let pool = Pool::default();
        let (answer, following) = oneshot::channel();
        let inner = pool.clone();
        let first = pool.run(move |_| {
            let next = prepare(|_| std::thread::current().id(), answer);
            inner.start(next).map(|()| std::thread::current().id())
        });
        let first = first.unwrap().await.unwrap().unwrap();
        assert_eq!(following.await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_panic_closes_the_answer_and_costs_only_its_thread() {
        let pool = Pool::default();
        assert!(pool.run(|_| assert!(std::env::args().len() == 0, "on purpose")).unwrap().await.is_err());
        assert_eq!(pool.run(|_| 7).unwrap().await, Ok(7));
    }
}
