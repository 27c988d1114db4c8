//! Follows the output of a job as it comes, over as many connections as that takes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::sse::{SseEvent, SseParser};
use super::{Client, ClientError, ClientErrorKind, encode};
use crate::domain::{JobId, JobState, Outcome, Stream, from_text};
use crate::wire::LogEvent;

/// How long the server may be silent before the connection counts as dead. Its heartbeats come far more often.
const SILENCE: Duration = Duration::from_secs(60);
/// How often to reconnect before giving up. With the waits between, that is about half a minute.
const RECONNECTS: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Which part of a job's output to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogRequest {
    /// Whether to go on until the job has ended. Otherwise the stream ends with the output so far.
    pub follow: bool,
    /// Only this stream; `None` for both.
    pub stream: Option<Stream>,
    /// Only the attempt with this number, from 1; `None` for all.
    pub attempt: Option<u32>,
}

/// The output of a job, event by event. While following, it reconnects when the connection is lost,
/// and repeats nothing.
pub struct LogStream {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    follow: bool,
    body: Option<BoxStream<'static, Result<Vec<u8>, ClientError>>>,
    parser: SseParser,
    ready: VecDeque<LogEvent>,
    seen: Seen,
    failures: u32,
    ended: bool,
}

impl LogStream {
    pub(super) async fn open(client: Client, id: &JobId, request: LogRequest) -> Result<Self, ClientError> {
        let mut query = vec![("follow", request.follow.to_string())];
        query.extend(request.stream.map(|s| ("stream", stream_word(s).to_owned())));
        query.extend(request.attempt.map(|n| ("attempt", n.to_string())));
        let mut stream = Self {
            client,
            path: format!("jobs/{}/logs", encode(id.as_str())),
            query,
            follow: request.follow,
            body: None,
            parser: SseParser::default(),
            ready: VecDeque::new(),
            seen: Seen::default(),
            failures: 0,
            ended: false,
        };
        stream.connect().await?;
        Ok(stream)
    }

    /// Returns the next event. `None` when the job has ended (or, when not following, when there is no more).
    ///
    /// # Errors
    /// When the server refuses, or can't be reached for about half a minute.
    pub async fn next(&mut self) -> Result<Option<LogEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended |= self.follow && matches!(&event, LogEvent::State { state } if state.is_final());
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let lost = match self.read().await {
                Ok(true) => continue,
                Ok(false) if !self.follow => {
                    self.ended = true;
                    continue;
                }
                Ok(false) => ClientError::new(
                    ClientErrorKind::Unreachable,
                    format!("{} closed the log before the job had ended", self.client.server()),
                ),
                Err(e) => e,
            };
            if !self.follow || !lost.is_retryable() {
                return Err(lost);
            }
            self.body = None;
            self.reconnect(lost).await?;
        }
    }

    /// Reads one piece of the body. Returns false at its end.
    async fn read(&mut self) -> Result<bool, ClientError> {
        let Some(body) = &mut self.body else { return Ok(false) };
        let Ok(piece) = tokio::time::timeout(SILENCE, body.next()).await else {
            return Err(ClientError::new(
                ClientErrorKind::Unreachable,
                format!("{} has said nothing for {} s", self.client.server(), SILENCE.as_secs()),
            ));
        };
        let Some(piece) = piece else { return Ok(false) };
        for event in self.parser.push(&piece?)? {
            if let Some(event) = self.seen.keep_new(&event)? {
                self.failures = 0;
                self.ready.push_back(event);
            }
        }
        Ok(true)
    }

    async fn reconnect(&mut self, mut lost: ClientError) -> Result<(), ClientError> {
        while self.failures < RECONNECTS {
            let wait = FIRST_WAIT * 2u32.saturating_pow(self.failures);
            self.failures += 1;
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(e) if e.is_retryable() => lost = e,
                Err(e) => return Err(e),
            }
        }
        Err(lost)
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        self.parser = SseParser::default();
        self.seen.begin_connection();
        let body = self.client.open_stream(&self.path, &self.query, self.seen.last_id.as_deref()).await?;
        self.body = Some(body);
        Ok(())
    }
}

fn stream_word(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Remembers what the stream has given out already. A server that numbers its events goes on after
/// `Last-Event-ID`. A server that does not starts again from the beginning. Then as many bytes of
/// each stream are skipped as were given out before.
#[derive(Debug, Default)]
struct Seen {
    last_id: Option<String>,
    given: HashMap<(u32, Stream), usize>,
    to_skip: HashMap<(u32, Stream), usize>,
    attempts: HashMap<u32, Option<Outcome>>,
    state: Option<JobState>,
}

impl Seen {
    fn begin_connection(&mut self) {
        self.to_skip = if self.last_id.is_none() { self.given.clone() } else { HashMap::new() };
    }

    /// Returns the event, or the part of it that is new.
    fn keep_new(&mut self, sse: &SseEvent) -> Result<Option<LogEvent>, ClientError> {
        self.last_id = sse.id.clone().or(self.last_id.take());
        if !["output", "gap", "progress", "attempt", "state"].contains(&sse.name.as_str()) {
            return Ok(None);
        }
        let event: LogEvent = serde_json::from_str(&sse.data).map_err(|e| {
            ClientError::new(
                ClientErrorKind::Server,
                format!("the server sent a {:?} event that can't be read", sse.name),
            )
            .caused_by(e)
        })?;
        Ok(match event {
            LogEvent::Output { attempt, stream, ref text, ref base64 } => {
                let (is_new, news) = {
                    let bytes = from_text(text, base64.as_deref());
                    let skip = self.to_skip.entry((attempt, stream)).or_default();
                    let repeated = (*skip).min(bytes.len());
                    *skip -= repeated;
                    *self.given.entry((attempt, stream)).or_default() += bytes.len() - repeated;
                    let is_cut = 0 < repeated && repeated < bytes.len();
                    (repeated == 0, is_cut.then(|| LogEvent::output(attempt, stream, &bytes[repeated..])))
                };
                if is_new { Some(event) } else { news }
            }
            LogEvent::Gap { .. } | LogEvent::Progress(_) => Some(event),
            LogEvent::Attempt { attempt, outcome } => {
                let known = self.attempts.insert(attempt, outcome);
                (known != Some(outcome)).then_some(event)
            }
            LogEvent::State { state } => (self.state.replace(state) != Some(state)).then_some(event),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sse(data: &str, id: Option<&str>) -> SseEvent {
        let name = serde_json::from_str::<serde_json::Value>(data).unwrap()["type"].as_str().unwrap().to_owned();
        SseEvent { name, data: data.to_owned(), id: id.map(Into::into) }
    }

    fn output(text: &str) -> SseEvent {
        sse(&serde_json::json!({"type": "output", "attempt": 1, "stream": "stdout", "text": text}).to_string(), None)
    }

    fn text_of(event: Option<LogEvent>) -> Option<String> {
        match event {
            Some(LogEvent::Output { text, .. }) => Some(text),
            _ => None,
        }
    }

    #[test]
    fn output_that_is_sent_again_is_left_out_however_it_is_cut() {
        let mut seen = Seen::default();
        seen.begin_connection();
        assert_eq!(text_of(seen.keep_new(&output("ab")).unwrap()), Some("ab".into()));
        assert_eq!(text_of(seen.keep_new(&output("cd")).unwrap()), Some("cd".into()));
        seen.begin_connection();
        assert_eq!(text_of(seen.keep_new(&output("abc")).unwrap()), None);
        assert_eq!(text_of(seen.keep_new(&output("defé")).unwrap()), Some("efé".into()));
        seen.begin_connection();
        assert_eq!(text_of(seen.keep_new(&output("abcdefég")).unwrap()), Some("g".into()));
    }

    #[test]
    fn with_ids_the_server_goes_on_where_it_was() {
        let mut seen = Seen::default();
        let first = sse(r#"{"type":"output","attempt":1,"stream":"stderr","text":"x"}"#, Some("5"));
        seen.begin_connection();
        assert!(seen.keep_new(&first).unwrap().is_some());
        seen.begin_connection();
        assert_eq!(seen.last_id.as_deref(), Some("5"));
        assert!(seen.keep_new(&first).unwrap().is_some(), "nothing is left out of what the server sends on");
    }

    #[test]
    fn states_and_attempts_are_told_once_and_unknown_events_are_passed_over() {
        let mut seen = Seen::default();
        let state = sse(r#"{"type":"state","state":"active"}"#, None);
        assert!(seen.keep_new(&state).unwrap().is_some());
        assert!(seen.keep_new(&state).unwrap().is_none());
        let started = sse(r#"{"type":"attempt","attempt":1,"outcome":null}"#, None);
        let ended = sse(r#"{"type":"attempt","attempt":1,"outcome":{"kind":"exit","code":1}}"#, None);
        assert!(seen.keep_new(&started).unwrap().is_some());
        assert!(seen.keep_new(&ended).unwrap().is_some());
        assert!(seen.keep_new(&ended).unwrap().is_none());
        assert!(seen.keep_new(&sse(r#"{"type":"weather"}"#, None)).unwrap().is_none());
        assert!(seen.keep_new(&SseEvent { name: "state".into(), data: "{".into(), id: None }).is_err());
    }
}
