//! Parses server-sent events (WHATWG HTML, section 9.2), wherever the network has cut them.

use super::ClientError;
use super::error::ClientErrorKind;

/// The longest line, in bytes. A piece of output is far shorter, so only a body that is no event stream reaches it.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// The name of the event; `message` when the server gave none.
    pub(super) name: String,
    /// The data, its lines joined by line feeds.
    pub(super) data: String,
    /// The last id, from this event or from one before it.
    pub(super) id: Option<String>,
}

/// Assembles lines from pieces of the body, and events from lines.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    line: Vec<u8>,
    /// Whether the last byte was a carriage return. A line feed right after it belongs to the same line end.
    after_cr: bool,
    name: String,
    data: Option<String>,
    id: Option<String>,
}

impl SseParser {
    /// Takes the next bytes and gives the events that they complete.
    ///
    /// # Errors
    /// When a line is longer than `MAX_LINE`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<SseEvent>, ClientError> {
        let mut events = Vec::new();
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            let was_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if was_cr {
                if bytes.is_empty() {
                    self.after_cr = true;
                } else {
                    bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
                }
            }
            let line = std::mem::take(&mut self.line);
            events.extend(self.end_line(&String::from_utf8_lossy(&line)));
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_LINE {
            return Err(ClientError::new(ClientErrorKind::Server, "the server's log stream has a line without end"));
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = self.data.take()?;
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return Some(SseEvent { name, data, id: self.id.clone() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment (the heartbeat), `retry`, or a field that is newer than this client.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut parser = SseParser::default();
        pieces.iter().flat_map(|piece| parser.push(piece).unwrap()).collect()
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> SseEvent {
        SseEvent { name: name.into(), data: data.into(), id: id.map(Into::into) }
    }

    #[test]
    fn events_have_a_name_data_and_an_id() {
        let text = b": heartbeat\n\nevent: output\nid: 7\ndata: {\"a\":1}\n\ndata:x\ndata: y\n\nevent: lonely\n\n";
        assert_eq!(parse(&[text]), [event("output", "{\"a\":1}", Some("7")), event("message", "x\ny", Some("7"))]);
    }

    #[test]
    fn an_event_that_was_cut_off_is_not_given() {
        assert_eq!(parse(&[b"event: output\ndata: half"]), []);
    }

    #[test]
    fn any_line_end_will_do() {
        let expected = [event("a", "1\n2", None)];
        assert_eq!(parse(&[b"event: a\r\ndata: 1\r\ndata: 2\r\n\r\n"]), expected);
        assert_eq!(parse(&[b"event: a\rdata: 1\rdata: 2\r\r"]), expected);
        assert_eq!(parse(&[b"event: a\r", b"\ndata: 1\r", b"\ndata: 2\n\r", b"\n"]), expected);
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut parser = SseParser::default();
        assert!(parser.push(&vec![b'x'; MAX_LINE + 1]).is_err());
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(
            events in prop::collection::vec(("[a-z]{1,8}", "[a-z:é ]{0,20}", prop::sample::select(vec!["\n", "\r\n", "\r"])), 1..6),
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let text: String = events
                .iter()
                .map(|(name, data, end)| format!("event: {name}{end}data: {data}{end}: beat{end}{end}"))
                .collect();
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut start = 0;
            let pieces: Vec<&[u8]> = cuts
                .iter()
                .map(|&cut| {
                    let piece = &text.as_bytes()[start..cut];
                    start = cut;
                    piece
                })
                .collect();
            let expected: Vec<_> = events.iter().map(|(name, data, _)| event(name, data, None)).collect();
            prop_assert_eq!(parse(&pieces), expected);
        }
    }
}
