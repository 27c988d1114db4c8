//! A running job's output, as lines of BullMQ's job log: `<attempt>.<number> stdout| text`, with `>` for `|` where the
//! job has not ended the line.
//!
//! The numbers rise by one over all of a job's attempts; they are the positions of [`read`]. Lines that somebody else
//! logged have none and are passed over.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::super::{OutputChunk, QueueError};
use super::Inner;
use super::connect::{Redis, Trouble};
use super::signals::{self, Told};
use crate::domain::{AttemptNumber, JobId, Stream};

/// A watcher looks again after this long, should a message get lost, and to see whether the job has ended.
const FALLBACK: Duration = Duration::from_secs(1);
/// Lines of a job that are kept at most, and so read in one go.
const LINES: isize = 10_000;

/// Writes one attempt's output and keeps it within its bound.
pub(super) struct Transcript {
    id: String,
    attempt: u32,
    bound: usize,
    /// The last line's number and the sizes of all that are kept; read at the first write, for earlier attempts count.
    kept: Option<(u64, VecDeque<usize>)>,
    /// How many lines are kept at most; read with those.
    lines: usize,
}

impl Transcript {
    pub(super) fn new(id: &str, attempt: AttemptNumber, bound: usize) -> Self {
        Self { id: id.to_owned(), attempt: attempt.0, bound, kept: None, lines: LINES.unsigned_abs() }
    }

    pub(super) async fn write(
        &mut self,
        inner: &Inner,
        redis: &Redis,
        chunks: Vec<OutputChunk>,
    ) -> Result<(), Trouble> {
        let key = inner.keys.logs(&self.id);
        let (mut number, mut sizes) = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let mut all = redis::pipe();
                all.cmd("LRANGE").arg(&key).arg(0).arg(-1);
                all.cmd("HGET").arg(inner.keys.job(&self.id)).arg("opts");
                let (lines, opts): (Vec<String>, Option<String>) = redis.queue.connection().pipe(&all).await?;
                if let Some(wanted) = opts.as_deref().and_then(keep_logs) {
                    self.lines = self.lines.min(wanted);
                }
                let last = lines.iter().rev().find_map(|line| parse(line)).map_or(0, |(number, _)| number);
                (last, lines.iter().map(String::len).collect())
            }
        };
        let mut push = redis::cmd("RPUSH");
        push.arg(&key);
        for chunk in &chunks {
            let stream = match chunk.stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            for line in end_of(&chunk.text, self.bound).split_inclusive('\n') {
                number += 1;
                let (text, mark) = line.strip_suffix('\n').map_or((line, '>'), |text| (text, '|'));
                push.arg(format!("{}.{number} {stream}{mark} {text}", self.attempt));
                sizes.push_back(line.len());
            }
        }
        let mut bytes: usize = sizes.iter().sum();
        while (bytes > self.bound || sizes.len() > self.lines) && sizes.len() > 1 {
            bytes -= sizes.pop_front().unwrap_or(0);
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.add_command(push).ignore();
        pipe.cmd("LTRIM").arg(&key).arg(-isize::try_from(sizes.len()).unwrap_or(isize::MAX)).arg(-1).ignore();
        redis.queue.connection().pipe::<()>(&pipe).await?;
        self.kept = Some((number, sizes));
        signals::tell(inner, redis, &Told::Output { id: self.id.clone() }).await
    }
}

/// How many lines the producer wants to be kept. To BullMQ, none is no limit.
fn keep_logs(opts: &str) -> Option<usize> {
    let opts: serde_json::Value = serde_json::from_str(opts).ok()?;
    // Node writes the short name, other ports the long one.
    let wanted = opts.get("kl").or_else(|| opts.get("keepLogs"))?.as_f64()?;
    // A number of lines: what does not fit is no limit either.
    (wanted >= 1.0).then_some(wanted as usize)
}

/// At most so many bytes of the end.
fn end_of(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

fn parse(line: &str) -> Option<(u64, OutputChunk)> {
    let (numbers, rest) = line.split_once(' ')?;
    let (attempt, number) = numbers.split_once('.')?;
    let (stream, rest) = match rest.strip_prefix("stdout") {
        Some(rest) => (Stream::Stdout, rest),
        None => (Stream::Stderr, rest.strip_prefix("stderr")?),
    };
    let text = match rest.strip_prefix("| ") {
        Some(text) => format!("{text}\n"),
        None => rest.strip_prefix("> ")?.to_owned(),
    };
    Some((number.parse().ok()?, OutputChunk { attempt: attempt.parse().ok()?, stream, text }))
}

/// Output behind `after`, waiting for some while the job may still say something.
pub(super) async fn read(
    inner: &Inner,
    id: &JobId,
    after: u64,
    wait: Duration,
) -> Result<(u64, Vec<OutputChunk>), QueueError> {
    let until = Instant::now() + wait;
    let mut news = inner.signals.output();
    loop {
        let redis = inner.link.get().await?;
        // The state first: what was said before the end is there when the end is seen.
        let state = inner.link.call(redis.queue.get_job_state(id.as_str())).await?;
        let (lines, _) = inner.link.call(redis.queue.get_job_logs(id.as_str(), -LINES, -1, true)).await?;
        let fresh: Vec<_> = lines.iter().filter_map(|line| parse(line)).filter(|(n, _)| *n > after).collect();
        if let Some((last, _)) = fresh.last() {
            return Ok((*last, fresh.into_iter().map(|(_, chunk)| chunk).collect()));
        }
        use bullmq::JobState::{Completed, Failed, Unknown};
        let now = Instant::now();
        if matches!(state, Completed | Failed | Unknown) || now >= until {
            return Ok((after, Vec::new()));
        }
        let told = async {
            loop {
                match news.recv().await {
                    Ok(said) if said != id.as_str() => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(FALLBACK.min(until - now), told).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_said_it_and_where_it_stands() {
        let chunk = |text: &str| OutputChunk { attempt: 2, stream: Stream::Stderr, text: text.to_owned() };
        assert_eq!(parse("2.17 stderr| a| b"), Some((17, chunk("a| b\n"))));
        assert_eq!(parse("2.17 stderr> "), Some((17, chunk(""))));
        for foreign in ["", "hello", "2.x stdout| a", "2.3 stdlog| a", "2.3 stdout a", "a message| text"] {
            assert_eq!(parse(foreign), None);
        }
    }

    #[test]
    fn the_end_of_a_text_is_cut_between_letters() {
        assert_eq!(end_of("aéb", 2), "b");
        assert_eq!(end_of("aéb", 3), "éb");
        assert_eq!(end_of("ab", 9), "ab");
    }
}
