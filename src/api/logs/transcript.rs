//! Merges the queue's pieces of output with history's tails: the client gets each byte once, in
//! order, and a mark where some are missing. Does no I/O.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use crate::domain::{JobState, Progress, Stream, unfinished};
use crate::queue::OutputChunk;
use crate::store::AttemptRecord;
use crate::wire::LogEvent;

/// The most bytes of output in one event.
const PIECE: usize = 64 << 10;

/// Which part of the output the client wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// Only this stream; `None` for both.
    pub(super) stream: Option<Stream>,
    /// Only this attempt; `None` for all.
    pub(super) attempt: Option<u32>,
}

/// How much the client has: everything of the attempts before this one, and this many bytes of its
/// streams. It is the id of an event, so that a client that reconnects goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LogPosition {
    attempt: u32,
    stdout: u64,
    stderr: u64,
}

impl LogPosition {
    /// This position, but nothing less than `had`.
    fn at_least(self, had: LogPosition) -> Self {
        match self.attempt.cmp(&had.attempt) {
            Ordering::Less => had,
            Ordering::Greater => self,
            Ordering::Equal => {
                Self { attempt: self.attempt, stdout: self.stdout.max(had.stdout), stderr: self.stderr.max(had.stderr) }
            }
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.attempt, self.stdout, self.stderr)
    }
}

impl FromStr for LogPosition {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(());
        let attempt = next()?.parse().map_err(|_| ())?;
        let mut count = || next()?.parse().map_err(|_| ());
        Ok(Self { attempt, stdout: count()?, stderr: count()? })
    }
}

/// An event, and the client's position after it.
#[derive(Debug)]
pub(super) struct TranscriptEvent {
    pub(super) event: LogEvent,
    pub(super) position: LogPosition,
}

/// How much of one attempt the client has: bytes of each stream, missing ones included.
#[derive(Debug, Default)]
struct Attempt {
    ended: bool,
    stdout: u64,
    stderr: u64,
}

/// How much of the queue's output the caller has handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Read {
    /// There may be more output in the queue.
    Some,
    /// All output that was in the queue when the caller looked at history.
    All,
    /// All output, and no attempt that has ended according to history will have more.
    Last,
}

/// What the transcript needs before it can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: all of it has been sent.
    Nothing,
    /// The rest of the queue's output.
    More,
    /// The last piece of this attempt in the queue.
    Rest(u32),
    /// The end of an attempt that was followed by another.
    History,
}

/// Merges the output of one job for one client. See the module.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    wanted: Wanted,
    /// The position of the client before it reconnected.
    had: LogPosition,
    position: LogPosition,
    attempts: BTreeMap<u32, Attempt>,
    /// Pieces that must wait, because an earlier attempt is not complete yet.
    pending: VecDeque<OutputChunk>,
    state: Option<JobState>,
    progress: Option<Progress>,
    events: Vec<TranscriptEvent>,
}

impl Transcript {
    /// Makes a transcript of the `wanted` part, from the client's position on.
    pub(super) fn new(wanted: Wanted, had: Option<LogPosition>) -> Self {
        Self { wanted, had: had.unwrap_or_default(), ..Self::default() }
    }

    /// The events that are ready to be sent.
    pub(super) fn take_events(&mut self) -> Vec<TranscriptEvent> {
        std::mem::take(&mut self.events)
    }

    /// Takes the queue's next pieces.
    pub(super) fn add(&mut self, chunks: Vec<OutputChunk>) {
        self.pending.extend(chunks);
    }

    /// Makes events from what history knows and what the caller has `read` from the queue. With
    /// `caught_up`, an attempt that is followed by another counts as ended even if history can't tell how.
    ///
    /// For an attempt that has ended, history has the tail of each stream. The tail replaces pieces
    /// that never came through. But the bytes before it must have been sent, so all of the queue's
    /// pieces of the attempt come first.
    pub(super) fn absorb(&mut self, records: &[AttemptRecord], read: Read, caught_up: bool) -> Need {
        for record in records {
            let number = record.number.0;
            while let Some(chunk) = self.pending.pop_front_if(|chunk| chunk.attempt <= number) {
                self.piece(chunk);
            }
            // Pieces come in the order of attempts.
            let read = if self.pending.is_empty() { read } else { Read::Last };
            self.begin(number);
            let Some(report) = record.report.as_ref().filter(|_| !self.has_ended(number)) else { continue };
            if read == Read::Some {
                return Need::More;
            }
            let tails = [(Stream::Stdout, &report.stdout), (Stream::Stderr, &report.stderr)]
                .map(|(stream, tail)| (stream, tail.bytes(), tail.total_bytes))
                .map(|(stream, bytes, total)| (stream, total.saturating_sub(bytes.len() as u64), bytes));
            if read != Read::Last && tails.iter().any(|(stream, start, _)| *self.sent(number, *stream) < *start) {
                return Need::Rest(number);
            }
            for (stream, start, bytes) in tails {
                self.output(number, stream, Some(start), &bytes);
            }
            self.attempts.entry(number).or_default().ended = true;
            self.push_attempt(number, Some(report.outcome));
        }
        if caught_up {
            let pending = self.pending.iter().map(|chunk| chunk.attempt);
            let newest = records.last().map(|r| r.number.0).into_iter().chain(pending).max();
            for (_, attempt) in self.attempts.iter_mut().filter(|(n, _)| Some(**n) < newest) {
                attempt.ended = true;
            }
        }
        if self.flush() { Need::History } else { Need::Nothing }
    }

    /// Makes events from the pieces that no earlier attempt holds up. Returns whether some are left.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(chunk) = self.pending.front() {
            if self.attempts.range(..chunk.attempt).any(|(_, earlier)| !earlier.ended) {
                return true;
            }
            if let Some(chunk) = self.pending.pop_front() {
                self.piece(chunk);
            }
        }
        false
    }

    /// Notes the job's state.
    pub(super) fn state(&mut self, state: JobState) {
        if self.state.replace(state) != Some(state) {
            self.push(LogEvent::State { state });
        }
    }

    /// Notes the job's progress.
    pub(super) fn progress(&mut self, progress: Option<&Progress>) {
        if let Some(progress) = progress
            && self.progress.as_ref() != Some(progress)
        {
            self.progress = Some(progress.clone());
            self.push(LogEvent::Progress(progress.clone()));
        }
    }

    fn piece(&mut self, chunk: OutputChunk) {
        self.begin(chunk.attempt);
        // The client has the tail of this attempt, and with it every piece that still comes.
        if !self.has_ended(chunk.attempt) {
            self.output(chunk.attempt, chunk.stream, chunk.at, &chunk.bytes);
        }
    }

    fn begin(&mut self, number: u32) {
        if let Entry::Vacant(vacant) = self.attempts.entry(number) {
            vacant.insert(Attempt::default());
            self.position = LogPosition { attempt: number, ..LogPosition::default() };
            self.push_attempt(number, None);
        }
    }

    fn has_ended(&self, number: u32) -> bool {
        self.attempts.get(&number).is_some_and(|attempt| attempt.ended)
    }

    fn sent(&mut self, number: u32, stream: Stream) -> &mut u64 {
        let attempt = self.attempts.entry(number).or_default();
        match stream {
            Stream::Stdout => &mut attempt.stdout,
            Stream::Stderr => &mut attempt.stderr,
        }
    }

    /// Makes an event from the new part of the bytes that begin at `at`, and a gap for missing bytes before them.
    fn output(&mut self, attempt: u32, stream: Stream, at: Option<u64>, bytes: &[u8]) {
        let sent = *self.sent(attempt, stream);
        let begin = at.unwrap_or(sent);
        let end = begin + bytes.len() as u64;
        // Bytes that the client had before it reconnected are not new either.
        let had = match (attempt == self.had.attempt, stream) {
            (false, _) => 0,
            (true, Stream::Stdout) => self.had.stdout,
            (true, Stream::Stderr) => self.had.stderr,
        };
        let known = sent.max(had);
        let is_wanted =
            self.is_wanted(attempt) && self.wanted.stream.is_none_or(|s| s == stream) && attempt >= self.had.attempt;
        if is_wanted && begin > known {
            self.reach(attempt, stream, begin);
            self.push(LogEvent::Gap { attempt, stream, bytes: begin - known });
        }
        let news = usize::try_from(known.saturating_sub(begin)).unwrap_or(usize::MAX);
        let mut rest = &bytes[news.min(bytes.len())..];
        while is_wanted && !rest.is_empty() {
            let most = &rest[..rest.len().min(PIECE)];
            let cut = if most.len() < rest.len() { most.len() - unfinished(most) } else { most.len() };
            let piece;
            (piece, rest) = rest.split_at(cut);
            self.reach(attempt, stream, end - rest.len() as u64);
            self.push(LogEvent::output(attempt, stream, piece));
        }
        self.reach(attempt, stream, end);
    }

    /// Notes that the client has this stream up to `end`.
    fn reach(&mut self, attempt: u32, stream: Stream, end: u64) {
        let sent = self.sent(attempt, stream);
        *sent = end.max(*sent);
        let sent = *sent;
        if attempt == self.position.attempt {
            match stream {
                Stream::Stdout => self.position.stdout = sent,
                Stream::Stderr => self.position.stderr = sent,
            }
        }
    }

    fn push_attempt(&mut self, attempt: u32, outcome: Option<crate::domain::Outcome>) {
        let had = attempt < self.had.attempt || (attempt == self.had.attempt && outcome.is_none());
        if !had && self.is_wanted(attempt) {
            self.push(LogEvent::Attempt { attempt, outcome });
        }
    }

    fn is_wanted(&self, attempt: u32) -> bool {
        self.wanted.attempt.is_none_or(|n| n == attempt)
    }

    fn push(&mut self, event: LogEvent) {
        // What the client had before it reconnected is read again, and skipped. An event that comes meanwhile must not
        // send the client back to there, should the connection break once more.
        let position = self.position.at_least(self.had);
        self.events.push(TranscriptEvent { event, position });
    }
}

/// The name of an event: its `type`.
pub(super) fn name(event: &LogEvent) -> &'static str {
    match event {
        LogEvent::Output { .. } => "output",
        LogEvent::Gap { .. } => "gap",
        LogEvent::Progress(_) => "progress",
        LogEvent::Attempt { .. } => "attempt",
        LogEvent::State { .. } => "state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::{attempt, ended_attempt};
    use crate::domain::Tail;

    fn piece(attempt: u32, at: u64, text: &str) -> Vec<OutputChunk> {
        vec![OutputChunk { attempt, stream: Stream::Stdout, at: Some(at), bytes: text.as_bytes().to_vec() }]
    }

    /// An attempt that wrote `total` bytes, of which history has the end.
    fn ended_late(number: u32, total: u64, end: &str) -> AttemptRecord {
        let mut record = ended_attempt(number, "");
        record.report.as_mut().unwrap().stdout = Tail::of(end.as_bytes(), total);
        record
    }

    /// The events in short form: `1[` for a begin, `text`, `<n>` for a gap, `]` for an end.
    fn short(transcript: &mut Transcript) -> String {
        let words = transcript.take_events().into_iter().map(|TranscriptEvent { event, .. }| match event {
            LogEvent::Output { text, .. } => text,
            LogEvent::Gap { bytes, .. } => format!("<{bytes}>"),
            LogEvent::Attempt { attempt, outcome: None } => format!("{attempt}["),
            LogEvent::Attempt { outcome: Some(_), .. } => "]".to_owned(),
            LogEvent::Progress(p) => format!("{}%", p.percent),
            LogEvent::State { state } => format!("({state})"),
        });
        words.collect()
    }

    #[test]
    fn a_piece_that_never_came_through_comes_from_the_tail() {
        let mut t = Transcript::default();
        t.add(piece(1, 0, "ab"));
        assert!(!t.flush());
        assert_eq!(t.absorb(&[ended_attempt(1, "abc")], Read::Some, false), Need::More);
        assert_eq!(t.absorb(&[ended_attempt(1, "abc")], Read::All, false), Need::Nothing);
        t.add(piece(1, 2, "c"));
        t.flush();
        t.state(JobState::Completed);
        assert_eq!(short(&mut t), "1[abc](completed)");
    }

    #[test]
    fn what_is_missing_is_marked_where_it_is_missing() {
        let mut t = Transcript::default();
        t.add(piece(1, 0, "ab"));
        t.add(piece(1, 5, "fg"));
        t.flush();
        assert_eq!(short(&mut t), "1[ab<3>fg");
        // Equal bytes prove nothing, but places do.
        assert_eq!(t.absorb(&[ended_late(1, 20, "fg")], Read::All, false), Need::Rest(1), "more may come of it");
        assert_eq!(t.absorb(&[ended_late(1, 20, "fg")], Read::Last, false), Need::Nothing);
        assert_eq!(short(&mut t), "<11>fg]");
        let mut late = Transcript::default();
        late.absorb(&[ended_late(1, 1000, "")], Read::Last, true);
        assert_eq!(short(&mut late), "1[<1000>]");
    }

    #[test]
    fn pieces_without_a_place_follow_on_each_other() {
        let mut t = Transcript::default();
        for text in ["a", "b"] {
            t.add(vec![OutputChunk { attempt: 1, stream: Stream::Stdout, at: None, bytes: text.into() }]);
        }
        assert_eq!(t.absorb(&[ended_attempt(1, "abc")], Read::All, true), Need::Nothing);
        assert_eq!(short(&mut t), "1[abc]");
    }

    #[test]
    fn a_short_attempt_comes_from_the_tail_alone() {
        let mut t = Transcript::default();
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "y")], Read::All, true);
        t.add(piece(2, 0, "y"));
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "y")], Read::All, true);
        assert_eq!(short(&mut t), "1[x]2[y]");
    }

    #[test]
    fn the_next_attempt_waits_for_the_end_of_the_one_before() {
        let mut t = Transcript::default();
        t.add(piece(1, 0, "a"));
        t.add(piece(2, 0, "z"));
        assert!(t.flush(), "held up until history knows the end of the first");
        t.absorb(&[ended_attempt(1, "ab"), attempt(2)], Read::Some, false);
        assert_eq!(short(&mut t), "1[ab]2[z");
        // An attempt that was lost with its worker may never have a report.
        t.add(piece(3, 0, "c"));
        assert!(t.flush());
        assert_eq!(t.absorb(&[ended_attempt(1, "ab"), attempt(2)], Read::Some, false), Need::History);
        t.absorb(&[ended_attempt(1, "ab"), attempt(2)], Read::Some, true);
        assert_eq!(short(&mut t), "3[c");
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was() {
        let mut t = Transcript::default();
        t.absorb(&[ended_attempt(1, "x")], Read::All, false);
        t.add(piece(2, 0, "hello "));
        t.flush();
        let position = t.take_events().pop().unwrap().position.to_string();
        assert_eq!(position, "2.6.0");
        let back = || Transcript::new(Wanted::default(), position.parse().ok());
        let mut t = back();
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "hello world")], Read::All, true);
        assert_eq!(short(&mut t), "world]");
        let mut t = back();
        t.absorb(&[ended_attempt(1, "x"), ended_late(2, 11, "rld")], Read::Last, true);
        assert_eq!(short(&mut t), "<2>rld]", "only what it had not is missing");
    }

    #[test]
    fn who_comes_back_is_sent_back_by_no_event() {
        let mut t = Transcript::new(Wanted::default(), "2.6.0".parse().ok());
        t.state(JobState::Active);
        t.absorb(&[ended_attempt(1, "x"), attempt(2)], Read::All, false);
        t.progress(Some(&Progress { percent: 50.0, text: String::new() }));
        t.add(piece(2, 0, "hel"));
        t.flush();
        t.progress(Some(&Progress { percent: 60.0, text: String::new() }));
        t.add(piece(2, 3, "lo world"));
        t.flush();
        let positions: Vec<_> = t.take_events().into_iter().map(|told| told.position.to_string()).collect();
        assert_eq!(
            positions,
            ["2.6.0", "2.6.0", "2.6.0", "2.11.0"],
            "a cut after any of them loses and doubles nothing"
        );
    }

    #[test]
    fn only_what_is_wanted_is_told() {
        let mut t = Transcript::new(Wanted { stream: Some(Stream::Stderr), attempt: Some(2) }, None);
        t.absorb(&[ended_late(1, 9, "x"), ended_late(2, 9, "y")], Read::Last, true);
        t.state(JobState::Failed);
        assert_eq!(short(&mut t), "2[](failed)");
    }

    #[test]
    fn long_output_is_told_in_pieces_that_keep_characters_whole() {
        let mut t = Transcript::default();
        t.add(piece(1, 0, &format!("x{}", "é".repeat(PIECE))));
        t.flush();
        let events = t.take_events();
        let mut end = 0;
        for TranscriptEvent { event, position } in events.iter().skip(1) {
            let LogEvent::Output { text, base64: None, .. } = event else { panic!("{event:?}") };
            end += text.len() as u64;
            assert!(text.len() <= PIECE);
            assert_eq!(*position, LogPosition { attempt: 1, stdout: end, stderr: 0 });
        }
        assert_eq!(end, 1 + 2 * PIECE as u64);
    }
}
