//! Pieces and tails in, log events out, each thing once and in order. No I/O.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use super::said::Said;
use crate::domain::{JobState, Progress, Stream};
use crate::queue::OutputChunk;
use crate::store::AttemptRecord;
use crate::wire::LogEvent;

/// Which part is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// Only this stream.
    pub(super) stream: Option<Stream>,
    /// Only this attempt.
    pub(super) attempt: Option<u32>,
}

/// How much has been told: all of the attempts before this one, and so many bytes of its streams. The id of an event,
/// so that a client that comes back goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    attempt: u32,
    stdout: u64,
    stderr: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.attempt, self.stdout, self.stderr)
    }
}

impl FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(());
        let attempt = next()?.parse().map_err(|_| ())?;
        let mut count = || next()?.parse().map_err(|_| ());
        Ok(Self { attempt, stdout: count()?, stderr: count()? })
    }
}

/// An event, and how much has been told with it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) event: LogEvent,
    pub(super) place: Place,
}

/// What has been told of one attempt.
#[derive(Debug, Default)]
struct Attempt {
    ended: bool,
    stdout: Said,
    stderr: Said,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    wanted: Wanted,
    /// What the client had before it came back.
    had: Place,
    place: Place,
    attempts: BTreeMap<u32, Attempt>,
    state: Option<JobState>,
    progress: Option<Progress>,
    told: Vec<Told>,
}

impl Transcript {
    /// Tells what is `wanted`, from where the client has it to.
    pub(super) fn new(wanted: Wanted, had: Option<Place>) -> Self {
        Self { wanted, had: had.unwrap_or_default(), ..Self::default() }
    }

    /// What is to be told now.
    pub(super) fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Takes what history knows, and the pieces that came before it. With `caught_up`, an attempt that is followed by
    /// another has ended even if history can't tell how.
    pub(super) fn absorb(&mut self, records: &[AttemptRecord], pending: &mut VecDeque<OutputChunk>, caught_up: bool) {
        for record in records {
            let number = record.number.0;
            while let Some(chunk) = pending.pop_front_if(|chunk| chunk.attempt <= number) {
                self.piece(&chunk);
            }
            self.begin(number);
            let Some(report) = &record.report else { continue };
            if self.has_ended(number) {
                continue;
            }
            for (stream, tail) in [(Stream::Stdout, &report.stdout), (Stream::Stderr, &report.stderr)] {
                let rest = self.said(number, stream).rest(&tail.text).to_owned();
                self.output(number, stream, rest);
            }
            self.end(number);
            self.tell_attempt(number, Some(report.outcome));
        }
        if caught_up {
            let newest = records.last().map(|r| r.number.0).into_iter().chain(pending.iter().map(|c| c.attempt)).max();
            for (_, attempt) in self.attempts.iter_mut().filter(|(n, _)| Some(**n) < newest) {
                attempt.ended = true;
            }
        }
        self.flush(pending);
    }

    /// Tells the pieces that no earlier attempt holds up; whether some are left.
    pub(super) fn flush(&mut self, pending: &mut VecDeque<OutputChunk>) -> bool {
        while let Some(chunk) = pending.front() {
            if self.attempts.range(..chunk.attempt).any(|(_, earlier)| !earlier.ended) {
                return true;
            }
            if let Some(chunk) = pending.pop_front() {
                self.piece(&chunk);
            }
        }
        false
    }

    /// The job is in this state.
    pub(super) fn state(&mut self, state: JobState) {
        if self.state.replace(state) != Some(state) {
            self.tell(LogEvent::State { state });
        }
    }

    /// The job said how far it is.
    pub(super) fn progress(&mut self, progress: Option<&Progress>) {
        if let Some(progress) = progress
            && self.progress.as_ref() != Some(progress)
        {
            self.progress = Some(progress.clone());
            self.tell(LogEvent::Progress(progress.clone()));
        }
    }

    fn piece(&mut self, chunk: &OutputChunk) {
        self.begin(chunk.attempt);
        // Its tail has been told, and with it all that still comes.
        if !self.has_ended(chunk.attempt) {
            self.output(chunk.attempt, chunk.stream, chunk.text.clone());
        }
    }

    fn begin(&mut self, number: u32) {
        if let Entry::Vacant(vacant) = self.attempts.entry(number) {
            vacant.insert(Attempt::default());
            self.place = Place { attempt: number, ..Place::default() };
            self.tell_attempt(number, None);
        }
    }

    fn has_ended(&self, number: u32) -> bool {
        self.attempts.get(&number).is_some_and(|attempt| attempt.ended)
    }

    fn end(&mut self, number: u32) {
        self.attempts.entry(number).or_default().ended = true;
    }

    fn said(&mut self, number: u32, stream: Stream) -> &mut Said {
        let attempt = self.attempts.entry(number).or_default();
        match stream {
            Stream::Stdout => &mut attempt.stdout,
            Stream::Stderr => &mut attempt.stderr,
        }
    }

    fn output(&mut self, attempt: u32, stream: Stream, mut text: String) {
        self.said(attempt, stream).push(&text);
        let (count, had) = match stream {
            Stream::Stdout => (&mut self.place.stdout, self.had.stdout),
            Stream::Stderr => (&mut self.place.stderr, self.had.stderr),
        };
        let before = *count;
        *count += text.len() as u64;
        let wanted = self.is_wanted(attempt) && self.wanted.stream.is_none_or(|s| s == stream);
        if !wanted || attempt < self.had.attempt {
            return;
        }
        if attempt == self.had.attempt {
            let known = usize::try_from(had.saturating_sub(before)).unwrap_or(usize::MAX);
            text.drain(..text.floor_char_boundary(known.min(text.len())));
        }
        if !text.is_empty() {
            self.tell(LogEvent::Output { attempt, stream, text });
        }
    }

    fn tell_attempt(&mut self, attempt: u32, outcome: Option<crate::domain::Outcome>) {
        let had = attempt < self.had.attempt || (attempt == self.had.attempt && outcome.is_none());
        if !had && self.is_wanted(attempt) {
            self.tell(LogEvent::Attempt { attempt, outcome });
        }
    }

    fn is_wanted(&self, attempt: u32) -> bool {
        self.wanted.attempt.is_none_or(|n| n == attempt)
    }

    fn tell(&mut self, event: LogEvent) {
        self.told.push(Told { event, place: self.place });
    }
}

/// The name of an event: its `type`.
pub(super) fn name(event: &LogEvent) -> &'static str {
    match event {
        LogEvent::Output { .. } => "output",
        LogEvent::Progress(_) => "progress",
        LogEvent::Attempt { .. } => "attempt",
        LogEvent::State { .. } => "state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fakes::{attempt, ended_attempt};

    fn piece(attempt: u32, text: &str) -> OutputChunk {
        OutputChunk { attempt, stream: Stream::Stdout, text: text.to_owned() }
    }

    /// What is told, in short: `1[` begin, `text`, `]` end.
    fn short(transcript: &mut Transcript) -> String {
        let words = transcript.told().into_iter().map(|told| match told.event {
            LogEvent::Output { text, .. } => text,
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
        let mut pending = VecDeque::from([piece(1, "ab")]);
        assert!(!t.flush(&mut pending));
        t.absorb(&[ended_attempt(1, "abc")], &mut pending, false);
        pending.push_back(piece(1, "c"));
        t.flush(&mut pending);
        t.state(JobState::Completed);
        assert_eq!(short(&mut t), "1[abc](completed)");
    }

    #[test]
    fn a_short_attempt_comes_from_the_tail_alone() {
        let mut t = Transcript::default();
        let mut pending = VecDeque::new();
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "y")], &mut pending, true);
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "y")], &mut VecDeque::from([piece(2, "y")]), true);
        assert_eq!(short(&mut t), "1[x]2[y]");
    }

    #[test]
    fn the_next_attempt_waits_for_the_end_of_the_one_before() {
        let mut t = Transcript::default();
        let mut pending = VecDeque::from([piece(1, "a"), piece(2, "z")]);
        assert!(t.flush(&mut pending), "held up until history knows the end of the first");
        t.absorb(&[ended_attempt(1, "ab"), attempt(2)], &mut pending, false);
        assert_eq!(short(&mut t), "1[ab]2[z");
        // An attempt that was lost with its worker may never have a report.
        let mut pending = VecDeque::from([piece(3, "c")]);
        assert!(t.flush(&mut pending));
        t.absorb(&[ended_attempt(1, "ab"), attempt(2)], &mut pending, true);
        assert_eq!(short(&mut t), "3[c");
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was() {
        let mut t = Transcript::default();
        let mut pending = VecDeque::from([piece(2, "hello ")]);
        t.absorb(&[ended_attempt(1, "x")], &mut pending, false);
        let place = t.told().pop().unwrap().place.to_string();
        assert_eq!(place, "2.6.0");
        let mut t = Transcript::new(Wanted::default(), place.parse().ok());
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "hello world")], &mut VecDeque::new(), true);
        assert_eq!(short(&mut t), "world]");
    }

    #[test]
    fn only_what_is_wanted_is_told() {
        let mut t = Transcript::new(Wanted { stream: Some(Stream::Stderr), attempt: Some(2) }, None);
        t.absorb(&[ended_attempt(1, "x"), ended_attempt(2, "y")], &mut VecDeque::new(), true);
        t.state(JobState::Failed);
        assert_eq!(short(&mut t), "2[](failed)");
    }
}
