//! A producer's options, read as JavaScript means them.
//!
//! BullMQ checks few of them: it takes `10.5` or `"500"` for a delay, and the wait of a template's
//! `backoff: 50` is fixed. The crate reads all options or none. So this module reads those of
//! foreign jobs, and mends in the job's hash what the crate can't read, each option for itself.

use std::time::Duration;

use bullmq::JobOptions as BullOptions;
use bullmq::types::BackoffStrategy;
use serde_json::{Map, Number, Value, json};

use crate::domain::{BackoffKind, Deduplication, JobOptions};

/// The options that a producer wants for its job, in Jobber's terms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) attempts: u32,
    pub(super) kind: BackoffKind,
    pub(super) backoff: Duration,
    pub(super) jitter: Option<f64>,
    pub(super) delay: Duration,
    pub(super) priority: u32,
    pub(super) deduplication: Option<Deduplication>,
}

fn within(ms: u64) -> Duration {
    Duration::from_millis(ms).min(JobOptions::MAX_DURATION)
}

/// Whole milliseconds; nothing below zero.
fn millis(ms: f64) -> Duration {
    within(ms as u64)
}

impl Wanted {
    /// Takes options that the crate could read.
    pub(super) fn of(opts: &BullOptions) -> Result<Self, String> {
        let (kind, backoff) = match &opts.backoff {
            Some(BackoffStrategy::Exponential(delay)) => (BackoffKind::Exponential, *delay),
            Some(BackoffStrategy::Fixed(delay)) => (BackoffKind::Fixed, *delay),
            Some(BackoffStrategy::Custom(name)) => return Err(unknown_strategy(name)),
            // BullMQ: no backoff is no wait.
            None => (BackoffKind::Fixed, 0),
        };
        Ok(Self {
            attempts: opts.attempts.unwrap_or(1).clamp(1, JobOptions::MAX_ATTEMPTS),
            kind,
            backoff: within(backoff),
            jitter: None,
            delay: within(opts.delay.unwrap_or(0)),
            priority: opts.priority.unwrap_or(0).min(JobOptions::MAX_PRIORITY),
            deduplication: opts
                .deduplication
                .as_ref()
                .map(|d| Deduplication { key: d.id.clone(), ttl: d.ttl.map(within) }),
        })
    }

    /// Reads options as they lie in Redis.
    ///
    /// # Errors
    /// A sentence that says which option can't be understood.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let opts = object(text)?;
        let (kind, backoff, jitter) = backoff(opts.get("backoff").unwrap_or(&Value::Null))?;
        // A fraction of an attempt is one more: BullMQ asks whether fewer were made.
        let attempts = number(opts.get("attempts"), "attempts")?.unwrap_or(1.0).ceil();
        let priority = number(opts.get("priority"), "priority")?.unwrap_or(0.0);
        let deduplication =
            deduplication(opts.get("de").or_else(|| opts.get("deduplication")).unwrap_or(&Value::Null))?;
        let wanted = Self {
            attempts: attempts.clamp(1.0, f64::from(JobOptions::MAX_ATTEMPTS)) as u32,
            kind,
            backoff: millis(backoff),
            jitter,
            delay: millis(number(opts.get("delay"), "delay")?.unwrap_or(0.0)),
            priority: priority.clamp(0.0, f64::from(JobOptions::MAX_PRIORITY)) as u32,
            deduplication,
        };
        mended(&opts).map(|_| wanted)
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    let text = text.trim();
    let tree = serde_json::from_str(text).or_else(|_| serde_json::from_str(&without_halves(text)));
    match tree {
        _ if text.is_empty() => Ok(Map::new()),
        Ok(Value::Object(opts)) => Ok(opts),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("opts: must be an object".to_owned()),
        Err(e) => Err(format!("opts: can't be read as JSON: {e}")),
    }
}

/// A number, or a value of which JavaScript makes one where it counts; `None` for nothing.
fn number(value: Option<&Value>, name: &str) -> Result<Option<f64>, String> {
    let found = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(n)) => n.as_f64(),
        Some(Value::Bool(b)) => Some(f64::from(u8::from(*b))),
        Some(Value::String(text)) if text.trim().is_empty() => Some(0.0),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(Value::Array(_) | Value::Object(_)) => None,
    };
    match (found.filter(|n| n.is_finite()), value) {
        (Some(n), _) => Ok(Some(n)),
        (None, value) => Err(format!("opts/{name}: {} is no number", value.unwrap_or(&Value::Null))),
    }
}

fn unknown_strategy(name: &str) -> String {
    format!("opts/backoff/type: {name:?} is a strategy of its producer's own; jobber knows fixed and exponential")
}

fn backoff(value: &Value) -> Result<(BackoffKind, f64, Option<f64>), String> {
    let object = match value {
        Value::Null | Value::Bool(false) => return Ok((BackoffKind::Fixed, 0.0, None)),
        Value::String(text) if text.is_empty() => return Ok((BackoffKind::Fixed, 0.0, None)),
        Value::Number(n) => return Ok((BackoffKind::Fixed, n.as_f64().unwrap_or(0.0), None)),
        Value::Object(object) => object,
        value => return Err(format!("opts/backoff: {value} must be a number of milliseconds or an object")),
    };
    let kind = match object.get("type") {
        Some(Value::String(kind)) if kind == "fixed" => BackoffKind::Fixed,
        Some(Value::String(kind)) if kind == "exponential" => BackoffKind::Exponential,
        Some(Value::String(kind)) => return Err(unknown_strategy(kind)),
        _ => return Err("opts/backoff/type: must be fixed or exponential".to_owned()),
    };
    let delay = number(object.get("delay"), "backoff/delay")?.unwrap_or(0.0);
    let jitter = number(object.get("jitter"), "backoff/jitter")?;
    match jitter {
        Some(jitter) if !(0.0..=1.0).contains(&jitter) => Err("opts/backoff/jitter: must be 0 to 1".to_owned()),
        jitter => Ok((kind, delay, jitter)),
    }
}

fn deduplication(value: &Value) -> Result<Option<Deduplication>, String> {
    let Value::Object(object) = value else {
        return if value.is_null() { Ok(None) } else { Err(format!("opts/deduplication: {value} must be an object")) };
    };
    let key = match object.get("id") {
        Some(Value::String(key)) => key.clone(),
        Some(Value::Number(key)) => key.to_string(),
        None | Some(Value::Null) => return Ok(None),
        Some(key) => return Err(format!("opts/deduplication/id: {key} must be a text")),
    };
    let ttl = number(object.get("ttl"), "deduplication/ttl")?.filter(|ttl| *ttl > 0.0).map(millis);
    Ok(Some(Deduplication { key, ttl }))
}

/// The options in a form that the crate reads; `None` when it reads them as they are.
pub(super) fn repaired(text: &str) -> Option<String> {
    if serde_json::from_str::<BullOptions>(text).is_ok() {
        return None;
    }
    let opts = mended(&object(text).ok()?).ok()?;
    Some(Value::Object(opts).to_string())
}

/// Every option in a form that the crate reads, with the same meaning.
fn mended(opts: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let is_read = |name: &str, value: &Value| serde_json::from_value::<BullOptions>(json!({name: value})).is_ok();
    let mut mended = Map::new();
    for (name, value) in opts {
        if is_read(name, value) {
            mended.insert(name.clone(), value.clone());
            continue;
        }
        let whole = match name.as_str() {
            "backoff" => {
                let (kind, delay, jitter) = backoff(value)?;
                let kind = if kind == BackoffKind::Fixed { "fixed" } else { "exponential" };
                let mut whole = json!({"type": kind, "delay": delay as u64});
                if let Some(jitter) = jitter {
                    whole["jitter"] = json!(jitter);
                }
                whole
            }
            "attempts" => json!(number(Some(value), name)?.unwrap_or(0.0).ceil() as u32),
            // To BullMQ a negative number of jobs to keep means all, and any other value that
            // is true means none.
            "removeOnComplete" | "removeOnFail" => match value {
                Value::Number(n) if n.as_f64().is_some_and(|n| n < 0.0) => json!(false),
                Value::String(text) => json!(!text.is_empty()),
                value => whole(value),
            },
            _ => whole(value),
        };
        // JavaScript makes a text of a number, too.
        let text = value.is_number().then(|| json!(value.to_string()));
        match [Some(whole), text].into_iter().flatten().find(|mended| mended.is_null() || is_read(name, mended)) {
            Some(Value::Null) => {}
            Some(whole) => {
                mended.insert(name.clone(), whole);
            }
            None => return Err(format!("opts/{name}: {value} can't be understood")),
        }
    }
    Ok(mended)
}

/// The value with whole numbers, none below zero, in place of everything that can be meant as one.
fn whole(value: &Value) -> Value {
    match value {
        Value::Number(n) => n.as_f64().map_or(Value::Null, |n| Value::Number(Number::from(n as u64))),
        Value::String(text) if text.trim().is_empty() => value.clone(),
        Value::String(text) => match text.trim().parse::<f64>().ok().filter(|n| n.is_finite()) {
            Some(n) => Value::Number(Number::from(n as u64)),
            None => value.clone(),
        },
        Value::Object(object) => {
            let members = object.iter().filter(|(_, value)| !value.is_null());
            Value::Object(members.map(|(name, value)| (name.clone(), whole(value))).collect())
        }
        value => value.clone(),
    }
}

/// The text with each escaped half of a surrogate pair that stands alone replaced.
pub(super) fn without_halves(text: &str) -> String {
    let escaped = |at: usize| -> Option<u16> {
        let code = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(code, 16).ok()
    };
    let mut whole = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(next) = text[at..].find('\\').map(|i| at + i) {
        whole.push_str(&text[at..next]);
        let (kept, replaced) = match (escaped(next), escaped(next + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, false),
            (Some(0xd800..=0xdfff), _) => (6, true),
            (Some(_), _) => (6, false),
            (None, _) => (1 + text[next + 1..].chars().next().map_or(0, char::len_utf8), false),
        };
        whole.push_str(if replaced { "\\ufffd" } else { &text[next..next + kept] });
        at = next + kept;
    }
    whole.push_str(&text[at..]);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(opts: Value) -> Result<Wanted, String> {
        Wanted::read(&opts.to_string())
    }

    #[test]
    fn one_odd_option_does_not_take_the_others_with_it() {
        let wanted = read(json!({"attempts": 4, "backoff": 50, "delay": 10.5, "removeOnComplete": true})).unwrap();
        assert_eq!((wanted.attempts, wanted.kind, wanted.backoff), (4, BackoffKind::Fixed, within(50)));
        assert_eq!(wanted.delay, within(10));
        let opts = repaired(r#"{"attempts":4,"backoff":50,"delay":10.5,"removeOnComplete":true,"kl":3}"#).unwrap();
        let opts: Value = serde_json::from_str(&opts).unwrap();
        let backoff = json!({"type": "fixed", "delay": 50});
        assert_eq!(opts, json!({"attempts": 4, "backoff": backoff, "delay": 10, "removeOnComplete": true, "kl": 3}));
    }

    #[test]
    fn numbers_are_those_of_javascript() {
        let attempts = |value: Value| read(json!({"attempts": value})).map(|wanted| wanted.attempts);
        for (value, expected) in [
            (json!("4"), 4),
            (json!(" 4 "), 4),
            (json!(2.5), 3),
            (json!(1e2), 100),
            (json!("1e2"), 100),
            (json!(0), 1),
            (json!(-3), 1),
            (json!(null), 1),
            (json!(true), 1),
            (json!(1e9), JobOptions::MAX_ATTEMPTS),
        ] {
            assert_eq!(attempts(value.clone()), Ok(expected), "{value}");
        }
        for value in [json!("many"), json!([4]), json!({}), json!("Infinity"), json!("NaN")] {
            let said = attempts(value.clone()).unwrap_err();
            assert!(said.starts_with("opts/attempts: "), "{value}: {said}");
        }
        let delay = |text: &str| Wanted::read(&format!(r#"{{"delay":{text}}}"#)).unwrap().delay;
        assert_eq!([delay("1e3"), delay("-5"), delay("\"250\""), delay("0.4")], [1000, 0, 250, 0].map(within));
        assert_eq!(delay("1e300"), JobOptions::MAX_DURATION);
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (opts, place) in [
            (json!({"backoff": {"type": "mine"}}), "opts/backoff/type: \"mine\""),
            (json!({"backoff": {"delay": 5}}), "opts/backoff/type"),
            (json!({"backoff": "soon"}), "opts/backoff: \"soon\""),
            (json!({"backoff": {"type": "fixed", "delay": "x"}}), "opts/backoff/delay: \"x\""),
            (json!({"backoff": {"type": "fixed", "jitter": 2}}), "opts/backoff/jitter"),
            (json!({"delay": {}}), "opts/delay: {}"),
            (json!({"de": {"id": "k", "ttl": "x"}}), "opts/deduplication/ttl"),
            (json!({"keepLogs": "many"}), "opts/keepLogs: \"many\""),
            (json!([1]), "opts: must be an object"),
        ] {
            let said = read(opts.clone()).unwrap_err();
            assert!(said.starts_with(place), "{opts}: {said}");
        }
        assert!(Wanted::read("{").unwrap_err().starts_with("opts: "));
    }

    #[test]
    fn what_is_mended_is_read_by_the_crate() {
        for opts in [
            json!({"removeOnComplete": -1, "removeOnFail": {"age": 3600.5, "count": "10"}, "keepLogs": 2.0}),
            json!({"priority": null, "timestamp": 1.5e12, "stackTraceLimit": "5", "lifo": true}),
            json!({"de": {"id": "k", "ttl": 10.5}, "backoff": {"type": "exponential", "delay": "7", "jitter": 0.5}}),
            json!({"repeat": {"every": 2500.5, "count": 1}, "attempts": 1.5, "unknown": {"x": 1.5}}),
        ] {
            assert!(read(opts.clone()).is_ok(), "{opts}: {:?}", read(opts.clone()));
            let repaired = repaired(&opts.to_string()).unwrap_or_else(|| panic!("{opts} is read as it is"));
            let read: BullOptions = serde_json::from_str(&repaired).unwrap();
            assert_eq!(Wanted::of(&read).unwrap().attempts, Wanted::read(&repaired).unwrap().attempts);
        }
        assert_eq!(repaired(r#"{"attempts":3,"backoff":{"type":"fixed","delay":5}}"#), None);
    }

    #[test]
    fn a_half_of_a_pair_in_an_option_is_read_too() {
        let wanted = Wanted::read(r#"{"attempts":2,"de":{"id":"party \ud83c"}}"#).unwrap();
        assert_eq!(wanted.deduplication.unwrap().key, "party \u{fffd}");
        assert_eq!(wanted.attempts, 2);
        assert!(repaired(r#"{"attempts":2,"de":{"id":"party \ud83c"}}"#).is_some());
    }
}
