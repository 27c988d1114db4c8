//! The output that this process last read from Redis: however many follow one job here, Redis is asked for each piece
//! once.
//!
//! Each job that is followed has a window of its last pieces. A follower that stands within the
//! window is served from it. The first follower that stands at its end reads on, while the others
//! wait for what it finds. Followers that are further behind read from Redis by themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::OutputChunk;

/// Bytes of output in the window of one job at most.
const ONE_WINDOW: usize = 8 << 20;
/// Bytes of output in all windows; those that were not used for longest go first.
const ALL_WINDOWS: usize = 32 << 20;
/// A window that no follower has used for so long is dropped: well before the stream expires in
/// Redis, so that no window outlives its stream.
const UNUSED: Duration = Duration::from_secs(30);

/// A piece of output with its number in the job's stream; `None` for an entry that Jobber did not write.
pub(super) type Numbered = (u64, Option<OutputChunk>);

/// One job, told from another that has its id: its id and its time of submission as BullMQ has it.
pub(super) type JobKey = (String, String);

/// The windows of all jobs that are followed in this process.
pub(super) struct RecentOutput {
    /// Bytes of output in the window of one job.
    one_window: usize,
    windows: Mutex<HashMap<JobKey, Arc<SharedWindow>>>,
}

struct SharedWindow {
    used_at: Mutex<Instant>,
    bytes: AtomicUsize,
    /// Held while Redis is asked.
    window: tokio::sync::Mutex<Window>,
}

impl RecentOutput {
    /// Windows that hold no more of a job's output than the queue keeps of it: `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        Self { one_window: bound.min(ONE_WINDOW), windows: Mutex::default() }
    }

    /// At most `limit` pieces behind the number `after`, from the window or by `read_from`, which
    /// asks Redis for the pieces behind a number.
    ///
    /// # Errors
    /// The errors of `read_from`, unchanged.
    pub(super) async fn read<E>(
        &self,
        job: JobKey,
        after: u64,
        limit: usize,
        read_from: impl AsyncFnOnce(u64) -> Result<Vec<Numbered>, E>,
    ) -> Result<Vec<Numbered>, E> {
        let shared = self.window_of(job);
        let mut window = shared.window.lock().await;
        if let Some(pieces) = window.behind(after, limit) {
            return Ok(pieces);
        }
        if window.is_before(after) {
            // The other followers do not wait for one that is far behind.
            drop(window);
            return read_from(after).await;
        }
        let pieces = read_from(after).await?;
        window.read_on(after, &pieces, self.one_window);
        shared.bytes.store(window.bytes, Ordering::Relaxed);
        Ok(pieces)
    }

    fn window_of(&self, job: JobKey) -> Arc<SharedWindow> {
        let now = Instant::now();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|_, window| now.duration_since(*window.used_at()) < UNUSED);
        let found = windows.entry(job.clone()).or_insert_with(|| Arc::new(SharedWindow::new(now))).clone();
        *found.used_at() = now;
        let mut bytes: usize = windows.values().map(|window| window.bytes.load(Ordering::Relaxed)).sum();
        while bytes > ALL_WINDOWS {
            let others = windows.iter().filter(|(key, _)| **key != job);
            let Some(oldest) = others.min_by_key(|(_, window)| *window.used_at()).map(|(key, _)| key.clone()) else {
                break;
            };
            let dropped = windows.remove(&oldest).map_or(0, |window| window.bytes.load(Ordering::Relaxed));
            bytes -= dropped;
        }
        found
    }
}

impl SharedWindow {
    fn new(now: Instant) -> Self {
        Self { used_at: Mutex::new(now), bytes: AtomicUsize::new(0), window: tokio::sync::Mutex::default() }
    }

    fn used_at(&self) -> MutexGuard<'_, Instant> {
        self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last pieces of one job.
#[derive(Default)]
struct Window {
    /// The pieces are all that the stream holds behind this number, up to the last of them.
    from: u64,
    pieces: VecDeque<Numbered>,
    bytes: usize,
}

impl Window {
    fn last(&self) -> u64 {
        self.pieces.back().map_or(self.from, |(number, _)| *number)
    }

    /// The first pieces behind `after`; `None` when the window has none, or not all from there on.
    fn behind(&self, after: u64, limit: usize) -> Option<Vec<Numbered>> {
        if after < self.from || after >= self.last() {
            return None;
        }
        let first = self.pieces.partition_point(|(number, _)| *number <= after);
        Some(self.pieces.range(first..).take(limit).cloned().collect())
    }

    /// Whether `after` lies before all that the window holds.
    fn is_before(&self, after: u64) -> bool {
        !self.pieces.is_empty() && after < self.from
    }

    /// Takes what the stream holds behind `after`, which is the window's end, or somewhere behind that.
    fn read_on(&mut self, after: u64, pieces: &[Numbered], bound: usize) {
        if after != self.last() {
            *self = Self { from: after, ..Self::default() };
        }
        for piece in pieces {
            self.bytes += size(piece);
            self.pieces.push_back(piece.clone());
        }
        while self.bytes > bound
            && let Some(piece) = self.pieces.pop_front()
        {
            self.bytes -= size(&piece);
            self.from = piece.0;
        }
    }
}

fn size((_, piece): &Numbered) -> usize {
    piece.as_ref().map_or(0, |piece| piece.bytes.len())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::domain::Stream;

    fn piece(number: u64, size: usize) -> Numbered {
        let bytes = vec![u8::try_from(number % 251).unwrap(); size];
        (number, Some(OutputChunk { attempt: 1, stream: Stream::Stdout, at: None, bytes }))
    }

    /// A stream that counts how many bytes were read from it.
    struct Stored {
        pieces: Vec<Numbered>,
        read: AtomicU64,
    }

    impl Stored {
        async fn read_all(&self, recent: &RecentOutput, job: &str) -> Vec<u64> {
            let (mut at, mut all) = (0, Vec::new());
            loop {
                let read_from = async |after: u64| {
                    tokio::task::yield_now().await;
                    let behind: Vec<_> = self.pieces.iter().filter(|(n, _)| *n > after).take(3).cloned().collect();
                    let bytes: usize = behind.iter().map(size).sum();
                    self.read.fetch_add(bytes as u64, Ordering::Relaxed);
                    Ok::<_, std::convert::Infallible>(behind)
                };
                let job = (job.to_owned(), "1".to_owned());
                let pieces = recent.read(job, at, 3, read_from).await.unwrap();
                let Some((last, _)) = pieces.last() else { return all };
                at = *last;
                all.extend(pieces.iter().map(|(number, _)| *number));
            }
        }
    }

    #[tokio::test]
    async fn ten_followers_read_each_piece_once() {
        // The stream was trimmed: its first number is 40.
        let stored = Stored { pieces: (40..100).map(|n| piece(n, 1000)).collect(), read: AtomicU64::new(0) };
        let recent = RecentOutput::new(64 << 20);
        let all = futures_util::future::join_all((0..10).map(|_| stored.read_all(&recent, "j"))).await;
        assert!(all.iter().all(|numbers| numbers.iter().copied().eq(40..100)), "{all:?}");
        assert_eq!(stored.read.load(Ordering::Relaxed), 60_000);
        let window = recent.windows.lock().unwrap().len();
        assert_eq!(window, 1);
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_late_followers_read_all() {
        let stored = Stored { pieces: (1..=100).map(|n| piece(n, 200_000)).collect(), read: AtomicU64::new(0) };
        let recent = RecentOutput::new(64 << 20);
        for follower in 0..12 {
            let numbers = stored.read_all(&recent, &format!("job-{}", follower / 2)).await;
            assert!(numbers.into_iter().eq(1..=100));
            let held: usize = recent.windows.lock().unwrap().values().map(|w| w.bytes.load(Ordering::Relaxed)).sum();
            assert!(held <= ALL_WINDOWS + ONE_WINDOW, "{held}");
        }
    }
}
