//! The place of a job in a trace, as W3C Trace Context writes it (<https://www.w3.org/TR/trace-context/>).

use std::fmt::Write;

use serde::{Deserialize, Deserializer, Serialize};

/// A span of a trace that other spans may continue or link to. It travels with the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Carrier", into = "Carrier")]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: String,
    is_link: bool,
}

/// A context as it is written: what OpenTelemetry's propagators call a carrier. Programs that know no `jobber_link` read
/// the rest.
#[derive(Clone, Serialize, Deserialize)]
struct Carrier {
    traceparent: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tracestate: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    jobber_link: bool,
}

impl TraceContext {
    const SAMPLED: u8 = 1;
    /// The flags that the standard knows: sampled, and trace ids that are random.
    const KNOWN_FLAGS: u8 = 3;
    /// Longer lists of vendors' own are left out, in bytes. The standard wants at least 512 to be passed on.
    const LONGEST_STATE: usize = 512;

    /// The context of a span. `None` for ids that are zero, which the standard forbids.
    pub fn new(trace_id: u128, span_id: u64, is_sampled: bool, state: &str) -> Option<Self> {
        let flags = if is_sampled { Self::SAMPLED } else { 0 };
        let is_valid = trace_id != 0 && span_id != 0;
        is_valid.then(|| Self { trace_id, span_id, flags, state: checked_state(state), is_link: false })
    }

    /// Reads the two headers. `None` for a `traceparent` that is malformed; a malformed `tracestate` is left out.
    pub fn parse(traceparent: &str, tracestate: &str) -> Option<Self> {
        let text = traceparent.trim();
        let fields: Vec<&str> = text.splitn(5, '-').collect();
        let &[version, trace_id, span_id, flags, ..] = fields.as_slice() else { return None };
        let version = u8::from_str_radix(lower_hex(version, 2)?, 16).ok()?;
        // Version 255 is forbidden. A version after 0 may have more fields.
        if version == u8::MAX || (version == 0 && fields.len() != 4) {
            return None;
        }
        let trace_id = u128::from_str_radix(lower_hex(trace_id, 32)?, 16).ok()?;
        let span_id = u64::from_str_radix(lower_hex(span_id, 16)?, 16).ok()?;
        let flags = u8::from_str_radix(lower_hex(flags, 2)?, 16).ok()? & Self::KNOWN_FLAGS;
        Self::new(trace_id, span_id, false, tracestate).map(|context| Self { flags, ..context })
    }

    /// The header `traceparent`.
    pub fn traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        let _ = write!(text, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags);
        text
    }

    /// The header `tracestate`; empty for none.
    pub fn tracestate(&self) -> &str {
        &self.state
    }

    /// The trace. Never zero.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The span within the trace. Never zero.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether the programs that make the trace's spans record them.
    pub fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// The same context for a job that has siblings: attempts of the job link to the span, in a trace of their own.
    pub fn as_link(&self) -> Self {
        Self { is_link: true, ..self.clone() }
    }

    /// Whether attempts of the job are to link to the span, and not to continue its trace.
    pub fn is_link(&self) -> bool {
        self.is_link
    }
}

impl TryFrom<Carrier> for TraceContext {
    type Error = &'static str;
    fn try_from(carrier: Carrier) -> Result<Self, Self::Error> {
        let context = Self::parse(&carrier.traceparent, &carrier.tracestate).ok_or("no W3C trace context")?;
        Ok(Self { is_link: carrier.jobber_link, ..context })
    }
}

impl From<TraceContext> for Carrier {
    fn from(context: TraceContext) -> Self {
        Self { traceparent: context.traceparent(), tracestate: context.state, jobber_link: context.is_link }
    }
}

/// Reads a context that may be malformed, which is as good as none. For serde's `deserialize_with`.
///
/// # Errors
/// When it is no JSON.
pub fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
    let written = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(written).ok())
}

fn lower_hex(text: &str, digits: usize) -> Option<&str> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == digits && text.bytes().all(is_digit)).then_some(text)
}

fn checked_state(state: &str) -> String {
    let state = state.trim();
    let is_passed_on = state.len() <= TraceContext::LONGEST_STATE && state.bytes().all(|b| (b' '..=b'~').contains(&b));
    if is_passed_on { state.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_written_as_it_was_read() {
        let context = TraceContext::parse(PARENT, " congo=t61rcWkgMzE,rojo=1 ").unwrap();
        assert_eq!((context.traceparent().as_str(), context.tracestate()), (PARENT, "congo=t61rcWkgMzE,rojo=1"));
        assert_eq!(
            (context.trace_id(), context.span_id(), context.is_sampled()),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, true)
        );
        let json = serde_json::to_string(&context).unwrap();
        assert_eq!(json, format!(r#"{{"traceparent":"{PARENT}","tracestate":"congo=t61rcWkgMzE,rojo=1"}}"#));
        for context in [context.as_link(), context] {
            let json = serde_json::to_string(&context).unwrap();
            assert_eq!(serde_json::from_str::<TraceContext>(&json).unwrap(), context);
        }
    }

    #[test]
    fn what_the_standard_forbids_is_no_context() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
        ] {
            assert_eq!(TraceContext::parse(bad, ""), None, "{bad}");
        }
        let later = format!("cc{}-what-comes", &PARENT[2..]);
        assert_eq!(TraceContext::parse(&later, "").unwrap().traceparent(), PARENT);
        let unknown_flags = format!("{}ff", &PARENT[..53]);
        assert!(TraceContext::parse(&unknown_flags, "").unwrap().traceparent().ends_with("-03"));
    }

    #[test]
    fn a_state_that_can_not_be_passed_on_is_left_out() {
        for bad in ["a=\n1".to_owned(), "a=é".to_owned(), format!("a={}", "x".repeat(600))] {
            assert_eq!(TraceContext::parse(PARENT, &bad).unwrap().tracestate(), "");
        }
    }

    #[test]
    fn a_malformed_context_is_as_good_as_none() {
        #[derive(Deserialize)]
        struct Holder {
            #[serde(default, deserialize_with = "lenient")]
            trace: Option<TraceContext>,
        }
        for bad in ["{}", r#"{"trace":null}"#, r#"{"trace":7}"#, r#"{"trace":{"traceparent":"x"}}"#] {
            assert_eq!(serde_json::from_str::<Holder>(bad).unwrap().trace, None, "{bad}");
        }
    }
}
