//! A running job's output, twice: byte for byte in a stream of Jobber's own, for clients that
//! follow it, and the end of it as lines of BullMQ's job log, for people and other tools.
//!
//! The stream has one entry for each piece (`<number>-0`, numbers rise by one over all of a job's
//! attempts). It expires some time after the job has ended and the last client has read it. Redis
//! has it in memory, so it is bounded for each job and for all jobs of a worker together. Beyond
//! the bound, output that no client reads is not all written.
//!
//! A line is `<attempt>.<number> stdout| text`, with `>` for `|` where the job has not ended the
//! line. Where there is no stream any more, output is read from the lines. Lines that another
//! program logged have no number and are passed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::super::output::{LINGER, READS_ON, keep_the_end};
use super::super::{OutputChunk, QueueError};
use super::Inner;
use super::connect::{BullClient, BullError};
use super::recent_output::Numbered;
use super::signals::{self, Message};
use crate::domain::{AttemptNumber, JobId, Stream};

/// A watcher looks again after this long, in case a message got lost, and to see whether the job has ended.
const FALLBACK: Duration = Duration::from_secs(1);
/// How many lines of a job are kept at most, and so read in one go.
const LINES: isize = 10_000;
/// How long the stream is kept for a job that is silent: its worker may be gone.
const SILENCE: Duration = Duration::from_secs(86_400);
/// All streams of a worker together have at most so many times the bound of one.
const ALL: usize = 4;
/// How many entries are read at once: a megabyte.
const ENTRIES: usize = 16;
/// Positions in the stream begin here, so that they are not taken for numbers of lines.
const STREAM: u64 = 1 << 40;
/// How many pieces of a write go in one transaction: other requests to Redis wait for it meanwhile.
const AT_ONCE: usize = 16;

/// Writes one attempt's output and keeps it within its bounds.
pub(super) struct OutputWriter {
    id: String,
    attempt: u32,
    bound: usize,
    lines_bound: usize,
    /// The last line's number and the sizes of all that are kept; read at the first write, for earlier attempts count.
    lines: Option<(u64, VecDeque<usize>)>,
    /// The stream's last number.
    number: u64,
    /// Numbers and sizes of the entries that this attempt has in the stream.
    entries: VecDeque<(u64, usize)>,
    spooled: Spooled,
    written: usize,
    /// Up to where each of the job's two streams is known to be in Redis, in bytes from its beginning.
    in_stream: [u64; 2],
    is_last: bool,
    /// How many lines are kept at most; read with the first.
    most_lines: usize,
}

/// The part of a worker's streams that belongs to one attempt; given back when the stream has expired.
struct Spooled {
    all: Arc<AtomicUsize>,
    own: usize,
    linger: Duration,
}

impl Spooled {
    fn set(&mut self, own: usize) {
        self.all.fetch_add(own, Ordering::Relaxed);
        self.all.fetch_sub(self.own, Ordering::Relaxed);
        self.own = own;
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let (all, own, linger) = (self.all.clone(), self.own, self.linger);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if own > 0 => drop(runtime.spawn(async move {
                tokio::time::sleep(linger).await;
                all.fetch_sub(own, Ordering::Relaxed);
            })),
            _ => {
                all.fetch_sub(own, Ordering::Relaxed);
            }
        }
    }
}

impl OutputWriter {
    pub(super) fn new(inner: &Inner, id: &str, attempt: AttemptNumber) -> Self {
        Self {
            id: id.to_owned(),
            attempt: attempt.0,
            bound: inner.settings.common.output_bytes,
            lines_bound: inner.settings.common.kept_output_bytes.min(inner.settings.common.output_bytes),
            lines: None,
            number: 0,
            entries: VecDeque::new(),
            spooled: Spooled { all: inner.spooled.clone(), own: 0, linger: LINGER },
            written: 0,
            in_stream: [0; 2],
            is_last: false,
            most_lines: LINES.unsigned_abs(),
        }
    }

    /// Notes that the next write is the last of the job's output.
    pub(super) fn expect_last(&mut self) {
        self.is_last = true;
    }

    pub(super) async fn write(
        &mut self,
        inner: &Inner,
        redis: &BullClient,
        mut chunks: VecDeque<OutputChunk>,
    ) -> Result<(), BullError> {
        if chunks.is_empty() {
            if self.is_last && self.written > 0 {
                self.expire(inner, redis, LINGER).await?;
            }
            return Ok(());
        }
        let (mut line, mut sizes) = match self.lines.take() {
            Some(kept) => kept,
            None => self.read_kept(inner, redis).await?,
        };
        let mut logged = chunks.clone();
        // A write that was given up half-way comes again, whole.
        for chunk in &mut chunks {
            let known = self.in_stream[index(chunk)].saturating_sub(chunk.at.unwrap_or(u64::MAX));
            chunk.cut(usize::try_from(known).unwrap_or(usize::MAX).min(chunk.bytes.len()));
        }
        chunks.retain(|chunk| !chunk.bytes.is_empty());
        let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        self.written = self.written.saturating_add(bytes);
        let others = inner.spooled.load(Ordering::Relaxed).saturating_sub(self.spooled.own);
        let room = (ALL * self.bound).saturating_sub(others).min(self.bound).max(self.lines_bound);
        if self.written > room && !self.has_reader(inner, redis).await? {
            keep_the_end(&mut chunks, self.lines_bound);
        }
        keep_the_end(&mut chunks, room);
        keep_the_end(&mut logged, self.lines_bound);
        let stream = inner.keys.output(&self.id);
        let pieces: Vec<_> = chunks.into();
        for pieces in pieces.chunks(AT_ONCE) {
            let mut pipe = redis::pipe();
            pipe.atomic();
            for piece in pieces {
                self.number += 1;
                self.entries.push_back((self.number, piece.bytes.len()));
                let head = entry_head(piece);
                let add = pipe.cmd("XADD").arg(&stream).arg(format!("{}-0", self.number));
                add.arg("head").arg(head).arg("bytes").arg(&piece.bytes).ignore();
            }
            let mut kept: usize = self.entries.iter().map(|(_, size)| size).sum();
            let full = kept > room;
            while kept > room
                && let Some((_, size)) = self.entries.pop_front()
            {
                kept -= size;
            }
            // The output of earlier attempts goes first.
            if full && let Some((first, _)) = self.entries.front() {
                pipe.cmd("XTRIM").arg(&stream).arg("MINID").arg(format!("{first}-0")).ignore();
            }
            let expiry = if self.is_last { LINGER } else { SILENCE };
            pipe.cmd("PEXPIRE").arg(&stream).arg(in_ms(expiry)).ignore();
            self.spooled.set(kept);
            redis.queue.connection().pipe::<()>(&pipe).await?;
            for piece in pieces {
                let end = piece.at.map_or(0, |at| at + piece.bytes.len() as u64);
                self.in_stream[index(piece)] = self.in_stream[index(piece)].max(end);
            }
        }
        let mut push = redis::cmd("RPUSH");
        let key = inner.keys.logs(&self.id);
        push.arg(&key);
        for chunk in &logged {
            let stream = match chunk.stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            for text in String::from_utf8_lossy(&chunk.bytes).split_inclusive('\n') {
                line += 1;
                sizes.push_back(text.len());
                let (text, mark) = text.strip_suffix('\n').map_or((text, '>'), |text| (text, '|'));
                push.arg(format!("{}.{line} {stream}{mark} {text}", self.attempt));
            }
        }
        let mut bytes: usize = sizes.iter().sum();
        while (bytes > self.lines_bound || sizes.len() > self.most_lines) && sizes.len() > 1 {
            bytes -= sizes.pop_front().unwrap_or(0);
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.add_command(push).ignore();
        pipe.cmd("LTRIM").arg(&key).arg(-isize::try_from(sizes.len()).unwrap_or(isize::MAX)).arg(-1).ignore();
        redis.queue.connection().pipe::<()>(&pipe).await?;
        self.lines = Some((line, sizes));
        // A follower that did not hear of it looks again soon. An error here would make the caller write the output
        // again.
        if let Err(error) = signals::publish(inner, redis, &Message::Output { id: self.id.clone() }).await {
            tracing::debug!(job = self.id, %error, "followers were not told of output");
        }
        Ok(())
    }

    /// Finds out what earlier attempts left: the last line's number, and the sizes of all lines.
    async fn read_kept(&mut self, inner: &Inner, redis: &BullClient) -> Result<(u64, VecDeque<usize>), BullError> {
        let mut pipe = redis::pipe();
        pipe.cmd("LRANGE").arg(inner.keys.logs(&self.id)).arg(0).arg(-1);
        pipe.cmd("XREVRANGE").arg(inner.keys.output(&self.id)).arg("+").arg("-").arg("COUNT").arg(1);
        pipe.cmd("HGET").arg(inner.keys.job(&self.id)).arg("opts");
        let (lines, last, opts): (Vec<String>, Vec<StreamEntry>, Option<String>) =
            redis.queue.connection().pipe(&pipe).await?;
        if let Some(most) = opts.as_deref().and_then(kept_log_lines) {
            self.most_lines = self.most_lines.min(most);
        }
        self.number = self.number.max(last.first().and_then(number).unwrap_or(0));
        let line = lines.iter().rev().find_map(|line| parse_line(line)).map_or(0, |(number, _)| number);
        Ok((line, lines.iter().map(String::len).collect()))
    }

    async fn has_reader(&self, inner: &Inner, redis: &BullClient) -> Result<bool, BullError> {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(inner.keys.readers(&self.id));
        Ok(redis.queue.connection().cmd(&mut exists).await?)
    }

    async fn expire(&self, inner: &Inner, redis: &BullClient, after: Duration) -> Result<(), BullError> {
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(inner.keys.output(&self.id)).arg(in_ms(after));
        Ok(redis.queue.connection().cmd(&mut expire).await?)
    }
}

/// The place of a chunk's stream in [`OutputWriter::in_stream`].
fn index(chunk: &OutputChunk) -> usize {
    match chunk.stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An entry as Redis gives it: its id, and its fields with their values.
type StreamEntry = (String, Vec<Vec<u8>>);

fn number((id, _): &StreamEntry) -> Option<u64> {
    id.split_once('-')?.0.parse().ok()
}

/// What an entry says of its bytes: attempt, stream, place.
fn entry_head(chunk: &OutputChunk) -> String {
    let stream = match chunk.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    format!("{} {stream} {}", chunk.attempt, chunk.at.map_or_else(|| "-".to_owned(), |at| at.to_string()))
}

fn numbered(stored: StreamEntry) -> Option<Numbered> {
    Some((number(&stored)?, parse_entry(stored)))
}

fn parse_entry((_, fields): StreamEntry) -> Option<OutputChunk> {
    let mut fields = fields.into_iter();
    let (_, head, _, bytes) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let head = String::from_utf8(head).ok()?;
    let mut words = head.split(' ');
    let attempt = words.next()?.parse().ok()?;
    let stream = match words.next()? {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    Some(OutputChunk { attempt, stream, at: words.next()?.parse().ok(), bytes })
}

/// How many lines the producer wants to be kept. To BullMQ, none is no limit.
fn kept_log_lines(opts: &str) -> Option<usize> {
    let opts: serde_json::Value = serde_json::from_str(opts).ok()?;
    // Node writes the short name, other ports the long one.
    let lines = opts.get("kl").or_else(|| opts.get("keepLogs"))?.as_f64()?;
    // A number of lines that does not fit is no limit either.
    (lines >= 1.0).then_some(lines as usize)
}

fn parse_line(line: &str) -> Option<(u64, OutputChunk)> {
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
    let chunk = OutputChunk { attempt: attempt.parse().ok()?, stream, at: None, bytes: text.into_bytes() };
    Some((number.parse().ok()?, chunk))
}

/// The output behind `after`. Waits for some, up to `wait`, while the job may still say something.
pub(super) async fn read(
    inner: &Inner,
    id: &JobId,
    after: u64,
    wait: Duration,
) -> Result<(u64, Vec<OutputChunk>), QueueError> {
    use bullmq::JobState::{Completed, Failed, Unknown};
    let until = Instant::now() + wait;
    let mut messages = inner.signals.output();
    loop {
        let redis = inner.link.get().await?;
        // The state first: all output from before the end is there when the end is seen.
        let state = inner.link.call(redis.queue.get_job_state(id.as_str())).await?;
        let has_ended = matches!(state, Completed | Failed | Unknown);
        let (next, chunks) = inner.link.call(read_once(inner, &redis, id, after, has_ended)).await?;
        let now = Instant::now();
        if !chunks.is_empty() || has_ended || now >= until {
            return Ok((next, chunks));
        }
        let heard = async {
            loop {
                match messages.recv().await {
                    Ok(other) if other != id.as_str() => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(FALLBACK.min(until - now), heard).await;
    }
}

/// The output behind `after`; nothing for a job that is no longer in the queue.
async fn read_once(
    inner: &Inner,
    redis: &BullClient,
    id: &JobId,
    after: u64,
    has_ended: bool,
) -> Result<(u64, Vec<OutputChunk>), BullError> {
    let stream = inner.keys.output(id.as_str());
    let key = inner.keys.job(id.as_str());
    let mut pipe = redis::pipe();
    pipe.cmd("EXISTS").arg(&key);
    pipe.cmd("HGET").arg(&key).arg("timestamp");
    let (is_there, born): (bool, Option<String>) = redis.queue.connection().pipe(&pipe).await?;
    if !is_there {
        return Ok((after, Vec::new()));
    }
    let read_from = async |after: u64| {
        let mut range = redis::cmd("XRANGE");
        range.arg(&stream).arg(format!("{}-0", after + 1)).arg("+").arg("COUNT").arg(ENTRIES);
        let entries: Vec<StreamEntry> = redis.queue.connection().cmd(&mut range).await?;
        Ok::<_, BullError>(entries.into_iter().filter_map(numbered).collect())
    };
    let job = (id.to_string(), born.unwrap_or_default());
    let pieces = inner.recent_output.read(job, after.saturating_sub(STREAM), ENTRIES, read_from).await?;
    if let Some((last, _)) = pieces.last() {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(inner.keys.readers(id.as_str())).arg(1).arg("PX").arg(in_ms(READS_ON)).ignore();
        if has_ended {
            pipe.cmd("PEXPIRE").arg(&stream).arg(in_ms(LINGER)).ignore();
        }
        redis.queue.connection().pipe::<()>(&pipe).await?;
        return Ok((STREAM + last, pieces.into_iter().filter_map(|(_, piece)| piece).collect()));
    }
    if after >= STREAM {
        return Ok((after, Vec::new()));
    }
    let (lines, _) = redis.queue.get_job_logs(id.as_str(), -LINES, -1, true).await?;
    let fresh: Vec<_> = lines.iter().filter_map(|line| parse_line(line)).filter(|(n, _)| *n > after).collect();
    let next = fresh.last().map_or(after, |(last, _)| *last);
    Ok((next, fresh.into_iter().map(|(_, chunk)| chunk).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_said_it_and_where_it_stands() {
        let chunk = |text: &str| OutputChunk { attempt: 2, stream: Stream::Stderr, at: None, bytes: text.into() };
        assert_eq!(parse_line("2.17 stderr| a| b"), Some((17, chunk("a| b\n"))));
        assert_eq!(parse_line("2.17 stderr> "), Some((17, chunk(""))));
        for foreign in ["", "hello", "2.x stdout| a", "2.3 stdlog| a", "2.3 stdout a", "a message| text"] {
            assert_eq!(parse_line(foreign), None);
        }
    }

    #[test]
    fn an_entry_says_what_its_bytes_are() {
        for at in [Some(7), None] {
            let chunk = OutputChunk { attempt: 2, stream: Stream::Stderr, at, bytes: b"\xff\0".to_vec() };
            let fields = [b"head".to_vec(), entry_head(&chunk).into_bytes(), b"bytes".to_vec(), chunk.bytes.clone()];
            assert_eq!(number(&("17-0".to_owned(), Vec::new())), Some(17));
            assert_eq!(parse_entry(("17-0".to_owned(), fields.into())), Some(chunk));
        }
        assert_eq!(parse_entry(("17-0".to_owned(), vec![b"foreign".to_vec()])), None);
    }
}
