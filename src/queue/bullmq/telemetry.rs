//! The trace context of a job, where BullMQ keeps it: in its options, as `tm`, a text that holds the JSON of OpenTelemetry's
//! carrier. `omc` says that workers are to leave the context alone. The crate neither reads nor writes these two.

use serde::Deserialize;
use serde_json::Value;

use super::Inner;
use crate::domain::TraceContext;

/// The options that speak of traces.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Telemetry {
    tm: Value,
    omc: Value,
}

/// The context in a job's options, as they lie in Redis. `None` also for what is malformed.
pub(super) fn context(opts: &str) -> Option<TraceContext> {
    // Most options hold none: to look for it costs less than to read them all.
    let Telemetry { tm: Value::String(carrier), omc } =
        serde_json::from_str(opts).ok().filter(|_| opts.contains("\"tm\""))?
    else {
        return None;
    };
    if omc == Value::Bool(true) { None } else { serde_json::from_str(&carrier).ok() }
}

/// The context of a job that was just taken. `None` also when Redis does not answer: a job runs without its trace.
pub(super) async fn of_taken(inner: &Inner, id: &str) -> Option<TraceContext> {
    let redis = inner.link.get().await.ok()?;
    let mut get = redis::cmd("HGET");
    get.arg(inner.keys.job(id)).arg("opts");
    let opts = inner.link.call(redis.queue.connection().cmd::<Option<String>>(&mut get)).await;
    opts.ok().flatten().and_then(|opts| context(&opts))
}

/// The text for `tm`.
pub(super) fn carrier(trace: &TraceContext) -> String {
    serde_json::to_string(trace).expect("a context is texts")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_node_writes_is_read_unless_it_is_to_be_left_alone() {
        let node = |more: &str| {
            format!(r#"{{"attempts":3,"tm":"{{\"traceparent\":\"{PARENT}\",\"tracestate\":\"a=1\"}}"{more}}}"#)
        };
        let context = context(&node("")).unwrap();
        assert_eq!((context.traceparent().as_str(), context.tracestate()), (PARENT, "a=1"));
        assert_eq!(super::context(&node(r#","omc":false"#)), Some(context));
        for opts in [
            &node(r#","omc":true"#),
            "",
            "{}",
            r#"{"tm":7}"#,
            r#"{"tm":"{"}"#,
            r#"{"tm":"{\"traceparent\":\"00-0-0-0\"}"}"#,
            r#"{"tm":"{\"baggage\":\"a=1\"}"}"#,
        ] {
            assert_eq!(super::context(opts), None, "{opts}");
        }
    }
}
