//! The shape of background work that recurs: one run, and when the next one follows.
//!
//! ```text
//! run ──succeeded──> wait: period or wake-up ──> run
//!     └──failed────> log once, back off ───────> run
//! ```
//! A loop that serves a connection, or reacts to several sources at once, has no such shape and stands by itself.
//! `docs/architecture/background-loops.md` lists all loops of either kind.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::outage::{Outage, OutageWords};
use crate::reconnect::ReconnectBackoff;

/// The error of a run, which is only logged.
pub type RunError = Box<dyn std::error::Error + Send + Sync>;

/// When the next run follows on one that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextRun {
    /// Without a wait, unless the loop is to stop.
    AtOnce,
    /// As the loop's [`Period`] says, or at a wake-up.
    InTurn,
    /// As [`NextRun::InTurn`]; but the run found nothing to do, which does not end an outage.
    Idle,
    /// Never: the loop ends.
    Never,
}

/// The time from one run to the next, unless a wake-up comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From the start of a run to the start of the next. A run that takes longer is followed by the next at once.
    Every(Duration),
    /// From the end of a run to the start of the next.
    Pause(Duration),
    /// Only a wake-up starts a run in turn.
    WakeUp,
}

/// What a loop does with a run that is under way when it must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtStop {
    /// Finishes the run.
    FinishRun,
    /// Drops the run at its next await: it leaves nothing half done that the next process would not repeat.
    DropRun,
}

/// The rules of one loop. [`Turns::run`] adds the run itself:
///
/// ```text
/// let mut turns = SWEEP.start(&stop);
/// while turns.run(sweep()).await {}
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BackgroundLoop {
    /// The name, as logs and docs give it.
    pub name: &'static str,
    /// The wait between runs that succeed.
    pub period: Period,
    /// What the log says of failures.
    pub words: OutageWords,
    /// The first and the longest wait after a failure, which no wake-up cuts short. `None` for a loop that keeps its
    /// period through failures.
    pub backoff: Option<(Duration, Duration)>,
    /// What becomes of a run at the stop. No wait outlasts the stop.
    pub at_stop: AtStop,
}

impl BackgroundLoop {
    /// A loop whose runs do not fail. It finishes the run in hand before it stops.
    pub const fn new(name: &'static str, period: Period) -> Self {
        let words = OutageWords::debug("failed", "works again");
        Self { name, period, words, backoff: None, at_stop: AtStop::FinishRun }
    }

    /// Logs failures that need an operator: what does not work, and later that it works again.
    pub const fn error(self, failing: &'static str, again: &'static str) -> Self {
        Self { words: OutageWords::error(failing, again), ..self }
    }

    /// Logs failures that pass by themselves.
    pub const fn warn(self, failing: &'static str, again: &'static str) -> Self {
        Self { words: OutageWords::warn(failing, again), ..self }
    }

    /// Logs failures of which another part warns already.
    pub const fn debug(self, failing: &'static str, again: &'static str) -> Self {
        Self { words: OutageWords::debug(failing, again), ..self }
    }

    /// Waits longer from failure to failure. Without this the loop keeps its period.
    pub const fn back_off(self, first: Duration, longest: Duration) -> Self {
        Self { backoff: Some((first, longest)), ..self }
    }

    /// Drops the run in hand at the stop.
    pub const fn drop_run(self) -> Self {
        Self { at_stop: AtStop::DropRun, ..self }
    }

    /// Starts the loop, which goes on until `stop`. Its first run is due now.
    pub fn start(self, stop: &CancellationToken) -> Turns<'_> {
        let (first, longest) = self.backoff.unwrap_or_default();
        let outage = Outage::new(self.name, self.words, ReconnectBackoff::new(first, longest));
        Turns { rules: self, stop, outage, began: Instant::now() }
    }
}

/// A loop that has been started.
#[derive(Debug)]
pub struct Turns<'a> {
    rules: BackgroundLoop,
    stop: &'a CancellationToken,
    outage: Outage,
    /// When the last run began, or the loop.
    began: Instant,
}

impl Turns<'_> {
    /// Does one run and returns true when the next is due, or false when the loop is over.
    pub async fn run(&mut self, one: impl Future<Output = Result<NextRun, RunError>>) -> bool {
        self.run_woken(std::future::pending::<()>(), one).await
    }

    /// The same for a loop that can be woken. The caller makes `wake_up` before the run begins, so that it can register
    /// its interest and miss no wake-up during the run.
    pub async fn run_woken(
        &mut self,
        wake_up: impl Future,
        one: impl Future<Output = Result<NextRun, RunError>>,
    ) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        self.began = Instant::now();
        let ended = match self.rules.at_stop {
            AtStop::FinishRun => one.await,
            AtStop::DropRun => match self.stop.run_until_cancelled(one).await {
                Some(ended) => ended,
                None => return false,
            },
        };
        let next = match ended {
            Ok(NextRun::Idle) => NextRun::Idle,
            Ok(next) => {
                self.outage.passed();
                next
            }
            Err(error) => {
                let pause = self.outage.failed(&*error);
                if self.rules.backoff.is_some() {
                    return self.stop.run_until_cancelled(sleep(pause)).await.is_some();
                }
                NextRun::InTurn
            }
        };
        match next {
            NextRun::AtOnce => !self.stop.is_cancelled(),
            NextRun::InTurn | NextRun::Idle => self.wait_woken(wake_up).await,
            NextRun::Never => false,
        }
    }

    /// Returns true when a run is due that follows in turn on the last one, or on the start of a loop whose first run
    /// is not to come at once. Returns false at the stop.
    pub async fn wait(&self) -> bool {
        self.wait_woken(std::future::pending::<()>()).await
    }

    /// The same for a loop that can be woken.
    pub async fn wait_woken(&self, wake_up: impl Future) -> bool {
        let due = match self.rules.period {
            Period::Every(period) => Some(self.began + period),
            Period::Pause(pause) => Some(Instant::now() + pause),
            Period::WakeUp => None,
        };
        let in_time = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = in_time => true,
            _ = wake_up => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Does `runs` runs, each of which takes so long and then passes or fails, and answers how many milliseconds
    /// after the start each began.
    async fn starts(rules: BackgroundLoop, runs: usize, run: impl Fn(usize) -> (Duration, bool)) -> Vec<u128> {
        let (stop, start, mut starts) = (CancellationToken::new(), Instant::now(), Vec::new());
        let mut turns = rules.start(&stop);
        let mut is_due = true;
        while is_due {
            starts.push(start.elapsed().as_millis());
            let (duration, passes) = run(starts.len());
            let is_last = starts.len() == runs;
            let one = async {
                sleep(duration).await;
                match (is_last, passes) {
                    (true, _) => Ok(NextRun::Never),
                    (false, true) => Ok(NextRun::InTurn),
                    (false, false) => Err("broken".into()),
                }
            };
            is_due = turns.run(one).await;
        }
        starts
    }

    #[tokio::test(start_paused = true)]
    async fn the_period_counts_from_start_to_start_and_a_pause_from_the_end() {
        // The second run takes longer than the period.
        let slow = |run| (if run == 2 { SECOND * 5 / 2 } else { SECOND / 10 }, true);
        let every = BackgroundLoop::new("test", Period::Every(SECOND));
        assert_eq!(starts(every, 5, slow).await, [0, 1000, 3500, 4500, 5500]);
        let pause = BackgroundLoop::new("test", Period::Pause(SECOND));
        assert_eq!(starts(pause, 4, slow).await, [0, 1100, 4600, 5700]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_run_may_wait_for_its_turn_too() {
        for period in [Period::Every(SECOND), Period::Pause(SECOND)] {
            let (stop, start) = (CancellationToken::new(), Instant::now());
            let turns = BackgroundLoop::new("test", period).start(&stop);
            assert!(turns.wait().await);
            assert_eq!(start.elapsed(), SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_after_failures_double_and_start_over_after_a_success() {
        let rules = BackgroundLoop::new("test", Period::Pause(Duration::ZERO)).back_off(SECOND, SECOND * 3);
        let starts = starts(rules, 7, |run| (Duration::ZERO, run == 5)).await;
        let waits: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (wait, most) in waits.iter().zip([1000, 2000, 3000, 3000, 0, 1000]) {
            // Timers go off at the next whole millisecond.
            assert!((most / 2..=most + 1).contains(wait), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_backoff_failures_change_no_period() {
        let rules = BackgroundLoop::new("test", Period::Every(SECOND));
        assert_eq!(starts(rules, 4, |_| (Duration::ZERO, false)).await, [0, 1000, 2000, 3000]);
    }

    /// Stops the loop after 1.5 seconds, and answers how many runs began, how many ended, and when the loop ended.
    async fn stopped(rules: BackgroundLoop, run: Duration, result: Result<NextRun, &str>) -> (u32, u32, u128) {
        let (stop, start) = (CancellationToken::new(), Instant::now());
        let (mut began, mut ended) = (0, 0);
        let recurring = async {
            let mut turns = rules.start(&stop);
            let mut one = async || {
                began += 1;
                sleep(run).await;
                ended += 1;
                result.map_err(Into::into)
            };
            while turns.run(one()).await {}
        };
        let stopping = async {
            sleep(SECOND * 3 / 2).await;
            stop.cancel();
        };
        tokio::join!(recurring, stopping);
        (began, ended, start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_a_wait_at_once_and_a_run_as_the_rules_say() {
        let rules = BackgroundLoop::new("test", Period::Every(SECOND * 60)).back_off(SECOND * 60, SECOND * 60);
        assert_eq!(stopped(rules, Duration::ZERO, Ok(NextRun::InTurn)).await, (1, 1, 1500), "in turn");
        assert_eq!(stopped(rules, Duration::ZERO, Err("broken")).await, (1, 1, 1500), "after a failure");
        assert_eq!(stopped(rules, SECOND, Ok(NextRun::AtOnce)).await, (2, 2, 2000), "the run ends");
        let dropping = rules.drop_run();
        assert_eq!(stopped(dropping, SECOND, Ok(NextRun::AtOnce)).await, (2, 1, 1500), "the run is dropped");
        let woken = BackgroundLoop { period: Period::WakeUp, ..rules };
        assert_eq!(stopped(woken, Duration::ZERO, Ok(NextRun::InTurn)).await, (1, 1, 1500), "without a wake-up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_with_nothing_to_do_ends_no_outage() {
        let stop = CancellationToken::new();
        let rules = BackgroundLoop::new("test", Period::Pause(SECOND)).back_off(SECOND, SECOND * 60);
        let mut turns = rules.start(&stop);
        turns.run(async { Err("broken".into()) }).await;
        turns.run(async { Ok(NextRun::Idle) }).await;
        let start = Instant::now();
        turns.run(async { Err("still broken".into()) }).await;
        assert!(start.elapsed() >= SECOND, "the wait has doubled: {:?}", start.elapsed());
        turns.run(async { Ok(NextRun::InTurn) }).await;
        let start = Instant::now();
        turns.run(async { Err("broken again".into()) }).await;
        assert!(start.elapsed() <= SECOND, "the waits start over: {:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_runs_after_the_stop() {
        let stop = CancellationToken::new();
        stop.cancel();
        let mut turns = BackgroundLoop::new("test", Period::WakeUp).start(&stop);
        assert!(!turns.run(async { panic!("it was stopped before") }).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_cuts_a_period_short_but_no_backoff() {
        let (stop, news, start) = (CancellationToken::new(), Notify::new(), Instant::now());
        let rules = BackgroundLoop::new("test", Period::Every(SECOND * 60)).back_off(SECOND * 40, SECOND * 40);
        let mut turns = rules.start(&stop);
        let waking = async || {
            sleep(SECOND * 10).await;
            news.notify_waiters();
        };
        // Reaches only those that listen by then.
        let woken_meanwhile = async {
            news.notify_waiters();
            Ok(NextRun::InTurn)
        };
        assert!(turns.run_woken(news.notified(), woken_meanwhile).await);
        assert_eq!(start.elapsed(), Duration::ZERO, "a wake-up during the run is not missed");
        let (due, ()) = tokio::join!(turns.run_woken(news.notified(), async { Ok(NextRun::InTurn) }), waking());
        assert!(due);
        assert_eq!(start.elapsed(), SECOND * 10);
        let (due, ()) = tokio::join!(turns.run_woken(news.notified(), async { Err("broken".into()) }), waking());
        assert!(due && start.elapsed() >= SECOND * 30, "{:?}", start.elapsed());
        assert!(turns.run_woken(news.notified(), async { Ok(NextRun::InTurn) }).await);
        assert!(start.elapsed() >= SECOND * 90, "the wake-up during the backoff is over");
    }
}
